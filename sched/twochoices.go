package sched

// twoChoices draws two members at random by weight and takes the one with the lighter load, (connections+1)/weight
// (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001). That keeps the fullest close to the
// average, looks at two members however many there are, and workers or machines whose counts are a little old do not
// all run to the same one.
type twoChoices struct {
	random  *random
	weights []uint32
}

func newTwoChoices(members []Member) *twoChoices {
	t := &twoChoices{random: newRandom(members)}
	for _, m := range members {
		t.weights = append(t.weights, m.Weight)
	}
	return t
}

func (*twoChoices) Needs() Needs { return NeedsRandom | NeedsActive }

// Draw returns two different members, or the same twice where only one is available.
func (t *twoChoices) Draw(in *Input) (a, b int) {
	if a = t.random.draw(in.Random, in, None); a == None {
		return None, None
	}
	if b = t.random.draw(Mix(^in.Random), in, a); b == None {
		return a, a
	}
	return a, b
}

func (t *twoChoices) Pick(in *Input) int {
	a, b := t.Draw(in)
	if a == b {
		return a
	}
	loadA, loadB := uint64(in.Candidates[a].Active)+1, uint64(in.Candidates[b].Active)+1
	if loadB*uint64(t.weights[a]) < loadA*uint64(t.weights[b]) {
		return b
	}
	return a
}
