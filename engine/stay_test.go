package engine

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sluice/rings"
)

// stayAnywhere lets workers with queues in memory hold on to their cores as those with AF_XDP sockets do.
func stayAnywhere(t *testing.T) {
	was := neverBlocks
	neverBlocks = func(rings.Queue) bool { return true }
	t.Cleanup(func() { neverBlocks = was })
}

// A worker that spins stays on its thread: Go's monitor does not put it aside every 10 ms. But for the turns, which it does not take here,
// it is never scheduled again. Where the machine is busy a second shows little, so seconds are added up.
func TestWorkerStays(t *testing.T) {
	stayAnywhere(t)
	defer func(was uint64) { turnTime = was }(turnTime)
	turnTime = 1 << 60
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection stops it twice
	stays, leaves := uint64(0), uint64(0)
	for try := range 15 {
		stays += scheduledASecond(t, true)
		leaves += scheduledASecond(t, false)
		t.Logf("try %d: scheduled %d times so far, %d times when it does not hold on", try, stays, leaves)
		if leaves >= 5 && stays <= leaves/3 {
			return
		}
	}
	t.Error("it was not scheduled less than a third as often")
}

// scheduledASecond is how often goroutines are scheduled in a second in which a worker spins and there is nothing else to do. The
// runtime counts one of eight.
func scheduledASecond(t *testing.T, able bool) uint64 {
	bn := newBench(t, a4(1), 64, 1024)
	defer bn.close()
	bn.clock = newClock(nil)
	w := bn.workers[0]
	w.runtime.polling = PollBusy
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	if !able {
		neverBlocks = func(rings.Queue) bool { return false }
		defer func() { neverBlocks = func(rings.Queue) bool { return true } }()
	}
	if err := bn.Start(); err != nil {
		t.Fatal(err)
	}
	if err := bn.ask(t.Context(), bn.workers, func(w *worker) { able = able == w.runtime.stay.able }); err != nil || !able {
		t.Fatalf("the worker does not hold on as it was told to: %v", err)
	}
	before := scheduled()
	time.Sleep(time.Second)
	n := scheduled() - before
	if err := bn.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

// scheduled counts the times that goroutines of this process came to run.
func scheduled() (n uint64) {
	m := []metrics.Sample{{Name: "/sched/latencies:seconds"}}
	metrics.Read(m)
	for _, c := range m[0].Value.Float64Histogram().Counts {
		n += c
	}
	return n
}

// Priority follows what a worker uses of its core: up after a window of which it had nearly all, down when it sleeps again.
func TestPriorityFollowsUse(t *testing.T) {
	runtime.LockOSThread() // for good: its priority is changed
	p := &priority{base: 10, raised: 9}
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, 10); err != nil {
		t.Skip("this thread may not change its priority: ", err)
	}
	nice := func() int {
		v, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
		if err != nil {
			t.Fatal(err)
		}
		return 20 - v
	}
	spin := func(n uint64) {
		for end := threadTime() + n; threadTime() < end; {
		}
	}
	now := uint64(1)
	p.weigh(now, PollAdaptive)
	if os.Geteuid() != 0 {
		p.raised = p.base // nobody else may go up again
	}
	raised := p.raised
	spin(20e6)
	now += 20e6
	if p.weigh(now, PollAdaptive); nice() != raised {
		t.Errorf("after a window of work: nice %d", nice())
	}
	spin(10e6)
	now += 20e6
	if p.weigh(now, PollAdaptive); nice() != raised {
		t.Errorf("others had half of the core, but it did not sleep: nice %d", nice())
	}
	p.asleep = 2e6
	now += 20e6
	if p.weigh(now, PollAdaptive); nice() != p.base {
		t.Errorf("it sleeps again: nice %d", nice())
	}
	spin(10e6)
	now += 20e6
	if p.weigh(now, PollAdaptive); nice() != p.base {
		t.Errorf("half a core used: nice %d", nice())
	}
}

