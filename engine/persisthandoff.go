package engine

import (
	"encoding/binary"

	"sluice/flow"
	"sluice/rewrite"
	"sluice/rings"
)

// The way of a packet that opens a connection of a client whose entry another worker owns:
//
//	1 where it is received: a SYN or INIT goes to the owner of the entry at once; anything else may be of a connection that is
//	  there, and goes to the owner of that, as without persistence;
//	2 the owner of the connection, which has none, gives it to the owner of the entry (askEntry);
//	3 that chooses, takes a place with the member, writes a note at the start of the frame, and gives it to the owner of the
//	  connection (place);
//	4 there the note goes before the scheduler (takePlaces, choose). A note that is not needed, because the connection is there
//	  meanwhile or the packet is refused, gives the place back (settlePlaces).
//
// A packet that has been chosen for is not given back to the owner of the entry, so that this ends. A worker that leaves (leave.go)
// decides nothing any more: its entries are frozen, and are copied to their next owners by control. It passes what it is asked on
// to the next owner, with the entry as it has it; that owner's own entry goes before.

// placement is what a note says.
type placement struct {
	member *member
	is     placed
	why    Reason
}

type placed uint8

const (
	notPlaced     placed = iota
	placedAt             // a place with member is taken
	placedNowhere        // no member takes it, and why
	placedFreely         // there is no persistence any more, or not yet: as without
)

// A placement's note has the node, its own port or 0, the reason, and which of the above it is; that of a question to the next
// owner the entry: its node, and when it was used.
const placementSize = 12

func (w *worker) putPlacement(d rings.Desc, m *member, why Reason) {
	b := w.region.Frame(d.Addr)[:placementSize]
	clear(b)
	switch {
	case m != nil:
		binary.LittleEndian.PutUint32(b, m.id)
		binary.LittleEndian.PutUint16(b[4:], m.Port)
		b[7] = byte(placedAt)
	default:
		b[6], b[7] = byte(why), byte(placedNowhere)
	}
}

func (w *worker) putSeed(d rings.Desc, e *flow.PersistenceEntry) {
	b := w.region.Frame(d.Addr)[:placementSize]
	binary.LittleEndian.PutUint32(b, e.Node)
	binary.LittleEndian.PutUint64(b[4:], e.Used)
}

// noteRoom reports whether there is room for a note in front of a packet.
func (w *worker) noteRoom(d rings.Desc) bool { return d.Addr-w.region.Base(d.Addr) >= placementSize }

// asks reports whether packet i, which opens a connection at v, is to go to the owner of its client's entry first.
func (w *worker) asks(i int, v *virtual) bool {
	if w.placed > 0 && w.persist.of[i].is != notPlaced {
		return false
	}
	return w.entrySlot(v.persistence, &w.keys[i]) != w.slot && w.noteRoom(w.descs[i])
}

// askEntry gives packet i to the owner of its client's entry, unless that is this worker or has decided. It reports whether the
// packet is gone.
func (w *worker) askEntry(i int, v *virtual) bool {
	if !w.asks(i, v) {
		return false
	}
	d := w.descs[i]
	kind := uint32(placeKind)
	d.Options = kind | uint32(w.ports[i])
	w.later(w.entrySlot(v.persistence, &w.keys[i]), d)
	return true
}

// later puts a packet into the batch for another worker: flushPlaced gives it.
func (w *worker) later(slot int, d rings.Desc) {
	p := &w.peers[slot]
	p.batch[p.n] = d
	p.n++
	w.persist.pending = true
}

// flushPlaced gives the packets in batches to their workers.
func (w *worker) flushPlaced() {
	if w.persist.pending {
		w.persist.pending = false
		w.flushPeers()
	}
}

// towardsEntry says where packet i, a SYN or INIT that owner owns if it is of a connection, is to go at once, and with what kind:
// to the owner of its client's entry, or, where that is this worker, with its decision to owner.
func (w *worker) towardsEntry(i, owner int) (slot int, kind uint32) {
	k, d := &w.keys[i], w.descs[i]
	v := w.cfg.persistent(k, w.ports[i])
	if v == nil || !w.noteRoom(d) {
		return owner, processKind
	}
	switch e := w.entrySlot(v.persistence, k); {
	case e == owner:
		return owner, processKind
	case e != w.slot:
		return e, placeKind
	}
	if w.leaving != nil {
		return w.passQuestion(d, v, k)
	}
	w.decide(d, v, &w.pkts[i], k)
	return owner, processKind | placedBit
}

