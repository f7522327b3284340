package flow

import (
	"math/bits"
	"slices"
)

// InsertResult says how an insertion ended.
type InsertResult uint8

// The results of Insert.
const (
	Inserted  InsertResult = iota
	Full                   // no free record, or no free slot in reach
	Collision              // another connection has the server-side tuple
)

// Insert adds the connection that rec describes and arms its timer to fire at deadline. A TCP connection has begun already
// (BeginTCP, AdoptTCP), so that it is published with its state. The client-side tuple must not be in the table (a lookup
// has just missed it).
//
// A record is published by one store of its state word, after everything else of it, and retired by one: whatever a
// killed process leaves in memory, a record is either whole or not there.
func (t *Table) Insert(rec *Record, proto uint8, now uint64, deadline uint64) (Ref, InsertResult) {
	rec.state = rec.state&^(liveBit|0xff<<protoShift) | uint64(proto)<<protoShift
	ck, sk := rec.ClientKey(), t.ServerKey(rec)
	if t.Lookup(&sk) != 0 {
		return 0, Collision
	}
	i := t.take()
	if i == 0 {
		return 0, Full
	}
	r := &t.records[i]
	step()
	*r = *rec // not there yet: it is not live
	step()
	ref, res := t.insert(i, t.placeOf(&ck), t.placeOf(&sk), now, deadline)
	if res != Inserted {
		t.give(i)
	}
	return ref, res
}

// insert enters record i, which is filled, and whose tuples belong into these places.
func (t *Table) insert(i uint32, client, server place, now, deadline uint64) (Ref, InsertResult) {
	r := &t.records[i]
	r.Seen, r.Start = uint32(now), uint32(now)
	if !t.enter(i, client, server) {
		return 0, Full
	}
	t.wheel.arm(t.links, i, deadline)
	t.publish(i, r.state|halfOpenBit)
	return ref(i, FromClient), Inserted
}

// enter puts both tuples of record i into buckets, or neither.
func (t *Table) enter(i uint32, client, server place) bool {
	if !t.addSlot(client, ref(i, FromClient)) {
		return false
	}
	step()
	if !t.addSlot(server, ref(i, FromServer)) {
		t.dropSlot(client, ref(i, FromClient))
		return false
	}
	return true
}

// publish makes record i a connection.
func (t *Table) publish(i uint32, state uint64) {
	r := &t.records[i]
	sum := r.immutable(state)
	step()
	storeInOrder(&r.state, state&(1<<checkShift-1)|uint64(sum)<<checkShift|liveBit)
	step()
	t.live++
}

// step marks the places between the stores of publishing and retiring, where a test stops to see what a killed process
// would have left.
func step() {
	if faultStep != nil {
		faultStep()
	}
}

var faultStep func()

// Remove deletes a connection: both its tuples, its timer, its record.
func (t *Table) Remove(index uint32) {
	r := &t.records[index]
	if !r.Live() {
		return
	}
	ck, sk := r.ClientKey(), t.ServerKey(r)
	t.remove(index, t.placeOf(&ck), t.placeOf(&sk))
}

// remove is Remove of a connection whose tuples belong into these places.
func (t *Table) remove(index uint32, client, server place) {
	storeInOrder(&t.records[index].state, 0)
	step()
	t.dropSlot(client, ref(index, FromClient))
	step()
	t.dropSlot(server, ref(index, FromServer))
	t.wheel.disarm(t.links, index)
	t.live--
	t.give(index)
}

// Rearm moves a connection's timer to deadline. Only a deadline that comes nearer needs it: timers are lazy.
func (t *Table) Rearm(index uint32, deadline uint64) {
	t.wheel.disarm(t.links, index)
	t.wheel.arm(t.links, index, deadline)
}

// freeSlot is the first empty slot of a bucket, or -1.
func (b *bucket) freeSlot() int {
	for w := range b.tags {
		// The lowest bit of the approximate test is always right.
		if m := b.match(w, 0); m != 0 {
			return w*4 + bits.TrailingZeros64(m)>>4
		}
	}
	return -1
}

func (b *bucket) tag(slot int) uint16 { return uint16(b.tags[slot>>2] >> (slot & 3 * 16)) }

func (b *bucket) set(slot int, tag uint16, r Ref, second bool) {
	shift := slot & 3 * 16
	b.tags[slot>>2] = b.tags[slot>>2]&^(0xffff<<shift) | uint64(tag)<<shift
	b.refs[slot] = r
	b.tags[2] &^= 1 << (secondShift + slot)
	if second {
		b.tags[2] |= 1 << (secondShift + slot)
	}
}

func (b *bucket) isSecond(slot int) bool { return b.tags[2]&(1<<(secondShift+slot)) != 0 }

// fill is set for a slot that is free, in the bucket that is the tuple's primary one.
func (b *bucket) fill(slot int, tag uint16, r Ref) {
	b.tags[slot>>2] |= uint64(tag) << (slot & 3 * 16)
	b.refs[slot] = r
}

