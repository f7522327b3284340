package engine

import (
	"sync/atomic"
	"testing"
	"time"
)

// Long turns get a hundredth of the time, short ones all that they want.
func TestLongTurnsAreRefused(t *testing.T) {
	for _, k := range []struct{ turn, least, most uint64 }{
		{4e6, 145, 150},                       // a program that computes, for a minute: 60 s / 404 ms
		{20e6, 29, 30},                        // another clock's tick
		{1e6, 54000, 60000}, {1e3, 5e5, 60e4}, // servers, and nobody
	} {
		var y yielding
		now, turns := uint64(5e9), uint64(0)
		for end := now + 60e9; now < end; now += 1e5 {
			if y.may(now) {
				y.took(now, now+k.turn)
				now, turns = now+k.turn, turns+1
			}
		}
		if turns < k.least || turns > k.most {
			t.Errorf("%d turns of %d ns in a minute, want %d to %d", turns, k.turn, k.least, k.most)
		}
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
				w.runtime.yielding = yielding{} // whatever the machine has done to it
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