// decide chooses for a packet, and writes it down.
func (w *worker) decide(d rings.Desc, v *virtual, p *rewrite.Packet, k *flow.Key) {
	if _, ok := v.admits(k.Src); !ok || p.TTL <= 1 || noSource(k.Src) || w.cfg.isOurs(k.Src) || w.region.Packet(d)[6]&1 != 0 {
		w.putFree(d) // its owner refuses it, and it leaves no entry
		return
	}
	m, why := w.persistentMember(v, k)
	w.putPlacement(d, m, why)
}

func (w *worker) putFree(d rings.Desc) {
	w.region.Frame(d.Addr)[:placementSize][7] = byte(placedFreely)
}

// passQuestion says where a worker that leaves sends a packet whose entry it owned, with the entry in its note if there is one.
func (w *worker) passQuestion(d rings.Desc, v *virtual, k *flow.Key) (slot int, kind uint32) {
	l := w.leaving
	slot, kind = int(l.slots[l.next.entryWorker(v.persistence, k.Src)]), placeKind
	if t := w.persist.table; t != nil {
		if e, ok := t.Peek(v.persistence.prefix(k.Src), v.persistence.id, w.now); ok {
			w.putSeed(d, &e)
			kind |= placedBit
		}
	}
	return slot, kind
}

// place deals with a packet that another worker asks this one about: its entry is here.
func (w *worker) place(d rings.Desc, port uint16) {
	w.needPersist()
	seeded := d.Options&placedBit != 0
	if seeded {
		d.Options &^= placedBit
		w.placed--
	}
	var p rewrite.Packet
	var k flow.Key
	kind := uint32(processKind)
	switch w.read(d, &p, &k) {
	case rewrite.OK, rewrite.NoPorts:
	case rewrite.Fragment:
		kind = fragmentKind
		if !w.placePart(d, port, &p, &k) {
			return
		}
	default:
		w.drop(d, BadHeader)
		return
	}
	v := w.cfg.persistent(&k, port)
	if v == nil { // whoever asks may go by a configuration that is on its way
		w.catchUp()
		v = w.cfg.persistent(&k, port)
	}
	owner := int(w.slots[w.cfg.owner(&k, port)])
	switch {
	case v == nil:
		w.putFree(d)
	case w.leaving != nil:
		slot, kind := w.passQuestion(d, v, &k)
		d.Options = kind | uint32(port)
		w.later(slot, d)
		return
	default:
		if seeded {
			w.plant(d, v, &k)
		}
		w.decide(d, v, &p, &k)
	}
	if owner != w.slot {
		d.Options = kind | placedBit | uint32(port)
		w.later(owner, d)
		return
	}
	d.Options = placedBit
	w.placed++
	if kind == fragmentKind {
		w.takePart(d, port)
	} else {
		w.parse(&d, port)
	}
}

// placePart reads the ports of a first part into k. A later part goes the same way and needs no decision: it reports false.
func (w *worker) placePart(d rings.Desc, port uint16, p *rewrite.Packet, k *flow.Key) bool {
	var f rewrite.FragmentPart
	b := w.region.Packet(d)
	switch {
	case f.Read(b, p) != rewrite.Done:
		w.drop(d, Fragmented)
		return false
	case f.Offset == 0:
		if rewrite.ReadFirst(b, p, k) != rewrite.Done {
			w.drop(d, Fragmented)
			return false
		}
		return true
	}
	n := w.readNote(d.Addr)
	k.Ports, k.Proto = n.ports, n.proto
	slot := int(w.slots[w.cfg.owner(k, port)])
	d.Options = fragmentKind | uint32(port)
	if l := w.leaving; l != nil {
		if v := w.cfg.persistent(k, port); v != nil { // as its first part
			slot = int(l.slots[l.next.entryWorker(v.persistence, k.Src)])
			d.Options = placeKind | uint32(port)
		}
	} else if slot == w.slot {
		d.Options = 0
		w.keepPart(d)
		return false
	}
	w.later(slot, d)
	return false
}

