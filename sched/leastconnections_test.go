package sched

import (
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
)

// Uneven lifetimes: every fourth connection is a long one. Round-robin over four gives all of these to one member;
// least-connections keeps the numbers of open ones within one of each other whenever one is opened.
func TestLeastConnectionsLifetimes(t *testing.T) {
	const members, ticks, short, long = 4, 20_000, 8, 4000
	run := func(name string) (peak [members]int) {
		list := equal(members)
		s := mustNew(t, name, list)
		in := inputOf(list)
		ends := map[uint64][]int{}
		for ; in.Turn < ticks; in.Turn++ {
			for _, i := range ends[in.Turn] {
				in.Candidates[i].Active--
			}
			delete(ends, in.Turn)
			i := s.Pick(&in)
			life := uint64(short)
			if in.Turn%4 == 0 {
				life = long
			}
			ends[in.Turn+life] = append(ends[in.Turn+life], i)
			for _, c := range in.Candidates {
				if name == "least-connections" && c.Active < in.Candidates[i].Active {
					t.Fatalf("turn %d: opened on one with %d where another has %d", in.Turn, in.Candidates[i].Active, c.Active)
				}
			}
			in.Candidates[i].Active++
			peak[i] = max(peak[i], int(in.Candidates[i].Active))
		}
		return peak
	}
	// At rest 1000 long ones and six short ones are open.
	if peak := run("round-robin"); peak != [members]int{1000, 2, 2, 2} {
		t.Errorf("round-robin: at most %v connections", peak)
	}
	peak := run("least-connections")
	if slices.Min(peak[:]) < 250 || slices.Max(peak[:]) > 254 {
		t.Errorf("least-connections: at most %v connections", peak)
	}
}

// An idle pool is filled evenly, and so it is when some are missing.
func TestLeastConnectionsTies(t *testing.T) {
	for _, name := range []string{"least-connections", "weighted-least-connections"} {
		members := equal(5)
		s := mustNew(t, name, members)
		in := inputOf(members)
		for _, c := range []struct {
			missing []int
			want    []int
		}{
			{nil, []int{4, 4, 4, 4, 4}},
			{[]int{1}, []int{5, 0, 5, 5, 5}},
			{[]int{0, 1}, []int{0, 0, 7, 7, 6}},
		} {
			in.Available = without(5, c.missing...)
			count := make([]int, 5)
			for in.Turn = range uint64(20) { // connections that end at once
				count[s.Pick(&in)]++
			}
			if !slices.Equal(count, c.want) {
				t.Errorf("%s without %v: %v, want %v", name, c.missing, count, c.want)
			}
		}
	}
}

func TestWeightedLeastConnectionsFills(t *testing.T) {
	members := weighing(4, 2, 1, 0)
	s := mustNew(t, "weighted-least-connections", members)
	in := inputOf(members)
	var got []int
	for range 7 {
		i := s.Pick(&in)
		got = append(got, i)
		in.Candidates[i].Active++
	}
	// Loads with the new connection: 1/4; then 2/4 against 1/2, turn 0 takes the first; 3/4 after 1/2; 1, 1 and 1 are left.
	if want := []int{0, 0, 1, 0, 0, 1, 2}; !slices.Equal(got, want) {
		t.Errorf("filled %v, want %v", got, want)
	}
	for range 7 * 99 {
		in.Turn++
		in.Candidates[s.Pick(&in)].Active++
	}
	for i, want := range []uint32{400, 200, 100, 0} {
		if got := in.Candidates[i].Active; got != want {
			t.Errorf("member %d has %d, want %d", i, got, want)
		}
	}
}

// naiveLeast finds all with the least load in exact arithmetic and takes one by the turn.
func naiveLeast(in *Input, weighted bool) int {
	var best *big.Rat
	var equal []int
	for i, c := range in.Candidates {
		if c.Weight == 0 || in.Available != nil && !in.Available.Has(i) {
			continue
		}
		load := big.NewRat(int64(c.Active)+1, 1)
		if weighted {
			load = big.NewRat(int64(c.Active)+1, int64(c.Weight))
		}
		if best == nil || load.Cmp(best) < 0 {
			best, equal = load, nil
		}
		if load.Cmp(best) == 0 {
			equal = append(equal, i)
		}
	}
	if equal == nil {
		return None
	}
	return equal[in.Turn%uint64(len(equal))]
}

func TestLeastConnectionsNaive(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	for range 50_000 {
		in := Input{Turn: rng.Uint64N(100), Candidates: make([]Candidate, 1+rng.IntN(6))}
		value := [...]func() uint32{
			func() uint32 { return rng.Uint32N(4) },
			func() uint32 { return ^uint32(0) - rng.Uint32N(3) },
			rng.Uint32,
		}[rng.IntN(3)]
		for i := range in.Candidates {
			in.Candidates[i] = Candidate{Weight: value(), Active: value()}
		}
		if rng.IntN(2) == 0 {
			in.Available = Bitmap{rng.Uint64()}
		}
		if got, want := (leastConnections{}).Pick(&in), naiveLeast(&in, false); got != want {
			t.Fatalf("least-connections: %d, want %d: %+v", got, want, in)
		}
		if got, want := (weightedLeastConnections{}).Pick(&in), naiveLeast(&in, true); got != want {
			t.Fatalf("weighted-least-connections: %d, want %d: %+v", got, want, in)
		}
	}
}
