package main

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"sluice/perf/lab"
)

// What is not ours reaches the kernel while the program runs, over both families: the host's own addresses, ICMP to
// the virtual address, the host's own connections to a member's service. The kernel forwards nothing.
func TestKernelTraffic(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 2}, settings{})
	b.serve(webPort, lab.HTTPServer)
	sshAddrs := []netip.Addr{b.Outside4, b.Outside6, b.Inside4, b.Inside6}
	for _, a := range sshAddrs {
		b.echoServer(b.Balancer, netip.AddrPortFrom(a, 22))
	}
	d := b.start()
	for seq := range uint16(3) {
		for _, a := range append(sshAddrs, b.VIP4, b.VIP6) {
			if err := ping(b.Client, a, seq); err != nil {
				t.Errorf("from the client: %v", err)
			}
		}
		for _, a := range []netip.Addr{b.Inside4, b.Inside6} {
			if err := ping(b.Servers[0], a, seq); err != nil {
				t.Errorf("from a member: %v", err)
			}
		}
	}
	for _, a := range sshAddrs {
		s, err := openSession(b.Client, netip.AddrPortFrom(a, 22))
		if err != nil {
			t.Errorf("ssh: %v", err)
			continue
		}
		for range 3 {
			if err := s.say(waitTime); err != nil {
				t.Errorf("ssh to %s: %v", a, err)
			}
		}
		s.Close()
	}
	// A probe of the balancer itself: the member's answer comes from its service, and yet it is the kernel's.
	for i := range b.Servers {
		for _, a := range []netip.Addr{b.ServerAddr4[i], b.ServerAddr6[i]} {
			who, err := ask(b.Balancer, netip.AddrPortFrom(a, webPort), waitTime)
			if want := fmt.Sprintf("server-%d", i+1); err != nil || who != want {
				t.Errorf("probe of %s: %q %v, want %s", a, who, err, want)
			}
		}
	}
	if n := b.totals(); n.Received != 0 {
		t.Errorf("the engine has seen %d packets that are the kernel's", n.Received)
	}
	// It does serve.
	for _, vip := range b.vips(webPort) {
		if _, err := ask(b.Client, vip, waitTime); err != nil {
			t.Errorf("%s: %v", vip, err)
		}
	}
	d.stop()
}

// With forwarding on, the kernel routes beside the engine. What a member's service answers to a connection that did
// not come through a virtual address is taken by XDP, has no connection, and goes back to the kernel.
func TestForwardedTraffic(t *testing.T) {
	for _, mode := range []string{"auto", "generic"} {
		t.Run(mode, func(t *testing.T) {
			b := newBed(t, lab.TwoArmOptions{Servers: 2, Queues: 2}, settings{engine: "mode: " + mode})
			b.serve(webPort, lab.HTTPServer)
			clientAddrs := []netip.Addr{b.Client4, b.Client6}
			for _, a := range clientAddrs {
				b.echoServer(b.Client, netip.AddrPortFrom(a, 7))
			}
			ok(t, b.Forward(true))
			d := b.start()
			for i := range b.Servers {
				for _, a := range []netip.Addr{b.ServerAddr4[i], b.ServerAddr6[i]} {
					before := b.totals()
					who, err := ask(b.Client, netip.AddrPortFrom(a, webPort), waitTime)
					if want := fmt.Sprintf("server-%d", i+1); err != nil || who != want {
						t.Errorf("directly to %s: %q %v, want %s; dropped: %v", a, who, err, want, b.drops())
					}
					// Between two workers a packet is for a moment counted as received only.
					eventually(t, fmt.Sprintf("all of at least 3 answers of %s went to the host", a), func() bool {
						after := b.totals()
						n := after.ToHost - before.ToHost
						return n >= 3 && n == after.Received-before.Received && after.Opened == before.Opened
					})
				}
				for _, a := range clientAddrs { // the member's own connection
					s, err := openSession(b.Servers[i], netip.AddrPortFrom(a, 7))
					if err != nil {
						t.Errorf("from a member: %v", err)
						continue
					}
					if err := s.say(waitTime); err != nil {
						t.Errorf("from a member to %s: %v", a, err)
					}
					s.Close()
				}
			}
			for _, vip := range b.vips(webPort) {
				if _, err := ask(b.Client, vip, waitTime); err != nil {
					t.Errorf("%s: %v", vip, err)
				}
			}
			d.stop()
			ok(t, b.Forward(false))
		})
	}
}

// A direct transfer through the host port arrives intact: it is as good a path as any.
func TestHostPortTransfer(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1}, settings{})
	s := must(lab.TransferServer(b.Servers[0], netip.AddrPortFrom(b.ServerAddr4[0], bulkPort).String()))(t)
	ok(t, b.Forward(true))
	d := b.start()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	conn := must(b.Client.Dial(ctx, "tcp", s.Addr().String()))(t)
	defer conn.Close()
	r, err := lab.Transfer(ctx, conn, 16<<20, 1)
	ok(t, err)
	n := b.totals()
	t.Logf("16 MiB each way in %s, %d packets through the host port, dropped %v", r.Elapsed.Round(time.Millisecond), n.ToHost, b.drops())
	if n.ToHost < 16<<20/1460 || n.ToHost != n.Received {
		t.Errorf("of %d packets received %d went to the host", n.Received, n.ToHost)
	}
	d.stop()
	ok(t, b.Forward(false))
}
