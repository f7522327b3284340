package link

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"sluice/perf/result"
)

const (
	// takenTime is how long a core is watched: 50 ticks of a kernel with 250 a second.
	takenTime = 200 * time.Millisecond
	// takenLeast is less than the kernel's tick takes on a virtual machine, 10 to 30 us; a shorter one hardly shows in a round trip. Nor do gaps of
	// 1 to 4 us, which came up to five thousand times a second on a 2-core virtual machine, from its host.
	takenLeast = 5 * time.Microsecond
	// takenMost is more than there can be of the least length.
	takenMost = int(takenTime / takenLeast)
)

// CoreTaken watches a core for a fifth of a second, with the priority that carriers have: how often is it taken away from a loop that only
// reads the clock?
func CoreTaken(core int) (*result.Taken, error) {
	type outcome struct {
		t   *result.Taken
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread has another priority
		if err := (setup{core: core}).raise(unix.Gettid()); err != nil {
			done <- outcome{nil, err}
			return
		}
		list := make([]int64, takenMost)
		for i := range list { // its pages are there when they are needed
			list[i] = 0
		}
		began := nanotime()
		list = list[:gaps(began+int64(takenTime), int64(takenLeast), list)]
		long := nanotime() - began
		away := make([]time.Duration, len(list))
		for i, ns := range list {
			away[i] = time.Duration(ns)
		}
		done <- outcome{result.NewTaken(core, away, time.Duration(long)), nil}
	}()
	o := <-done
	return o.t, o.err
}
