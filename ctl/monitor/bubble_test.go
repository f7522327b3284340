package monitor

import (
	"context"
	"errors"
	"fmt"
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

// peak is the most probes at once.
func (s *script) peak() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.most
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
