package engine

import (
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"sluice/rings"
)

// stay keeps a worker on its core. Go's monitor asks every goroutine that has run for 10 ms to make room for others, and one
// that is locked to a thread comes back only through another thread: two wake-ups, for which the other thread needs a core that
// it may have to wait for, while nobody serves the worker's rings. So a worker holds on, as the runtime itself does in its own
// critical sections, and lets go where it costs nothing: before messages and sleeps.
//
// What the runtime needs still comes in time. It may stop the world at a gap, a call that it is told of. In a gap it may also read the
// goroutine's stack, as a collection does. Whoever wants that looks again and again, but may miss gaps that are short, and may be
// on the worker's core, where it never looks while the worker runs. So there are turns too: some gaps in a row that give the core away.
// They wake nobody. Only where workers have all of the runtime's processors is a turn what it is for other goroutines, a call of the scheduler: others
// would have none at all.
//
// A step of a worker that holds on must not block: it would end the process. Nor must it make calls that the runtime is told of, after
// which it may have to wait. So only workers whose queues are all of our own driver do; handoffs, counters and eventfds are made for it,
// and a test follows all calls (staycalls_test.go). A panic shows its place and not its values, and runs nothing that was deferred.
type stay struct {
	able, on      bool
	deaf          bool   // the thread does not hear SIGURG any more
	turned, gaped uint64 // when it last let others have their turn, and the runtime its gap; nanoseconds since boot
	asleep        uint64 // since turned; nanoseconds
	turns         uint64 // that it has given
}

// holding is how many goroutines of the process hold on to their threads, or are about to.
var holding atomic.Int64

// gapTime is in nanoseconds. A gap costs 0.1 to 0.3 us; whoever stops the world, and all who are stopped already, wait for it.
const gapTime = 250e3

// turnTime is in nanoseconds. A variable for tests.
var turnTime uint64 = 50e6

// turnGaps are the gaps of a turn: with one, a collection that had to share its core took up to 0.3 s to read the stack, with 4 to 16 up to 0.07 s.
// Nobody else being there, all of them take some 3 us.
const turnGaps = 8

var giveProc = runtime.Gosched // a variable for tests

// restTime is how long a worker has to have slept between two turns, in nanoseconds, for the second not to be needed: all that a turn is
// for could have been done meanwhile, and it would come right before the packets that ended a sleep.
const restTime = 1e6

// allow decides whether the worker holds on from now on. It is asked again after messages: they bring queues and take them away.
func (s *stay) allow(able bool) {
	if able != s.able {
		s.able = able
		holding.Add(map[bool]int64{true: 1, false: -1}[able])
	}
	if able && !s.deaf {
		deaf()
		s.deaf = true
	}
}

// canStay reports whether nothing in a step of w can block.
func (w *worker) canStay() bool {
	for i := range w.rx {
		if !neverBlocks(w.rx[i].Queue) {
			return false
		}
	}
	return true
}

// neverBlocks is a variable for tests, whose queues are in memory.
var neverBlocks = func(q rings.Queue) bool {
	_, ours := q.(*rings.XSK)
	return ours
}

// keep holds on, or makes a gap when one is due. It is called once a step.
func (s *stay) keep(now uint64) {
	if s.able && (!s.on || now-s.gaped >= gapTime) {
		s.renew(now)
	}
}

func (s *stay) renew(now uint64) {
	turn := s.turnDue(now) // after messages as well: they may come at every step
	alone := turn && takeAll()
	if s.on {
		procUnpin()
		_, _, _ = unix.Syscall(unix.SYS_GETPID, 0, 0, 0)
	}
	// Up to procPin no call but those of Syscall, which look at no stack: the monitor has asked for the processor long ago, and the first
	// call that does would give it away.
	if turn {
		for range turnGaps {
			_, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		}
		if alone {
			giveProc()
		}
	}
	s.on, s.gaped = true, now
	procPin()
}

// takeAll reports whether workers that hold on may have all processors of the runtime (GOMAXPROCS).
func takeAll() bool { return int64(runtime.GOMAXPROCS(0)) <= holding.Load() }

// turnDue reports whether it is time to let others have their turn, and takes it for done.
func (s *stay) turnDue(now uint64) bool {
	if now-s.turned < turnTime {
		return false
	}
	rested := s.asleep >= restTime
	s.turned, s.asleep = now, 0
	if !rested {
		s.turns++
	}
	return !rested
}

// again holds on right after a sleep: what was asked for meanwhile must not come before the packets that ended it.
func (s *stay) again() {
	if s.able {
		procPin()
		s.on = true
	}
}

// slept notes a sleep, which was a gap as well, for as long as it took.
func (s *stay) slept(began, ended uint64) {
	s.gaped = ended
	if s.asleep += ended - began; s.turnDue(ended) && takeAll() { // it may sleep often and hardly
		s.end()
		giveProc()
	}
}

// end lets go, before anything that may block.
func (s *stay) end() {
	if s.on {
		s.on = false
		procUnpin()
	}
}

// left is for a worker that has ended.
func (s *stay) left() {
	if s.able {
		holding.Add(-1)
	}
}
