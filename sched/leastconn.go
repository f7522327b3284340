package sched

// leastConnections takes the candidate with the fewest connections; among equals the turn decides, so that an
// idle pool is filled evenly.
type leastConnections struct{}

func (leastConnections) Needs() Needs { return NeedsTurn | NeedsActive }

func (leastConnections) Pick(in *Input) int {
	n := len(in.Candidates)
	if n == 0 {
		return None
	}
	best := None
	for k, i := 0, int(in.Turn%uint64(n)); k < n; k++ {
		c := &in.Candidates[i]
		if c.Weight > 0 && (best == None || c.Active < in.Candidates[best].Active) {
			best = i
		}
		if i++; i == n {
			i = 0
		}
	}
	return best
}
