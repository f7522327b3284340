package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sluice/ctl"
	"sluice/perf/lab"
)

// Requests succeed while the engine runs, get no answer when it is stopped, and succeed when it runs again: it is us
// who carry them.
func TestOnlyWhileRunning(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 2}, settings{})
	b.serve(webPort, lab.HTTPServer)
	silent := func() {
		t.Helper()
		for _, vip := range b.vips(webPort) {
			if who, err := ask(b.Client, vip, 200*time.Millisecond); !unserved(err) {
				t.Errorf("%s without an engine: %q %v", vip, who, err)
			}
		}
	}
	silent()
	for range 2 {
		d := b.start()
		for _, vip := range b.vips(webPort) {
			if _, err := ask(b.Client, vip, waitTime); err != nil {
				t.Errorf("%s: %v", vip, err)
			}
		}
		d.stop()
		silent()
	}
}

// An engine can start the moment that another has stopped, on the same interfaces, with each driver.
func TestStartsInARow(t *testing.T) {
	for _, driver := range []string{"xsk", "asavie"} {
		t.Run(driver, func(t *testing.T) {
			b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 2}, settings{engine: "driver: " + driver})
			b.serve(webPort, lab.HTTPServer)
			before := b.hostState(false)
			for i := range 5 {
				start := time.Now()
				d := b.start()
				up := time.Since(start)
				for _, vip := range b.vips(webPort) {
					if _, err := ask(b.Client, vip, waitTime); err != nil {
						t.Errorf("round %d: %s: %v", i, vip, err)
					}
				}
				start = time.Now()
				d.stop()
				t.Logf("round %d: up in %s, down in %s", i, up.Round(time.Millisecond), time.Since(start).Round(time.Millisecond))
				if after := b.hostState(false); after != before {
					t.Fatalf("round %d: the host is\n%snot\n%s", i, after, before)
				}
			}
		})
	}
}

// A killed engine's successor starts at once and adopts what was left.
func TestStartAfterKill(t *testing.T) {
	for _, driver := range []string{"xsk", "asavie"} {
		t.Run(driver, func(t *testing.T) {
			b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 2}, settings{engine: "driver: " + driver})
			b.serve(webPort, lab.HTTPServer)
			running := ""
			for i := range 4 {
				start := time.Now()
				d := b.start()
				t.Logf("start %d: up in %s", i, time.Since(start).Round(time.Millisecond))
				for _, vip := range b.vips(webPort) {
					if _, err := ask(b.Client, vip, waitTime); err != nil {
						t.Errorf("start %d: %s: %v\n%s", i, vip, err, d.log)
					}
				}
				// The links of the host port are new ones.
				state := withoutLines(b.hostState(false), "sluice-h")
				if i == 0 {
					running = state
				} else if state != running {
					t.Errorf("start %d after a kill:\n%snot\n%s", i, state, running)
				}
				if left := b.leftBehind(); strings.Count(left, "pin ") != 2 || strings.Contains(left, "alive false") {
					t.Errorf("start %d: there should be two live pins:\n%s", i, left)
				}
				if i == 3 {
					d.stop() // the successor of killed ones takes all away that they left
				} else {
					d.kill()
				}
			}
		})
	}
}

