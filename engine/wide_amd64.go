//lint:file-ignore U1000 patterns are for wide_amd64.s

package engine

import (
	"golang.org/x/sys/cpu"

	"sluice/flow"
	"sluice/rewrite"
)

// wide says whether the processor has the instructions of wide_amd64.s: Intel's since 2019, AMD's since 2022.
var wide = cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL && cpu.X86.HasAVX512VBMI && cpu.X86.HasBMI1

//go:noescape
func tcpWide(pkts *[burstSize]rewrite.Packet) uint64

// changeWide is changeVectors.
//
//go:noescape
func changeWide(w *worker, c *changes, set uint64) (rest uint64)

func tcpOf(pkts *[burstSize]rewrite.Packet, from, to int) uint64 {
	if vectors && wide {
		return tcpWide(pkts)
	}
	return tcpEach(pkts, from, to)
}

// pattern is what changeWide needs for packets of one protocol from one side. A frame's first 64 bytes are a register, and so is each of the
// two lines of a record. Places are bytes of one of these, by the byte of another that they go to; everything else is by words of
// 4 bytes of the record's second line.
//
// In what a segment says, End is that of the segment in the sender's place, and its sequence number is in the place of the receiver's Ack, its
// acknowledgement in those of the sender's Ack and of the receiver's End.
type pattern struct {
	said    [64]uint8  // of the frame: the client's MAC, what a segment says, and the packet's size in the place of the bytes
	diffs   [64]uint8  // of the record's first line: both Diffs, in the place of the sums, and what of the address and port that are others is there
	windows [64]uint8  // of the record's second line: the window that counts, for the sender's End and the receiver's End and Ack
	nibble  [16]uint32 // where its scale begins
	slack   [16]uint32 // to be added to it
	turned  [16]uint32 // all bits where what was said is to be taken away
	limit   [16]uint32 // what that with the window may be
	open    [16]uint32 // all bits where that is the window
	one     [16]uint32 // a packet
	size    [16]uint32 // all bits where the bytes are
	turns   [64]uint8  // all bits of the Diffs that are taken the other way
	mac     [64]uint8  // all bits of the client's MAC, if it is taken over, in the record or the frame
	ends    [64]uint8  // all bits of MACs, address and port that are others, in the frame
	// Masks, by the byte, word of 4, or word of 2 bytes.
	windowBytes, endWord, grows, widest, stored, sum uint64
}

// Offsets in a plain frame, those of rewrite/plain.go.
const (
	atSize    = 16
	atZero    = 21 // the fragment's offset
	atIPSum   = 24
	atSrc     = 26
	atDst     = 30
	atSrcPort = 34
	atDstPort = 36
	atUDPSum  = 40
	atSeq     = 38
	atAck     = 42
	atWindow  = 48
	atTCPSum  = 50
	tcpHeads  = 54
	udpHeads  = 42
	secondWin = int(recWin) - 64

	ipSumWord = atIPSum / 2
	vsWord    = (recVS - 64) / 4 // of the record's second line
	liveBit   = flow.LiveBit
)

// patterns are by protocol and side: UDP's and then TCP's.
var patterns = [4]pattern{makePattern(false, 0), makePattern(false, 1), makePattern(true, 0), makePattern(true, 1)}

func makePattern(tcp bool, side int) (p pattern) {
	const line, all = 64, ^uint32(0)
	const macAt, maxWin, packetsLo, bytesLo = int(recClientMAC) - line, int(recMaxWin) - line, int(recPacketsLo) - line, int(recBytesLo) - line
	for i := range p.said {
		p.said[i], p.diffs[i] = atZero, uint8(recSNAT)
	}
	be := func(to *[64]uint8, at, n, from int) { // bytes are turned around
		for i := range n {
			to[at+i] = uint8(from + n - 1 - i)
		}
	}
	be(&p.said, bytesLo+4*side, 2, atSize)
	sum := atUDPSum
	p.stored = 1<<udpHeads - 1
	if tcp {
		sum, p.stored = atTCPSum, 1<<tcpHeads-1
	}
	be(&p.diffs, atIPSum, 2, int(recDiffs))
	be(&p.diffs, sum, 2, int(recDiffs)+2)
	p.sum = 1 << (sum / 2)
	others := func(at, n int) {
		for i := range n {
			p.ends[at+i] = 0xff
		}
	}
	others(0, 12)
	if side == int(flow.FromClient) {
		be(&p.diffs, atDstPort, 2, int(recNPort))
		others(atDst, 4)
		others(atDstPort, 2)
	} else {
		be(&p.diffs, atSrc, 4, int(recVirtual4))
		be(&p.diffs, atSrcPort, 2, int(recVPort))
		others(atSrc, 4)
		others(atSrcPort, 2)
	}
	p.one[packetsLo/4+side] = 1
	p.size[bytesLo/4+side] = all
	if side == int(flow.FromServer) {
		for _, at := range []int{atIPSum, atIPSum + 1, sum, sum + 1} {
			p.turns[at] = 0xff
		}
	}
	if tcp || side == int(flow.FromServer) {
		for i := range 6 {
			p.mac[i] = 0xff
		}
	}
	for i := range p.limit {
		p.limit[i] = all
	}
	if !tcp {
		return p
	}
	for i := range 6 {
		p.said[macAt+i] = uint8(6 + i)
	}
	own, other := secondWin+8*side, secondWin+8*(1-side)
	be(&p.said, own, 4, atSeq)
	be(&p.said, own+4, 4, atAck)
	be(&p.said, other, 4, atAck)
	be(&p.said, other+4, 4, atSeq)
	be(&p.said, maxWin+2*side, 2, atWindow)
	// The receiver's window bounds what is sent, the sender's what is acknowledged.
	for _, w := range []struct{ at, side int }{{own, 1 - side}, {other + 4, 1 - side}, {other, side}} {
		for i := range 2 {
			p.windows[w.at+i] = uint8(maxWin + 2*w.side + i)
			p.windowBytes |= 1 << (w.at + i)
		}
		p.nibble[w.at/4] = uint32(4 * w.side)
	}
	p.slack[own/4], p.limit[own/4] = slack, all>>1
	p.slack[other/4], p.limit[other/4], p.open[other/4] = slack, 0, all
	p.slack[other/4+1], p.limit[other/4+1], p.turned[other/4+1] = 2+1, all>>1, all // one more: -x is ^x + 1
	p.endWord, p.grows = 1<<(own/4), 3<<(own/4)
	p.widest = 1 << (maxWin/2 + side)
	return p
}
