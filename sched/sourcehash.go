package sched

import "math"

// source-hash spreads clients over members by a table, as the sh scheduler of IPVS does, but fills it by rendezvous:
// every member comes to the slots in an order and at times of its own, earlier the more weight it has, and a slot
// belongs to whoever comes to it first.
//
// What a member does depends on nobody else. So when one leaves, its clients move and no other's; one that comes or
// gets more weight takes clients and moves none between others. (IPVS numbers its 256 buckets through, and a server
// that leaves moves nearly everyone; maglev moves a few.) The price is that shares are only as even as a random spread:
// the standard deviation of a member's share is at most √(members/table size) of it, 0.8% in a pool of 4 with the
// default size, 4% with 100, 9% with 1000; a larger table makes it smaller. Where even load counts more than a few
// moved clients, maglev is the choice. A member whose weight gives it less than a slot may get none.
func newSourceHash(members []Member, o Options) (Scheduler, error) {
	return newHashTable(members, o, fillSourceHash)
}

// arrivals are the times at which a member of weight 1 comes to its slots, in its order: at equal steps of the
// exponential distribution. Of members with exponential times each is the first in proportion to its weight.
func arrivals(size int) []float64 {
	times := make([]float64, size)
	for k := range times {
		times[k] = -math.Log(1 - float64(k)/float64(size))
	}
	return times
}

func fillSourceHash(slots []uint16, members []Member) {
	type runner struct {
		walk
		seen   int     // slots it has come to
		offset float64 // equal members come at different times, or a tie would always go to the same
		slow   float64 // 1/weight
	}
	size := uint32(len(slots))
	runners := make([]runner, len(members))
	sum := 0.0
	for i, m := range members {
		runners[i] = runner{newWalk(m.ID, len(slots)), 0, part(Mix(m.ID+1)) / float64(size), 1 / float64(m.Weight)}
		sum += float64(m.Weight)
	}
	times := arrivals(len(slots))
	reached := make([]float64, len(slots)) // when, by the first so far
	for s := range reached {
		reached[s] = math.Inf(1)
	}
	// In stretches of time, until all slots are reached: what is reached in one stays as it is in the later ones. Their
	// length decides on nothing else; in this one all members together come to as many slots as there are, at first.
	left := len(slots)
	for stretch := 1.0; left > 0; stretch++ {
		end := stretch / sum
		for i := range runners {
			r := &runners[i]
			for ; r.seen < len(times); r.seen++ {
				at := (times[r.seen] + r.offset) * r.slow
				if at >= end {
					break
				}
				s := r.walk.at
				if math.IsInf(reached[s], 1) {
					left--
				}
				if at < reached[s] { // a tie goes to the lower identity
					reached[s], slots[s] = at, uint16(i)
				}
				r.next(size)
			}
		}
	}
}
