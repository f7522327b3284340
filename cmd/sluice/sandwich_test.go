package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"sluice/perf/lab"
)

// sandwichBeds are the beds of the two balancers. The first takes the lab down.
func sandwichBeds(t *testing.T, queues int) ([2]*bed, *lab.Sandwich) {
	t.Helper()
	var s *lab.Sandwich
	b := newBedOn(t, func() (*lab.TwoArm, error) {
		var err error
		if s, err = lab.NewSandwich(context.Background(), queues); err != nil {
			return nil, err
		}
		return &lab.TwoArm{Lab: s.Lab, Client: s.Host[0], Balancer: s.Balancer[0]}, nil
	})
	far := &bed{t: t, TwoArm: &lab.TwoArm{Lab: s.Lab, Client: s.Host[1], Balancer: s.Balancer[1]}, dir: must(os.MkdirTemp(buildDir, "bed-"))(t)}
	ok(t, os.Chmod(far.dir, 0o755))
	far.config, far.socket = filepath.Join(far.dir, "sluice.yaml"), filepath.Join(far.dir, "sluice.sock")
	far.before = far.hostState(false)
	return [2]*bed{b, far}, s
}

// wallsText is the configuration of one side. The firewalls have the same names on both, in another order.
func (b *bed) wallsText(s *lab.Sandwich, side int, engine, onDown string) string {
	var w strings.Builder
	fmt.Fprintf(&w, "engine: {%s}\ncontrol: {socket: %s}\nports: [{name: hosts, interface: hosts}, {name: walls, interface: walls}]\n", engine, b.socket)
	w.WriteString("monitors: [{name: up, type: icmp, interval: 100ms, timeout: 100ms, fall: 2, rise: 2}]\npools:\n")
	for f, addrs := range [][2]netip.Addr{s.Wall4[side], s.Wall6[side]} {
		fmt.Fprintf(&w, "  - name: walls%d\n    scheduler: maglev\n    hash: {ports: true}\n    monitors: [up]\n    on-down: %s\n    members:\n", f, onDown)
		for i := range addrs {
			wall := (i + side) % 2
			fmt.Fprintf(&w, "      - {name: wall-%d, address: \"%s\"}\n", wall+1, addrs[wall])
		}
	}
	w.WriteString("virtual-servers:\n")
	for f, all := range []string{"0.0.0.0/0:any", "[::/0]:any"} {
		fmt.Fprintf(&w, "  - {name: through%d, address: \"%s\", protocol: any, port: hosts, mode: firewall, pool: walls%d, mid-stream: adopt}\n", f, all, f)
	}
	return w.String()
}

// wallCounters are how many packets a firewall has passed and refused.
func wallCounters(t *testing.T, wall *lab.Host) (passed, refused int) {
	t.Helper()
	out := string(must(wall.Run(t.Context(), "nft", "list counters table inet wall"))(t))
	read := func(name string) int {
		m := regexp.MustCompile(name + ` \{\s*packets (\d+)`).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("no counter %s in %s", name, out)
		}
		return must(strconv.Atoi(m[1]))(t)
	}
	return read("passed"), read("refused")
}

