package sched

import (
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
)

// deviation is how far counts are from the shares of weights, in standard deviations of chi squared: within ±4 for what
// is random, far below for what is too even, far above for what is uneven.
func deviation(count []int, weights []uint32) float64 {
	n, sum, free := 0.0, 0.0, -1.0
	for i := range count {
		n += float64(count[i])
		sum += float64(weights[i])
	}
	chi := 0.0
	for i, w := range weights {
		if w == 0 {
			if count[i] > 0 {
				return math.Inf(1)
			}
			continue
		}
		free++
		want := n * float64(w) / sum
		chi += (float64(count[i]) - want) * (float64(count[i]) - want) / want
	}
	return (chi - free) / math.Sqrt(2*free)
}

// without0 gives the missing the weight 0.
func without0(weights []uint32, missing ...int) []uint32 {
	w := slices.Clone(weights)
	for _, i := range missing {
		w[i] = 0
	}
	return w
}

func TestRandom(t *testing.T) {
	many := make([]uint32, 100)
	for i := range many {
		many[i] = uint32(1 + i%7)
	}
	nearlyAll := make([]int, 95)
	for i := range nearlyAll {
		nearlyAll[i] = i
	}
	for _, c := range []struct {
		weights []uint32
		missing []int
	}{
		{[]uint32{1, 1, 1, 1}, nil}, {[]uint32{1, 2, 3, 0, 4}, nil}, {[]uint32{1, 2, 3, 0, 4}, []int{2}}, {many, nil}, {many, []int{5, 50, 99}},
		{many, nearlyAll}, {[]uint32{60000, 1, 2, 3}, []int{0}}, // what is left is found by rendezvous
	} {
		s := mustNew(t, "random", weighing(c.weights...))
		rng := rand.New(rand.NewPCG(21, 22))
		in := Input{Available: without(len(c.weights), c.missing...)}
		count := make([]int, len(c.weights))
		for range 200_000 {
			in.Random = rng.Uint64()
			count[s.Pick(&in)]++
		}
		if d := deviation(count, without0(c.weights, c.missing...)); math.Abs(d) > 4 {
			t.Errorf("%v without %v: %.1f standard deviations off: %v", c.weights, c.missing, d, count)
		}
	}
}

// The table's parts of 2^64 add up to the weights, exactly but for the rounding of each column.
func TestRandomTableExact(t *testing.T) {
	rng := rand.New(rand.NewPCG(23, 24))
	for range 100 {
		members := equal(1 + rng.IntN(300))
		sum := new(big.Int)
		for i := range members {
			if members[i].Weight = rng.Uint32() >> rng.IntN(33); i == 0 {
				members[i].Weight |= 1
			}
			sum.Add(sum, big.NewInt(int64(members[i].Weight)))
		}
		r := newRandom(members)
		whole := new(big.Int).Lsh(big.NewInt(1), 64)
		got := make([]*big.Int, len(members))
		for i := range got {
			got[i] = new(big.Int)
		}
		for _, c := range r.columns {
			limit := new(big.Int).SetUint64(c.limit)
			got[c.own].Add(got[c.own], limit)
			got[c.other].Add(got[c.other], limit.Sub(whole, limit))
		}
		for i, m := range members {
			// got/(columns·2^64) = weight/sum
			want := new(big.Int).Mul(big.NewInt(int64(m.Weight)), whole)
			want.Mul(want, big.NewInt(int64(len(r.columns)))).Div(want, sum)
			if want.Sub(want, got[i]).CmpAbs(big.NewInt(int64(len(members)))) > 0 {
				t.Fatalf("weight %d of %v: off by %v of 2^64 columns", m.Weight, sum, want)
			}
		}
	}
}

