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
// A step of a worker that holds on must not block, nor make calls that the runtime is told of: it would end the process. So only
// workers whose queues are all of our own driver do; handoffs, counters and eventfds are made for it.
type stay struct {
	able, on      bool
	turned, gaped uint64 // when it last let others have their turn, and the runtime its gap; nanoseconds since boot
}

const gapTime = 1e6 // nanoseconds; a gap costs less than one microsecond

// turnTime is in nanoseconds; a turn costs as much as two wake-ups. A variable for tests.
var turnTime uint64 = 50e6

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
		if now-s.turned >= turnTime {
			runtime.Gosched()
			s.turned = now
		}
	}
	s.on, s.gaped = true, now
	procPin()
}

// again holds on right after a sleep: what was asked for meanwhile must not come before the packets that ended it.
func (s *stay) again() {
	if s.able {
		procPin()
		s.on = true
	}
}

// end lets go, before anything that may block.
func (s *stay) end() {
	if s.on {
		s.on = false
		procUnpin()
	}
}
