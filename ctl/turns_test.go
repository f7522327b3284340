package ctl

import (
	"io"
	"log/slog"
	"testing"
	"time"
)

// The turns of watch are on the multiples of the heartbeat's interval, however late one was, and earlier where something is due.
func TestTurnsOfWatch(t *testing.T) {
	began := time.Now().Add(-time.Hour)
	at := func(d time.Duration) time.Time { return began.Add(d) }
	const beat = beatInterval
	h := newHealth(slog.New(slog.NewTextHandler(io.Discard, nil)))
	s := &Server{assembly: assembly{file: &File{}}, health: h, began: began}
	for _, c := range []struct {
		name        string
		turned, now time.Duration
		want        time.Duration
	}{
		{"right after one", 4 * beat, 4 * beat, beat},
		{"between two", 4 * beat, 4*beat + 30*time.Millisecond, beat - 30*time.Millisecond},
		{"the last was late", 4*beat + 30*time.Millisecond, 4*beat + 40*time.Millisecond, beat - 40*time.Millisecond},
		{"it was missed while something else went on", 4 * beat, 9*beat + 1, 0},
	} {
		s.turned = at(c.turned)
		if got := s.untilTurn(at(c.now)); got != c.want {
			t.Errorf("%s: in %v, not in %v", c.name, got, c.want)
		}
	}
	s.turned = at(beat)
	until := func() time.Duration { return s.untilTurn(at(beat)) }
	s.due = []announcement{{at: at(2 * beat)}, {at: at(beat + 20*time.Millisecond)}}
	if got := until(); got != 20*time.Millisecond {
		t.Errorf("an announcement is due: in %v", got)
	}
	k := memberKey{"web", "one"}
	h.orders = &orderFile{list: map[memberKey]*memberOrder{k: {Deadline: at(beat + 7*time.Millisecond)}}}
	if got := until(); got != 20*time.Millisecond {
		t.Errorf("a drain of nobody: in %v", got)
	}
	h.members[k] = &memberHealth{}
	if got := until(); got != 7*time.Millisecond {
		t.Errorf("a drain has a deadline: in %v", got)
	}
	h.orders.list[k].Over = true
	if got := until(); got != 20*time.Millisecond {
		t.Errorf("the drain is over: in %v", got)
	}
	s.due = nil
	s.file.VirtualServers = []VirtualServer{{Mode: ModeForward}}
	if got := until(); got != min(wantedInterval, beat) {
		t.Errorf("packets may wait for a neighbour: in %v", got)
	}
}
