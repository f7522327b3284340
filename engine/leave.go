package engine

import (
	"encoding/binary"

	"sluice/flow"
	"sluice/rings"
)

// A worker that leaves gives everything it owns to others, while packets go on:
//
//	1 it makes no connection any more: what is not in its table goes to the next owner, who makes it;
//	2 it walks through its table and sends each connection to its next owner, in frames, through the handoff ring that
//	  packets take as well, so that a connection is there before the packets that were sent on because it had gone;
//	3 the next owner puts the connections into its own table and returns the frame;
//	4 only then are they removed here: killed at any instant, the engine leaves each of them in one table file at least.
//
// Between 2 and 4 a connection is frozen here: nothing changes it, and its packets go to the next owner. A packet is
// passed on at most once by a worker that leaves, and never comes back.

// leaving is the state of a worker that leaves.
type leaving struct {
	next     *Config // says whose everything is
	slots    []uint8
	cursor   uint32   // where the walk goes on; 0 at its end
	sent     []uint64 // a bit per connection that is frozen
	unmoved  int      // frames that are not back yet
	boxes    []box    // by slot
	complete chan<- struct{}
}

// box is a frame that is being filled for one worker.
type box struct {
	addr uint64
	n    int
}

// A box holds records, then their indices in the table that they come from.
const boxRecords = 15

func boxIndex(b []byte, i int) []byte { return b[boxRecords*flow.RecordSize+4*i:] }

// begin makes a worker leave. complete is closed when it owns nothing any more.
func (w *worker) begin(next *Config, slots []uint8, complete chan<- struct{}) {
	w.abandonFragments()
	w.leaving = &leaving{
		next: next, slots: slots, cursor: 1, complete: complete,
		sent: make([]uint64, w.table.Cap()/64+1), boxes: make([]box, len(w.peers)),
	}
}

func (l *leaving) isSent(i uint32) bool { return l.sent[i>>6]&(1<<(i&63)) != 0 }

// to is the slot of the next owner of a connection.
func (l *leaving) to(r *flow.Record) int { return int(l.slots[l.next.ownerOf(r)]) }

// passOn gives the packets of the burst that are the next owner's to it and keeps the others: those of connections that are
// still here. A SYN that may start anew over a closing connection is the next owner's.
func (w *worker) passOn() {
	l := w.leaving
	kept := 0
	for i := range w.n {
		if r := w.refs[i]; r != 0 && !l.isSent(r.Index()) && !w.reopens(i, r) {
			if kept != i {
				w.move(kept, i)
			}
			kept++
			continue
		}
		p := &w.peers[l.slots[l.next.owner(&w.keys[i], w.ports[i])]]
		d := w.descs[i]
		d.Options = processKind | d.Options&placedBit | uint32(w.ports[i])
		p.batch[p.n] = d
		p.n++
	}
	w.n = kept
	w.flushPeers()
}

// leaveChunk is how many connections a step looks for.
const leaveChunk = 4 * boxRecords

// leave sends some connections on and reports whether there are more.
func (w *worker) leave() bool {
	l := w.leaving
	if l.cursor == 0 {
		if l.complete != nil && l.unmoved == 0 && w.table.Len() == 0 {
			close(l.complete)
			l.complete = nil
		}
		return false
	}
	full := false
	from := l.cursor
	l.cursor = w.table.Each(from, leaveChunk, func(i uint32, r *flow.Record) {
		if full || l.isSent(i) || w.endIfOrdered(i, r) {
			return
		}
		full = !w.pack(i, r)
	})
	for slot := range l.boxes {
		if l.boxes[slot].n > 0 && !w.sendBox(slot) {
			full = true
		}
	}
	if full { // go over the chunk again: what was sent is known
		l.cursor = from
	}
	return true
}

