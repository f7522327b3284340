package monitor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// These tests run in a bubble of testing/synctest: its clock stands still while anything can run, so times are exact.
// Probes are played by script.

// script answers probes of all pairs, and notes when they began.
type script struct {
	mu     sync.Mutex
	times  map[string][]time.Time // by member/monitor
	result func(pair string, n int) Result
	lasts  time.Duration
	now    int
	most   int
}

// scripted is the prober of one monitor of a script.
type scripted struct {
	*script
	monitor string
}

func (s scripted) Probe(ctx context.Context, t Target) Result {
	name := t.Member + "/" + s.monitor
	s.mu.Lock()
	n := len(s.times[name])
	s.times[name] = append(s.times[name], time.Now())
	s.now++
	s.most = max(s.most, s.now)
	s.mu.Unlock()
	select {
	case <-time.After(s.lasts):
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now--
	if ctx.Err() != nil {
		return Result{Cause: "cancelled", At: time.Now()}
	}
	r := Result{Outcome: Success, Cause: "ok"}
	if s.result != nil {
		r = s.result(name, n)
	}
	r.At, r.Latency = time.Now(), s.lasts
	return r
}

func (s *script) began(pair string) []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.times[pair])
}

// bubble runs a test of a Checker whose probes are scripted.
func bubble(t *testing.T, o Options, s *script, test func(t *testing.T, c *Checker)) {
	synctest.Test(t, func(t *testing.T) {
		s.times = map[string][]time.Time{}
		c := must(New(t.Context(), o))(t)
		c.newProber = func(m Monitor) (prober, error) {
			if m.Port == 666 {
				return nil, errors.New("a file is missing")
			}
			return scripted{s, m.Name}, nil
		}
		test(t, c)
		ok(t, c.Close())
	})
}

func testMember(name string, monitors ...*Monitor) Member {
	return Member{Name: name, Address: netip.MustParseAddrPort("192.0.2.1:80"), Monitors: monitors}
}

func steady(edit func(*Monitor)) *Monitor {
	m := testMonitor(TCP, func(m *Monitor) { m.Interval, m.Timeout, m.Jitter = time.Second, time.Second, 0 })
	if edit != nil {
		edit(&m)
	}
	return &m
}

// outcomes makes results of a text: + success, - failure, ? inconclusive; the last one goes on.
func outcomes(text string) func(string, int) Result {
	return func(_ string, n int) Result {
		switch text[min(n, len(text)-1)] {
		case '+':
			return Result{Outcome: Success, Cause: "connected"}
		case '-':
			return Result{Outcome: Failure, Cause: "connection refused"}
		}
		return Result{Outcome: Inconclusive, Cause: "too many open files on this host"}
	}
}

// log collects events as text.
type log struct {
	mu     sync.Mutex
	events []Event
}

func (l *log) add(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

func (l *log) take() (list []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		name := e.Member
		if e.Monitor != "" {
			name += "/" + e.Monitor
		}
		list = append(list, fmt.Sprintf("%s %v-%v: %s", name, e.From, e.To, e.Cause))
	}
	l.events = nil
	return list
}

func (l *log) options() Options { return Options{OnMonitor: l.add, OnMember: l.add} }