// Two sluices with two stateful firewalls between them: connections that either side opens cross one firewall in both
// directions, so that neither ever refuses a packet: transfers by SHA-256, large datagrams in parts, pings. Then each sluice
// is killed without leaving its table, and the other's connections go on all the same.
func TestFirewallSandwich(t *testing.T) {
	beds, s := sandwichBeds(t, 2)
	var daemons [2]*daemon
	for side, b := range beds {
		b.write(b.wallsText(s, side, "workers: 2, keep-connections: false", "keep"))
		for _, a := range []netip.Addr{s.Host4[side], s.Host6[side]} {
			must(lab.TransferServer(s.Host[side], netip.AddrPortFrom(a, bulkPort).String()))(t)
			must(lab.UDPEcho(s.Host[side], netip.AddrPortFrom(a, dnsPort).String(), "echo"))(t)
		}
		daemons[side] = b.start()
	}
	for side, b := range beds {
		for _, a := range []netip.Addr{s.Host4[1-side], s.Host6[1-side]} {
			// Who has never spoken is resolved by the first packet that is for it, which is lost: a SYN comes again.
			ctx, cancel := context.WithTimeout(t.Context(), waitTime)
			must(s.Host[side].Dial(ctx, "tcp", netip.AddrPortFrom(a, bulkPort).String()))(t).Close()
			cancel()
			b.echoes(netip.AddrPortFrom(a, dnsPort), 700, 8)
			b.echoes(netip.AddrPortFrom(a, dnsPort), 30_000, 4)
			ok(t, ping(s.Host[side], a, 3))
		}
	}
	began := time.Now()
	finished := make(chan error, 16)
	transfers := 0
	start := func(size int64) {
		for side := range beds {
			for i, a := range []netip.Addr{s.Host4[1-side], s.Host6[1-side], s.Host4[1-side], s.Host6[1-side]} {
				conn := must(s.Host[side].Dial(t.Context(), "tcp", netip.AddrPortFrom(a, bulkPort).String()))(t)
				t.Cleanup(func() { conn.Close() })
				transfers++
				go func() {
					_, err := lab.Transfer(t.Context(), conn, size, uint64(i))
					finished <- err
				}()
			}
		}
	}
	end := func(when string) {
		t.Helper()
		for ; transfers > 0; transfers-- {
			if err := <-finished; err != nil {
				t.Errorf("a transfer %s: %v; dropped %v %v", when, err, beds[0].drops(), beds[1].drops())
			}
		}
		t.Logf("%s: %s", when, time.Since(began).Round(time.Millisecond))
		for i, wall := range s.Wall {
			passed, refused := wallCounters(t, wall)
			if refused != 0 || passed < 1000 {
				t.Errorf("%s firewall %d has passed %d packets and refused %d", when, i+1, passed, refused)
			}
		}
	}
	start(1 << 20)
	end("at first")
	for side, b := range beds {
		if st, drops := b.totals(), b.drops(); st.Dropped != drops["no_neighbour"] || st.Opened < 8 {
			t.Errorf("side %d: %+v, dropped %v", side, st, drops)
		}
	}
	start(12 << 20)
	time.Sleep(50 * time.Millisecond)
	for side, b := range beds {
		daemons[side].kill()
		daemons[side] = b.start()
		time.Sleep(200 * time.Millisecond)
	}
	end("through two kills")
	for side, d := range daemons {
		d.stop()
		if state := beds[side].hostState(false); state != beds[side].before {
			t.Errorf("the host is not as it was; before:\n%safter:\n%s", beds[side].before, state)
		}
	}
}

// A firewall that falls silent is left by both sluices within the monitors' time: new connections from both sides go through
// the other, and reach it on both.
func TestFirewallFails(t *testing.T) {
	beds, s := sandwichBeds(t, 1)
	var daemons [2]*daemon
	for side, b := range beds {
		b.write(b.wallsText(s, side, "", "reset"))
		whoAsks(t, s.Host[side], netip.AddrPortFrom(s.Host4[side], webPort), netip.AddrPortFrom(s.Host6[side], webPort))
		daemons[side] = b.start()
	}
	through := func(patience time.Duration) (failed int) {
		for side := range beds {
			for _, a := range []netip.Addr{s.Host4[1-side], s.Host6[1-side]} {
				for range 6 { // of several ports, so of both firewalls
					from, err := asked(s.Host[side], netip.AddrPortFrom(a, webPort), patience)
					if err != nil {
						failed++
					} else if own := s.Host4[side]; from.Addr() != own && from.Addr() != s.Host6[side] {
						t.Fatalf("side %d is known as %s, not %s", side, from, own)
					}
				}
			}
		}
		return failed
	}
	if n := through(waitTime); n != 0 {
		t.Errorf("%d connections failed; dropped %v %v", n, beds[0].drops(), beds[1].drops())
	}
	ok(t, s.Wall[0].Silence(t.Context(), true))
	silent := time.Now()
	eventually(t, "both have left the firewall", func() bool { return through(300*time.Millisecond) == 0 })
	t.Logf("left after %s", time.Since(silent).Round(time.Millisecond))
	_, before := wallCounters(t, s.Wall[1])
	if n := through(waitTime); n != 0 {
		t.Errorf("%d connections failed", n)
	}
	if _, refused := wallCounters(t, s.Wall[1]); refused != before {
		t.Errorf("the other firewall has refused %d packets", refused-before)
	}
	for _, d := range daemons {
		d.stop()
	}
}
