package rewrite

import (
	"encoding/binary"
	"hash/crc32"

	"sluice/flow"
)

// A packet may be larger than the memory that its frame begins in: what follows is elsewhere, in other buffers. All functions but
// those that look at the payload then take the first buffer for the frame: every header is in it (ParseChain), and a
// Packet's End is beyond it. Verify, Recompute, SplitIPv4 and Decapsulate want the whole frame in one piece.

// ParseChain is Parse for a frame of size bytes that begins with b. A packet whose headers, up to the end of the
// transport's, are not all in b is Truncated.
func ParseChain(b []byte, size int, p *Packet, k *flow.Key) Verdict {
	const ipv4Longest = etherLen + 2*vlanLen + 60
	if size > maxFrame || len(b) < ipv4Longest {
		return Truncated
	}
	v := parse(b, size, p, k)
	if v == OK && int(p.Payload) > len(b) || v.IsPacket() && int(p.L4) > len(b) {
		return Truncated
	}
	return v
}

// ParsePlainChain is ParsePlain for a frame of size bytes that begins with the n of h.
func ParsePlainChain(h *Head, n, size, most uint32, p *Packet, k *flow.Key) bool {
	const headers = etherLen + ipv4Len + 60 // with all TCP options that there can be
	return n >= headers && size <= maxFrame && ParsePlain(h, size, most, p, k)
}

// reach is how far the packet p goes in b, which may be the first buffer of its frame only.
func (p *Packet) reach(b []byte) int { return min(int(p.End), len(b)) }

// behind is how many bytes of the packet p are not in b.
func (p *Packet) behind(b []byte) int { return max(0, int(p.End)-len(b)) }

var zeros [1 << 10]byte

// passZeros is what the raw CRC32c difference d is after n bytes more: they are the same in both sums, and might be zeros
// as well.
func passZeros(d uint32, n int) uint32 {
	for d = ^d; n > 0; n -= len(zeros) {
		d = crc32.Update(d, castagnoli, zeros[:min(n, len(zeros))])
	}
	return ^d
}

// PutGUEChecksum computes the UDP checksum of the GUE packet that frame b, in one piece, carries behind an Ethernet header
// without tags. Encapsulate cannot when it is given the first buffer of a frame only.
func PutGUEChecksum(b []byte) {
	v6 := binary.BigEndian.Uint16(b[typeAt:]) == etherIPv6
	l4 := etherLen + ipv4Len
	if v6 {
		l4 = etherLen + ipv6Len
	}
	putSumUDP(b[l4:], pseudoSum(b[etherLen:], v6, len(b)-l4, flow.UDP))
}

// putSumUDP is putSumOf for UDP, where 0 stands for none.
func putSumUDP(u []byte, pseudo uint16) {
	putSumOf(u, 6, pseudo)
	if u[6]|u[7] == 0 {
		u[6], u[7] = 0xff, 0xff
	}
}
