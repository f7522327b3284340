package engine

import (
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// run is the worker's life on its own thread. ready receives the outcome of pinning it. The thread is not unlocked:
// when run returns the thread ends, and with it its affinity and name.
func (w *worker) run(clock func() uint64, ready chan<- error) {
	runtime.LockOSThread()
	defer close(w.runtime.gone)
	err := w.pin()
	ready <- err
	if err != nil {
		return
	}
	idleSince := time.Time{}
	for !w.runtime.stopped {
		w.control()
		w.runtime.beat.Add(1)
		if w.step(clock()) {
			w.stats.Bursts++
			idleSince = time.Time{}
			continue
		}
		switch w.runtime.polling {
		case PollBusy:
			continue
		case PollAdaptive:
			if idleSince.IsZero() {
				idleSince = time.Now()
			}
			if time.Since(idleSince) < spinTime {
				continue
			}
		}
		w.sleep()
	}
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
	return nil
}