// partViaEntry sends a later part that finds no connection the way that its first part has gone, so that it comes behind it. It
// reports whether the part is gone.
func (w *worker) partViaEntry(d rings.Desc, k *flow.Key, n note) bool {
	v := w.cfg.persistent(k, n.port)
	if n.via || v == nil {
		return false
	}
	slot := w.entrySlot(v.persistence, k)
	if slot == w.slot {
		return false
	}
	n.via = true
	w.putNote(d, n)
	w.give(slot, placeKind|uint32(n.port), d)
	return true
}

// plant makes the entry that a worker that leaves has sent with a packet, unless there is one.
func (w *worker) plant(d rings.Desc, v *virtual, k *flow.Key) {
	b := w.region.Frame(d.Addr)[:placementSize]
	w.plantEntry(&flow.PersistenceEntry{
		Client: v.persistence.prefix(k.Src), Kind: v.persistence.id, Again: true,
		Node: binary.LittleEndian.Uint32(b), Used: binary.LittleEndian.Uint64(b[4:]),
	})
}

// plantEntry makes an entry that was another worker's, unless there is one. It reports whether there was room, or one that could
// give way.
func (w *worker) plantEntry(e *flow.PersistenceEntry) bool {
	if w.persist == nil || w.persist.table == nil {
		return false
	}
	t := w.persist.table
	if t.Find(e.Client, e.Kind, w.now) != 0 {
		return true
	}
	if !t.Room(e.Kind) {
		t.Evict(e.Kind)
	}
	return t.Insert(*e) != 0
}

// takePlaces reads the notes of the packets in hand.
func (w *worker) takePlaces() {
	if w.persist == nil { // it has yet to hear of persistence
		w.needPersist()
		w.catchUp()
	}
	for i := range w.n {
		if w.descs[i].Options&placedBit == 0 {
			continue
		}
		d := w.descs[i]
		w.descs[i].Options &^= placedBit
		b := w.region.Frame(d.Addr)[:placementSize]
		a := &w.persist.of[i]
		a.is, a.why = placed(b[7]), Reason(b[6])
		if a.is == placedAt {
			a.member = w.noted(i, binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint16(b[4:]))
		}
	}
}

// noted is the member of a note. Whoever wrote it may have had another configuration: a newer one, which this worker has been
// told of (Engine.Apply) and takes now, or an older one, whose member only drains now; then the connection is the last that it gets.
func (w *worker) noted(i int, id uint32, port uint16) *member {
	if int(id) >= len(w.cfg.places) || !w.cfg.places[id].exists {
		w.catchUp()
	}
	if at := w.cfg.places[id]; at.exists {
		return &w.cfg.pools[at.pool].groups[at.group].members[at.member]
	}
	m := &w.persist.stubs[i]
	*m = member{id: id, addr: w.cfg.addrs[id], shared: w.runtime.counts.nodes[id]}
	m.Port = port
	m.Hop.Port, m.Hop.OK = int(w.cfg.nodes[id].port), w.cfg.nodes[id].ok
	return m
}

// settlePlaces gives back the places that were not needed, and gives the packets that other workers are asked about to them.
func (w *worker) settlePlaces() {
	if w.placed > 0 {
		w.placed = 0
		for i := range w.persist.of {
			a := &w.persist.of[i]
			if a.is == placedAt {
				a.member.shared.cancel(uint32(a.member.Rate), w.now)
			}
			a.is = notPlaced
		}
	}
	w.flushPlaced()
}

// unplace gives back the place of a packet that is dropped on its way.
func (w *worker) unplace(d rings.Desc) {
	if d.Options&kindMask == placeKind {
		return // its note is an entry
	}
	b := w.region.Frame(d.Addr)[:placementSize]
	if id := binary.LittleEndian.Uint32(b); placed(b[7]) == placedAt && int(id) < len(w.runtime.counts.nodes) {
		w.runtime.counts.nodes[id].active.Add(-1)
	}
}
