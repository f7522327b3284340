package ctl

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Go's own threads, for which every waking is a reason to take a core, its monitor's a hundred times a second, keep off the cores of
// workers as long as another is left to the process: a worker that polls is not broken in on. What the process starts, probes and
// hooks, keeps off them too. It was otherwise while workers came back through other threads each time that the runtime took them off their
// own (docs/design/005-runtime.md).

// processCores are those that the process was started with. Threads are confined to fewer later, so it is looked at once.
var processCores = sync.OnceValues(func() (unix.CPUSet, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return set, fmt.Errorf("ask for the process's cores: %w", err)
	}
	return set, nil
})

// confinement is where the process's threads other than workers may run. The zero value is wherever the process may.
type confinement struct {
	now unix.CPUSet // zero: as they were started
}

// besides is what workers on these cores leave of all; false if that is nothing.
func besides(all unix.CPUSet, workers []int) (unix.CPUSet, bool) {
	for _, c := range workers {
		all.Clear(c)
	}
	return all, all.Count() > 0
}

// confine moves all threads off the cores of workers that are about to run, or back where those were. Threads that are bound
// otherwise, as workers are, stay; new threads have what the one has that makes them, which is never a worker's.
func (c *confinement) confine(workers []int) error {
	all, err := processCores()
	if err != nil {
		return err
	}
	want, ok := besides(all, workers)
	if !ok {
		want = all // they share their cores with everything
	}
	was := c.now
	if was.Count() == 0 {
		was = all
	}
	if want == was {
		return nil
	}
	if err := rebind("/proc/self/task", was, want); err != nil {
		return fmt.Errorf("move threads off the cores of workers: %w", err)
	}
	c.now = want
	return nil
}

// rebind changes the affinity of all threads in a directory of /proc that have the affinity was. Threads may come meanwhile, of such that have not
// been changed yet, so it looks until it finds none.
func rebind(tasks string, was, want unix.CPUSet) error {
	for again := true; again; {
		again = false
		entries, err := os.ReadDir(tasks)
		if err != nil {
			return err
		}
		for _, e := range entries {
			tid, err := strconv.Atoi(e.Name())
			if err != nil {
				continue
			}
			var has unix.CPUSet
			if err := unix.SchedGetaffinity(tid, &has); err != nil || has != was {
				continue // it has ended, or is a worker
			}
			if err := unix.SchedSetaffinity(tid, &want); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
			var got unix.CPUSet
			if err := unix.SchedGetaffinity(tid, &got); err == nil && got == was {
				return errors.New("the kernel has left them where they were")
			}
			again = true
		}
	}
	return nil
}

// keepClear confines threads for workers on these cores. Without it they only disturb each other more.
func (s *Server) keepClear(cores []int) {
	if err := s.threads.confine(cores); err != nil {
		s.log.Warn("threads that are no workers may run on the workers' cores", "reason", err)
	}
}
