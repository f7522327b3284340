package rings

import "math"

// LongHeadLen is two lines of the cache, which hold the headers of IPv6 with TCP.
const LongHeadLen = 2 * HeadLen

// SendHeads is SendBurst for a generator that must cost little beside what it measures. Packet i is lengths[i] bytes long
// and begins with heads[i*size:(i+1)*size], size being HeadLen or LongHeadLen; the rest is what the frame holds, so that a long packet costs no more than
// a short one, as with a NIC that writes frames itself. It returns how many were delivered.
func (w *Wire) SendHeads(heads []byte, size int, lengths []uint16) int {
	n := min(uint32(len(lengths)), w.fill.filled(uint32(len(lengths))), w.rx.room(uint32(len(lengths))))
	longest := uint16(min(w.region.frameSize-Headroom, math.MaxUint16))
	sent := uint32(0)
	for sent < n {
		fill, rx := w.fill.run(n-sent), w.rx.run(n-sent) // up to where the first of them wraps around
		run := min(len(fill), len(rx))
		done := w.region.writeHeads(fill[:run], rx[:run], heads[int(sent)*size:][:run*size], size, lengths[sent:][:run], longest)
		w.fill.local += uint32(done)
		w.rx.local += uint32(done)
		sent += uint32(done)
		if done < run {
			break
		}
	}
	if sent > 0 {
		w.fill.release()
		w.rx.publish()
	}
	return int(sent)
}

// complete gives the next n frames on the tx ring back.
func (w *Wire) complete(n uint32) {
	for n > 0 {
		tx, done := w.tx.run(n), w.completion.run(n)
		run := min(len(tx), len(done))
		if run == 0 {
			return // no ring has so few slots; it would go on for ever
		}
		addresses(tx[:run], done[:run])
		w.tx.local += uint32(run)
		w.completion.local += uint32(run)
		n -= uint32(run)
	}
}

// writeEach is writeHeads on any processor: it writes a head of size bytes and a descriptor for each frame of fill, up to the first packet that is
// longer than longest, and returns how many. All slices are for as many packets; it panics at a frame whose head lies outside the region.
func (r *Region) writeEach(fill []uint64, rx []Desc, heads []byte, size int, lengths []uint16, longest uint16) int {
	for i, frame := range fill {
		if i >= len(rx) || i >= len(lengths) || lengths[i] > longest {
			return i
		}
		addr := frame + Headroom
		for at := 0; at < size; at += HeadLen {
			copyHead(r.Head(addr+uint64(at)), (*[HeadLen]byte)(heads))
			heads = heads[HeadLen:]
		}
		rx[i] = Desc{Addr: addr, Len: uint32(lengths[i])}
	}
	return len(fill)
}

// addressEach is addresses on any processor: to becomes where the packets of from lie.
func addressEach(from []Desc, to []uint64) {
	for i := range from {
		if i < len(to) {
			to[i] = from[i].Addr
		}
	}
}

// copyHead is to = from for what does not overlap, by four moves: the compiler, which cannot know that, would call a function.
func copyHead(to, from *[HeadLen]byte) {
	const n = HeadLen / 4
	*(*[n]byte)(to[0:]) = *(*[n]byte)(from[0:])
	*(*[n]byte)(to[n:]) = *(*[n]byte)(from[n:])
	*(*[n]byte)(to[2*n:]) = *(*[n]byte)(from[2*n:])
	*(*[n]byte)(to[3*n:]) = *(*[n]byte)(from[3*n:])
}
