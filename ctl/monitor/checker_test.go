package monitor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

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

// TestRemoveInCallback: a member that its own event removes leaves nothing behind.
func TestRemoveInCallback(t *testing.T) {
	s := &script{}
	var c *Checker
	bubble(t, Options{OnMonitor: func(e Event) { ok(t, c.Remove(e.Member)) }}, s, func(t *testing.T, ck *Checker) {
		c = ck
		ok(t, ck.Apply([]Member{testMember("a", steady(nil))}))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		ck.mu.Lock()
		defer ck.mu.Unlock()
		if len(ck.members)+len(ck.timetable)+len(ck.ready)+len(ck.queue) != 0 {
			t.Errorf("%d members, %d timers, %d ready, %d events left", len(ck.members), len(ck.timetable), len(ck.ready), len(ck.queue))
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
				time.Sleep(time.Second) // one success after it, Rise is two; those before do not count
				expect(t, &l)
				time.Sleep(time.Second)
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
