package sched

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestFastestLatency(t *testing.T) {
	f := newFastest(Options{HalfLife: 1000})
	for _, c := range []struct {
		latency, age uint32
		want         float64
	}{
		{800, 0, 800}, {800, 1000, 400}, {800, 2000, 200}, {800, 500, 600}, {800, 1500, 300}, {1 << 31, 31_000, 1}, {1 << 31, 32_000, 0},
		{0, 0, 0}, {0, 5000, 0}, {1, 1000, 0.5}, {math.MaxUint32, 0, math.MaxUint32}, {5, math.MaxUint32, 0},
	} {
		if got := f.latency(&Candidate{Latency: c.latency, Age: c.age}); got != c.want {
			t.Errorf("%d µs after %d ms: %v, want %v", c.latency, c.age, got, c.want)
		}
	}
	last := math.Inf(1)
	for age := range uint32(31_999) {
		got := f.latency(&Candidate{Latency: 1e6, Age: age})
		exact := 1e6 * math.Exp2(-float64(age)/1000)
		if got > last || got < exact*0.999999 || got > exact*1.0615 {
			t.Fatalf("after %d ms: %v, after one less %v, by the exponential %v", age, got, last, exact)
		}
		last = got
	}
	if newFastest(Options{}) != newFastest(Options{HalfLife: DefaultHalfLife}) {
		t.Error("no default")
	}
}

func TestSmooth(t *testing.T) {
	for _, c := range []struct{ latency, age, sample, want uint32 }{
		{0, 0, 500, 500}, {0, 0, 0, 1}, {800, 0, 1600, 900}, {800, 0, 0, 700}, {20_200, 1000, 200, 10_200}, {20_200, 7000, 200, 356}, {204, 0, 200, 203}, {201, 0, 200, 200}, {199, 0, 200, 200}, {20_200, 32_000, 200, 200},
		{1, 0, 1, 1}, {1, 0, 0, 1}, {math.MaxUint32, 0, math.MaxUint32, math.MaxUint32}, {math.MaxUint32, 1 << 31, 7, 7},
	} {
		if got := Smooth(c.latency, c.age, c.sample, 1000); got != c.want {
			t.Errorf("%d µs after %d ms, and now %d: %d, want %d", c.latency, c.age, c.sample, got, c.want)
		}
	}
}

