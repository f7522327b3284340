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
// unmatched says that it is the host's, whose kernel says so from that address, and the trace has its last hop.
func TestTracerouteUnmatched(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 1}, settings{})
	text := b.configText(settings{})
	b.write(text)
	d := b.start()
	for _, host := range []bool{false, true} {
		if host {
			b.write(strings.NewReplacer("pool: all}", "pool: all, unmatched: host}", "pool: all6}", "pool: all6, unmatched: host}").Replace(text))
			if r := b.sluice(nil, "reload", "--socket", b.socket); r.code != 0 {
				t.Fatalf("reload: %s", r.stderr)
			}
		}
		for _, vip := range b.vips(33434) {
			ctx, cancel := context.WithTimeout(t.Context(), waitTime)
			conn := must(b.Client.Dial(ctx, "udp", vip.String()))(t)
			if _, err := datagram(conn, "where", listenTime); host != errors.Is(err, syscall.ECONNREFUSED) || host == timedOut(err) {
				t.Errorf("%s, unmatched: host is %v: %v", vip, host, err)
			}
			conn.Close()
			cancel()
		}
	}
	d.stop()
}
