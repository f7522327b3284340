package sched

// leastConnections takes the candidate with the fewest connections. Among equals the turn decides, so that an idle pool
// is filled evenly: the one whose number among them is the turn modulo their number, whoever else is missing.
type leastConnections struct{}

func (leastConnections) Needs() Needs { return NeedsTurn | NeedsWeight | NeedsActive }

func (leastConnections) Pick(in *Input) int {
	first, equal, least := None, uint64(0), ^uint32(0)
	for i := range in.Candidates {
		c := &in.Candidates[i]
		if c.Active > least || c.Weight == 0 || !in.available(i) {
			continue
		}
		if c.Active < least || first == None {
			first, equal, least = i, 0, c.Active
		}
		equal++
	}
	if equal <= 1 {
		return first
	}
	skip := in.Turn % equal
	for i := first; i < len(in.Candidates); i++ {
		c := &in.Candidates[i]
		if c.Active != least || c.Weight == 0 || !in.available(i) {
			continue
		}
		if skip == 0 {
			return i
		}
		skip--
	}
	return None
}
