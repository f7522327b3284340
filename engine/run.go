package engine

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// run is the worker's life on its own thread. ready receives the outcome of pinning it. The thread is not unlocked:
// when run returns the thread ends, and with it its affinity and name.
func (w *worker) run(clock *clock, ready chan<- error) {
	runtime.LockOSThread()
	defer close(w.runtime.gone)
	err := w.pin()
	ready <- err
	if err != nil {
		return
	}
	w.runtime.givenClock = clock.given != nil
	a := &w.runtime.activity
	a.began = clock.nanos()
	a.last = a.began
	idleSince := uint64(0)
	stay := &w.runtime.stay
	stay.allow(w.canStay())
	for !w.runtime.stopped {
		if len(w.runtime.inbox) > 0 {
			if m, more := w.briefs(); more {
				stay.end()
				w.applyFrom(&m)
				stay.allow(w.canStay())
			}
		}
		w.runtime.beat.Add(1)
		now := clock.nanos()
		a.next(now)
		stay.keep(now)
		if now-w.runtime.priority.began >= weighTime {
			w.runtime.priority.weigh(now, w.runtime.polling)
		}
		if a.found = w.step(clock.millis(now)); a.found {
			w.stats.Bursts++
			idleSince = 0
			continue
		}
		switch {
		case w.runtime.stopped, w.runtime.polling == PollBusy:
			continue
		case w.runtime.polling == PollAdaptive:
			if idleSince == 0 {
				idleSince = now
			}
			if now-idleSince < uint64(spinTime) {
				w.yield(clock, idleSince, now)
				continue
			}
		}
		slept := clock.nanos()
		a.next(slept)
		away := w.sleep()
		a.last = clock.nanos()
		w.now = clock.millis(a.last) // messages come before the next step: what they order or tell of is of now
		w.runtime.priority.asleep += a.last - slept
		if away {
			stay.slept(slept, a.last)
		}
	}
	stay.end()
	stay.left()
}

// deaf keeps the signal by which the runtime asks a thread to make room (SIGURG) off it: held on, the thread would only take the
// time to ignore it, up to 50,000 times a second while the runtime's monitor is busy. Function calls ask as well.
func deaf() {
	var set unix.Sigset_t
	set.Val[0] = 1 << (unix.SIGURG - 1)
	_ = unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil) // it cannot fail with these arguments; signals would cost time, no more
}

func (w *worker) pin() error {
	name := append([]byte(fmt.Sprintf("sluice-w%d", w.id)), 0)
	_ = unix.Prctl(unix.PR_SET_NAME, namePointer(name), 0, 0, 0) // only for people
	if w.runtime.core < 0 {
		return nil
	}
	var set unix.CPUSet
	set.Set(w.runtime.core)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pin worker %d to core %d: %w", w.id, w.runtime.core, err)
	}
	w.runtime.priority.start(w.runtime.nice)
	return nil
}
