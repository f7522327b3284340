package sched

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

// weighing makes members of weights, with identities of their own.
func weighing(weights ...uint32) []Member {
	members := make([]Member, len(weights))
	for i, w := range weights {
		members[i] = Member{Weight: w, ID: Mix(uint64(i) + 1000)}
	}
	return members
}

// equal makes n members of weight 1.
func equal(n int) []Member { return weighing(slices.Repeat([]uint32{1}, n)...) }

func mustNew(t testing.TB, name string, members []Member) Scheduler {
	t.Helper()
	s, err := New(name, members, Options{TableSize: testTable(members)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// testTable is a small table for few members, so that tests are fast; the default for many.
func testTable(members []Member) int {
	if len(members) <= 20 {
		return 2039
	}
	return 0
}

// inputOf is an input at rest, with everyone available.
func inputOf(members []Member) Input {
	in := Input{Candidates: make([]Candidate, len(members))}
	for i, m := range members {
		in.Candidates[i].Weight = m.Weight
	}
	return in
}

// without makes all of n members available but the missing.
func without(n int, missing ...int) Bitmap {
	b := NewBitmap(n)
	for i := range n {
		b.Set(i)
	}
	for _, i := range missing {
		b.Clear(i)
	}
	return b
}

func TestNames(t *testing.T) {
	want := []string{"round-robin", "weighted-round-robin", "least-connections", "weighted-least-connections", "fastest",
		"two-choices", "source-hash", "maglev", "first", "random"}
	if got := Names(); !slices.Equal(got, want) {
		t.Errorf("names %v", got)
	}
	if _, err := New("slowest", nil, Options{}); !errors.Is(err, ErrUnknown) {
		t.Errorf("an unknown scheduler gives %v", err)
	}
	if UsesWeights("first") || !UsesWeights("maglev") || UsesWeights("slowest") {
		t.Error("weights are used by the wrong schedulers")
	}
}

// Weights of 1 and 9 make a difference for exactly those that say so.
func TestUsesWeights(t *testing.T) {
	for _, name := range Names() {
		members := weighing(1, 9)
		s := mustNew(t, name, members)
		in := inputOf(members)
		rng := rand.New(rand.NewPCG(1, 2))
		count := [2]int{}
		for range 5000 {
			in.Hash, in.Random = rng.Uint64(), rng.Uint64()
			i := s.Pick(&in)
			count[i]++
			in.Candidates[i].Active++
			in.Turn++
		}
		if got := count[1] > 4000; got != UsesWeights(name) {
			t.Errorf("%s: %v with weights 1 and 9", name, count)
		}
	}
}

func TestNobody(t *testing.T) {
	for _, name := range Names() {
		for _, members := range [][]Member{nil, weighing(0), weighing(0, 0, 0)} {
			s := mustNew(t, name, members)
			in := inputOf(members)
			for _, in.Available = range []Bitmap{nil, {}, without(len(members))} {
				if got := s.Pick(&in); got != None {
					t.Errorf("%s picks %d of %v", name, got, members)
				}
			}
		}
		uneven := equal(130)
		uneven[3].Weight = 7
		for _, members := range [][]Member{equal(130), uneven} {
			s := mustNew(t, name, members)
			in := inputOf(members)
			for _, in.Available = range []Bitmap{{}, {0}, NewBitmap(130)} {
				if got := s.Pick(&in); got != None {
					t.Errorf("%s picks %d though no one is available", name, got)
				}
			}
			in.Available = Bitmap{0, 1 << 5} // too short: the last are not available
			for in.Turn = range uint64(300) {
				in.Hash, in.Random = Mix(in.Turn), Mix(in.Turn)
				if got := s.Pick(&in); got != 69 {
					t.Fatalf("%s picks %d, only 69 is available", name, got)
				}
			}
		}
	}
}

// FuzzPick holds what is true of every scheduler: a pick has a weight and is available, there is one where anyone is,
// the same input gives the same, and a member that is not picked may go without changing the choice where that is
// promised.
func FuzzPick(f *testing.F) {
	f.Add(byte(7), []byte{1, 0, 3, 200}, []byte{0b1011}, uint64(1), uint64(2), uint64(3))
	f.Add(byte(1), []byte{5, 1, 1}, []byte{0b110}, uint64(10), uint64(0), ^uint64(0))
	f.Add(byte(4), slices.Repeat([]byte{1, 2, 0}, 43), slices.Repeat([]byte{3}, 9), ^uint64(0), ^uint64(0), uint64(0))
	f.Add(byte(5), []byte{0, 255}, []byte{3}, uint64(0), uint64(0), uint64(0))
	steady := []string{"round-robin", "weighted-round-robin", "source-hash", "maglev", "random", "first"}
	f.Fuzz(func(t *testing.T, kind byte, weights, available []byte, turn, hash, random uint64) {
		if len(weights) > 300 {
			return
		}
		members := make([]Member, len(weights))
		for i, w := range weights {
			members[i] = Member{uint32(w) * uint32(w), Mix(uint64(i))}
		}
		name := Names()[int(kind)%len(Names())]
		s, err := New(name, members, Options{TableSize: 607})
		if err != nil {
			t.Fatal(err)
		}
		in := inputOf(members)
		in.Turn, in.Hash, in.Random, in.Available = turn, hash, random, Bitmap{}
		for i := range in.Candidates {
			c := &in.Candidates[i]
			x := Mix(random + uint64(i))
			c.Active, c.Latency, c.Age = uint32(x&3), uint32(x>>8&7)*1000, uint32(x>>16)
		}
		if len(available) > 0 {
			in.Available = NewBitmap(8 * len(available))
		}
		for i := range 8 * len(available) {
			if available[i/8]>>(i%8)&1 != 0 {
				in.Available.Set(i)
			}
		}
		able := 0
		for i, m := range members {
			if m.Weight > 0 && in.Available.Has(i) {
				able++
			}
		}
		got := s.Pick(&in)
		if (got == None) != (able == 0) {
			t.Fatalf("%s picks %d, %d are available", name, got, able)
		}
		if again := s.Pick(&in); again != got {
			t.Fatalf("%s picks %d and then %d", name, got, again)
		}
		if got == None {
			return
		}
		if members[got].Weight == 0 || !in.Available.Has(got) {
			t.Fatalf("%s picks %d with weight %d, available %v", name, got, members[got].Weight, in.Available.Has(got))
		}
		if d, ok := s.(Drawer); ok {
			a, b := d.Draw(&in)
			if a != got && b != got || (a == b) != (able == 1) || !in.Available.Has(a) || !in.Available.Has(b) {
				t.Fatalf("%s draws %d and %d of %d, picks %d", name, a, b, able, got)
			}
			// Nobody else is looked at.
			sparse := in
			sparse.Candidates = make([]Candidate, len(members))
			sparse.Candidates[a].Active, sparse.Candidates[b].Active = in.Candidates[a].Active, in.Candidates[b].Active
			if again := s.Pick(&sparse); again != got {
				t.Fatalf("%s picks %d, and %d with the two it drew filled in", name, got, again)
			}
		}
		if !slices.Contains(steady, name) {
			return
		}
		// Whoever would be picked if all were available is picked whenever it is.
		all := in
		all.Available = nil
		if i := s.Pick(&all); in.Available.Has(i) && i != got {
			t.Fatalf("%s picks %d and not %d, which is available", name, got, i)
		}
		if name == "round-robin" || name == "weighted-round-robin" {
			return // the turns of the missing are shared anew when one more is missing
		}
		in.Available = slices.Clone(in.Available)
		for i := range members {
			if i != got && in.Available.Has(i) {
				in.Available.Clear(i)
				if again := s.Pick(&in); again != got {
					t.Fatalf("%s picks %d, and %d when %d is gone", name, got, again, i)
				}
			}
		}
	})
}

// The inputs that Needs does not name are not read, and those that it names are.
func TestNeeds(t *testing.T) {
	for _, name := range Names() {
		members := weighing(3, 1, 4, 1, 5)
		s := mustNew(t, name, members)
		rng := rand.New(rand.NewPCG(3, 4))
		var read Needs
		for range 3000 {
			in := inputOf(members)
			vary := func(n Needs) {
				switch n {
				case NeedsTurn:
					in.Turn = rng.Uint64()
				case NeedsHash:
					in.Hash = rng.Uint64()
				case NeedsRandom:
					in.Random = rng.Uint64()
				case NeedsWeight:
					in.Candidates[rng.IntN(5)].Weight = rng.Uint32N(6)
				case NeedsActive:
					in.Candidates[rng.IntN(5)].Active = rng.Uint32N(3)
				case NeedsLatency:
					c := &in.Candidates[rng.IntN(5)]
					c.Latency, c.Age = rng.Uint32N(1000), rng.Uint32N(100_000)
				}
			}
			all := []Needs{NeedsTurn, NeedsHash, NeedsRandom, NeedsWeight, NeedsActive, NeedsLatency}
			for _, n := range all {
				vary(n)
			}
			before := s.Pick(&in)
			n := all[rng.IntN(len(all))]
			vary(n)
			if s.Pick(&in) != before {
				read |= n
			}
		}
		if read != s.Needs() {
			t.Errorf("%s reads %06b and says %06b", name, read, s.Needs())
		}
		if s.Needs()&(NeedsWeight|NeedsActive|NeedsLatency) == 0 && s.Pick(&Input{}) == None {
			t.Errorf("%s picks no one without candidates", name)
		}
	}
}

func TestPickDoesNotAllocate(t *testing.T) {
	for _, name := range Names() {
		members := equal(100)
		for i := range members {
			members[i].Weight = uint32(1 + i%3)
		}
		s := mustNew(t, name, members)
		for _, missing := range []int{0, 10, 99} {
			in := inputOf(members)
			in.Available = without(100)
			for i := range missing {
				in.Available.Clear(i)
			}
			if n := testing.AllocsPerRun(1000, func() {
				in.Turn++
				in.Hash, in.Random = Mix(in.Turn), Mix(in.Turn)
				s.Pick(&in)
			}); n != 0 {
				t.Errorf("%s with %d missing: %v allocations", name, missing, n)
			}
		}
	}
}
