package engine

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sluice/rings"
)

// stayAnywhere lets workers with queues in memory hold on to their cores as those with AF_XDP sockets do.
func stayAnywhere(t *testing.T) {
	was := neverBlocks
	neverBlocks = func(rings.Queue) bool { return true }
	t.Cleanup(func() { neverBlocks = was })
}

// A worker that spins stays on its thread while the rest of the process is busy: Go's monitor does not put it aside every 10 ms.
// But for the turns, which it does not take here, its thread never gives its core up by itself.
func TestWorkerStays(t *testing.T) {
	stayAnywhere(t)
	defer func(was uint64) { turnTime = was }(turnTime)
	turnTime = 1 << 60
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection stops it twice
	for try := range 10 {
		stays, leaves := sleepsOfThread(t, true), sleepsOfThread(t, false)
		t.Logf("try %d: the thread slept %d times a second, %d when it does not hold on", try, stays, leaves)
		if leaves >= 5 && stays <= leaves/3 {
			return
		}
	}
	t.Error("in no second it slept less than a third as often")
}

// sleepsOfThread is how often a second the thread of a worker that spins gives its core up by itself.
func sleepsOfThread(t *testing.T, able bool) int {
	bn := newBench(t, a4(1), 64, 1024)
	defer bn.close()
	bn.clock = newClock(nil)
	w := bn.workers[0]
	w.runtime.polling = PollBusy
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	if !able {
		neverBlocks = func(rings.Queue) bool { return false }
		defer func() { neverBlocks = func(rings.Queue) bool { return true } }()
	}
	if err := bn.Start(); err != nil {
		t.Fatal(err)
	}
	tid := 0
	if err := bn.ask(t.Context(), bn.workers, func(*worker) { tid = unix.Gettid() }); err != nil {
		t.Fatal(err)
	}
	var end atomic.Bool
	defer end.Store(true)
	go func() { // other goroutines are there to be run
		for !end.Load() {
			runtime.Gosched()
		}
	}()
	before := voluntary(t, tid)
	time.Sleep(time.Second)
	n := voluntary(t, tid) - before
	if err := bn.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

// voluntary is how often a thread of this process has waited for something (proc_pid_status(5)).
func voluntary(t *testing.T, tid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/status", tid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := bytes.Cut(b, []byte("\nvoluntary_ctxt_switches:"))
	line, _, _ := bytes.Cut(after, []byte("\n"))
	n, err := strconv.Atoi(string(bytes.TrimSpace(line)))
	if !found || err != nil {
		t.Fatalf("no count of switches in %q", b)
	}
	return n
}

// Priority follows what a worker uses of its core: up after a window of which it had nearly all, down when it sleeps again.
func TestPriorityFollowsUse(t *testing.T) {
	runtime.LockOSThread() // for good: its priority is changed
	p := &priority{base: 10, raised: 9}
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, 10); err != nil {
		t.Skip("this thread may not change its priority: ", err)
	}
	nice := func() int {
		v, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
		if err != nil {
			t.Fatal(err)
		}
		return 20 - v
	}
	spin := func(n uint64) {
		for end := threadTime() + n; threadTime() < end; {
		}
	}
	now := uint64(1)
	p.weigh(now)
	if os.Geteuid() != 0 {
		p.raised = p.base // nobody else may go up again
	}
	raised := p.raised
	spin(20e6)
	now += 20e6
	if p.weigh(now); nice() != raised {
		t.Errorf("after a window of work: nice %d", nice())
	}
	spin(10e6)
	now += 20e6
	if p.weigh(now); nice() != raised {
		t.Errorf("others had half of the core, but it did not sleep: nice %d", nice())
	}
	p.asleep = 2e6
	now += 20e6
	if p.weigh(now); nice() != p.base {
		t.Errorf("it sleeps again: nice %d", nice())
	}
	spin(10e6)
	now += 20e6
	if p.weigh(now); nice() != p.base {
		t.Errorf("half a core used: nice %d", nice())
	}
}
