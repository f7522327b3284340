package monitor

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func TestPassiveValidate(t *testing.T) {
	ok(t, PassiveConfig{}.Validate())
	ok(t, DefaultPassive().Validate())
	for _, c := range []struct {
		edit func(*PassiveConfig)
		want string
	}{
		{func(c *PassiveConfig) { c.Consecutive = -1 }, "consecutive -1 is out of range"},
		{func(c *PassiveConfig) { c.Rate = 1.1 }, "rate 1.1 is out of range"},
		{func(c *PassiveConfig) { c.Rate, c.Window = 0.5, 0 }, "window 0s is out of range"},
		{func(c *PassiveConfig) { c.Rate, c.MinHandshakes = 0.5, 0 }, "minimum of handshakes 0 is out of range"},
		{func(c *PassiveConfig) { c.HoldMin = 0 }, "shortest hold-off 0s is out of range"},
		{func(c *PassiveConfig) { c.HoldMax = time.Second }, "longest hold-off 1s is out of range"},
		{func(c *PassiveConfig) { c.Probation = -1 }, "probation -1ns is out of range"},
		{func(c *PassiveConfig) { c.ProbationFailures = 0 }, "failures in probation 0 is out of range"},
	} {
		p := DefaultPassive()
		c.edit(&p)
		if err := p.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

// passiveStep feeds counts at a time, in seconds, and says what must follow.
type passiveStep struct {
	at      float64
	h       Handshakes
	state   PassiveState
	changed bool
	until   float64 // end of the hold-off; 0: not looked at
}

func runPassive(t *testing.T, c PassiveConfig, steps []passiveStep) Passive {
	t.Helper()
	ok(t, c.Validate())
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	p := NewPassive(c)
	for i, s := range steps {
		now := start.Add(time.Duration(s.at * float64(time.Second)))
		var changed bool
		if s.h == (Handshakes{}) {
			changed = p.Tick(now)
		} else {
			changed = p.Observe(s.h, now)
		}
		until := p.Until().Sub(start).Seconds()
		if p.State() != s.state || changed != s.changed || s.until != 0 && until != s.until {
			t.Fatalf("step %d at %v s: %v until %v s, changed %v; want %+v", i, s.at, p.State(), until, changed, s)
		}
	}
	return p
}

func TestPassiveConsecutive(t *testing.T) {
	fail := func(n int) Handshakes { return Handshakes{Unanswered: n} }
	done := Handshakes{Completed: 1}
	p := runPassive(t, DefaultPassive(), []passiveStep{
		{0, fail(4), PassiveOK, false, 0},
		{1, done, PassiveOK, false, 0}, // ends the row
		{2, Handshakes{Completed: 1, Unanswered: 100}, PassiveOK, false, 0},
		{3, fail(2), PassiveOK, false, 0},
		{4, Handshakes{Reset: 2}, PassiveOK, false, 0},
		{5, fail(1), PassiveHeld, true, 10},
		{6, fail(100), PassiveHeld, false, 10}, // of before
		{9.9, Handshakes{}, PassiveHeld, false, 10},
		{10, Handshakes{}, PassiveProbation, true, 40},
		{12, fail(1), PassiveHeld, true, 22}, // twice as long
		{22, Handshakes{}, PassiveProbation, true, 52},
		{23, done, PassiveProbation, false, 52},
		{51, fail(1), PassiveHeld, true, 71}, // and again
		{71, Handshakes{}, PassiveProbation, true, 101},
		{120, Handshakes{}, PassiveProbation, false, 101}, // not passed without a handshake
		{121, done, PassiveOK, true, 0},
		{122, fail(5), PassiveHeld, true, 127}, // the shortest again
		// Late: both ends are over at the first look. A failure in probation counts at once.
		{200, fail(1), PassiveHeld, true, 210},
	})
	if want := "1 handshake unanswered in a row in probation, held off for 10s"; p.Cause() != want {
		t.Errorf("cause %q, want %q", p.Cause(), want)
	}
}

func TestPassiveDoubling(t *testing.T) {
	c := DefaultPassive()
	c.HoldMax = 70 * time.Second
	p := NewPassive(c)
	now := time.Now()
	p.Observe(Handshakes{Unanswered: 5}, now)
	for _, want := range []time.Duration{5, 10, 20, 40, 70, 70, 70} {
		if p.Hold() != want*time.Second || p.Until() != now.Add(p.Hold()) {
			t.Fatalf("held off for %v until %v, want %d s from %v", p.Hold(), p.Until(), want, now)
		}
		now = p.Until()
		if !p.Tick(now) || p.State() != PassiveProbation {
			t.Fatal("no probation")
		}
		p.Observe(Handshakes{Reset: 1}, now)
	}
}

func TestPassiveResets(t *testing.T) {
	c := DefaultPassive()
	p := runPassive(t, c, []passiveStep{{0, Handshakes{Reset: 3, Unanswered: 2}, PassiveHeld, true, 5}})
	if want := "3"; !strings.Contains(p.Cause(), want) || p.Cause() != "2 handshakes unanswered, 3 reset in a row, held off for 5s" {
		t.Errorf("cause %q", p.Cause())
	}
	c.IgnoreResets = true
	runPassive(t, c, []passiveStep{{0, Handshakes{Reset: 300, Unanswered: 4}, PassiveOK, false, 0}, {1, Handshakes{Unanswered: 1}, PassiveHeld, true, 6}})
}

func TestPassiveEndHold(t *testing.T) {
	p := NewPassive(DefaultPassive())
	now := time.Now()
	if p.EndHold(now) {
		t.Error("nothing to end")
	}
	p.Observe(Handshakes{Unanswered: 5}, now)
	if !p.EndHold(now.Add(time.Second)) || p.State() != PassiveProbation || p.Until() != now.Add(31*time.Second) {
		t.Errorf("%v until %v", p.State(), p.Until())
	}
}

func TestPassiveConfigure(t *testing.T) {
	now := time.Now()
	c := DefaultPassive()
	p := NewPassive(c)
	p.Observe(Handshakes{Unanswered: 4}, now)
	c.Consecutive = 4
	p.Configure(c) // the row is kept
	if p.Observe(Handshakes{Unanswered: 1}, now); p.State() != PassiveHeld {
		t.Error("the row of failures is gone")
	}
	c.HoldMin, c.HoldMax = time.Second, 2*time.Second
	if p.Configure(c); p.State() != PassiveHeld || p.Until() != now.Add(5*time.Second) {
		t.Error("a hold-off under way was changed")
	}
	if p.Configure(PassiveConfig{}); p.State() != PassiveOK || p.Observe(Handshakes{Unanswered: 1000}, now) {
		t.Error("turned off, it goes on judging")
	}
}

// TestPassiveRate compares the sliding window with one that keeps every period, to a bucket's width.
func TestPassiveRate(t *testing.T) {
	c := PassiveConfig{Rate: 0.3, Window: 10 * time.Second, MinHandshakes: 50, HoldMin: time.Second, HoldMax: time.Second, Probation: 0, ProbationFailures: 1 << 19}
	ok(t, c.Validate())
	const seed = 7
	random := rand.New(rand.NewPCG(seed, 0))
	type period struct {
		at time.Time
		h  Handshakes
	}
	held := 0
	for round := range 200 {
		p, now := NewPassive(c), time.Unix(int64(random.IntN(1e9)), int64(random.IntN(1e9)))
		var all []period
		worse := random.Float64() * 0.6
		for range 300 {
			now = now.Add(time.Duration(random.IntN(int(time.Second))))
			var h Handshakes
			for range random.IntN(12) {
				if random.Float64() < worse {
					h.Unanswered++
				} else {
					h.Completed++
				}
			}
			all = append(all, period{now, h})
			p.Observe(h, now)
			// The exact window lies between nine and ten buckets of ours.
			reached := func(window time.Duration) (bad, total int) {
				for _, q := range all {
					if q.at.After(now.Add(-window)) {
						bad, total = bad+q.h.Unanswered, total+q.h.all()
					}
				}
				return bad, total
			}
			bucket := c.Window / passiveBuckets
			if p.State() == PassiveHeld {
				held++
				_, total := reached(c.Window)
				if total < c.MinHandshakes {
					t.Fatalf("seed %d round %d: held off after %d handshakes within the window", seed, round, total)
				}
				var n, of int
				var rest string
				if _, err := fmt.Sscanf(p.Cause(), "%d handshakes unanswered of %d %s", &n, &of, &rest); err != nil || float64(n) < c.Rate*float64(of) {
					t.Fatalf("seed %d round %d: %q (%v)", seed, round, p.Cause(), err)
				}
				if least, _ := reached(c.Window - bucket); n < least {
					t.Fatalf("seed %d round %d: %q, but %d failed in the last nine tenths", seed, round, p.Cause(), least)
				}
				if most, _ := reached(c.Window); n > most {
					t.Fatalf("seed %d round %d: %q, but %d failed in the whole window", seed, round, p.Cause(), most)
				}
				break
			}
			if h == (Handshakes{}) {
				continue // nothing was fed, so nothing was judged
			}
			if bad, total := exactBuckets(all[max(0, len(all)-200):], now, c.Window, func(q period) (time.Time, Handshakes) { return q.at, q.h }); total >= c.MinHandshakes && float64(bad) >= c.Rate*float64(total) {
				t.Fatalf("seed %d round %d: %d of %d failed and it is %v", seed, round, bad, total, p.State())
			}
		}
	}
	if held < 20 || held > 190 {
		t.Errorf("seed %d: held off in %d of 200 rounds: the test shows little", seed, held)
	}
}

// exactBuckets sums the periods whose tenth of the window is one of the last ten.
func exactBuckets[T any](all []T, now time.Time, window time.Duration, of func(T) (time.Time, Handshakes)) (bad, total int) {
	tenth := int64(window / 10)
	for _, q := range all {
		if at, h := of(q); at.UnixNano()/tenth > now.UnixNano()/tenth-10 {
			bad, total = bad+h.Unanswered, total+h.all()
		}
	}
	return bad, total
}

// TestCombine asks for all combinations what every way that they may still turn out would give.
func TestCombine(t *testing.T) {
	for n := range 6 {
		for need := range n + 1 {
			for code := range pow(3, n) {
				verdicts := make([]Verdict, n)
				for i, c := 0, code; i < n; i, c = i+1, c/3 {
					verdicts[i] = Verdict(c % 3)
				}
				least := need
				if need == All {
					least = n
				}
				up, down := 0, 0
				for bits := range pow(2, n) { // each turns the undecided ones one way
					ups := 0
					for i, v := range verdicts {
						if v == Up || v == Checking && bits>>i&1 == 1 {
							ups++
						}
					}
					if ups >= least {
						up++
					} else {
						down++
					}
				}
				want := Checking
				if down == 0 {
					want = Up
				} else if up == 0 {
					want = Down
				}
				if got := Combine(need, verdicts); got != want {
					t.Errorf("need %d of %v: %v, want %v", need, verdicts, got, want)
				}
			}
		}
	}
	// More than there are, as Any of none: then none needs to be.
	if Combine(Any, nil) != Up {
		t.Error("any of none is not up")
	}
}

func pow(base, n int) int {
	r := 1
	for range n {
		r *= base
	}
	return r
}
