package engine

import (
	"io"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"runtime/trace"
	"sync"
	"testing"
	"time"
)

// Whatever stops the world, looks at all stacks or wants every processor gets it in bounded time from workers that hold on to their cores
// and spin, while goroutines come and go and memory is short.
func TestWhoeverWantsAllThreadsGetsThem(t *testing.T) {
	stayAnywhere(t)
	bn := newBench(t, a4(2), 64, 1024)
	bn.clock = newClock(nil)
	for _, w := range bn.workers {
		w.runtime.polling = PollBusy
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	defer debug.SetGCPercent(debug.SetGCPercent(5))
	if err := bn.Start(); err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	var others sync.WaitGroup
	for range 4 {
		others.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				var some sync.WaitGroup
				for range 50 {
					some.Go(func() { _ = make([]byte, 8192) })
				}
				some.Wait()
				time.Sleep(time.Millisecond)
			}
		})
	}
	procs := runtime.GOMAXPROCS(0)
	wants := []struct {
		name string
		do   func() error
	}{
		{"a collection", func() error { runtime.GC(); return nil }},
		{"memory given back", func() error { debug.FreeOSMemory(); return nil }},
		{"numbers of memory", func() error { runtime.ReadMemStats(new(runtime.MemStats)); return nil }},
		{"all stacks", func() error { runtime.Stack(make([]byte, 1<<20), true); return nil }},
		{"a profile of goroutines", func() error { return pprof.Lookup("goroutine").WriteTo(io.Discard, 1) }},
		{"their stacks", func() error { return pprof.Lookup("goroutine").WriteTo(io.Discard, 2) }},
		{"a profile of time", func() error {
			err := pprof.StartCPUProfile(io.Discard)
			time.Sleep(20 * time.Millisecond)
			pprof.StopCPUProfile()
			return err
		}},
		{"a trace", func() error {
			err := trace.Start(io.Discard)
			time.Sleep(20 * time.Millisecond)
			trace.Stop()
			return err
		}},
		{"other numbers of processors", func() error {
			runtime.GOMAXPROCS(procs + 3)
			runtime.GOMAXPROCS(procs)
			return nil
		}},
		{"fewer processors than workers", func() error { // runtime.GC would wait for a turn of each worker after each span that it sweeps
			runtime.GOMAXPROCS(1)
			time.Sleep(20 * time.Millisecond)
			runtime.GOMAXPROCS(procs)
			return nil
		}},
		{"messages", func() error { return bn.ask(t.Context(), bn.workers, func(*worker) { runtime.Gosched() }) }},
		{"a limit of memory", func() error {
			was := debug.SetMemoryLimit(1 << 20)
			garbage := make([][]byte, 64)
			for i := range garbage {
				garbage[i] = make([]byte, 32<<10)
			}
			runtime.KeepAlive(garbage)
			debug.SetMemoryLimit(was)
			return nil
		}},
	}
	rounds := 3
	if testing.Short() {
		rounds = 1
	}
	for range rounds {
		for _, want := range wants {
			done := make(chan error, 1)
			began := time.Now()
			go func() { done <- want.do() }()
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("%s: %v", want.name, err)
				}
				t.Logf("%s: %v", want.name, time.Since(began))
			case <-time.After(boundedTime):
				t.Fatalf("no %s in %v", want.name, boundedTime)
			}
		}
	}
	close(over)
	others.Wait()
	if err := bn.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, w := range bn.workers {
		if !w.runtime.stay.able || w.runtime.stay.on {
			t.Errorf("worker %d at its end: %+v", w.id, w.runtime.stay)
		}
	}
	bn.close()
}
