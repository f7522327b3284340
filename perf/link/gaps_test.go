package link

import (
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A core that another program wants as well is taken away for longer than one that is left alone, and the loop sees it.
func TestGaps(t *testing.T) {
	runtime.LockOSThread() // for good: the thread keeps to one core
	var set, old unix.CPUSet
	if err := unix.SchedGetaffinity(0, &old); err != nil {
		t.Fatal(err)
	}
	core := 0
	for !old.IsSet(core) {
		core++
	}
	set.Set(core)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	// Another thread on the same core, that works for 20 ms at a time.
	ready, end := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		ready <- unix.SchedSetaffinity(0, &set)
		for {
			select {
			case <-end:
				return
			default:
			}
			for began := time.Now(); time.Since(began) < 20*time.Millisecond; {
			}
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	list := make([]int64, 1<<16)
	began := nanotime()
	list = list[:gaps(began+int64(200*time.Millisecond), int64(takenLeast), list)]
	took := time.Duration(nanotime() - began)
	close(end)
	longest := int64(0)
	for _, ns := range list {
		if ns < int64(takenLeast) || ns > int64(took) {
			t.Errorf("a gap of %d ns", ns)
		}
		longest = max(longest, ns)
	}
	// A scheduler that shares a core fairly gives the other its turn within 200 ms, for a tick or more at a time.
	if took < 200*time.Millisecond || longest < int64(time.Millisecond/2) {
		t.Errorf("%d gaps in %s, the longest %d ns, with another program on the core", len(list), took, longest)
	}
	// It ends with a full list.
	if n := gaps(nanotime()+int64(10*time.Second), 1, make([]int64, 3)); n != 3 {
		t.Errorf("%d gaps in a list of 3", n)
	}
}

func TestCoreTaken(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for the priority")
	}
	if _, err := CoreTaken(1023); err == nil {
		t.Error("core 1023 was watched")
	}
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	for core := range 1024 {
		if !set.IsSet(core) {
			continue
		}
		g, err := CoreTaken(core)
		if err != nil {
			t.Fatal(err)
		}
		t.Log(g)
		if g.Core != core || g.Percent < 0 || g.Percent >= 100 || g.PerSecond > 0 && (g.P50us < 5 || g.P50us > g.P99us || g.P99us > g.LongestUs) {
			t.Errorf("%+v", g)
		}
		break
	}
}