// 100,000 connections to 1000 members: at random the fullest is some √n·√(2 ln n) above the average of 100; with two
// choices it is about ln ln n / ln 2 = 2.8 above (Mitzenmacher), however many connections there are.
func TestTwoChoicesIsEven(t *testing.T) {
	fullest := map[string]int{}
	for _, name := range []string{"random", "two-choices"} {
		members := equal(1000)
		s := mustNew(t, name, members)
		in := inputOf(members)
		rng := rand.New(rand.NewPCG(25, 26))
		for range 100_000 {
			in.Random = rng.Uint64()
			in.Candidates[s.Pick(&in)].Active++
		}
		for _, c := range in.Candidates {
			fullest[name] = max(fullest[name], int(c.Active))
		}
	}
	if f := fullest["random"]; f < 125 || f > 145 {
		t.Errorf("random: the fullest of 1000 has %d, not about 135", f)
	}
	if f := fullest["two-choices"]; f < 101 || f > 104 {
		t.Errorf("two-choices: the fullest of 1000 has %d, not about 103", f)
	}
}

// Both are drawn by weight, never the same twice, and the lighter load for the weight wins; the first of equals.
func TestTwoChoicesDraws(t *testing.T) {
	weights := []uint32{1, 2, 3, 4, 0, 5}
	members := weighing(weights...)
	s := newTwoChoices(members)
	rng := rand.New(rand.NewPCG(27, 28))
	first := make([]int, len(weights))
	second := make([][]int, len(weights))
	for i := range second {
		second[i] = make([]int, len(weights))
	}
	for range 300_000 {
		in := inputOf(members)
		in.Available = without(len(weights), 1)
		in.Random = rng.Uint64()
		a, b := s.Draw(&in)
		first[a]++
		second[a][b]++
		in.Candidates[a].Active, in.Candidates[b].Active = rng.Uint32N(8), rng.Uint32N(8)
		load := func(i int) *big.Rat { return big.NewRat(int64(in.Candidates[i].Active)+1, int64(weights[i])) }
		want := a
		if load(b).Cmp(load(a)) < 0 {
			want = b
		}
		if got := s.Pick(&in); got != want {
			t.Fatalf("picked %d of %d and %d: %+v", got, a, b, in.Candidates)
		}
	}
	if d := deviation(first, without0(weights, 1)); math.Abs(d) > 4 {
		t.Errorf("the first: %.1f standard deviations off: %v", d, first)
	}
	for a := range second {
		if d := deviation(second[a], without0(weights, 1, a)); first[a] > 0 && math.Abs(d) > 4 {
			t.Errorf("the second after %d: %.1f standard deviations off: %v", a, d, second[a])
		}
	}
}

// Connections that last: in a pool of unequal members each holds its weight's part.
func TestTwoChoicesWeights(t *testing.T) {
	weights := []uint32{1, 2, 3, 4, 10}
	members := weighing(weights...)
	s := mustNew(t, "two-choices", members)
	in := inputOf(members)
	rng := rand.New(rand.NewPCG(29, 30))
	for range 20_000 {
		in.Random = rng.Uint64()
		in.Candidates[s.Pick(&in)].Active++
	}
	for i, c := range in.Candidates {
		if got, want := float64(c.Active), 1000*float64(weights[i]); math.Abs(got-want) > 0.02*want {
			t.Errorf("weight %d holds %.0f, want about %.0f", weights[i], got, want)
		}
	}
}

func TestFirst(t *testing.T) {
	members := equal(200)
	members[0].Weight = 0
	s := mustNew(t, "first", members)
	in := Input{}
	for _, c := range []struct {
		available Bitmap
		want      int
	}{{nil, 1}, {without(200, 1), 2}, {Bitmap{1}, None}, {Bitmap{0, 0, 1 << 9}, 137}, {Bitmap{0, 0, 0, ^uint64(0)}, 192}} {
		in.Available = c.available
		if got := s.Pick(&in); got != c.want {
			t.Errorf("of %x the first is %d, want %d", c.available, got, c.want)
		}
	}
	// Packing: with a limit of 3 connections each, members fill one after the other.
	in.Available = without(200)
	count := map[int]int{}
	for range 10 {
		i := s.Pick(&in)
		if count[i]++; count[i] == 3 {
			in.Available.Clear(i)
		}
	}
	if len(count) != 4 || count[1] != 3 || count[2] != 3 || count[3] != 3 || count[4] != 1 {
		t.Errorf("10 connections, 3 for each: %v", count)
	}
}
