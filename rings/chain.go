package rings

import "golang.org/x/sys/unix"

// A packet that is larger than a frame is a chain of frames (Documentation/networking/af_xdp.rst, Multi-Buffer Support). On
// the rings of a socket it is as many descriptors in a row, of which all but the last have XDP_PKT_CONTD. In the hands of a
// worker it is the descriptor of its first buffer, the head, in which all headers are; what follows hangs on the head's frame:
//
//	rx ring   │ a CONTD │ b CONTD │ c │ d │  ─Receive▶  a ─next▶ b ─next▶ c   d  ─Transmit▶  │ a CONTD │ b CONTD │ c │ d │
//
// Whoever holds the head's descriptor holds the chain, and no other may look at its links; a frame that is free, or the
// kernel's, has none. A region without room for links (most have none) knows of no chains, and asking costs a compare.

// MaxBuffers is the longest chain that the kernel sends in copy mode: the head, and what an skb takes as fragments
// (CONFIG_MAX_SKB_FRAGS, 17 by default; xsk_build_skb in net/xdp/xsk.c).
const MaxBuffers = 18

// hop is what follows a frame in its chain: a buffer of n bytes in frame number frame-1, from byte at on. The zero value ends
// a chain.
type hop struct {
	frame uint32
	at, n uint16
}

// MakeChains gives the region room for the links of chains, 8 bytes a frame. It must come before the region's first use.
func (r *Region) MakeChains() {
	r.links = make([]hop, r.Frames())
}

// Chains reports whether there may be chains.
func (r *Region) Chains() bool { return r.links != nil }

// Chained reports whether the packet whose head is at addr goes on in other frames.
func (r *Region) Chained(addr uint64) bool {
	return r.links != nil && r.links[addr>>r.shift].frame != 0
}

// next is the buffer behind the one at addr.
func (r *Region) next(addr uint64) (d Desc, ok bool) {
	l := r.links[addr>>r.shift]
	if l.frame == 0 {
		return d, false
	}
	return Desc{Addr: uint64(l.frame-1)<<r.shift + uint64(l.at), Len: uint32(l.n)}, true
}

// join hangs the buffer d behind the one at addr, which is the last of its chain.
func (r *Region) join(addr uint64, d Desc) {
	r.links[addr>>r.shift] = hop{frame: uint32(d.Addr>>r.shift) + 1, at: uint16(d.Addr & uint64(r.frameSize-1)), n: uint16(d.Len)}
}

// Tail is how many buffers a packet has behind its head, and how many bytes they hold.
func (r *Region) Tail(addr uint64) (buffers int, bytes uint32) {
	if r.links == nil {
		return 0, 0
	}
	for d, ok := r.next(addr); ok; d, ok = r.next(d.Addr) {
		buffers++
		bytes += d.Len
	}
	return buffers, bytes
}

// Gather copies the bytes of a packet, those behind its head included, into b, as many as it takes, and returns them.
func (r *Region) Gather(b []byte, d Desc) []byte {
	n := copy(b, r.Packet(d))
	if r.links == nil {
		return b[:n]
	}
	for next, ok := r.next(d.Addr); ok; next, ok = r.next(next.Addr) {
		n += copy(b[n:], r.Packet(next))
	}
	return b[:n]
}

// Scatter is the opposite of Gather: it copies a packet into frames of p, behind the usual headroom, and returns its head. ok is
// false, with nothing taken, where p has too few, or b is too long for a chain.
func (r *Region) Scatter(p *Pool, b []byte) (head Desc, ok bool) {
	room := r.frameSize - Headroom
	n := max(1, (len(b)+room-1)/room)
	if n > p.Len() || n > 1 && r.links == nil || n > MaxBuffers {
		return head, false
	}
	var last Desc
	for i := range n {
		addr, _ := p.Get()
		d := Desc{Addr: addr + Headroom}
		d.Len = uint32(copy(r.mem[d.Addr:d.Addr+uint64(room)], b))
		b = b[d.Len:]
		if i == 0 {
			head = d
		} else {
			r.join(last.Addr, d)
		}
		last = d
	}
	return head, true
}

