package sched

// cycle is a fixed sequence of candidates, one per turn. Because the turn is one counter for all workers, the
// distribution is exact however the connections fall on workers.
type cycle []uint32

func (c cycle) Needs() Needs { return NeedsTurn }

func (c cycle) Pick(in *Input) int {
	if len(c) == 0 {
		return None
	}
	return int(c[in.Turn%uint64(len(c))])
}

// newRoundRobin gives every candidate with a weight one turn in each cycle.
func newRoundRobin(weights []uint32) cycle {
	var c cycle
	for i, w := range weights {
		if w > 0 {
			c = append(c, uint32(i))
		}
	}
	return c
}

// maxCycle bounds the precomputed sequence. Weights whose sum is larger are scaled down, each to at least one
// turn.
const maxCycle = 1 << 16

// newWeightedRoundRobin spreads each candidate's turns evenly over the cycle: at every turn each candidate earns
// its weight, and the richest takes the turn and pays the sum. With weights 5, 1, 1 the cycle is a a b a c a a.
func newWeightedRoundRobin(weights []uint32) cycle {
	w, sum := reduce(weights)
	if sum == 0 {
		return nil
	}
	c := make(cycle, 0, sum)
	credit := make([]int64, len(w))
	// A heap would find the richest faster, but this runs once per change of a pool.
	for range sum {
		best := -1
		for i := range w {
			if w[i] == 0 {
				continue
			}
			credit[i] += int64(w[i])
			if best < 0 || credit[i] > credit[best] {
				best = i
			}
		}
		credit[best] -= int64(sum)
		c = append(c, uint32(best))
	}
	return c
}

// reduce divides the weights by their greatest common divisor and scales them to a sum of at most maxCycle, or
// to one turn each where there are more candidates than that.
func reduce(weights []uint32) (w []uint64, sum uint64) {
	var g uint64
	for _, x := range weights {
		g = gcd(g, uint64(x))
	}
	if g == 0 {
		return nil, 0
	}
	w = make([]uint64, len(weights))
	for i, x := range weights {
		w[i] = uint64(x) / g
		sum += w[i]
	}
	// Computing the cycle costs its length times the candidates: bound it where there are many.
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
