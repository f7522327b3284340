package engine

import (
	"sync"
	"testing"
)

// A worker reads the clock once a step, so others, and control, may have read it later: what they note is then in its future.

// A limit of new connections a second holds while some workers are in the next second already.
func TestRateOfWorkersApart(t *testing.T) {
	const limit = 50
	var s shared
	took := 0
	for range 1000 { // in turns: each would take the counter back to its own second
		for _, now := range []uint64{4999, 5000} {
			if s.takeRate(limit, now) {
				took++
			}
		}
	}
	if took != 1+limit { // the first, before the other second has begun
		t.Errorf("%d connections around the beginning of a second, want one before it and %d in it", took, limit)
	}
	if !s.takeRate(limit, 6000) {
		t.Error("none in the second after it")
	}
	if s.opened(5999) != 1 || s.opened(6000) != 1 || s.opened(7000) != 0 {
		t.Errorf("opened: %d, %d, %d", s.opened(5999), s.opened(6000), s.opened(7000))
	}

	// All at once: what each second has is counted once, over however many steps its workers are in.
	const seconds, workers, each = 20, 4, 5000
	var r shared
	taken := make([]int, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				if r.takeRate(limit, 10_000+uint64(i)*seconds*1000/each) {
					taken[w]++
				}
			}
		})
	}
	wg.Wait()
	sum := 0
	for _, n := range taken {
		sum += n
	}
	if sum > limit*seconds || sum == 0 {
		t.Errorf("%d connections in %d seconds, with a limit of %d", sum, seconds, limit)
	}
}

// A handshake time that was measured a moment after this worker's step began is new, not 49 days old and forgotten: a member that
// was just found to be slow would come first.
func TestFastestOfWorkersApart(t *testing.T) {
	spec := a4(1)
	spec.Pools[0].Scheduler = "fastest"
	b := newBench(t, spec, 1000, 2048)
	for id, s := range b.dict.shared {
		if m := b.Config().nodes[id]; m.halfLife > 0 {
			s.latency.Store((b.now-1)<<32 | 200)
		}
	}
	slow := b.Config().pools[0].groups[0].members[2].shared
	slow.latency.Store((b.now+1)<<32 | 20_000)
	for port := uint16(1); port <= 60; port++ {
		if s := b.to(port); s == 3 {
			t.Fatalf("connection %d went to the slow server", port)
		}
	}
	b.close()
}

// A member that is told to be up a moment after a worker's step began has its slow start before it, not behind it.
func TestSlowStartAhead(t *testing.T) {
	spec := a4(1)
	spec.Pools[0].SlowStart = 10_000
	spec.Pools[0].Members[3].State.Since = 1002
	b := newBench(t, spec, 5000, 2048)
	b.now = 1001
	for port := uint16(1); port <= 10; port++ {
		if s := b.to(port); s == 4 {
			t.Errorf("connection %d went to the member before its slow start", port)
		}
	}
	b.now = 1500
	n := 0
	for port := uint16(100); port < 1100; port++ {
		if b.to(port) == 4 {
			n++
		}
	}
	if n > 60 {
		t.Errorf("%d of 1,000 connections went to a member at 5%% of its slow start", n)
	}
	b.close()
}

// Times around the turn of the 32 bits that they are kept in.
func TestElapsed(t *testing.T) {
	for _, c := range []struct{ then, now, want uint32 }{
		{100, 100, 0}, {100, 350, 250}, {101, 100, 0}, {100 + clocksApart - 1, 100, 0}, {1<<32 - 10, 20, 30}, {20, 1<<32 - 10, 0},
		{0, 1<<32 - clocksApart - 1, 1<<32 - clocksApart - 1},
	} {
		if got := elapsed(c.then, c.now); got != c.want {
			t.Errorf("from %d to %d: %d, want %d", c.then, c.now, got, c.want)
		}
	}
}