// Free puts the frames of the packet whose head is at addr into p.
func (r *Region) Free(p *Pool, addr uint64) {
	if r.links != nil {
		r.cutTail(p, addr)
	}
	p.Put(r.Base(addr))
}

// cutTail frees what follows the buffer at addr.
func (r *Region) cutTail(p *Pool, addr uint64) {
	for {
		d, ok := r.next(addr)
		r.links[addr>>r.shift] = hop{}
		if !ok {
			return
		}
		p.Put(r.Base(d.Addr))
		addr = d.Addr
	}
}

// Shorten makes n bytes of a packet that has at least as many, and frees the frames that it has no use for any more.
func (r *Region) Shorten(p *Pool, d Desc, n uint32) Desc {
	if n <= d.Len {
		d.Len = n
		if r.links != nil {
			r.cutTail(p, d.Addr)
		}
		return d
	}
	at, left := d.Addr, n-d.Len
	for next, ok := r.next(at); ok; next, ok = r.next(at) {
		if left <= next.Len {
			r.links[at>>r.shift].n = uint16(left)
			r.cutTail(p, next.Addr)
			break
		}
		left -= next.Len
		at = next.Addr
	}
	return d
}

// Links counts the frames that hang on others. Nobody else may be at work.
func (r *Region) Links() (n int) {
	for i := range r.links {
		if r.links[i].frame != 0 {
			n++
		}
	}
	return n
}

// takeChains receives from a ring: as many whole packets, out, as burst has room for, of n frames. What is on the ring of a packet
// that is not all there yet stays there. held is a queue's ledger, or nil: a frame that it does not know the kernel to hold is
// foreign and left out, and the packet that it is part of gets a head of no bytes, which no parser takes.
func (r *Region) takeChains(rx *ring[Desc], burst []Desc, held []uint8) (out, n, foreign int) {
	avail := rx.filled(uint32(len(burst)))
	for out < len(burst) && avail > 0 {
		size := uint32(1)
		for rx.slots[(rx.local+size-1)&rx.mask].Options&unix.XDP_PKT_CONTD != 0 {
			if size == avail {
				if avail = rx.filled(size + 1); size == avail {
					return out, n, foreign
				}
			}
			size++
		}
		avail -= size
		var last uint64
		taken, strange := 0, 0
		for range size {
			d := rx.get()
			d.Options = 0
			if held != nil {
				if i := d.Addr >> r.shift; i >= uint64(len(held)) || held[i] == 0 {
					strange++
					continue
				}
				held[d.Addr>>r.shift] = 0
			}
			if taken == 0 {
				burst[out] = d
			} else {
				r.join(last, d)
			}
			taken++
			last = d.Addr
		}
		if strange > 0 {
			foreign += strange
			burst[out].Len = 0
		}
		if taken > 0 {
			out++
			n += taken
		}
	}
	return out, n, foreign
}

// putChains sends on a ring: as many whole packets as it has room for, and notes their frames in held, a queue's ledger or
// nil. It returns how many packets and how many frames that was.
func (r *Region) putChains(tx *ring[Desc], burst []Desc, held []uint8) (packets, n int) {
	for _, d := range burst {
		behind, _ := r.Tail(d.Addr)
		if size := uint32(behind + 1); tx.room(size) < size {
			break
		}
		for {
			next, more := r.next(d.Addr)
			d.Options = 0
			if more {
				d.Options = unix.XDP_PKT_CONTD
				r.links[d.Addr>>r.shift] = hop{}
			}
			if held != nil {
				held[d.Addr>>r.shift] = 1
			}
			tx.put(d)
			n++
			if !more {
				break
			}
			d = next
		}
		packets++
	}
	return packets, n
}
