package main

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/ctl"
	"sluice/perf/lab"
)

// flapping answers a monitor by turns with up and down, until it is to be calm.
func (b *bed) flapping(h *lab.Host, at netip.AddrPort, calm *atomic.Bool) {
	b.t.Helper()
	pc := must(h.ListenPacket("udp", at.String()))(b.t)
	b.t.Cleanup(func() { pc.Close() })
	go func() {
		buf := make([]byte, 64)
		for turn := 0; ; turn++ {
			_, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			answer := "up"
			if turn%2 == 1 && !calm.Load() {
				answer = "down"
			}
			_, _ = pc.WriteTo([]byte(answer), from)
		}
	}()
}

// residentKB is the memory that a process has, in KB.
func residentKB(t *testing.T, pid int) int {
	t.Helper()
	b := must(os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)))(t)
	for line := range bytes.Lines(b) {
		if rest, found := bytes.CutPrefix(line, []byte("RssAnon:")); found {
			return must(strconv.Atoi(string(bytes.Fields(rest)[0])))(t)
		}
	}
	t.Fatal("no RssAnon")
	return 0
}

// A hundred members whose monitors change their mind ten times a second, under load: all requests are answered, sessions with
// members that flap and with others go on, workers follow at once, and nothing stays of it. SLUICE_FLAP says for how long.
func TestFlapStorm(t *testing.T) {
	length := 4 * time.Second
	if s := os.Getenv("SLUICE_FLAP"); s != "" {
		length = must(time.ParseDuration(s))(t)
	}
	const members, servers = 100, 4
	b := newBed(t, lab.TwoArmOptions{Servers: servers, Queues: 2}, settings{})
	b.runFirst()
	var calm atomic.Bool
	var list strings.Builder
	for i := range members {
		h, addr := b.Servers[i%servers], netip.AddrFrom4([4]byte{192, 168, 20, byte(101 + i)})
		ok(t, h.Addr("eth0", addr.String()+"/24"))
		b.flapping(h, netip.AddrPortFrom(addr, 7000), &calm)
		fmt.Fprintf(&list, "      - {name: m%d, address: %s}\n", i, addr)
	}
	for i, h := range b.Servers {
		must(lab.HTTPServer(h, "0.0.0.0:8000", fmt.Sprintf("server-%d", i+1)))(t)
		b.echoServer(h, netip.AddrPortFrom(netip.IPv4Unspecified(), 7))
		b.echoServer(h, netip.AddrPortFrom(b.ServerAddr6[i], 7))
	}
	text := b.configText(settings{engine: "workers: 2"})
	text = strings.Replace(text, "pools:\n", `monitors:
  - {name: mind, type: udp, port: 7000, interval: 100ms, timeout: 100ms, jitter: 0, rise: 1, fall: 1, udp: {send: "?", expect: up}}
pools:
  - name: storm
    monitors: [mind]
    all-down: fail-open
    members:
`+list.String(), 1)
	text += fmt.Sprintf(`  - {name: storm, address: "%[1]s:8000", protocol: tcp, pool: storm}
  - {name: storm-echo, address: "%[1]s:7", protocol: tcp, pool: storm}
  - {name: calm-echo, address: "[%[2]s]:7", protocol: tcp, pool: all6}
`, b.VIP4, b.VIP6)
	b.write(text)
	d := b.start()
	eventually(t, "all next hops", func() bool {
		for _, m := range query[[]ctl.MemberView](b, "member") {
			if m.State == "no-neighbour" {
				return false
			}
		}
		return true
	})
	var sessions []*session
	for i := range 24 {
		to := netip.AddrPortFrom(b.VIP4, 7)
		if i%2 == 1 {
			to = netip.AddrPortFrom(b.VIP6, 7)
		}
		s := must(openSession(b.Client, to))(t)
		ok(t, s.say(waitTime))
		sessions = append(sessions, s)
	}
	before := placedOf(b)
	v, stop := b.visitors(3, netip.AddrPortFrom(b.VIP4, 8000))
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	var wg sync.WaitGroup
	for _, s := range sessions {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := s.say(waitTime); err != nil {
					t.Errorf("session with %s: %v", s.RemoteAddr(), err)
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	first, start := b.changes().Count, time.Now()
	time.Sleep(length / 4)
	memory := residentKB(t, d.PID())
	b.reload(strings.Replace(text, "all-down: fail-open", "slow-start: 1s\n    all-down: fail-open", 1)) // in the midst of it
	<-ctx.Done()
	wg.Wait()
	c, took := b.changes(), time.Since(start)
	stop()
	failed := 0
	all := v.since(time.Time{})
	for _, a := range all {
		if a.err != nil {
			failed++
			t.Errorf("a request: %v", a.err)
		}
	}
	rate := float64(c.Count-first) / took.Seconds()
	if rate < 50 || len(all) == 0 {
		t.Errorf("%.0f changes a second, %d requests", rate, len(all))
	}
	calm.Store(true)
	eventually(t, "all to be up", func() bool {
		for _, m := range query[[]ctl.MemberView](b, "member") {
			if m.State != "active" {
				return false
			}
		}
		return true
	})
	for client, server := range placedOf(b) {
		if before[client] != "" && before[client] != server {
			t.Errorf("%s was with %s and is with %s", client, before[client], server)
		}
	}
	for _, s := range sessions {
		ok(t, s.say(waitTime))
		s.Close()
	}
	grown := residentKB(t, d.PID()) - memory
	if grown > 64<<10 {
		t.Errorf("the process has grown by %d KB", grown)
	}
	t.Logf("%.0f changes a second for %s; from verdict to the last worker p50 %d us, p99 %d us, max %d us (%d); %d requests, %d failed; memory %+d KB",
		rate, took.Round(time.Millisecond), c.P50US, c.P99US, c.MaxUS, c.Count, len(all), failed, grown)
	d.stop()
}

// placedOf says which server each session is with.
func placedOf(b *bed) map[string]string {
	b.t.Helper()
	m := map[string]string{}
	for _, name := range []string{"storm-echo", "calm-echo"} {
		for _, c := range query[[]ctl.ConnView](b, "conn", "list", "--virtual", name) {
			m[c.ClientSideClient] = c.ServerSideServer
		}
	}
	return m
}
