package flow

import "math/bits"

// Pressure: what goes first when the table runs full. Nothing here costs a packet of a known connection anything.
//
// The timer wheel is also the order of eviction. A connection that is half open or unanswered has a short timeout, so
// it sits in one of the next ticks; an established one sits far ahead. Evict walks the ticks from the present on.

// Evict removes the half-open or closing connection that would expire soonest, to make room for a new one, and reports
// whether there was one. It looks at no more than evictBudget records: with none among them the table is full of
// established connections, which never give way to a SYN. An established connection met on the way is armed for
// its real end, so that the next search does not meet it again.
func (t *Table) Evict(now uint64, deadline func(*Record) uint64, evicted func(*Record)) bool {
	w := &t.wheel
	tick := w.cursor
	for range evictBudget {
		var ok bool
		if tick, ok = w.next(tick); !ok {
			return false
		}
		i := w.heads[tick&(wheelSlots-1)]
		r := &t.records[i]
		if r.HalfOpen() || r.Ending() {
			evicted(r)
			t.Remove(i)
			return true
		}
		end := deadline(r)
		if end>>tickShift+1 <= tick {
			tick++ // it is where it belongs: others of its tick are likely its like
			continue
		}
		t.Rearm(i, end)
	}
	return false
}

const evictBudget = 16

// next is the first tick from from on whose list is not empty.
func (w *wheel) next(from uint64) (uint64, bool) {
	for off := uint64(0); off < wheelSlots; {
		slot := (from + off) & (wheelSlots - 1)
		word := w.filled[slot>>6] >> (slot & 63)
		if word != 0 {
			off += uint64(bits.TrailingZeros64(word))
			return from + off, off < wheelSlots
		}
		off += 64 - slot&63
	}
	return 0, false
}

// Sweep looks at the next n records in the order of their index and removes those whose deadline has come. Above the
// high-water mark, where timeouts shrink, it finds what is armed for a later time.
func (t *Table) Sweep(now uint64, n int, deadline func(*Record) uint64, expired func(*Record)) {
	for range n {
		t.hand++
		if t.hand >= t.fresh {
			t.hand = 1
		}
		if r := &t.records[t.hand]; r.Live() && deadline(r) <= now {
			expired(r)
			t.Remove(t.hand)
		}
	}
}

// Shrink is by how much timeouts are cut, as a fraction of 256, when the table holds live of capacity connections: whole
// up to the high-water mark of 7/8, then falling in proportion to what is still free, to 1/16.
func (t *Table) Shrink() uint32 {
	capacity := t.Cap()
	mark := capacity - capacity/8
	if t.live <= mark {
		return 256
	}
	return max(16, uint32(256*(capacity-t.live)/max(capacity-mark, 1)))
}

// Victim is the index of the record that Evict would remove, or 0, and changes nothing. It walks as Evict does; the records that
// Evict would arm anew, and meet again where they then are, it notes instead.
func (t *Table) Victim(now uint64, deadline func(*Record) uint64) uint32 {
	w := &t.wheel
	var moved [evictBudget]struct {
		index uint32
		tick  uint64
	}
	n, tick := 0, w.cursor
	isMoved := func(i uint32) bool {
		for j := range n {
			if moved[j].index == i {
				return true
			}
		}
		return false
	}
	// left is the first record of a tick's list that has not been moved away, or 0.
	left := func(tick uint64) uint32 {
		for i := w.heads[tick&(wheelSlots-1)]; i != 0 && i&endMark == 0; i = t.links[i].next {
			if !isMoved(i) {
				return i
			}
		}
		return 0
	}
	for range evictBudget {
		i := uint32(0)
		for from, start := tick, tick; i == 0; from = tick + 1 {
			next, ok := w.next(from)
			for j := range n { // a list that was empty may have one now
				if at := from + (moved[j].tick-from)&(wheelSlots-1); !ok || at < next {
					next, ok = at, true
				}
			}
			if !ok || next-start >= wheelSlots {
				return 0
			}
			tick = next
			i = left(tick)
			for j := 0; i == 0 && j < n; j++ {
				if (moved[j].tick-tick)&(wheelSlots-1) == 0 {
					i = moved[j].index
				}
			}
		}
		r := &t.records[i]
		if r.HalfOpen() || r.Ending() {
			return i
		}
		end := deadline(r)
		if end>>tickShift+1 <= tick {
			tick++
			continue
		}
		at := max(end>>tickShift+1, w.cursor+1)
		if at >= w.cursor+wheelSlots {
			at = w.cursor + wheelSlots - 1
		}
		known := false
		for j := range n {
			if moved[j].index == i {
				moved[j].tick, known = at, true
			}
		}
		if !known {
			moved[n].index, moved[n].tick = i, at
			n++
		}
	}
	return 0
}
