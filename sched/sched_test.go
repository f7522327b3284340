package sched

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

func sequence(t *testing.T, name string, weights []uint32, n int) []int {
	t.Helper()
	s, err := New(name, weights)
	if err != nil {
		t.Fatal(err)
	}
	in := Input{Candidates: make([]Candidate, len(weights))}
	for i, w := range weights {
		in.Candidates[i].Weight = w
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
		want    []int
	}{
		{"round-robin", []uint32{1, 1, 1}, []int{0, 1, 2, 0, 1, 2}},
		{"round-robin", []uint32{1, 0, 9}, []int{0, 2, 0, 2}},
		{"round-robin", []uint32{0, 0}, []int{None, None}},
		{"round-robin", nil, []int{None}},
		// The published smooth sequence for 5, 1, 1.
		{"weighted-round-robin", []uint32{5, 1, 1}, []int{0, 0, 1, 0, 2, 0, 0, 0, 0, 1}},
		{"weighted-round-robin", []uint32{500, 100, 100}, []int{0, 0, 1, 0, 2, 0, 0}},
		{"weighted-round-robin", []uint32{1, 2}, []int{1, 0, 1, 1, 0, 1}},
		{"weighted-round-robin", []uint32{0, 3}, []int{1, 1}},
		{"weighted-round-robin", []uint32{0}, []int{None}},
	} {
		if got := sequence(t, c.name, c.weights, len(c.want)); !slices.Equal(got, c.want) {
			t.Errorf("%s %v: %v, want %v", c.name, c.weights, got, c.want)
		}
	}
	if _, err := New("fastest", nil); !errors.Is(err, ErrUnknown) {
		t.Errorf("an unknown scheduler gives %v", err)
	}
}

// Weights of any size keep their shares within a cycle, and everyone with a weight gets a turn.
func TestWeightedShares(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 20 {
		weights := make([]uint32, 1+rng.IntN(50))
		var sum float64
		for i := range weights {
			weights[i] = 1 + rng.Uint32N(65535)
			sum += float64(weights[i])
		}
		s, _ := New("weighted-round-robin", weights)
		n := len(s.(cycle))
		if n > 2*maxCycle {
			t.Fatalf("a cycle of %d", n)
		}
		count := make([]float64, len(weights))
		for _, i := range s.(cycle) {
			count[i]++
		}
		for i, w := range weights {
			if want := float64(w) / sum * float64(n); count[i] < want-2 || count[i] > want+2 {
				t.Errorf("weight %d of %.0f: %.0f of %d turns, want %.1f", w, sum, count[i], n, want)
			}
		}
	}
}

func TestLeastConnections(t *testing.T) {
	s, _ := New("least-connections", []uint32{1, 1, 1, 0})
	in := Input{Candidates: []Candidate{{1, 3}, {1, 2}, {1, 5}, {0, 0}}}
	for range 4 { // the turn does not matter while one is least
		if got := s.Pick(&in); got != 1 {
			t.Fatalf("picked %d", got)
		}
		in.Turn++
	}
	// Uneven lifetimes: after any sequence of openings and closings the counts differ by at most one where
	// nothing has closed since.
	rng := rand.New(rand.NewPCG(7, 8))
	for i := range in.Candidates {
		in.Candidates[i].Active = 0
	}
	for range 1000 {
		if i := rng.IntN(3); rng.IntN(2) == 0 && in.Candidates[i].Active > 0 {
			in.Candidates[i].Active--
			continue
		}
		i := s.Pick(&in)
		for _, c := range in.Candidates[:3] {
			if in.Candidates[i].Active > c.Active {
				t.Fatalf("picked one with %d where another has %d", in.Candidates[i].Active, c.Active)
			}
		}
		in.Candidates[i].Active++
		in.Turn++
	}
	in.Candidates = in.Candidates[3:]
	if got := s.Pick(&in); got != None {
		t.Errorf("picked %d among none", got)
	}
}
