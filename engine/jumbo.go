package engine

import (
	"sluice/flow"
	"sluice/rewrite"
	"sluice/rings"
)

// Jumbo frames: a packet that is larger than a frame is a chain of frames (rings/chain.go), and everything here goes on to deal
// with the descriptor of its head, which stands for all of it. That is enough, for headers are in the head, and checksums are
// changed by what changes. The exceptions:
//
//	who                                     needs                                       here
//	parse                                   how long the packet is                      read
//	drop                                    to free all of it                           Region.Free
//	an answer made of the packet            to free what it has no use for              alone, resized
//	checksums verified or computed anew     the payload: a copy in one piece            piece, repaired
//	into a tunnel                           to go without padding; GUE's checksum       encapsulated
//	cut in parts                            a copy; the rest in frames of its own       splitChain
//	capture, counters of bytes              the length, or the bytes                    tail, Region.Gather
//	handoff between workers                 to count all frames that change hands       frames
//	transmit                                a queue that takes chains                   sendable
//
// Without a port that has chains, jumbo is nil, and where a packet could not be told from a chain at a glance, that is compared.
type jumbo struct {
	whole, rest [1 << 16]byte // packets in one piece
}

// usualBuffers is how many frames a packet takes where bounds are set in packets and meant in frames: one of 9,000 bytes takes 6.
const usualBuffers = 8

func newJumbo(r *rings.Region) *jumbo {
	if !r.Chains() {
		return nil
	}
	return &jumbo{}
}

// read is rewrite.Parse for the packet of d. One in a chain may be plain, as ParsePlain says, which cannot see that it is all there.
func (w *worker) read(d rings.Desc, p *rewrite.Packet, k *flow.Key) rewrite.Verdict {
	if w.jumbo == nil || !w.region.Chained(d.Addr) {
		return rewrite.Parse(w.region.Packet(d), p, k)
	}
	_, behind := w.region.Tail(d.Addr)
	if rewrite.ParsePlainChain(w.region.Head(d.Addr), d.Len, d.Len+behind, w.cfg.plainMost, p, k) {
		return rewrite.OK
	}
	return rewrite.ParseChain(w.region.Packet(d), int(d.Len+behind), p, k)
}

// tail is how many bytes packets have behind their heads.
func (w *worker) tail(packets []rings.Desc) (bytes uint64) {
	for i := range packets {
		_, n := w.region.Tail(packets[i].Addr)
		bytes += uint64(n)
	}
	return bytes
}

// frames is how many frames packets have behind their heads.
func (w *worker) frames(packets []rings.Desc) (n int) {
	if w.jumbo == nil {
		return 0
	}
	for i := range packets {
		behind, _ := w.region.Tail(packets[i].Addr)
		n += behind
	}
	return n
}

// buffers is how many frames the packet of d has behind its head. A chain that is cut needs as many again, for the rest of it.
func (w *worker) buffers(d rings.Desc) int {
	if w.jumbo == nil {
		return 0
	}
	behind, _ := w.region.Tail(d.Addr)
	return behind
}

// alone makes d a packet of n bytes, all in its head's frame.
func (w *worker) alone(d rings.Desc, n int) rings.Desc {
	if w.jumbo != nil {
		d = w.region.Shorten(w.pool, d, 0)
	}
	d.Len = uint32(n)
	return d
}

// resized makes d, which the packet p was in and whose headers have become shorter, one of n bytes: what is behind the head
// stays, but for padding.
func (w *worker) resized(d rings.Desc, p *rewrite.Packet, n int) rings.Desc {
	if w.jumbo == nil || uint32(p.End) <= d.Len {
		return w.alone(d, n)
	}
	d.Len -= uint32(int(p.End) - n)
	return w.region.Shorten(w.pool, d, uint32(n))
}