func withoutLines(text, word string) string {
	var out []string
	for line := range strings.Lines(text) {
		if !strings.Contains(line, word) {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}

// SIGTERM and SIGINT under load end in time, with every frame accounted for.
func TestStopUnderLoad(t *testing.T) {
	for _, c := range []struct {
		sig    syscall.Signal
		engine string
		queues int
	}{
		{syscall.SIGTERM, "", 1},
		{syscall.SIGINT, "workers: 2", 4},
		{syscall.SIGTERM, "workers: 2, client-end: address", 4},
		{syscall.SIGTERM, "mode: generic, polling: interrupt", 2},
		{syscall.SIGINT, "driver: asavie", 2},
	} {
		t.Run(fmt.Sprintf("%v-%s", c.sig, c.engine), func(t *testing.T) {
			b := newBed(t, lab.TwoArmOptions{Servers: 2, Queues: c.queues}, settings{engine: c.engine})
			b.serve(bulkPort, func(h *lab.Host, addr, _ string) (*lab.Server, error) { return lab.TransferServer(h, addr) })
			b.serve(dnsPort, lab.UDPEcho)
			for range 2 {
				d := b.start()
				stop := load(b)
				eventually(t, "load", func() bool { return b.totals().Received > 20_000 })
				d.noInvalid()
				dropped := b.drops()
				start := time.Now()
				d.end(c.sig)
				t.Logf("ended in %s under load, dropped before: %v", time.Since(start).Round(time.Millisecond), dropped)
				stop()
			}
		})
	}
}

// load runs transfers and datagrams over both families until the result is called.
func load(b *bed) (stop func()) {
	ctx, cancel := context.WithCancel(b.t.Context())
	var wg sync.WaitGroup
	for _, vip := range b.vips(bulkPort) {
		for range 2 {
			wg.Go(func() {
				conn, err := b.Client.Dial(ctx, "tcp", vip.String())
				if err != nil {
					b.t.Error(err)
					return
				}
				defer conn.Close()
				_, _ = lab.Transfer(ctx, conn, 1<<40, 1) // is cut off
			})
		}
	}
	var sent atomic.Int64
	for _, vip := range b.vips(dnsPort) {
		wg.Go(func() {
			conn, err := b.Client.Dial(ctx, "udp", vip.String())
			if err != nil {
				b.t.Error(err)
				return
			}
			defer conn.Close()
			for ctx.Err() == nil {
				if _, err := conn.Write(make([]byte, 100)); err != nil {
					time.Sleep(time.Millisecond) // a refusal after the end
				}
				sent.Add(1)
				if sent.Load()%64 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

// A signal at any moment of a start leaves nothing behind, and is no failure.
func TestSignalDuringStart(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 2}, settings{})
	before := b.hostState(false)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for i := range 14 {
		// A start takes some 100 ms, so the first half of the signals come during it.
		limit := 100
		if i >= 7 {
			limit = 500
		}
		delay := time.Duration(random.IntN(limit)) * time.Millisecond
		d := b.launch()
		time.Sleep(delay) // the moment is what varies here
		ok(t, d.Signal(syscall.SIGTERM))
		select {
		case <-d.Done():
		case <-time.After(stopTime):
			t.Fatalf("after %s: no end within %s\n%s", delay, stopTime, d.log)
		}
		// Before the program listens for it, the signal ends it: then there is nothing to leave.
		if err := d.Wait(); err != nil && err.Error() != "signal: terminated" {
			t.Errorf("after %s: %v\n%s", delay, err, d.log)
		}
		if left := b.leftBehind(); left != "" {
			t.Fatalf("after %s:\n%s\n%s", delay, left, d.log)
		}
		if after := b.hostState(false); after != before {
			t.Fatalf("after %s: the host is\n%snot\n%s\n%s", delay, after, before, d.log)
		}
	}
}

// The same while members do not answer: the start waits for their MACs then.
func TestSignalDuringResolution(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1}, settings{})
	ok(t, b.Switch.SetLink("srv1", false))
	d := b.launch()
	eventually(t, "the start has begun", func() bool { return b.leftBehind() != "" })
	time.Sleep(100 * time.Millisecond)
	d.end(syscall.SIGTERM)
}

// A member without a MAC takes no connections, and does as soon as it answers.
func TestMemberComesLater(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 2}, settings{})
	b.serve(webPort, lab.HTTPServer)
	ok(t, b.Switch.SetLink("srv2", false))
	d := b.start()
	state := func() string {
		var words []string
		for _, m := range query[[]ctl.MemberView](b, "member") {
			words = append(words, m.State)
		}
		return strings.Join(words, " ")
	}
	eventually(t, "the member with a link is active, the other is not", func() bool { return state() == "active no-neighbour active no-neighbour" })
	for range 4 {
		if who, err := ask(b.Client, b.vips(webPort)[0], waitTime); err != nil || who != "server-1" {
			t.Errorf("with one member: %q %v", who, err)
		}
	}
	ok(t, b.Switch.SetLink("srv2", true))
	back := time.Now()
	for deadline := back.Add(2 * startTime); state() != "active active active active"; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the member is back, and members are %s\n%s", state(), d.log)
		}
	}
	t.Logf("active %s after its link came up", time.Since(back).Round(time.Millisecond))
	seen := map[string]int{}
	for range 8 {
		who, err := ask(b.Client, netip.AddrPortFrom(b.VIP4, webPort), waitTime)
		if err != nil {
			t.Error(err)
		}
		seen[who]++
	}
	if seen["server-1"] != 4 || seen["server-2"] != 4 {
		t.Errorf("turns: %v", seen)
	}
	d.stop()
}
