package sched

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func sequence(t *testing.T, name string, weights []uint32, missing []int, n int) []int {
	t.Helper()
	s := mustNew(t, name, weighing(weights...))
	in := Input{}
	if missing != nil {
		in.Available = without(len(weights), missing...)
	}
	var got []int
	for range n {
		got = append(got, s.Pick(&in))
		in.Turn++
	}
	return got
}

func TestSequences(t *testing.T) {
	for _, c := range []struct {
		name    string
		weights []uint32
		missing []int
		want    []int
	}{
		{"round-robin", []uint32{1, 1, 1}, nil, []int{0, 1, 2, 0, 1, 2}},
		{"round-robin", []uint32{1, 0, 9}, nil, []int{0, 2, 0, 2}},
		// Turns of a missing one go to the others in turn.
		{"round-robin", []uint32{1, 1, 1}, []int{1}, []int{0, 0, 2, 0, 2, 2, 0, 0, 2}},
		{"round-robin", []uint32{1, 1, 1, 1}, []int{0, 2}, []int{1, 1, 3, 3, 1, 1, 3, 3}},
		{"round-robin", []uint32{1, 1, 1}, []int{0, 1}, []int{2, 2, 2}},
		{"weighted-round-robin", []uint32{5, 1, 1}, nil, []int{0, 0, 1, 0, 2, 0, 0, 0, 0, 1}}, // the published one
		{"weighted-round-robin", []uint32{500, 100, 100}, nil, []int{0, 0, 1, 0, 2, 0, 0}},
		{"weighted-round-robin", []uint32{4, 2, 1}, nil, []int{0, 1, 0, 2, 0, 1, 0}},
		{"weighted-round-robin", []uint32{2, 2, 1}, nil, []int{0, 1, 2, 0, 1}},
		{"weighted-round-robin", []uint32{1, 2}, nil, []int{1, 0, 1, 1, 0, 1}},
		{"weighted-round-robin", []uint32{7, 7}, nil, []int{0, 1, 0, 1}},
		{"weighted-round-robin", []uint32{0, 3}, nil, []int{1, 1}},
		{"weighted-round-robin", []uint32{5, 1, 1}, []int{0, 2}, []int{1, 1, 1, 1, 1, 1, 1}},
	} {
		if got := sequence(t, c.name, c.weights, c.missing, len(c.want)); !slices.Equal(got, c.want) {
			t.Errorf("%s %v without %v: %v, want %v", c.name, c.weights, c.missing, got, c.want)
		}
	}
}

// While the same members are missing, counts of the others are as even as they can be, after any number of turns: own
// turns, and the turns of the missing shared so that counts of these differ by one at most.
func TestRoundRobinWithoutSome(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	for range 200 {
		n := 1 + rng.IntN(200)
		members := equal(n)
		for i := range members {
			members[i].Weight = rng.Uint32N(4)
		}
		s := newRoundRobin(members)
		in := Input{Available: NewBitmap(n)}
		for i := range n {
			if rng.IntN(4) > 0 {
				in.Available.Set(i)
			}
		}
		extra := map[int]int{}
		for i := range n {
			if members[i].Weight > 0 && in.Available.Has(i) {
				extra[i] = 0
			}
		}
		if len(extra) == 0 || len(s.order) == 0 {
			continue
		}
		for ; in.Turn < uint64(3*n); in.Turn++ {
			got := s.Pick(&in)
			if own := int(s.order[in.Turn%uint64(len(s.order))]); in.Available.Has(own) {
				if got != own {
					t.Fatalf("turn %d: %d, not %d, which is available", in.Turn, got, own)
				}
				continue
			}
			extra[got]++
			least, most := math.MaxInt, 0
			for _, e := range extra {
				least, most = min(least, e), max(most, e)
			}
			if most-least > 1 {
				t.Fatalf("%d members, %d available: after %d turns one has got %d turns of the missing and one %d", n, len(extra), in.Turn+1, least, most)
			}
		}
	}
}