// fillFree fills the first free slot of the bucket that is the tuple's primary one, and reports whether there was one.
func (b *bucket) fillFree(tag uint16, r Ref) bool {
	s := b.freeSlot()
	if s >= 0 {
		b.fill(s, tag, r)
	}
	return s >= 0
}

// clearFirst frees the first slot with this tag if it is that of r and this is the tuple's primary bucket, and reports whether it has.
func (b *bucket) clearFirst(tag uint16, r Ref) bool {
	for s := range slots {
		if b.tag(s) == tag {
			if b.refs[s] != r || b.isSecond(s) {
				return false
			}
			b.tags[s>>2] &^= 0xffff << (s & 3 * 16)
			b.refs[s] = 0
			return true
		}
	}
	return false
}

// addSlot enters a tuple.
func (t *Table) addSlot(at place, r Ref) bool {
	return fillSlot(&t.buckets[at.bucket], at.tag, r) || t.addSlotElsewhere(at, r)
}

// addSlotElsewhere enters a tuple whose primary bucket is full.
func (t *Table) addSlotElsewhere(at place, r Ref) bool {
	primary, tag := at.bucket, at.tag
	if t.sendHome(primary) {
		t.buckets[primary].set(t.buckets[primary].freeSlot(), tag, r, false)
		return true
	}
	secondary := t.other(primary, tag)
	if s := t.buckets[secondary].freeSlot(); s >= 0 {
		t.buckets[secondary].set(s, tag, r, true)
		t.buckets[primary].addOverflow(1)
		return true
	}
	if !t.makeRoom(primary, 3) {
		return false
	}
	t.buckets[primary].set(t.buckets[primary].freeSlot(), tag, r, false)
	return true
}

// sendHome frees a slot of bucket b by moving an entry that is here as in its secondary bucket back to its primary one, if
// that has room again. It keeps the share of secondary entries low.
func (t *Table) sendHome(b uint64) bool {
	bk := &t.buckets[b]
	for second := bk.second(); second != 0; second &= second - 1 {
		s := bits.TrailingZeros16(second)
		if home := t.other(b, bk.tag(s)); home != b && t.buckets[home].freeSlot() >= 0 {
			t.move(b, s, home)
			return true
		}
	}
	return false
}

// makeRoom frees a slot of bucket b by moving one of its entries to that entry's other bucket, making room there
// first if depth allows (cuckoo hashing: Pagh and Rodler, 2001). At three quarters load depth 1 nearly always
// suffices.
func (t *Table) makeRoom(b uint64, depth int) bool {
	bk := &t.buckets[b]
	for s := range slots {
		to := t.other(b, bk.tag(s))
		if to != b && t.buckets[to].freeSlot() >= 0 {
			t.move(b, s, to)
			return true
		}
	}
	if depth == 0 {
		return false
	}
	for s := range slots {
		to := t.other(b, bk.tag(s))
		if to == b || !t.makeRoom(to, depth-1) {
			continue
		}
		// Making room there may have moved entries here or away: look again.
		if bk.freeSlot() >= 0 {
			return true
		}
		if to = t.other(b, bk.tag(s)); to != b && t.buckets[to].freeSlot() >= 0 {
			t.move(b, s, to)
			return true
		}
	}
	return false
}

// move takes an entry to its other bucket, where a slot is free.
func (t *Table) move(from uint64, slot int, to uint64) {
	a, b := &t.buckets[from], &t.buckets[to]
	wasSecond := a.isSecond(slot)
	b.set(b.freeSlot(), a.tag(slot), a.refs[slot], !wasSecond)
	a.set(slot, 0, 0, false)
	if wasSecond {
		b.addOverflow(-1) // it is back in its primary bucket
	} else {
		a.addOverflow(1)
	}
}

// dropSlot takes a tuple out.
func (t *Table) dropSlot(at place, r Ref) {
	if !clearSlot(&t.buckets[at.bucket], at.tag, r) {
		t.dropSlotElsewhere(at, r)
	}
}

// dropSlotElsewhere takes a tuple out wherever it is.
func (t *Table) dropSlotElsewhere(at place, r Ref) {
	primary, tag := at.bucket, at.tag
	b := &t.buckets[primary]
	if s := b.slotOf(r); s >= 0 {
		// A tuple whose two buckets are one may sit there as in its secondary.
		if b.isSecond(s) {
			b.addOverflow(-1)
			b.tags[2] &^= 1 << (secondShift + s)
		}
		b.tags[s>>2] &^= 0xffff << (s & 3 * 16)
		b.refs[s] = 0
		return
	}
	secondary := t.other(primary, tag)
	if s := t.buckets[secondary].slotOf(r); s >= 0 {
		t.buckets[secondary].set(s, 0, 0, false)
		t.buckets[primary].addOverflow(-1)
	}
}

// slotOf is the slot of a reference, or -1.
func (b *bucket) slotOf(r Ref) int { return slices.Index(b.refs[:], r) }
