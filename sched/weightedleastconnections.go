package sched

// weightedLeastConnections takes the candidate with the least (connections+1)/weight: the one that has the lightest
// load with the new connection counted. Ratios are compared as integers: (2^32)·(2^32-1) fits in 64 bits. Among equals
// the turn decides as with leastConnections.
type weightedLeastConnections struct{}

func (weightedLeastConnections) Needs() Needs { return NeedsTurn | NeedsWeight | NeedsActive }

func (weightedLeastConnections) Pick(in *Input) int {
	first, equal := None, uint64(0)
	load, weight := uint64(1), uint64(0) // of the first; no ratio is greater
	for i := range in.Candidates {
		c := &in.Candidates[i]
		l, w := uint64(c.Active)+1, uint64(c.Weight)
		if l*weight > load*w || w == 0 || !in.available(i) {
			continue
		}
		if l*weight < load*w {
			first, equal, load, weight = i, 0, l, w
		}
		equal++
	}
	if equal <= 1 {
		return first
	}
	skip := in.Turn % equal
	for i := first; i < len(in.Candidates); i++ {
		c := &in.Candidates[i]
		if (uint64(c.Active)+1)*weight != load*uint64(c.Weight) || c.Weight == 0 || !in.available(i) {
			continue
		}
		if skip == 0 {
			return i
		}
		skip--
	}
	return None
}
