package engine

import (
	"sync/atomic"
	"testing"
	"time"
)

// Turns that are all long are given less and less often; a short one among them is a server's.
func TestLongTurnsAreRefused(t *testing.T) {
	var y yielding
	now, turns, lost := uint64(5e9), 0, uint64(0)
	for end := now + 60e9; now < end; now += 1e5 { // a program that computes, on a core where nothing else happens for a minute
		if y.may(now) {
			y.took(now, now+4e6)
			now, turns, lost = now+4e6, turns+1, lost+4e6
		}
	}
	if turns < 30 || turns > 40 { // 8 ms doubled to 2 s, then each 2 s
		t.Errorf("%d turns in a minute beside a program that computes", turns)
	}
	if y.may(now) && now < y.refused {
		t.Error("a turn is given while turns are refused")
	}
	now = y.refused
	if !y.may(now) {
		t.Fatal("turns are refused for ever")
	}
	y.took(now, now+10e3) // nobody was there: says nothing
	y.took(now, now+4e6)
	if got := y.refused - now - 4e6; got != mostRefusal {
		t.Errorf("after another long turn they are refused for %d ns, want %d", got, uint64(mostRefusal))
	}
	now = y.refused
	y.took(now, now+300e3)
	if !y.may(now + 300e3) {
		t.Error("a short turn is taken for a long one")
	}
	y.took(now, now+4e6)
	if got := y.refused - now - 4e6; got != leastRefusal {
		t.Errorf("a long turn after a short one has them refused for %d ns, want %d", got, uint64(leastRefusal))
	}
}

// An adaptive worker gives others their turn when it has had packets and looks for more, and no other worker does. A long turn is not a
// pause, and is the last for a while.
func TestAdaptiveWorkerYields(t *testing.T) {
	defer func(f func()) { giveWay = f }(giveWay)
	for _, k := range []struct {
		polling Polling
		first   bool // on its core
		yields  bool
	}{{PollAdaptive, false, true}, {PollAdaptive, true, false}, {PollBusy, false, false}, {PollInterrupt, false, false}} {
		var turns atomic.Int64
		var long atomic.Bool
		giveWay = func() {
			turns.Add(1)
			for end := time.Now().Add(200 * time.Millisecond); long.Load() && time.Now().Before(end); {
			}
		}
		bn := newBench(t, a4(1), 64, 512)
		bn.clock = newClock(nil)
		w := bn.workers[0]
		w.runtime.polling, w.runtime.priority.high = k.polling, k.first
		if err := bn.Start(); err != nil {
			t.Fatal(err)
		}
		frame := fromServer(1, 9, "A").build(t) // to the host
		packets := func(n int) int64 {
			before := turns.Load()
			for range n {
				bn.wire(0, inside).Send(frame)
				bn.wire(0, host).Recv(nil)
				time.Sleep(2 * time.Millisecond) // it sleeps, and is in the middle of nothing
			}
			return turns.Load() - before
		}
		paused := func() (sum uint64) {
			if err := bn.wait(t.Context(), w, func(w *worker) {
				sum = w.runtime.activity.Sum
				w.runtime.yielding = yielding{next: mostRefusal} // whatever the machine has done to it
			}); err != nil {
				t.Fatal(err)
			}
			return sum
		}
		if n := packets(50); (n > 0) != k.yields {
			t.Errorf("polling %v, first on its core: %v: %d turns", k.polling, k.first, n)
		}
		if k.yields {
			before := paused()
			long.Store(true)
			if n := packets(200); n != 1 {
				t.Errorf("%d turns of 200 ms, want one, the last", n)
			}
			// Other gaps, on a machine that has more to do, are pauses of their own.
			if sum := paused() - before; sum >= 200e6 {
				t.Errorf("after a turn of 200 ms there were pauses of %d ns", sum)
			}
		}
		if err := bn.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		bn.close()
	}
}