// Workers of a scaling begin without queues, and hold on or not as those they get allow.
func TestWorkerAsksAgainWhenQueuesCome(t *testing.T) {
	for _, can := range []bool{true, false} {
		s := newScaleBench(t, 1, 1024, func() func(*scaleBench) uint64 {
			c := MonotonicClock()
			return func(*scaleBench) uint64 { return c() }
		}())
		was := neverBlocks
		neverBlocks = func(rings.Queue) bool { return can }
		if err := s.Start(); err != nil {
			t.Fatal(err)
		}
		s.scale(2, 1024)
		for _, w := range s.workers {
			var able bool
			for range 2 { // it is asked after the messages of a step
				if err := s.wait(t.Context(), w, func(w *worker) { able = w.runtime.stay.able }); err != nil {
					t.Fatal(err)
				}
				time.Sleep(5 * time.Millisecond)
			}
			if able != can {
				t.Errorf("worker %d holds on: %t, with queues that may block: %t", w.id, able, !can)
			}
		}
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		neverBlocks = was
	}
}

// A sleep is a gap, and where there is enough of it no turn is needed: else it would come right before the packets that ended it.
func TestSleepIsAsGoodAsATurn(t *testing.T) {
	turns := func(asleep uint64) uint64 {
		s := &stay{able: true, deaf: true}
		now := uint64(1e12)
		s.keep(now)
		began := s.turns
		for range 50 {
			now += turnTime
			s.end()
			s.again()
			s.slept(now-asleep, now)
			on := s.on
			if s.keep(now + 1); on && s.gaped != now {
				t.Fatal("a gap right after a sleep")
			}
			if now += gapTime; asleep == 0 {
				s.keep(now) // else it never has a gap but in sleeps
			}
		}
		s.end()
		return s.turns - began
	}
	if n := turns(0); n != 50 {
		t.Errorf("%d turns of 50 without sleep", n)
	}
	if n := turns(restTime); n != 0 {
		t.Errorf("%d turns of 50 although it slept", n)
	}
}

// A turn goes through the scheduler, which wakes threads, only where workers that hold on have all of the runtime's processors.
func TestTurnsWakeNobodyWhereProcessorsAreLeft(t *testing.T) {
	made := 0
	defer func(was func()) { giveProc = was }(giveProc)
	giveProc = func() { made++ }
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	if n := holding.Load(); n != 0 {
		t.Fatalf("%d workers are left of other tests", n)
	}
	for _, c := range []struct{ workers, made int }{{1, 0}, {2, 10}, {3, 10}} {
		var held []*stay
		for range c.workers {
			s := &stay{deaf: true}
			s.allow(true)
			s.allow(true) // as after every message
			held = append(held, s)
		}
		made = 0
		s, now := held[0], uint64(1e12)
		for range 5 {
			now += turnTime
			s.keep(now)
			now += turnTime
			s.slept(now, now)
		}
		s.end()
		if made != c.made || s.turns != 10 {
			t.Errorf("%d workers on 2 processors: %d calls of the scheduler in %d turns, want %d", c.workers, made, s.turns, c.made)
		}
		for i, s := range held {
			if i == 0 {
				s.allow(false) // its queues are of another driver now
			}
			s.left()
		}
	}
	if n := holding.Load(); n != 0 {
		t.Errorf("%d workers are left", n)
	}
}

// Without a priority to be raised to a worker keeps that of its process, which need not be 0.
func TestPriorityOfItsProcess(t *testing.T) {
	runtime.LockOSThread() // for good: its priority is changed
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, 5); err != nil {
		t.Skip("this thread may not change its priority: ", err)
	}
	for _, c := range []struct{ nice, raised int }{{0, 5}, {-10, -10}, {7, 5}} {
		p := &priority{}
		if p.start(c.nice); p.base != 5 || p.raised != c.raised {
			t.Errorf("nice %d: from %d to %d", c.nice, p.base, p.raised)
		}
	}
}
