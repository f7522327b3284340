package engine

import (
	"fmt"
	"runtime"
	"testing"
	"time"
)

// boundedTime is generous: a machine that does other work gives a thread its turn after some tens of milliseconds, and a
// message waits for one thread only.
const boundedTime = time.Minute

// A collection and 1,000 control messages are done in bounded time when all workers sleep and when all spin, on as many
// workers as cores and on more.
func TestCollectionAndMessagesInBoundedTime(t *testing.T) {
	for _, c := range []struct {
		polling Polling
		stays   bool
	}{{PollInterrupt, false}, {PollAdaptive, false}, {PollBusy, false}, {PollInterrupt, true}, {PollAdaptive, true}, {PollBusy, true}} {
		polling := c.polling
		for _, workers := range []int{runtime.NumCPU(), runtime.NumCPU() + 1} {
			t.Run(fmt.Sprintf("polling=%d/stays=%t/workers=%d", polling, c.stays, workers), func(t *testing.T) {
				if c.stays {
					stayAnywhere(t)
				}
				bn := newBench(t, a4(workers), 64, 1024)
				bn.clock = newClock(nil)
				for _, w := range bn.workers {
					w.runtime.polling = polling
				}
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
				if err := bn.Start(); err != nil {
					t.Fatal(err)
				}
				if procs := runtime.GOMAXPROCS(0); procs < workers+2 {
					t.Errorf("GOMAXPROCS is %d with %d workers", procs, workers)
				}
				time.Sleep(5 * time.Millisecond) // asleep, those that sleep
				within := func(what string, f func()) {
					t.Helper()
					done := make(chan struct{})
					begin := time.Now()
					go func() {
						defer close(done)
						f()
					}()
					select {
					case <-done:
						t.Logf("%s in %v", what, time.Since(begin))
					case <-time.After(boundedTime):
						buf := make([]byte, 1<<16)
						t.Fatalf("%s takes more than %v\n%s", what, boundedTime, buf[:runtime.Stack(buf, true)])
					}
				}
				within("a collection", runtime.GC)
				within("100 stops of the world", func() {
					for range 100 {
						runtime.ReadMemStats(new(runtime.MemStats))
					}
				})
				rounds := 1000
				if polling == PollBusy && workers > runtime.NumCPU() {
					rounds = 100 // spinning threads take turns on a core, each for its whole slice
				}
				applied := make([]int, workers)
				within(fmt.Sprint(rounds, " messages to each worker"), func() {
					for range rounds {
						if err := bn.ask(t.Context(), bn.workers, func(w *worker) { applied[w.id]++ }); err != nil {
							t.Error(err)
						}
					}
				})
				within(fmt.Sprint(rounds, " configurations"), func() {
					for range rounds {
						if _, err := bn.Apply(t.Context(), bn.Config()); err != nil {
							t.Error(err)
						}
					}
				})
				within("both", func() {
					collected := make(chan struct{})
					go func() { defer close(collected); runtime.GC() }()
					if err := bn.ask(t.Context(), bn.workers, func(w *worker) { applied[w.id]++ }); err != nil {
						t.Error(err)
					}
					<-collected
				})
				within("the stop", func() {
					if err := bn.Stop(t.Context()); err != nil {
						t.Error(err)
					}
				})
				for id, n := range applied {
					if n != rounds+1 {
						t.Errorf("worker %d applied %d messages", id, n)
					}
				}
				bn.close()
			})
		}
	}
}

// A worker that sleeps ends at once when it is told to, not when its sleep is over.
func TestStopEndsSleep(t *testing.T) {
	fastest := time.Hour
	for range 5 {
		bn := newBench(t, a4(1), 64, 1024)
		bn.clock = newClock(nil)
		w := bn.workers[0]
		w.runtime.polling, w.rx = PollAdaptive, nil // nothing keeps it from a long sleep
		if err := bn.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond) // asleep
		begin := time.Now()
		if err := bn.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		fastest = min(fastest, time.Since(begin))
	}
	if fastest > sleepTime/2 {
		t.Errorf("the fastest of five stops took %v", fastest)
	}
}
