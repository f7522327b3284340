package sched

import "math/bits"

// Maglev hashing (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section
// 3.4): members take turns in claiming slots of a table, each in an order of its own, and whose next slot is taken
// claims the one after it.
//
// Every member gets its share, to a slot, so that shares are as exact as the table is large; and every machine with
// the same members comes to the same table. The price against source-hash: when a member leaves or comes, some slots of
// the others change hands too. With 100 slots for each member that is below 2% of the clients, and more with fewer.
func newMaglev(members []Member, o Options) (Scheduler, error) {
	return newHashTable(members, o, fillMaglev)
}

func fillMaglev(slots []uint16, members []Member) {
	size := uint32(len(slots))
	walks := make([]walk, len(members))
	for i, m := range members {
		walks[i] = newWalk(m.ID, len(slots))
	}
	taken := NewBitmap(len(slots)) // fits the cache where slots do not
	left := len(slots)
	for _, i := range claims(members, len(slots)) {
		w := &walks[i]
		for taken.Has(int(w.at)) {
			w.next(size)
		}
		slots[w.at] = i
		taken.Set(int(w.at))
		w.next(size)
		if left--; left == 0 {
			return
		}
	}
}

// claims is the order in which members claim slots, at least as many as there are. In a time of size each member gets
// its share, at equal distances, half a distance from the start; who has less than one gets one. So all are within a
// slot of their shares whenever the table is full, equal members claim in rounds, and no member with a weight goes
// without as long as there are two slots for each.
//
// Members in order of time, and of identity in one unit of it: a counting sort.
func claims(members []Member, size int) []uint16 {
	var sum uint64
	for _, m := range members {
		sum += uint64(m.Weight)
	}
	// After this time rounding has taken from no one more than half a slot.
	horizon := size + len(members)
	// Times have 40 bits of fraction: 2^23 · 2^40.
	const unit = 1 << 40
	start := func(m Member) (at, step uint64) {
		if sum/uint64(m.Weight) >= uint64(size) {
			return 0, unit * uint64(size)
		}
		hi, lo := bits.Mul64(sum, unit)
		step, _ = bits.Div64(hi, lo, uint64(m.Weight))
		return step / 2, step
	}
	from := make([]uint32, horizon+1) // claims before a unit of time
	for _, m := range members {
		at, step := start(m)
		for ; at < uint64(horizon)*unit; at += step {
			from[at/unit+1]++
		}
	}
	for t := range horizon {
		from[t+1] += from[t]
	}
	order := make([]uint16, from[horizon])
	for i, m := range members {
		at, step := start(m)
		for ; at < uint64(horizon)*unit; at += step {
			t := at / unit
			order[from[t]] = uint16(i)
			from[t]++
		}
	}
	return order
}
