package ctl

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Go runs whatever is ready on any thread, and its collector takes a quarter of all of them. A worker that is pinned keeps its
// core only from others that are told to stay away: so all threads but the workers' are given the process's other cores. What a
// flood of requests costs then comes out of these alone. A thread that Go makes later inherits them, as Go never makes one from a
// locked thread.

// firstCores are the cores that the process was started with. Later its threads have others.
var firstCores = sync.OnceValues(func() (unix.CPUSet, error) {
	var set unix.CPUSet
	err := unix.SchedGetaffinity(0, &set)
	return set, err
})

// sparedCores are the process's cores without those of workers; ok is false if none would be left, or workers are not pinned.
func sparedCores(all unix.CPUSet, workers []int) (set unix.CPUSet, ok bool) {
	set = all
	for _, c := range workers {
		set.Clear(c)
	}
	return set, len(workers) > 0 && set.Count() > 0
}

// workerThreads is how the threads of workers are named (engine.worker.pin).
const workerThreads = "sluice-w"

// spareWorkers keeps all threads but those of workers off the workers' cores, or lets them run anywhere again if no core would
// be left for them.
func spareWorkers(workers []int) error {
	all, err := firstCores()
	if err != nil {
		return fmt.Errorf("ask for the process's cores: %w", err)
	}
	set, ok := sparedCores(all, workers)
	if !ok {
		set = all
	}
	for done := map[int]bool{}; ; { // until a look finds no thread that was made meanwhile
		tasks, err := filepath.Glob("/proc/self/task/*")
		if err != nil {
			return err
		}
		before := len(done)
		for _, dir := range tasks {
			id, err := strconv.Atoi(filepath.Base(dir))
			if err != nil || done[id] {
				continue
			}
			done[id] = true
			if name, _ := os.ReadFile(dir + "/comm"); strings.HasPrefix(string(name), workerThreads) {
				continue
			}
			if err := unix.SchedSetaffinity(id, &set); err != nil && !errors.Is(err, unix.ESRCH) { // it has ended
				return fmt.Errorf("keep thread %d off the workers' cores: %w", id, err)
			}
		}
		if len(done) == before {
			return nil
		}
	}
}

// keepOff does that for the workers of the plan, and says so in the log.
func (s *Server) keepOff() {
	if err := spareWorkers(s.plan.cores); err != nil {
		s.log.Warn("control may run on the workers' cores", "reason", err)
	}
}
