package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/perf/lab"
)

// crowd makes connections from several goroutines for a time, and counts which server took them and how long connecting took.
func (b *bed) crowd(to netip.AddrPort, lasting time.Duration) (counts map[string]int, took map[string][]time.Duration) {
	b.t.Helper()
	counts, took = map[string]int{}, map[string][]time.Duration{}
	end := time.Now().Add(lasting)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			buf := make([]byte, 64)
			for time.Now().Before(end) {
				who, connecting, err := visitQuick(b.Client, netip.AddrPortFrom(b.Client4, 0), to, buf)
				if err != nil {
					b.t.Error(err)
					return
				}
				mu.Lock()
				counts[who]++
				took[who] = append(took[who], connecting)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return counts, took
}

// medianTime is the median of times, 0 of none.
func medianTime(d []time.Duration) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

// Four servers with the kernel's TCP, one of which answers 20 ms later: fastest prefers the other three by far, and the slow one
// gets what finds out whether it still is. When it is quick again it comes back to its share.
func TestFastestLab(t *testing.T) {
	const delay = 20 * time.Millisecond
	b := newBed(t, lab.TwoArmOptions{Servers: 4, Queues: 2}, settings{})
	text := b.configText(settings{engine: "workers: 2", scheduler: "fastest"})
	b.urgent = true
	b.write(strings.Replace(text, "scheduler: fastest\n", "scheduler: fastest\n    half-life: 500ms\n", 1))
	for i, h := range b.Servers {
		ln := must(quickServer(h, netip.AddrPortFrom(b.ServerAddr4[i], webPort).String(), fmt.Sprintf("server-%d", i+1)))(t)
		t.Cleanup(func() { ln.Close() })
	}
	d := b.start()
	web := netip.AddrPortFrom(b.VIP4, webPort)
	slow := must(b.Switch.Delay("br0", "srv3", delay))(t)
	_, took := b.crowd(web, 500*time.Millisecond) // measures everybody
	if late := took["server-3"]; len(late) == 0 || slices.Min(late) < delay {
		t.Fatalf("connecting to the slow server took %s: there is no delay", late)
	}

	// 20 ms are much where the others take a fraction of it. On a busy machine that is not so at every moment: a quick server that took
	// as long for once is passed over as well, and rightly. That is not what was to be measured, so it is done again.
	quick := []string{"server-1", "server-2", "server-4"}
	for attempt := 1; ; attempt++ {
		counts, took := b.crowd(web, 2*time.Second)
		all, noisy := 0, false
		for _, n := range counts {
			all += n
		}
		t.Logf("with %s more: %v; connecting took %s at the slow server, %s, %s and %s at the quick", delay, counts,
			medianTime(took["server-3"]), medianTime(took["server-1"]), medianTime(took["server-2"]), medianTime(took["server-4"]))
		if n := counts["server-3"]; n > 0 && slices.Min(took["server-3"]) < delay {
			t.Fatalf("a connection to the slow server took %s: there is no delay", slices.Min(took["server-3"]))
		}
		var wrong []string
		if counts["server-3"]*20 > all {
			wrong = append(wrong, fmt.Sprintf("the slow server got %d of %d connections", counts["server-3"], all))
			for _, who := range quick {
				noisy = noisy || medianTime(took[who]) > delay/10
			}
		}
		// How the quick share the rest hangs on who of them is a fraction of a millisecond quicker.
		for _, who := range quick {
			if counts[who] < 4*counts["server-3"]+all/100 {
				wrong = append(wrong, fmt.Sprintf("%s, which is quick, got %d of %d connections, and the slow server %d", who, counts[who], all, counts["server-3"]))
				noisy = true // the moment at which it was not quick may be before this attempt: the figure stays for a while
			}
		}
		if len(wrong) == 0 {
			break
		}
		if !noisy || attempt == 10 {
			t.Fatal(strings.Join(wrong, "; "))
		}
		t.Logf("%s: a quick server was not quick all the time; again", strings.Join(wrong, "; "))
	}

	ok(t, slow.Undo())
	back, began := false, time.Now()
	for attempt := 0; attempt < 20 && !back; attempt++ {
		counts, _ := b.crowd(web, 500*time.Millisecond)
		all := counts["server-1"] + counts["server-2"] + counts["server-3"] + counts["server-4"]
		t.Logf("%s after the delay: %v", time.Since(began).Round(100*time.Millisecond), counts)
		back = counts["server-3"]*10 >= all && all > 0
	}
	if !back {
		t.Error("server-3 is quick again and does not get its share")
	}
	if drops := b.drops(); len(drops) > 0 {
		t.Errorf("dropped %v", drops)
	}
	d.stop()
}