// While the same members are missing, each of the others has its weight's part of all turns, within a few, after any
// number of whole cycles. Its own turns do not move.
func TestWeightedRoundRobinWithoutSome(t *testing.T) {
	rng := rand.New(rand.NewPCG(13, 14))
	random := make([]uint32, 150)
	var gone []int
	for i := range random {
		random[i] = rng.Uint32N(6)
		if rng.IntN(3) == 0 {
			gone = append(gone, i)
		}
	}
	for _, c := range []struct {
		weights []uint32
		missing []int
	}{
		{[]uint32{5, 1, 1}, []int{0}}, {[]uint32{5, 1, 1}, []int{1}}, {[]uint32{3, 2, 5, 7}, []int{2}}, {[]uint32{3, 2, 5, 7}, []int{1, 3}},
		{[]uint32{1000, 999, 998}, []int{1}}, {[]uint32{100, 1, 1, 2}, []int{0}}, {[]uint32{10000, 1, 2, 3}, []int{0}},
		{[]uint32{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, []int{0, 2, 4, 6, 8, 10, 11}}, {random, gone},
	} {
		members := weighing(c.weights...)
		s := newWeightedRoundRobin(members).(*cycle)
		in := Input{Available: without(len(members), c.missing...)}
		var up float64
		for _, i := range s.turns {
			if in.Available.Has(int(i)) {
				up++
			}
		}
		count := make([]int, len(members))
		worst := 0.0
		for range max(100, 100_000/len(s.turns)) {
			for _, own := range s.turns {
				got := s.Pick(&in)
				if in.Available.Has(int(own)) && got != int(own) {
					t.Fatalf("%v: turn %d goes to %d, not to %d, which is available", c.weights, in.Turn, got, own)
				}
				count[got]++
				in.Turn++
			}
			for i := range count {
				want := 0.0
				if in.Available.Has(i) {
					want = float64(in.Turn) * float64(s.weights[i]) / up
				}
				worst = max(worst, math.Abs(float64(count[i])-want))
			}
		}
		t.Logf("%d members, cycle of %d, %d turns: at most %.1f off", len(members), len(s.turns), in.Turn, worst)
		if worst > 4 {
			t.Errorf("%v without %v: after a cycle one was %.1f turns off", c.weights, c.missing, worst)
		}
	}
}

// A member that is missing at every other turn, in step with the round, does not move the turns of others.
func TestRoundRobinFlapInStep(t *testing.T) {
	for _, weights := range [][]uint32{{1, 1, 1, 1}, {2, 1, 1, 1}} {
		s := mustNew(t, "weighted-round-robin", weighing(weights...))
		in := Input{}
		count := make([]int, 4)
		const turns = 60_000
		for ; in.Turn < turns; in.Turn++ {
			in.Available = nil
			if in.Turn%2 == 0 {
				in.Available = without(4, 3)
			}
			count[s.Pick(&in)]++
		}
		least, most := slices.Min(count[1:3]), slices.Max(count[1:3])
		if most-least > turns/1000 {
			t.Errorf("weights %v: equal members that were always available have %v", weights, count)
		}
	}
}

// Weights of any size keep their shares within a cycle, and everyone with a weight gets a turn.
func TestWeightedShares(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 20 {
		members := equal(2 + rng.IntN(50))
		var sum float64
		for i := range members {
			members[i].Weight = 1 + rng.Uint32N(65535)
			sum += float64(members[i].Weight)
		}
		turns := newWeightedRoundRobin(members).(*cycle).turns
		n := len(turns)
		if n > 2*maxCycle {
			t.Fatalf("a cycle of %d", n)
		}
		count := make([]float64, len(members))
		for _, i := range turns {
			count[i]++
		}
		for i, m := range members {
			if want := float64(m.Weight) / sum * float64(n); count[i] < want-2 || count[i] > want+2 || count[i] == 0 {
				t.Errorf("weight %d of %.0f: %.0f of %d turns, want %.1f", m.Weight, sum, count[i], n, want)
			}
		}
	}
}

// naiveSmooth compares all members at every turn.
func naiveSmooth(w []uint64, sum uint64) []uint32 {
	var turns []uint32
	credit := make([]int64, len(w))
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
		turns = append(turns, uint32(best))
	}
	return turns
}

func FuzzSmooth(f *testing.F) {
	f.Add([]byte{5, 1, 1})
	f.Add([]byte{3, 0, 3, 7, 7, 7, 1})
	f.Fuzz(func(t *testing.T, weights []byte) {
		if len(weights) > 20 {
			return
		}
		members := make([]Member, len(weights))
		for i, w := range weights {
			members[i].Weight = uint32(w)
		}
		w, sum := reduce(members)
		if got, want := smooth(w, sum), naiveSmooth(w, sum); !slices.Equal(got, want) {
			t.Errorf("%v: %v, want %v", w, got, want)
		}
	})
}
