package engine

import (
	"runtime"

	"golang.org/x/sys/unix"

	"sluice/rings"
)

// stay keeps a worker on its core. Go's monitor asks every goroutine that has run for 10 ms to make room for others, and one
// that is locked to a thread comes back only through another thread: two wake-ups, for which the other thread needs a core that
// it may have to wait for, while nobody serves the worker's rings. So a worker holds on, as the runtime itself does in its own
// critical sections, and lets go where it costs nothing: before messages and sleeps.
//
// What the runtime needs still comes in time. It may stop the world at a gap, a call that it is told of. What wants the
// goroutine itself, a collection that reads its stack, waits for the next message, sleep or turn.
//
// A step of a worker that holds on must not block: it would end the process. Nor must it make calls that the runtime is told of, after
// which it may have to wait. So only workers whose queues are all of our own driver do; handoffs, counters and eventfds are made for it,
// and a test follows all calls (staycalls_test.go). A panic shows its place and not its values, and runs nothing that was deferred.
type stay struct {
	able, on      bool
	deaf          bool   // the thread does not hear SIGURG any more
	turned, gaped uint64 // when it last let others have their turn, and the runtime its gap; nanoseconds since boot
	asleep        uint64 // since turned; nanoseconds
}

// gapTime is in nanoseconds. A gap costs 0.1 to 0.3 us; whoever stops the world, and all who are stopped already, wait for it.
const gapTime = 250e3

// turnTime is in nanoseconds; a turn costs as much as two wake-ups. A variable for tests.
var turnTime uint64 = 50e6

var turn = runtime.Gosched // a variable for tests

// restTime is how long a worker has to have slept between two turns, in nanoseconds, for the second not to be needed: all that a turn is
// for could have been done meanwhile, and it would come right before the packets that ended a sleep.
const restTime = 1e6

// allow decides whether the worker holds on from now on. It is asked again after messages: they bring queues and take them away.
func (s *stay) allow(able bool) {
	if s.able = able; able && !s.deaf {
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
	if s.on {
		procUnpin()
		_, _, _ = unix.Syscall(unix.SYS_GETPID, 0, 0, 0)
	}
	if s.turnDue(now) { // after messages as well: they may come at every step
		turn()
	}
	s.on, s.gaped = true, now
	procPin()
}

// turnDue reports whether it is time to let others have their turn, and takes it for done.
func (s *stay) turnDue(now uint64) bool {
	if now-s.turned < turnTime {
		return false
	}
	rested := s.asleep >= restTime
	s.turned, s.asleep = now, 0
	return !rested
}

// again holds on right after a sleep: what was asked for meanwhile must not come before the packets that ended it.
func (s *stay) again() {
	if s.able {
		procPin()
		s.on = true
	}
}

// slept notes a sleep, which was a gap as well.
func (s *stay) slept(began, ended uint64) {
	s.gaped = ended
	if s.asleep += ended - began; s.turnDue(ended) { // it may sleep often and hardly
		s.end()
		turn()
	}
}

// end lets go, before anything that may block.
func (s *stay) end() {
	if s.on {
		s.on = false
		procUnpin()
	}
}
