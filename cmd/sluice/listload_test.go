package main

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sluice/ctl"
)

// Listing ten thousand connections, again and again and by every filter, finds what is there and does not stop the
// packets.
func TestListUnderLoad(t *testing.T) {
	f := newFlood(t)
	const flows = 9_999 // and the transfer
	f.write(strings.Replace(f.configText(settings{engine: fmt.Sprintf("workers: 1, cores: [%d]", engineCore)}), "control:", "timeouts: {udp-unanswered: 1h}\ncontrol:", 1))
	f.d = f.start()
	f.hits = f.manyFlows(flows)
	// What is left out, or lost, comes in another round.
	eventually(t, fmt.Sprintf("%d connections are in the table", flows), func() bool {
		f.send(f.hits, 20_000, 600*time.Millisecond)
		return f.totals().Connections == flows
	})
	stop := f.transfers(1, 0)
	rate := func(during func()) float64 {
		at, from := time.Now(), f.moved.Load()
		during()
		return float64(f.moved.Load()-from) / time.Since(at).Seconds()
	}
	time.Sleep(200 * time.Millisecond)
	source := floodSources.Addr().Next()
	lists, longest := 0, time.Duration(0)
	list := func() {
		for _, c := range []struct {
			filter string
			want   int
		}{
			{"", flows + 1},
			{"--limit 10", 10},
			{"--client " + source.String(), flows},
			{"--client " + netip.AddrPortFrom(source, 1024+77).String(), 1},
			{"--client " + f.Client4.String(), 1},
			{"--virtual dns", flows},
			{"--virtual bulk", 1},
			{"--protocol udp", flows},
			{"--protocol tcp", 1},
			{"--state established", 1},
			{"--virtual dns --member server-1", flows/2 + 1},
			{"--virtual dns --member server-2", flows / 2},
		} {
			begin := time.Now()
			args := append([]string{"conn", "list"}, strings.Fields(c.filter)...)
			if !strings.Contains(c.filter, "--limit") {
				args = append(args, "--limit", fmt.Sprint(flows+1))
			}
			if got := len(query[[]ctl.ConnView](f.bed, args...)); got != c.want {
				t.Errorf("conn list %s: %d connections, want %d", c.filter, got, c.want)
			}
			lists, longest = lists+1, max(longest, time.Since(begin))
		}
	}
	// The lists are made and read on the same two cores: much is lost to that, and to others that come meanwhile.
	for i := 1; ; i++ {
		calm := rate(func() { time.Sleep(time.Second) })
		listing := rate(list)
		t.Logf("%d lists of %d connections, the longest in %s; a transfer at %.0f MB/s before, %.0f MB/s meanwhile",
			lists, flows+1, longest.Round(time.Millisecond), calm/1e6, listing/1e6)
		if listing >= calm/10 {
			break
		}
		if i == attempts {
			t.Errorf("in each of %d attempts the transfer has less than a tenth left", i)
			break
		}
	}
	stop()
	f.d.stop()
}
