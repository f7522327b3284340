package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gdamore/tcell/v2"

	"sluice/ctl"
)

// topLooks are two looks at an engine, a second apart.
func topLooks() (first, second *ctl.StatsView) {
	at := func(second uint64) *ctl.StatsView {
		v := &ctl.StatsView{AtMS: float64(60_000 + 1000*second)}
		v.Status = ctl.StatusView{Version: "0.1.0", PID: 7, File: "/etc/sluice/sluice.yaml", Generation: 3, UptimeMS: 60_000 + 1000*int64(second)}
		v.Status.Totals = ctl.TotalsView{Connections: 1234, Opened: 100 + 56*second, Received: 5_000_000 + 1_200_000*second, Sent: 5_000_000 + 1_190_000*second, Dropped: 10_000 * second}
		count := func(n uint64) ctl.CounterView {
			return ctl.CounterView{Connections: int64(100 * n), Opened: 5 * n * second, ClientPackets: 1000 * n * second, ServerPackets: 2000 * n * second, ClientBytes: 64_000 * n * second, ServerBytes: 2_900_000 * n * second}
		}
		for i := range 4 {
			v.Virtuals = append(v.Virtuals, ctl.VirtualView{Name: fmt.Sprintf("virtual-%d", i), Protocol: "tcp", Address: fmt.Sprintf("10.10.1.10%d:80", i), Pool: "web", CounterView: count(uint64(i))})
		}
		for i := range 12 {
			v.Members = append(v.Members, ctl.MemberView{Pool: "web", Name: fmt.Sprintf("s%d", i), Address: fmt.Sprintf("192.168.20.%d:80", i), State: "active", CounterView: count(uint64(12 - i))})
		}
		for i := range 2 {
			v.Workers = append(v.Workers, ctl.WorkerView{Worker: i, Core: i, Queues: []string{"outside/0", "inside/0"}, BusyShare: 0.25, Connections: 600 + i, Received: 600_000 * second})
		}
		return v
	}
	return at(0), at(1)
}

// screenText is what a screen shows.
func screenText(s tcell.SimulationScreen) string {
	cells, width, height := s.GetContents()
	var b strings.Builder
	for y := range height {
		var line strings.Builder
		for x := range width {
			line.WriteString(string(cells[y*width+x].Runes))
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}

// Screens of several sizes and orders are as in testdata; none writes beyond its edges.
func TestTopScreens(t *testing.T) {
	for _, c := range []struct {
		name          string
		width, height int
		keys          string
	}{{"80x24", 80, 24, ""}, {"80x24-connections-reversed", 80, 24, "cr"}, {"120x40-name", 120, 40, "n"}, {"40x10", 40, 10, "b"}, {"80x24-still", 80, 24, " "}, {"5x3", 5, 3, "o"}} {
		t.Run(c.name, func(t *testing.T) {
			s := tcell.NewSimulationScreen("UTF-8")
			ok(t, s.Init())
			defer s.Fini()
			s.SetSize(c.width, c.height)
			v := newTop()
			first, second := topLooks()
			v.add(first)
			v.add(second)
			for i := range 30 {
				v.history = append(v.history, float64(i*40_000))
			}
			for _, k := range c.keys {
				v.key(tcell.NewEventKey(tcell.KeyRune, k, tcell.ModNone))
			}
			v.draw(s)
			golden(t, filepath.Join("testdata", "top-"+c.name+".txt"), screenText(s))
		})
	}
}

// Persistences have rows of their own between members and workers: clients, how full the table is, the share of connections that went
// to their client's member since the last look.
func TestTopPersistence(t *testing.T) {
	s := tcell.NewSimulationScreen("UTF-8")
	ok(t, s.Init())
	defer s.Fini()
	s.SetSize(100, 30)
	v := newTop()
	first, second := topLooks()
	first.Persistences = []ctl.PersistenceView{{Name: "clients", Entries: 100, Limit: 1000, Hits: 50, Misses: 100}, {Name: "idle", Limit: 10}}
	second.Persistences = []ctl.PersistenceView{{Name: "clients", Entries: 125, Limit: 1000, Hits: 120, Misses: 125, Moved: 5}, {Name: "idle", Limit: 10}}
	v.add(first)
	v.add(second)
	v.draw(s)
	golden(t, filepath.Join("testdata", "top-persistence.txt"), screenText(s))
}

// golden compares with a file, or writes it with -update.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		ok(t, os.MkdirAll(filepath.Dir(path), 0o755))
		ok(t, os.WriteFile(path, []byte(got), 0o644))
	}
	if want := string(must(os.ReadFile(path))(t)); got != want {
		t.Errorf("%s:\n%s\nwant\n%s", path, got, want)
	}
}

// An engine that has gone is said, another one's counters begin anew, and rates are never negative.
func TestTopFollows(t *testing.T) {
	v := newTop()
	first, second := topLooks()
	v.add(second)
	first.Status.PID = 8
	v.add(first)
	if v.last != nil || len(v.history) != 0 {
		t.Error("the counters of two engines were compared")
	}
	if r := v.rate(5, 3); r != 0 {
		t.Errorf("a rate of %f", r)
	}
	for n, want := range map[float64]string{0: "0", 999: "999", 1000: "1.00k", 99_949: "99.9k", 123_456: "123k", 9_999_000: "10.0M", 5e9: "5.00G"} {
		if got := short(n); got != want {
			t.Errorf("%f is %s, want %s", n, got, want)
		}
	}
}

// Keys, the end of the context and a panic all end it with the terminal given back.
func TestTopEnds(t *testing.T) {
	first, second := topLooks()
	for name, end := range map[string]func(s tcell.SimulationScreen, cancel func()){
		"q":       func(s tcell.SimulationScreen, _ func()) { s.InjectKey(tcell.KeyRune, 'q', tcell.ModNone) },
		"ctrl-c":  func(s tcell.SimulationScreen, _ func()) { s.InjectKey(tcell.KeyCtrlC, 0, tcell.ModCtrl) },
		"context": func(_ tcell.SimulationScreen, cancel func()) { cancel() },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		s := &watchedScreen{SimulationScreen: tcell.NewSimulationScreen("UTF-8")}
		done := make(chan error, 1)
		go func() {
			done <- runTop(ctx, s, first, func(ctx context.Context, looks chan<- look) {
				looks <- look{stats: second}
				looks <- look{err: errors.New("it has gone")}
				end(s, cancel)
			})
		}()
		select {
		case err := <-done:
			if err != nil || !s.ended {
				t.Errorf("%s: %v, given back %v", name, err, s.ended)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s does not end it", name)
		}
		cancel()
	}
	s := &watchedScreen{SimulationScreen: tcell.NewSimulationScreen("UTF-8"), fails: true}
	func() {
		defer func() { _ = recover() }()
		_ = runTop(t.Context(), s, first, func(context.Context, chan<- look) {})
	}()
	if !s.ended {
		t.Error("after a panic the terminal is not given back")
	}
}

// watchedScreen notes its end, and may fail.
type watchedScreen struct {
	tcell.SimulationScreen
	ended, fails bool
}

func (s *watchedScreen) Fini() {
	s.ended = true
	s.SimulationScreen.Fini()
}

func (s *watchedScreen) Show() {
	if s.fails {
		panic("a mistake")
	}
	s.SimulationScreen.Show()
}
