package ctl

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func cores(list ...int) (set unix.CPUSet) {
	for _, c := range list {
		set.Set(c)
	}
	return set
}

func TestCoresBesidesWorkers(t *testing.T) {
	for _, c := range []struct {
		all, workers, left []int
	}{
		{[]int{0, 1}, []int{1}, []int{0}},
		{[]int{0, 1}, nil, []int{0, 1}},
		{[]int{0, 1}, []int{0, 1}, nil},
		{[]int{0, 1, 2, 3}, []int{2, 3, 2}, []int{0, 1}},
		{[]int{0, 1}, []int{4, 5}, []int{0, 1}}, // isolated: they were never the process's
	} {
		left, ok := besides(cores(c.all...), c.workers)
		if left != cores(c.left...) || ok != (len(c.left) > 0) {
			t.Errorf("workers on %v of %v leave %d cores, %t", c.workers, c.all, left.Count(), ok)
		}
	}
}

// All threads keep off the cores of workers, also those that are made meanwhile and afterwards; a worker's, which is bound to its own core,
// stays. Other workers, or none, have them move again.
func TestThreadsKeepOffWorkersCores(t *testing.T) {
	all, err := processCores()
	if err != nil {
		t.Fatal(err)
	}
	var have []int
	for c := range maxCores {
		if all.IsSet(c) {
			have = append(have, c)
		}
	}
	if len(have) < 2 {
		t.Skip("it takes two cores")
	}
	first, last := have[0], have[len(have)-1]
	over, bound := make(chan struct{}), make(chan int)
	var threads sync.WaitGroup
	threads.Go(func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		one := cores(last)
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			t.Error(err)
		}
		bound <- unix.Gettid()
		<-over
	})
	worker := <-bound
	more := func() {
		var there sync.WaitGroup
		for range 20 {
			there.Add(1)
			threads.Go(func() {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				there.Done()
				<-over
			})
		}
		there.Wait()
	}
	check := func(want unix.CPUSet) {
		t.Helper()
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		for _, e := range tasks {
			tid, _ := strconv.Atoi(e.Name())
			var has unix.CPUSet
			if unix.SchedGetaffinity(tid, &has) != nil {
				continue
			}
			seen++
			switch {
			case tid == worker && has != cores(last):
				t.Errorf("the worker has been moved: to %d cores", has.Count())
			case tid != worker && has != want:
				t.Errorf("thread %d has %d cores, not the %d that it should", tid, has.Count(), want.Count())
			}
		}
		if seen < 5 {
			t.Errorf("%d threads", seen)
		}
	}
	more()
	var c confinement
	confine := func(workers ...int) unix.CPUSet {
		t.Helper()
		if err := c.confine(workers); err != nil {
			t.Fatal(err)
		}
		left, ok := besides(all, workers)
		if !ok {
			left = all
		}
		return left
	}
	for _, workers := range [][]int{{last}, {last}, {first, last}, have, {last}} {
		want := confine(workers...)
		check(want)
		more()
		check(want)
	}
	// Workers on other cores: first off both (scale.go), then, when the old ones have ended, off theirs.
	check(confine(first, last))
	close(over)
	threads.Wait()
	worker = 0
	check(confine(first))
	check(confine())
}

// What cannot be done is said.
func TestConfineSaysWhatFails(t *testing.T) {
	if err := rebind(filepath.Join(t.TempDir(), "none"), cores(0), cores(1)); err == nil {
		t.Error("no error without a list of threads")
	}
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	if err := rebind("/proc/self/task", all, cores(maxCores-1)); err == nil {
		t.Error("no error for a core that there is not")
	}
}