func expect(t *testing.T, l *log, want ...string) {
	t.Helper()
	synctest.Wait()
	if got := l.take(); !slices.Equal(got, want) {
		t.Fatalf("events\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestRiseAndFall: exactly that many in a row, and an inconclusive probe is as none.
func TestRiseAndFall(t *testing.T) {
	for _, c := range []struct {
		results    string
		rise, fall int
		verdicts   string // after each result: c checking, u up, d down
	}{
		{"+++", 1, 1, "uuu"},
		{"+-+-", 1, 1, "udud"},
		{"++--++", 2, 2, "cuuddu"},
		{"+-+-+-", 2, 2, "cccccc"},
		{"+++--+---+++", 3, 3, "ccuuuuuudddu"},
		{"---", 1, 3, "ccd"},
		{"--+---+", 1, 3, "ccuuudu"},
		{"+?+", 2, 2, "ccu"},
		{"??", 1, 1, "cc"},
		{"+-?-?+?-?-", 1, 2, "uuudduuuud"},
		{"++++?????", 4, 1, "cccuuuuuu"},
	} {
		s := &script{result: outcomes(c.results)}
		bubble(t, Options{}, s, func(t *testing.T, ck *Checker) {
			mon := steady(func(m *Monitor) { m.Rise, m.Fall = c.rise, c.fall })
			ok(t, ck.Apply([]Member{testMember("a", mon)}))
			time.Sleep(time.Until(ck.Pairs()[0].Next))
			var got strings.Builder
			for range len(c.results) {
				synctest.Wait()
				got.WriteByte(ck.Pairs()[0].Verdict.String()[0])
				time.Sleep(mon.Interval)
			}
			if got.String() != c.verdicts {
				t.Errorf("rise %d fall %d: %s gives %s, want %s", c.rise, c.fall, c.results, got.String(), c.verdicts)
			}
		})
	}
}

// TestEvents: what is told, in which order, and what lists say.
func TestEvents(t *testing.T) {
	s := &script{result: outcomes("++---++"), lasts: 10 * time.Millisecond}
	var l log
	bubble(t, l.options(), s, func(t *testing.T, c *Checker) {
		mon := steady(nil)
		ok(t, c.Apply([]Member{testMember("a", mon)}))
		if p := c.Pairs()[0]; p.Verdict != Checking || !p.Last.At.IsZero() || p.Running {
			t.Errorf("before the first probe: %+v", p)
		}
		begin := c.Pairs()[0].Next
		time.Sleep(time.Until(begin) + 500*time.Millisecond)
		expect(t, &l)
		time.Sleep(time.Second)
		expect(t, &l, "a/tcp checking-up: connected", "a checking-up: monitor tcp: connected")
		time.Sleep(3 * time.Second)
		expect(t, &l, "a/tcp up-down: connection refused", "a up-down: monitor tcp: connection refused")
		p, m := c.Pairs()[0], c.Members()[0]
		if p.Verdict != Down || p.Since != begin.Add(4*time.Second+s.lasts) || p.Cause != "connection refused" || p.Changes != 2 || p.Probes != 5 ||
			p.Failures != 3 || p.Consecutive != 3 || p.LastOutcome != Failure || p.Last.Latency != s.lasts || p.Next != begin.Add(5*time.Second) || p.Type != TCP {
			t.Errorf("pair: %+v", p)
		}
		if m.Verdict != Down || m.Since != p.Since || m.Cause != "monitor tcp: connection refused" || m.Changes != 2 || m.Active != Down {
			t.Errorf("member: %+v", m)
		}
		time.Sleep(time.Second)
		ok(t, c.Remove("a", "unknown"))
		time.Sleep(10 * time.Second)
		expect(t, &l)
		if st := c.Statistics(); len(c.Pairs()) != 0 || st.Pairs != 0 || st.Running != 0 || st.Started != 6 {
			t.Errorf("after removal: %+v", st)
		}
		if _, found := c.Member("a"); found {
			t.Error("it is still there")
		}
	})
}

// TestJitter: no interval is out of bounds, their mean is right, and a seed repeats them.
func TestJitter(t *testing.T) {
	var runs [3][]time.Time
	for i, seed := range []uint64{1, 1, 2} {
		s := &script{}
		bubble(t, Options{Seed: seed}, s, func(t *testing.T, c *Checker) {
			mon := steady(func(m *Monitor) { m.Jitter = 0.2 })
			ok(t, c.Apply([]Member{testMember("a", mon)}))
			time.Sleep(2000 * time.Second)
			runs[i] = s.began("a/tcp")
		})
		least, most := time.Hour, time.Duration(0)
		for j := 1; j < len(runs[i]); j++ {
			gap := runs[i][j].Sub(runs[i][j-1])
			least, most = min(least, gap), max(most, gap)
		}
		if least < 800*time.Millisecond || most > 1200*time.Millisecond || least > 810*time.Millisecond || most < 1190*time.Millisecond {
			t.Errorf("seed %d: intervals from %v to %v", seed, least, most)
		}
		if n := len(runs[i]); n < 1980 || n > 2020 {
			t.Errorf("seed %d: %d probes in 2000 s", seed, n)
		}
	}
	if !slices.Equal(runs[0], runs[1]) {
		t.Error("the same seed gives other times")
	}
	if slices.Equal(runs[0], runs[2]) {
		t.Error("another seed gives the same times")
	}
}

func TestDownInterval(t *testing.T) {
	s := &script{result: outcomes("+---+")}
	bubble(t, Options{}, s, func(t *testing.T, c *Checker) {
		ok(t, c.Apply([]Member{testMember("a", steady(func(m *Monitor) { m.Rise, m.Fall, m.DownInterval = 1, 2, 5*time.Second }))}))
		time.Sleep(20 * time.Second)
		b := s.began("a/tcp")
		for i, want := range []int{1, 1, 5, 5, 1, 1} {
			if gap := b[i+1].Sub(b[i]); gap != time.Duration(want)*time.Second {
				t.Errorf("interval %d is %v, want %d s", i, gap, want)
			}
		}
	})
}

// TestThousands: 5,000 pairs with 64 places. Never more at once, no herd, and the rate of each is kept.
func TestThousands(t *testing.T) {
	s := &script{lasts: 30 * time.Millisecond} // 64 places do 2,133 probes/s, 5,000 pairs at 5 s need 1,000
	bubble(t, Options{}, s, func(t *testing.T, c *Checker) {
		mon := steady(func(m *Monitor) { m.Interval, m.Jitter = 5*time.Second, 0.1 })
		var members []Member
		for i := range 5000 {
			members = append(members, testMember(fmt.Sprintf("m%04d", i), mon))
		}
		ok(t, c.Apply(members))
		const duration = 5 * time.Minute
		begin := time.Now()
		time.Sleep(duration)
		st := c.Statistics()
		if s.most > 64 || st.Peak != s.most {
			t.Errorf("%d probes at once, the checker says %d", s.most, st.Peak)
		}
		if want := 5000 * int(duration/mon.Interval); int(st.Started) < want*99/100 || int(st.Started) > want*101/100 {
			t.Errorf("%d probes, want %d", st.Started, want)
		}
		perSlice := make([]int, duration/(100*time.Millisecond)+1)
		for _, m := range members {
			b := s.began(m.Name + "/tcp")
			if n := len(b); n < 55 || n > 65 {
				t.Fatalf("%s has %d probes in 60 intervals", m.Name, n)
			}
			for _, at := range b {
				perSlice[at.Sub(begin)/(100*time.Millisecond)]++
			}
		}
		if most := slices.Max(perSlice); most > 180 {
			t.Errorf("%d probes within 100 ms, on average 100", most)
		}
		first := slices.Max(perSlice[:45]) // after 4.5 s the second ones begin, with jitter
		if first > 105 {
			t.Errorf("in the first interval %d probes within 100 ms: they are not spread", first)
		}
		t.Logf("%d probes, at most %d at once, within 100 ms at most %d (in the first interval %d), latest %v",
			st.Started, st.Peak, slices.Max(perSlice), first, st.Latest)
	})
}

// TestOverload: with too few places all pairs get a fair share, and it shows.
func TestOverload(t *testing.T) {
	s := &script{lasts: time.Second}
	bubble(t, Options{Limit: 10}, s, func(t *testing.T, c *Checker) {
		var members []Member
		for i := range 100 { // 10 probes/s are done, 100 are due
			members = append(members, testMember(fmt.Sprintf("m%02d", i), steady(nil)))
		}
		ok(t, c.Apply(members))
		time.Sleep(100 * time.Second)
		st := c.Statistics()
		if s.most != 10 || st.Started < 980 || st.Started > 1010 || st.Waiting < 80 || st.Latest < 8*time.Second {
			t.Errorf("at most %d at once, %+v", s.most, st)
		}
		for _, m := range members {
			if n := len(s.began(m.Name + "/tcp")); n < 9 || n > 11 {
				t.Errorf("%s has %d probes of 1000", m.Name, n)
			}
		}
		ok(t, c.Apply(members[:5])) // those that wait for a place go, too
		time.Sleep(2 * time.Second)
		if st := c.Statistics(); st.Waiting != 0 || st.Running > 5 {
			t.Errorf("after removal: %+v", st)
		}
	})
}

// TestDiff: what is unchanged keeps its schedule, even a probe under way; what changed keeps its verdict.
func TestDiff(t *testing.T) {
	s := &script{lasts: 100 * time.Millisecond}
	var l log
	bubble(t, l.options(), s, func(t *testing.T, c *Checker) {
		a, b := steady(func(m *Monitor) { m.Name = "a" }), steady(func(m *Monitor) { m.Name = "b" })
		ok(t, c.Apply([]Member{testMember("x", a, b), testMember("y", a)}))
		time.Sleep(5 * time.Second)
		l.take()
		before := c.Pairs()
		begun := s.began("x/a")
		// In the middle of a probe of x/a: the same again, as a new reading of the file gives it, in another order.
		time.Sleep(time.Until(begun[len(begun)-1].Add(time.Second + 50*time.Millisecond)))
		sameA, sameB := *a, *b
		ok(t, c.Apply([]Member{testMember("y", &sameA), testMember("x", &sameB, &sameA)}))
		time.Sleep(10 * time.Second)
		expect(t, &l)
		for _, p := range []string{"x/a", "x/b", "y/a"} {
			times := s.began(p)
			for i := 1; i < len(times); i++ {
				if times[i].Sub(times[i-1]) != time.Second {
					t.Errorf("%s: %v between probes", p, times[i].Sub(times[i-1]))
				}
			}
		}
		after := c.Pairs()
		for i := range after {
			if after[i].Since != before[i].Since || after[i].Probes <= before[i].Probes || after[i].Inconclusive != 0 {
				t.Errorf("%+v was %+v", after[i], before[i])
			}
		}

		// A changed monitor keeps verdict and counters, begins its row anew.
		changed := *a
		changed.Rise = 7
		ok(t, c.Apply([]Member{testMember("x", &changed, b), testMember("y", a)}))
		if p := c.Pairs()[0]; p.Verdict != Up || p.Consecutive != 0 || p.Probes < 10 || p.Since != before[0].Since {
			t.Errorf("changed: %+v", p)
		}
		// A new monitor does not take the member out of service, a new address does.
		third := *b
		third.Name = "c"
		s.mu.Lock()
		s.result = outcomes("-")
		s.mu.Unlock()
		ok(t, c.Set(testMember("x", &changed, b, &third)))
		if m, _ := c.Member("x"); m.Verdict != Up {
			t.Errorf("with a new monitor: %+v", m)
		}
		if m, _ := c.Member("y"); m.Verdict != Up {
			t.Errorf("not named by Set: %+v", m)
		}
		moved := testMember("y", a)
		moved.Address = netip.MustParseAddrPort("192.0.2.2:80")
		ok(t, c.Set(moved))
		if m, _ := c.Member("y"); m.Verdict != Checking || c.Pairs()[3].Probes != 0 || c.Pairs()[3].Address != moved.Address {
			t.Errorf("at a new address: %+v", m)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if m, _ := c.Member("x"); m.Verdict != Down {
			t.Errorf("all monitors fail: %+v", m)
		}
		// What was down because of one monitor is up without it; all others are the same.
		l.take()
		ok(t, c.Set(testMember("x")))
		expect(t, &l, "x down-up: it has no monitors")

		// All or nothing.
		broken := *a
		broken.Rise = 0
		missing := *a
		missing.Port = 666
		for _, wrong := range [][]Member{
			{testMember("z", a), testMember("x", &broken)}, {testMember("z", a), testMember("z", a)}, {testMember("")}, {testMember("z", a, a)},
			{{Name: "z", Monitors: []*Monitor{a}}}, {{Name: "z", Address: netip.MustParseAddrPort("192.0.2.1:0"), Monitors: []*Monitor{a}}},
			{{Name: "z", Address: moved.Address, Need: 2, Monitors: []*Monitor{a}}}, {testMember("z", nil)}, {testMember("z", a), testMember("x", &missing)},
			{{Name: "z", Address: moved.Address, Passive: PassiveConfig{Consecutive: -1}}},
		} {
			if err := c.Apply(wrong); err == nil {
				t.Errorf("%+v is accepted", wrong)
			}
		}
		if st := c.Statistics(); st.Members != 2 || st.Pairs != 1 {
			t.Errorf("a refused change has changed something: %+v", st)
		}
	})
}

// TestNeed: all, any, at least two of three monitors, and starting up.
func TestNeed(t *testing.T) {
	for _, c := range []struct {
		need    int
		startUp bool
		results string // of the three monitors, for ever
		want    Verdict
	}{
		{All, false, "+++", Up}, {All, false, "++-", Down}, {All, false, "++?", Checking}, {All, false, "?-?", Down},
		{Any, false, "--+", Up}, {Any, false, "---", Down}, {Any, false, "--?", Checking}, {2, false, "+-+", Up}, {2, false, "--+", Down},
		{2, false, "-?+", Checking}, {2, false, "-?-", Down}, {3, false, "++-", Down},
		{All, true, "++?", Up}, {All, true, "???", Up}, {All, true, "+-?", Down}, {Any, true, "--?", Up}, {Any, true, "---", Down}, {2, true, "-?+", Up},
	} {
		s := &script{result: func(pair string, n int) Result { return outcomes(string(c.results[pair[len(pair)-1]-'0']))(pair, n) }}
		bubble(t, Options{}, s, func(t *testing.T, ck *Checker) {
			var monitors []*Monitor
			for i := range 3 {
				monitors = append(monitors, steady(func(m *Monitor) { m.Name = fmt.Sprint(i) }))
			}
			m := testMember("a", monitors...)
			m.Need, m.StartUp = c.need, c.startUp
			ok(t, ck.Apply([]Member{m}))
			first, _ := ck.Member("a")
			if first.Verdict == Up != c.startUp {
				t.Errorf("%+v starts as %v", c, first.Verdict)
			}
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if got, _ := ck.Member("a"); got.Verdict != c.want {
				t.Errorf("%+v: %v", c, got.Verdict)
			}
		})
	}
}

// TestSlowCallback: callbacks do not overlap, keep the order, may use the Checker, and a slow one loses nothing.
func TestSlowCallback(t *testing.T) {
	s := &script{result: func(_ string, n int) Result { return outcomes("+-"[n%2:n%2+1])("", 0) }}
	var c *Checker
	busy := false
	verdicts := map[string]Verdict{}
	calls := 0
	callback := func(e Event) {
		if busy {
			t.Error("two callbacks at once")
		}
		busy = true
		name := e.Member + "/" + e.Monitor
		if e.From != verdicts[name] || e.To == e.From {
			t.Errorf("%s goes from %v to %v, but was %v", name, e.From, e.To, verdicts[name])
		}
		verdicts[name] = e.To
		calls++
		time.Sleep(300 * time.Millisecond) // 20 pairs change each second
		if c.Statistics().Events > 60 {
			t.Errorf("%d events wait", c.Statistics().Events)
		}
		if calls == 10 {
			ok(t, c.Remove("m07"))
		}
		busy = false
	}
	bubble(t, Options{OnMonitor: callback, OnMember: callback}, s, func(t *testing.T, ck *Checker) {
		c = ck
		var members []Member
		for i := range 20 {
			members = append(members, testMember(fmt.Sprintf("m%02d", i), steady(func(m *Monitor) { m.Rise, m.Fall = 1, 1 })))
		}
		ok(t, ck.Apply(members))
		time.Sleep(100 * time.Second)
		synctest.Wait()
		if calls < 300 {
			t.Errorf("only %d events", calls)
		}
	})
}

// TestPassiveInChecker: live traffic takes a member down for the hold-off, and the monitors may end it.
func TestPassiveInChecker(t *testing.T) {
	bad := Handshakes{Unanswered: 5}
	for _, early := range []bool{false, true} {
		s := &script{}
		var l log
		bubble(t, l.options(), s, func(t *testing.T, c *Checker) {
			m := testMember("a", steady(nil))
			m.Passive = DefaultPassive()
			m.Passive.EndEarly = early
			ok(t, c.Apply([]Member{m}))
			time.Sleep(5 * time.Second)
			l.take()
			c.Observe("unknown", bad, time.Now())
			c.Observe("a", bad, time.Now())
			begin := time.Now()
			expect(t, &l, "a up-down: passive: 5 handshakes unanswered in a row, held off for 5s")
			if got, _ := c.Member("a"); got.Passive != PassiveHeld || got.PassiveUntil != begin.Add(5*time.Second) || got.Active != Up {
				t.Errorf("held off: %+v", got)
			}
			if early {
				time.Sleep(2 * time.Second) // two successes, all after it
				expect(t, &l, "a down-up: hold-off ended early by monitor tcp: ok")
			} else {
				time.Sleep(5*time.Second - time.Nanosecond)
				expect(t, &l)
				time.Sleep(time.Nanosecond)
				expect(t, &l, "a down-up: hold-off of 5s is over, in probation")
			}
			c.Observe("a", Handshakes{Unanswered: 1}, time.Now())
			expect(t, &l, "a up-down: passive: 1 handshake unanswered in a row in probation, held off for 10s")
			// A change of the configuration does not end it; that of the passive part does.
			m.StartUp = true
			ok(t, c.Apply([]Member{m}))
			expect(t, &l)
			m.Passive = PassiveConfig{}
			ok(t, c.Apply([]Member{m}))
			expect(t, &l, "a down-up: the configuration changed")
			time.Sleep(time.Minute)
			expect(t, &l)
		})
	}
	// Both say down: it is up again only after both.
	s := &script{result: outcomes("++++++---------------+")}
	var l log
	bubble(t, l.options(), s, func(t *testing.T, c *Checker) {
		m := testMember("a", steady(nil))
		m.Passive = DefaultPassive()
		ok(t, c.Apply([]Member{m}))
		time.Sleep(6 * time.Second)
		c.Observe("a", bad, time.Now())
		synctest.Wait()
		l.take()
		time.Sleep(4 * time.Second)
		expect(t, &l, "a/tcp up-down: connection refused")
		time.Sleep(4 * time.Second) // the hold-off is over
		expect(t, &l)
		time.Sleep(11 * time.Second)
		expect(t, &l, "a/tcp down-up: connected", "a down-up: monitor tcp: connected")
	})
	// Without monitors: passive alone.
	bubble(t, l.options(), &script{}, func(t *testing.T, c *Checker) {
		m := testMember("a")
		m.Passive = DefaultPassive()
		ok(t, c.Apply([]Member{m}))
		expect(t, &l, "a checking-up: it has no monitors")
		c.Observe("a", bad, time.Now())
		time.Sleep(5 * time.Second)
		expect(t, &l, "a up-down: passive: 5 handshakes unanswered in a row, held off for 5s", "a down-up: hold-off of 5s is over, in probation")
	})
}

// TestFlapStorm: 100 members change ten times a second for 60 s, while the configuration changes. Each verdict is
// compared with a naive reading of all results of that pair.
func TestFlapStorm(t *testing.T) {
	const seed = 3
	random, order := rand.New(rand.NewPCG(seed, 0)), rand.New(rand.NewPCG(seed, 1))
	results := map[string]string{}
	s := &script{lasts: 2 * time.Millisecond}
	s.result = func(pair string, n int) Result {
		r := string("+-?"[min(random.IntN(21)/10, 2)])
		if strings.HasPrefix(pair, "still") {
			r = "+"
		}
		results[pair] += r
		return outcomes(r)(pair, 0)
	}
	verdicts := map[string][]Verdict{}
	o := Options{Seed: seed, OnMonitor: func(e Event) {
		name := e.Member + "/" + e.Monitor
		verdicts[name] = append(verdicts[name], e.To)
	}}
	total := 0
	bubble(t, o, s, func(t *testing.T, c *Checker) {
		mon := steady(func(m *Monitor) {
			m.Interval, m.Timeout, m.Jitter, m.Rise, m.Fall = 100*time.Millisecond, 100*time.Millisecond, 0.5, 1, 2
		})
		var members []Member
		for i := range 100 {
			members = append(members, testMember(fmt.Sprintf("flap%02d", i), mon), testMember(fmt.Sprintf("still%02d", i), mon))
		}
		for range 60 {
			same := *mon
			for i := range members {
				members[i].Monitors = []*Monitor{&same}
			}
			order.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
			ok(t, c.Apply(members))
			time.Sleep(time.Second)
		}
		synctest.Wait()
		for _, m := range members {
			name := m.Name + "/tcp"
			var want []Verdict
			now := Checking
			row := strings.ReplaceAll(results[name], "?", "")
			for i := range row {
				next := now
				if row[i] == '+' {
					next = Up
				} else if i > 0 && row[i-1] == '-' {
					next = Down
				}
				if next != now {
					want, now = append(want, next), next
				}
			}
			total += len(want)
			// The last one may still be on its way.
			if got := verdicts[name]; !slices.Equal(got, want) {
				t.Fatalf("seed %d: %s: %s\ngives %v\nwant  %v", seed, name, results[name], got, want)
			}
			if strings.HasPrefix(name, "still") && len(want) != 1 {
				t.Errorf("%s changed %d times", name, len(want))
			}
		}
		if st := c.Statistics(); st.Waiting > 0 || st.Events > 0 {
			t.Errorf("%+v", st)
		}
	})
	t.Logf("%d changes of verdict", total)
	if total < 100*60*2 {
		t.Errorf("only %d changes: no storm", total)
	}
}

// TestCloseInBubble: Close ends probes, waits for callbacks, and is bounded where a callback does not return.
func TestCloseInBubble(t *testing.T) {
	s := &script{lasts: time.Hour}
	bubble(t, Options{}, s, func(t *testing.T, c *Checker) {
		ok(t, c.Apply([]Member{testMember("a", steady(nil)), testMember("b", steady(nil))}))
		time.Sleep(2 * time.Second)
		if c.Statistics().Running != 2 {
			t.Errorf("%+v", c.Statistics())
		}
		start := time.Now()
		ok(t, c.Close())
		ok(t, c.Close())
		if time.Since(start) != 0 {
			t.Errorf("closing took %v", time.Since(start))
		}
		if err := c.Apply(nil); !errors.Is(err, ErrClosed) {
			t.Errorf("Apply after Close: %v", err)
		}
		if err := c.Remove("a"); !errors.Is(err, ErrClosed) {
			t.Errorf("Remove after Close: %v", err)
		}
		c.Observe("a", Handshakes{Unanswered: 9}, time.Now())
	})
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c := must(New(t.Context(), Options{OnMember: func(Event) { <-release }}))(t)
		ok(t, c.Apply([]Member{testMember("a")}))
		synctest.Wait()
		start := time.Now()
		if err := c.Close(); err == nil || time.Since(start) != closeTimeout {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		close(release)
		ok(t, c.Close())
	})
	synctest.Test(t, func(t *testing.T) { // the context alone ends all, too
		ctx, cancel := context.WithCancel(t.Context())
		c := must(New(ctx, Options{}))(t)
		cancel()
		synctest.Wait()
		if err := c.Apply(nil); !errors.Is(err, ErrClosed) {
			t.Errorf("Apply after the context's end: %v", err)
		}
	})
	if _, err := New(t.Context(), Options{Limit: -1}); err == nil {
		t.Error("a limit of -1 is accepted")
	}
}
