package sched

import (
	"math/bits"
	"slices"
)

// cycle is a fixed sequence of members, one per turn, with the turns of each spread evenly: smooth weighted
// round-robin. While all are available the distribution is exact in every cycle.
//
// The turns of members that are not available are numbered one after the other, over all laps, and go to others by
// weight: that of number e to whom the point e·φ modulo 1 falls when the others lie side by side, each as wide as its
// weight. Points at the distance of the golden ratio fill everyone's part evenly at all times, so that while the same
// ones are missing, each of the others is within a few turns of its exact number, however long that is. Own turns do
// not move, so that a member that comes and goes in step with the turns cannot favour anyone.
type cycle struct {
	turns   []uint32
	nth     []uint32 // which of the member's turns in the cycle a turn is, from 0
	weights []uint32 // turns of a member in the cycle
	set     Bitmap   // members with turns
	words   []int    // turns of all members in a word of set
}

func newCycle(turns []uint32, members []Member) *cycle {
	c := &cycle{turns: turns, nth: make([]uint32, len(turns)), weights: make([]uint32, len(members)), set: eligible(members)}
	c.words = make([]int, len(c.set))
	for k, i := range turns {
		c.nth[k] = c.weights[i]
		c.weights[i]++
		c.words[i>>6]++
	}
	return c
}

func (c *cycle) Needs() Needs { return NeedsTurn }

func (c *cycle) Pick(in *Input) int {
	n := uint64(len(c.turns))
	lap := in.Turn / n
	at := in.Turn - lap*n
	if i := int(c.turns[at]); in.available(i) {
		return i
	}
	return c.redirect(in, lap, int(at))
}

// missing is how many turns the missing ones among the first members of word w have in a cycle.
func (c *cycle) missing(in *Input, w, first int) (turns int) {
	gone := c.set[w] &^ in.among(c.set, w)
	if first < 64 {
		gone &= 1<<first - 1
	}
	for ; gone != 0; gone &= gone - 1 {
		turns += int(c.weights[w<<6|bits.TrailingZeros64(gone)])
	}
	return turns
}

// redirect gives a turn of a missing member to another. It looks at those that are missing, twice.
func (c *cycle) redirect(in *Input, lap uint64, at int) int {
	i := int(c.turns[at])
	down, before := 0, int(c.nth[at])
	for w := range c.set {
		if w == i>>6 {
			before += down + c.missing(in, w, i&63)
		}
		down += c.missing(in, w, 64)
	}
	up := len(c.turns) - down
	if up == 0 {
		return None
	}
	point := scale((lap*uint64(down)+uint64(before))*golden, up)
	for w := range c.set {
		if here := c.words[w] - c.missing(in, w, 64); point >= here {
			point -= here
			continue
		}
		for word := in.among(c.set, w); word != 0; word &= word - 1 {
			i := w<<6 | bits.TrailingZeros64(word)
			if point -= int(c.weights[i]); point < 0 {
				return i
			}
		}
	}
	return None
}

// maxCycle bounds the precomputed sequence. Weights whose sum is larger are scaled down, each to at least one
// turn.
const maxCycle = 1 << 16

func newWeightedRoundRobin(members []Member) Scheduler {
	w, sum := reduce(members)
	if !slices.ContainsFunc(w, func(x uint64) bool { return x > 1 }) {
		return newRoundRobin(members) // equal weights
	}
	return newCycle(smooth(w, sum), members)
}

// smooth spreads each member's turns evenly over the cycle: at every turn each earns its weight, and the richest, or
// the first of them, takes the turn and pays the sum. With weights 5, 1, 1 the cycle is a a b a c a a.
//
// Members of one weight take turns among themselves, so only one of each weight is compared: there are at most
// √(2·sum) different ones.
func smooth(w []uint64, sum uint64) []uint32 {
	type class struct {
		weight  int64
		members []uint32
		next    int   // whose turn among members
		credit  int64 // of members[next]
	}
	var classes []*class
	byWeight := map[uint64]*class{}
	for i, x := range w {
		if x == 0 {
			continue
		}
		c := byWeight[x]
		if c == nil {
			c = &class{weight: int64(x)}
			byWeight[x] = c
			classes = append(classes, c)
		}
		c.members = append(c.members, uint32(i))
	}
	turns := make([]uint32, 0, sum)
	for range sum {
		var best *class
		for _, c := range classes {
			c.credit += c.weight
			if best == nil || c.credit > best.credit || c.credit == best.credit && c.members[c.next] < best.members[best.next] {
				best = c
			}
		}
		turns = append(turns, best.members[best.next])
		if best.next++; best.next == len(best.members) {
			best.next = 0
			best.credit -= int64(sum)
		}
	}
	return turns
}

// reduce divides the weights by their greatest common divisor and scales them to a sum of about maxCycle at most, or
// to one turn each where there are more members than that.
func reduce(members []Member) (w []uint64, sum uint64) {
	var g uint64
	for _, m := range members {
		g = gcd(g, uint64(m.Weight))
	}
	if g == 0 {
		return nil, 0
	}
	w = make([]uint64, len(members))
	for i, m := range members {
		w[i] = uint64(m.Weight) / g
		sum += w[i]
	}
	// A short cycle for few members: that of many is long because everyone needs turns enough to show its weight.
	limit := min(uint64(maxCycle), max(uint64(len(w))*64, 4096))
	if sum <= limit {
		return w, sum
	}
	total := sum
	sum = 0
	for i := range w {
		if w[i] > 0 {
			w[i] = max(1, (w[i]*limit+total/2)/total)
		}
		sum += w[i]
	}
	return w, sum
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
