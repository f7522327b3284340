package sched

import "math/bits"

// random takes a member at random by weight: nothing is shared between workers or machines and nobody can be in step
// with it, at the price of random unevenness: after n picks a member's count is about √n off.
//
// It is Walker's alias table in Vose's form (1991): as many columns as members, each shared by at most two of them, so
// that one number decides in constant time, exactly by weight.
type random struct {
	columns  []column
	fallback rendezvous
}

// column belongs to own up to limit, as a part of 2^64, and to other above it.
type column struct {
	limit      uint64
	own, other uint32
}

func newRandom(members []Member) *random {
	r := &random{fallback: newRendezvous(byIndex(members))}
	var sum uint64
	for i, m := range members {
		if m.Weight > 0 {
			r.columns = append(r.columns, column{own: uint32(i), other: uint32(i)})
			sum += uint64(m.Weight)
		}
	}
	n := uint64(len(r.columns))
	left := make([]uint64, n) // what is not yet placed of a member, in units of sum per column
	var small, large []uint64
	for k := range left {
		left[k] = uint64(members[r.columns[k].own].Weight) * n
		if left[k] < sum {
			small = append(small, uint64(k))
		} else {
			large = append(large, uint64(k))
		}
	}
	for len(small) > 0 && len(large) > 0 {
		s, l := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		r.columns[s].limit, _ = bits.Div64(left[s], 0, sum)
		r.columns[s].other = r.columns[l].own
		if left[l] -= sum - left[s]; left[l] < sum {
			large = large[:len(large)-1]
			small = append(small, l)
		}
	}
	return r // whoever is left has a column to itself
}

func (r *random) Needs() Needs { return NeedsRandom }

func (r *random) Pick(in *Input) int { return r.draw(in.Random, in, None) }

// draw takes a member other than out.
func (r *random) draw(x uint64, in *Input, out int) int {
	if len(r.columns) == 0 {
		return None
	}
	for range probes {
		hi, lo := bits.Mul64(x, uint64(len(r.columns)))
		c := &r.columns[hi]
		i := int(c.other)
		if lo < c.limit {
			i = int(c.own)
		}
		if i != out && in.available(i) {
			return i
		}
		x = Mix(x)
	}
	return r.fallback.pick(x, in, out)
}