// piece is the packet of d in one piece, until the next call: a copy, if it is a chain.
func (w *worker) piece(d rings.Desc) []byte {
	if w.jumbo == nil || !w.region.Chained(d.Addr) {
		return w.region.Packet(d)
	}
	return w.region.Gather(w.jumbo.whole[:], d)
}

// repaired puts the head of b, the piece of d, back where it comes from.
func (w *worker) repaired(d rings.Desc, b []byte) {
	if w.jumbo != nil && w.region.Chained(d.Addr) {
		copy(w.region.Packet(d), b)
	}
}

// encapsulated puts the headers of tunnel t in front of the packet p of d. It reports false if there is no
// room for them, and has changed nothing that matters: whoever calls it drops the packet.
func (w *worker) encapsulated(rec *flow.Record, t *rewrite.Tunnel, p *rewrite.Packet, d rings.Desc) (rings.Desc, bool) {
	base := w.region.Base(d.Addr)
	frame, head := w.region.Frame(d.Addr), int(d.Addr-base)
	chained := w.jumbo != nil && w.region.Chained(d.Addr)
	if chained {
		frame = frame[:head+int(d.Len)]
	}
	k := rec.ClientKey()
	w.outerID++
	start, why := t.Encapsulate(frame, head, p, rewrite.Entropy(&k), w.outerID)
	if why != rewrite.Done || chained && head+int(p.End)-start > 0xffff {
		return d, false
	}
	n := uint32(head + int(p.End) - start)
	d.Addr, d.Options = base+uint64(start), 0 // the tags it came with are gone
	if !chained {
		d.Len = n
		return d, true
	}
	d.Len = uint32(len(frame) - start)
	d = w.region.Shorten(w.pool, d, n)
	if t.Kind == rewrite.GUE && !t.ZeroSum {
		b := w.piece(d)
		rewrite.PutGUEChecksum(b)
		w.repaired(d, b)
	}
	return d, true
}

// splitChain is split for a packet that is a chain: it becomes the first part.
func (w *worker) splitChain(p *rewrite.Packet, d rings.Desc, mtu int) (first, rest rings.Desc, ok bool) {
	b := w.piece(d)
	n := rewrite.SplitIPv4(w.jumbo.rest[:], b, p, mtu)
	if n == 0 {
		return d, rest, false
	}
	if rest, ok = w.region.Scatter(w.pool, w.jumbo.rest[:n]); !ok {
		return d, rest, false
	}
	rest.Options = d.Options
	w.repaired(d, b)
	return w.region.Shorten(w.pool, d, uint32(p.End)), rest, true
}

// length is that of a packet, with what is behind its head.
func (w *worker) length(d rings.Desc) uint16 {
	_, behind := w.region.Tail(d.Addr)
	return uint16(d.Len + behind)
}

// sendable drops of a batch the packets that the queue cannot send: chains, if it takes none, and those that no kernel sends.
// Of a known MTU they were too big before.
func (w *worker) sendable(q rings.Queue, batch []rings.Desc) []rings.Desc {
	m, ok := q.(rings.MultiBuffer)
	longest := 1
	if ok && m.MultiBuffer() {
		longest = rings.MaxBuffers
	}
	kept := batch[:0]
	for _, d := range batch {
		if behind, _ := w.region.Tail(d.Addr); behind+1 > longest {
			w.lose(d, TooBig)
			continue
		}
		kept = append(kept, d)
	}
	return kept
}

// longest is how many bytes of a packet a capture keeps at most: all of it, or of one of several frames what the ports' MTU lets
// there be.
func (e *Engine) longest() int {
	size := e.opt.Region.FrameSize()
	if !e.opt.Region.Chains() {
		return size
	}
	const beforeIP, unknown = 64, 9216 // Ethernet and tags
	for _, p := range e.Config().Ports {
		mtu := p.MTU
		if mtu == 0 {
			mtu = unknown
		}
		size = max(size, mtu+beforeIP)
	}
	return size
}