// pack puts a connection into the box for its next owner and freezes it.
func (w *worker) pack(i uint32, r *flow.Record) bool {
	l := w.leaving
	slot := l.to(r)
	b := &l.boxes[slot]
	if b.n == boxRecords && !w.sendBox(slot) {
		return false
	}
	if b.n == 0 {
		addr, ok := w.pool.Get()
		if !ok {
			return false
		}
		b.addr = addr
	}
	mem := w.region.Packet(rings.Desc{Addr: b.addr, Len: uint32(w.region.FrameSize())})
	flow.Records(mem, boxRecords)[b.n] = *r
	binary.LittleEndian.PutUint32(boxIndex(mem, b.n), i)
	b.n++
	l.sent[i>>6] |= 1 << (i & 63)
	return true
}

// sendBox sends the box for a worker; if its ring is full, the connections in it are here again as they were.
func (w *worker) sendBox(slot int) bool {
	l, p := w.leaving, &w.peers[slot]
	b := &l.boxes[slot]
	d := rings.Desc{Addr: b.addr, Len: uint32(b.n), Options: moveKind | uint32(w.slot)}
	n := b.n
	b.n = 0
	if p.out.HalfFree() && p.out.Put([]rings.Desc{d}) == 1 { // packets cannot wait, connections can
		p.owed--
		l.unmoved++
		p.wake.wake()
		return true
	}
	mem := w.region.Packet(rings.Desc{Addr: b.addr, Len: uint32(w.region.FrameSize())})
	for i := range n {
		index := binary.LittleEndian.Uint32(boxIndex(mem, i))
		l.sent[index>>6] &^= 1 << (index & 63)
	}
	w.pool.Put(b.addr)
	return false
}

// takeConnections puts the connections of a frame into the table and sends the frame back to the worker they came from.
func (w *worker) takeConnections(d rings.Desc, from uint16) {
	mem := w.region.Packet(rings.Desc{Addr: d.Addr, Len: uint32(w.region.FrameSize())})
	for i := range flow.Records(mem, int(d.Len)) {
		w.takeOver(&flow.Records(mem, int(d.Len))[i])
	}
	d.Options = uint32(from)
	w.unreturned = append(w.unreturned, d)
	w.returnBoxes()
}

// returnBoxes sends frames back whose connections are in the table now; what a full ring does not take waits.
func (w *worker) returnBoxes() {
	kept := w.unreturned[:0]
	for _, d := range w.unreturned {
		p := &w.peers[d.Options]
		back := d
		back.Options = movedKind
		if !p.out.HalfFree() || p.out.Put([]rings.Desc{back}) == 0 {
			kept = append(kept, d)
			continue
		}
		p.owed--
		p.wake.wake()
	}
	w.unreturned = kept
}

// takeOver enters a connection that another worker had. The counts over all workers do not change.
func (w *worker) takeOver(rec *flow.Record) {
	if end, reset := w.ordered(rec); end {
		if reset {
			w.sendResets(rec)
		}
		w.stats.Ended++
		w.stats.Closed++
		if holds(rec) {
			w.runtime.counts.add(rec, -1)
		}
		return
	}
	deadline := w.timeoutOf(rec)
	i, res := w.table.Adopt(rec, w.now, deadline)
	if res == flow.Full && !rec.HalfOpen() && w.evict() {
		w.runtime.unplaced++
		i, res = w.table.Adopt(rec, w.now, deadline)
	}
	if res != flow.Inserted { // no room, or a new connection has taken its place
		w.stats.Closed++
		w.runtime.unplaced++
		if holds(rec) {
			w.runtime.counts.add(rec, -1)
		}
		return
	}
	r := w.table.Record(i)
	if r.HalfOpen() {
		w.open(r)
	}
	w.enter(r)
	w.keepPort(r)
}

// moved removes the connections of a frame that has come back: they live elsewhere.
func (w *worker) moved(d rings.Desc) {
	mem := w.region.Packet(rings.Desc{Addr: d.Addr, Len: uint32(w.region.FrameSize())})
	for i := range int(d.Len) {
		index := binary.LittleEndian.Uint32(boxIndex(mem, i))
		r := w.table.Record(index)
		if r.HalfOpen() {
			w.settled(r)
		}
		w.exit(r)
		w.table.Remove(index)
	}
	w.leaving.unmoved--
	w.pool.Put(d.Addr)
}
