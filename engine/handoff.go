package engine

import (
	"sluice/rewrite"
	"sluice/rings"
)

// peer is a worker's connection with another worker: a ring each way, and the balance of frames. A frame handed
// over stays with the receiver, whose pool grows; when it has received 64 more than it gave, it sends free frames
// back, so that no worker starves.
type peer struct {
	in, out *rings.Handoff
	owed    int // frames received from the peer minus frames given to it
	wake    *waker
	retired bool // it ends: nothing is given to it any more
	n       int
	batch   [burstSize]rings.Desc
}

// A descriptor in a handoff ring says in Options what is to be done with it.
const (
	processKind  = 1 << 16 // arrived on the port in the low bits, owned by the receiver
	transmitKind = 2 << 16 // finished, to be sent on the port in the low bits
	freeKind     = 3 << 16 // a free frame
	moveKind     = 4 << 16 // a frame with connections that the receiver owns from now on
	movedKind    = 5 << 16 // such a frame on its way back: the connections are in the receiver's table
	fragmentKind = 6 << 16 // part of a datagram, arrived on the port in the low bits; its note has the tuple, the receiver's
	placeKind    = 7 << 16 // arrived on the port in the low bits, opens a connection whose client's persistence entry is the receiver's
	kindMask     = 7 << 16
	// placedBit, beside a kind, says that the frame has a note about the member (persisthandoff.go).
	placedBit = 1 << 19
	portMask  = 1<<16 - 1 // tagMask is of vlan.go
)

// steer gives the packets of the burst that other workers own to them and keeps the rest; it returns how many of those have
// no connection. Whoever has the connection of a packet is its owner, so that only packets without one are looked at: where
// NICs deliver to the owner, these are first packets.
func (w *worker) steer() (missed int) {
	kept := 0
	for i := range w.n {
		if w.refs[i] == 0 {
			if o := int(w.slots[w.cfg.owner(&w.keys[i], w.ports[i])]); o != w.slot {
				kind := uint32(processKind)
				if w.cfg.persists && w.pkts[i].Opens {
					o, kind = w.towardsEntry(i, o)
				}
				p := &w.peers[o]
				d := w.descs[i]
				d.Options = kind | uint32(w.ports[i])
				p.batch[p.n] = d
				p.n++
				continue
			}
			missed++
		}
		if kept != i {
			w.move(kept, i)
		}
		kept++
	}
	w.n = kept
	w.flushPeers()
	return missed
}

// move puts packet from of the burst in the place to.
func (w *worker) move(to, from int) {
	w.tcpKnown = 0
	w.descs[to], w.ports[to], w.pkts[to], w.keys[to], w.refs[to] = w.descs[from], w.ports[from], w.pkts[from], w.keys[from], w.refs[from]
	w.table.Moved(to, from)
	if w.pkts[from].ICMP == rewrite.ICMPRelated {
		w.quotes[to] = w.quotes[from]
	}
}

// flushPeers gives the packets that are ready for other workers to them.
func (w *worker) flushPeers() {
	for o := range w.peers {
		if p := &w.peers[o]; p.n > 0 {
			n := w.put(p, p.batch[:p.n])
			w.stats.HandedOut += uint64(n)
			p.n = 0
		}
	}
}

// handOver gives a batch to worker to.
func (w *worker) handOver(to int, kind uint32, port uint16, batch []rings.Desc) {
	for i := range batch {
		batch[i].Options = batch[i].Options&tagMask | kind | uint32(port)
	}
	w.put(&w.peers[to], batch)
}

// put fills the ring to a peer and wakes it if it sleeps; what does not fit is dropped.
func (w *worker) put(p *peer, batch []rings.Desc) int {
	behind := w.frames(batch)
	n := p.out.Put(batch)
	p.owed -= n + behind - w.frames(batch[n:])
	if w.capture != nil {
		w.capture.given(w, p, batch[:n])
	}
	for _, d := range batch[n:] {
		if d.Options&placedBit != 0 {
			w.unplace(d)
		}
		if d.Options&kindMask == transmitKind {
			w.stats.Unsent++
		}
		w.drop(d, HandoffFull)
	}
	if n > 0 {
		p.wake.wake()
	}
	return n
}

// receiveHandoffs takes a burst from every peer and reports whether there was one.
func (w *worker) receiveHandoffs() bool {
	busy := false
	for id := range w.peers {
		p := &w.peers[id]
		if p.in == nil {
			continue
		}
		n := p.in.Get(w.in[:])
		if n > 0 {
			busy = true
			p.owed += n + w.frames(w.in[:n])
			w.takeHandoff(n)
			w.table.Hash(w.keys[:w.n], 0)
			w.process()
		}
		w.giveBack(p)
	}
	if len(w.unreturned) > 0 {
		w.returnBoxes()
	}
	return busy
}

// takeHandoff sorts n descriptors from a peer: packets into the burst, finished frames to their port, free frames
// into the pool.
func (w *worker) takeHandoff(n int) {
	w.n, w.opening, w.handedIn = 0, 0, true
	if w.capture != nil {
		w.capture.arriveHanded(w, w.in[:n])
	}
	for _, d := range w.in[:n] {
		kind, port := d.Options&kindMask, uint16(d.Options&portMask)
		d.Options &= tagMask | placedBit
		w.placed += int(d.Options & placedBit / placedBit)
		switch kind {
		case processKind:
			w.stats.HandedIn++
			w.parse(&d, port)
		case fragmentKind:
			w.stats.HandedIn++
			w.takePart(d, port)
		case placeKind:
			w.stats.HandedIn++
			w.place(d, port)
		case transmitKind:
			w.send(int(port), d)
		case moveKind:
			w.takeConnections(d, port)
		case movedKind:
			w.moved(d)
		default:
			w.pool.Put(d.Addr)
		}
	}
	if w.persist != nil {
		w.flushPlaced()
	}
}

// giveBack returns free frames to a peer that has given more than it received.
func (w *worker) giveBack(p *peer) {
	for p.owed >= burstSize && w.pool.Len() >= burstSize && !p.retired {
		for i := range p.batch {
			addr, _ := w.pool.Get()
			p.batch[i] = rings.Desc{Addr: addr, Options: freeKind}
		}
		n := p.out.Put(p.batch[:])
		p.owed -= n
		for _, d := range p.batch[n:] {
			w.pool.Put(d.Addr)
		}
		if n > 0 {
			p.wake.wake()
		}
		if n < burstSize {
			return
		}
	}
}
