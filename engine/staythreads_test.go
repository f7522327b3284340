package engine

import (
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// What a worker changes of its thread, the signals and the priority, stays with it: threads that the runtime makes because of a worker
// have none of it.
func TestThreadsOfOthersAreAsBefore(t *testing.T) {
	stayAnywhere(t)
	was, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		t.Fatal(err)
	}
	if 20-was == 19 {
		t.Skip("there is no lower priority than this process has")
	}
	bn := newBench(t, a4(1), 64, 1024)
	bn.clock = newClock(nil)
	bn.workers[0].runtime.polling = PollBusy
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	if err := bn.Start(); err != nil {
		t.Fatal(err)
	}
	const threads = 40
	type state struct {
		blocked bool
		nice    int
		thread  int
	}
	var mu sync.Mutex
	seen := map[int]state{}
	over := make(chan struct{})
	var all, there sync.WaitGroup
	look := func() (s state) {
		var set unix.Sigset_t
		if err := unix.PthreadSigmask(unix.SIG_BLOCK, nil, &set); err != nil {
			t.Error(err)
		}
		nice, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
		if err != nil {
			t.Error(err)
		}
		return state{set.Val[0]&(1<<(unix.SIGURG-1)) != 0, 20 - nice, unix.Gettid()}
	}
	var its state
	there.Add(threads)
	err = bn.ask(t.Context(), bn.workers, func(*worker) {
		if !setNice(20 - was + 1) { // everybody may go down
			t.Error("no other priority")
		}
		its = look()
		for range threads {
			all.Go(func() {
				runtime.LockOSThread() // each needs a thread of its own
				defer runtime.UnlockOSThread()
				s := look()
				mu.Lock()
				seen[s.thread] = s
				mu.Unlock()
				there.Done()
				<-over
			})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	there.Wait()
	close(over)
	all.Wait()
	if err := bn.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	bn.close()
	if !its.blocked || its.nice != 20-was+1 {
		t.Errorf("the worker's thread: %+v", its)
	}
	if len(seen) != threads {
		t.Errorf("%d threads", len(seen))
	}
	for _, s := range seen {
		if s.blocked || s.nice != 20-was {
			t.Errorf("a thread that is no worker's: %+v", s)
		}
	}
}
