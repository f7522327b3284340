package sched

import "math/bits"

// roundRobin gives everyone with a weight a turn. Because the turn is one counter for all workers, the distribution is
// exact however the connections fall on workers.
//
// The turns of members that are not available go to the others in turn: while the same ones are missing, any two that
// are available have got the same number of these turns or one more. Their own turns do not move, so that a member that
// comes and goes in step with the turns cannot favour anyone.
type roundRobin struct {
	order []uint32 // members with a weight
	set   Bitmap   // the same
}

func newRoundRobin(members []Member) *roundRobin {
	r := &roundRobin{set: eligible(members)}
	for i, m := range members {
		if m.Weight > 0 {
			r.order = append(r.order, uint32(i))
		}
	}
	return r
}

func (r *roundRobin) Needs() Needs { return NeedsTurn }

func (r *roundRobin) Pick(in *Input) int {
	n := uint64(len(r.order))
	if n == 0 {
		return None
	}
	lap := in.Turn / n
	i := int(r.order[in.Turn-lap*n])
	if in.available(i) {
		return i
	}
	return r.redirect(in, lap, i)
}

// redirect numbers the turns of missing members one after the other, over all laps, and gives them out in that order.
func (r *roundRobin) redirect(in *Input, lap uint64, missing int) int {
	up, down, before := 0, 0, 0
	for w, set := range r.set {
		word := in.among(r.set, w)
		gone := set &^ word
		up += bits.OnesCount64(word)
		down += bits.OnesCount64(gone)
		switch {
		case w < missing>>6:
			before += bits.OnesCount64(gone)
		case w == missing>>6:
			before += bits.OnesCount64(gone & (1<<(missing&63) - 1))
		}
	}
	if up == 0 {
		return None
	}
	skip := int((lap*uint64(down) + uint64(before)) % uint64(up))
	for w := range r.set {
		word := in.among(r.set, w)
		if c := bits.OnesCount64(word); skip >= c {
			skip -= c
			continue
		}
		for range skip {
			word &= word - 1
		}
		return w<<6 | bits.TrailingZeros64(word)
	}
	return None
}