func TestFastestPicks(t *testing.T) {
	for _, c := range []struct {
		what       string
		candidates []Candidate
		want       []int // by turn
	}{
		{"the quickest", []Candidate{{1, 0, 300, 0}, {1, 0, 200, 0}, {1, 0, 20_200, 0}}, []int{1, 1, 1}},
		{"unless it has too many", []Candidate{{1, 0, 300, 0}, {1, 1, 200, 0}, {1, 0, 20_200, 0}}, []int{0, 0, 0}},
		{"by weight", []Candidate{{1, 0, 300, 0}, {2, 0, 500, 0}}, []int{1, 1}},
		{"equals by turn", []Candidate{{1, 0, 300, 0}, {1, 0, 300, 0}, {1, 0, 400, 0}}, []int{0, 1, 0}},
		{"the unknown first, in turn", []Candidate{{1, 0, 0, 0}, {1, 0, 0, 0}, {1, 0, 1, 0}}, []int{0, 1, 0}},
		{"but once it has a connection as quick as the quickest", []Candidate{{1, 1, 0, 0}, {1, 0, 200, 0}, {1, 0, 100, 0}}, []int{2, 2, 2}},
		{"as quick as the quickest", []Candidate{{1, 1, 0, 0}, {1, 3, 200, 0}, {1, 2, 100, 0}}, []int{0, 0, 0}},
		{"nobody known: the least load", []Candidate{{1, 3, 0, 0}, {1, 1, 0, 0}, {2, 4, 0, 0}}, []int{1, 1, 1}},
		{"an old figure is halved", []Candidate{{1, 0, 300, 0}, {1, 0, 500, 2000}}, []int{1, 1}},
		{"a forgotten one is none", []Candidate{{1, 0, 1, 0}, {1, 0, 500, 64_000}}, []int{1, 1}},
		{"weight 0 takes none", []Candidate{{1, 9, 1000, 0}, {0, 0, 0, 0}, {0, 0, 1, 0}}, []int{0, 0, 0}},
	} {
		in := Input{Candidates: c.candidates}
		var got []int
		for in.Turn = range uint64(len(c.want)) {
			got = append(got, newFastest(Options{}).Pick(&in))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
	}
}

// server answers handshakes after its latency; connections last for some time.
type server struct {
	latency uint32 // ms
	opened  int
}

// simulateFastest opens a connection per millisecond for a time, with figures as a worker keeps them: a handshake
// renews the smoothed time when it ends. It keeps the state in in.
func simulateFastest(f fastest, in *Input, servers []server, from, until uint64, life uint64, end map[uint64][]func()) {
	for now := from; now < until; now++ {
		for _, f := range end[now] {
			f()
		}
		delete(end, now)
		i := f.Pick(in)
		in.Turn++
		s, c := &servers[i], &in.Candidates[i]
		s.opened++
		c.Active++
		latency := s.latency
		measured := now + uint64(latency)
		end[measured+1] = append(end[measured+1], func() {
			us := latency*1000 + 200
			c.Latency, c.Age = Smooth(c.Latency, c.Age, us, DefaultHalfLife), 0
		})
		closed := measured + 2 + life
		end[closed] = append(end[closed], func() { c.Active-- })
		for k := range in.Candidates {
			in.Candidates[k].Age++
		}
	}
}

// Four servers, one with 20 ms added: it gets few connections while it is slow, is tried now and then and not by a
// crowd, and has its part again within seconds after it has recovered.
func TestFastestSlowServer(t *testing.T) {
	for _, life := range []uint64{1, 50} {
		members := equal(4)
		in := inputOf(members)
		f := newFastest(Options{})
		servers := []server{{}, {}, {latency: 20}, {}}
		end := map[uint64][]func(){}
		phase := func(from, until uint64) {
			for i := range servers {
				servers[i].opened = 0
			}
			simulateFastest(f, &in, servers, from, until, life, end)
		}
		phase(0, 20_000)
		slow := servers[2].opened
		t.Logf("connections of %d ms: %d of 20000 to the slow one", life, slow)
		if slow == 0 || slow > 20_000/40 {
			t.Errorf("connections of %d ms: the slow server got %d of 20000", life, slow)
		}
		for i, s := range servers {
			if i != 2 && (s.opened < 6000 || s.opened > 7000) {
				t.Errorf("connections of %d ms: server %d got %d of 20000", life, i, s.opened)
			}
		}
		servers[2].latency = 0
		phase(20_000, 36_000)
		phase(36_000, 56_000)
		t.Logf("connections of %d ms: recovered, %+v of 20000", life, servers)
		for i, s := range servers {
			if s.opened < 4000 || s.opened > 6000 {
				t.Errorf("connections of %d ms: recovered, server %d got %d of 20000", life, i, s.opened)
			}
		}
	}
}

// The quickest does not drown: with connections that last, the numbers are inverse to handshake times.
func TestFastestInFlight(t *testing.T) {
	members := weighing(1, 1, 2)
	in := inputOf(members)
	for i, latency := range []uint32{100, 400, 400} {
		in.Candidates[i].Latency = latency
	}
	f := newFastest(Options{})
	for range 7000 {
		in.Candidates[f.Pick(&in)].Active++
		in.Turn++
	}
	for i, want := range []float64{4000, 1000, 2000} {
		if got := float64(in.Candidates[i].Active); math.Abs(got-want) > 2 {
			t.Errorf("member %d has %v, want %v", i, got, want)
		}
	}
}

// naiveFastest follows the words at the head of fastest.go one by one.
func naiveFastest(f fastest, in *Input) int {
	n := len(in.Candidates)
	var order []int // by turn
	for k := range n {
		i := (int(in.Turn%uint64(n)) + k) % n
		if in.Candidates[i].Weight > 0 && (in.Available == nil || in.Available.Has(i)) {
			order = append(order, i)
		}
	}
	quickest := math.Inf(1)
	for _, i := range order {
		c := &in.Candidates[i]
		if l := f.latency(c); l > 0 {
			quickest = min(quickest, l)
		} else if c.Active == 0 {
			return i
		}
	}
	best, least := None, math.Inf(1)
	for _, known := range []bool{true, false} { // a known one before an unknown of the same cost
		for _, i := range order {
			c := &in.Candidates[i]
			l := f.latency(c)
			if known != (l > 0) {
				continue
			}
			if l == 0 {
				if l = quickest; math.IsInf(quickest, 1) {
					l = 1
				}
			}
			if cost := l * ((float64(c.Active) + 1) / float64(c.Weight)); cost < least {
				best, least = i, cost
			}
		}
	}
	return best
}

func TestFastestNaive(t *testing.T) {
	rng := rand.New(rand.NewPCG(51, 52))
	f := newFastest(Options{HalfLife: 1000})
	for range 50_000 {
		in := Input{Turn: rng.Uint64N(50), Candidates: make([]Candidate, 1+rng.IntN(8))}
		for i := range in.Candidates {
			in.Candidates[i] = Candidate{rng.Uint32N(4), rng.Uint32N(5), rng.Uint32N(4) * rng.Uint32N(1000), rng.Uint32N(2) * rng.Uint32N(40_000)}
		}
		if rng.IntN(2) == 0 {
			in.Available = Bitmap{rng.Uint64()}
		}
		if got, want := f.Pick(&in), naiveFastest(f, &in); got != want {
			t.Fatalf("%d, want %d: %+v", got, want, in)
		}
	}
}
