package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sluice/perf/lab"
)

// A datagram to a virtual server whose TTL ends at the engine is answered from the port's own address, as traceroute wants
// it, and not from a SNAT address that is on the port as well; one that has a hop left reaches the member.
func TestTraceroute(t *testing.T) {
	for _, mode := range []string{"nat", "fullnat"} {
		t.Run(mode, func(t *testing.T) { traceroute(t, mode == "fullnat") })
	}
}

func traceroute(t *testing.T, snat bool) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 2}, settings{engine: "workers: 2"})
	if snat {
		b.write(strings.NewReplacer("192.168.20.200", "172.16.10.200", "fd00:192:168:20::200", "fd00:172:16:10::200").Replace(b.fullNATText()))
	}
	b.serve(dnsPort, func(h *lab.Host, addr, identity string) (*lab.Server, error) { return lab.UDPEcho(h, addr, identity) })
	d := b.start()
	for i, vip := range b.vips(dnsPort) {
		listen, level, option := "ip4:icmp", unix.IPPROTO_IP, unix.IP_TTL
		exceeded, hop := byte(11), b.Outside4
		if i == 1 {
			listen, level, option = "ip6:ipv6-icmp", unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
			exceeded, hop = 3, b.Outside6
		}
		var pc net.PacketConn
		ok(t, b.Client.Do(func() (err error) {
			pc, err = net.ListenPacket(listen, "")
			return err
		}))
		defer pc.Close()
		ctx, cancel := context.WithTimeout(t.Context(), waitTime)
		defer cancel()
		conn := must(b.Client.Dial(ctx, "udp", vip.String()))(t)
		defer conn.Close()
		setTTL := func(n int) {
			raw := must(conn.(syscall.Conn).SyscallConn())(t)
			var err error
			ok(t, raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, n) }))
			ok(t, err)
		}
		setTTL(1)
		if _, err := conn.Write([]byte("how far")); err != nil {
			t.Fatal(err)
		}
		_ = pc.SetReadDeadline(time.Now().Add(waitTime))
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				t.Fatalf("%s: no answer from %s: %v", vip, hop, err)
			}
			if n > 8 && buf[0] == exceeded { // others are neighbour discovery
				if a, _ := netip.ParseAddr(from.String()); a != hop {
					t.Errorf("%s: the hop is %s, want %s", vip, from, hop)
				}
				break
			}
		}
		setTTL(2)
		if got, err := datagram(conn, "here", waitTime); err != nil {
			t.Errorf("%s: with a TTL of 2: %q, %v", vip, got, err)
		}
	}
	if s := b.totals(); s.ICMPSent != 2 || s.Dropped != 0 {
		t.Errorf("%+v", s)
	}
	d.stop()
}

// A port of a virtual address that no virtual server has, such as those of a traceroute that is told no port: nobody answers, unless
// unmatched says that it is the host's, whose kernel says so from that address, or that the engine does, and the trace has its last hop.
// A reload goes from each to the next.
func TestTracerouteUnmatched(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 2}, settings{engine: "workers: 2"})
	text := b.configText(settings{engine: "workers: 2"})
	b.write(text)
	d := b.start()
	answered := uint64(0)
	for i, unmatched := range []string{"drop", "host", "reset", "drop", "reset", "host"} {
		if i > 0 {
			b.write(strings.NewReplacer("pool: all}", "pool: all, unmatched: "+unmatched+"}", "pool: all6}", "pool: all6, unmatched: "+unmatched+"}").Replace(text))
			if r := b.sluice(nil, "reload", "--socket", b.socket); r.code != 0 {
				t.Fatalf("reload: %s", r.stderr)
			}
		}
		answers := unmatched != "drop"
		for _, vip := range b.vips(33434) {
			ctx, cancel := context.WithTimeout(t.Context(), waitTime)
			conn := must(b.Client.Dial(ctx, "udp", vip.String()))(t)
			if _, err := datagram(conn, "where", listenTime); answers != errors.Is(err, syscall.ECONNREFUSED) || answers == timedOut(err) {
				t.Errorf("%s, unmatched: %s: %v", vip, unmatched, err)
			}
			conn.Close()
			if unmatched != "drop" {
				if _, err := b.Client.Dial(ctx, "tcp", vip.String()); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("%s, unmatched: %s, TCP: %v", vip, unmatched, err)
				}
			}
			cancel()
		}
		if unmatched == "reset" {
			answered += 4
		}
		if s := b.totals(); s.Answered != answered {
			t.Errorf("after %s: %d were answered, want %d", unmatched, s.Answered, answered)
		}
	}
	if s := b.totals(); s.Resets != 4 || s.ICMPSent != 4 || b.drops()["no_virtual_server"] != 4 || len(b.drops()) != 1 {
		t.Errorf("%+v, %v", s, b.drops())
	}
	d.stop()
}

// The last hop of a trace is the virtual address itself, which takes what arrives with a TTL of 1, and so many answers a second leave.
func TestTracerouteReset(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 1}, settings{engine: "icmp-rate: 5"})
	b.write(strings.NewReplacer("pool: all}", "pool: all, unmatched: reset}", "pool: all6}", "pool: all6, unmatched: reset}").Replace(b.configText(settings{engine: "icmp-rate: 5"})))
	d := b.start()
	for i, vip := range b.vips(33434) {
		level, option := unix.IPPROTO_IP, unix.IP_TTL
		if i == 1 {
			level, option = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
		}
		ctx, cancel := context.WithTimeout(t.Context(), waitTime)
		defer cancel()
		conn := must(b.Client.Dial(ctx, "udp", vip.String()))(t)
		defer conn.Close()
		raw := must(conn.(syscall.Conn).SyscallConn())(t)
		var err error
		ok(t, raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) }))
		ok(t, err)
		if _, err := datagram(conn, "where", waitTime); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: %v", vip, err)
		}
		if r := b.sluice(nil, "explain", "--socket", b.socket, "udp", "172.16.10.55:9", b.vips(33434)[0].String()); !strings.Contains(r.stdout, "answered as unreachable, by ICMP, counted as no_virtual_server") &&
			!strings.Contains(r.stdout, "unmatched_rate") {
			t.Errorf("explain: %s%s", r.stdout, r.stderr)
		}
	}
	const flood = 100
	for i := range flood {
		ctx, cancel := context.WithTimeout(t.Context(), waitTime)
		conn := must(b.Client.Dial(ctx, "udp", b.vips(uint16(40000 + i))[0].String()))(t)
		_, err := conn.Write([]byte("scan"))
		ok(t, err)
		conn.Close()
		cancel()
	}
	eventually(t, "every datagram was answered or dropped", func() bool { return b.totals().Answered+b.drops()["unmatched_rate"] == flood+2 })
	if s := b.totals(); b.drops()["unmatched_rate"] == 0 || s.Resets != 0 || s.ICMPSent != s.Answered {
		t.Errorf("%+v, %v", s, b.drops())
	}
	d.stop()
}
