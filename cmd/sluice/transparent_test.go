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

	"sluice/ctl"
	"sluice/perf/lab"
)

// In every transparent mode, between kernels at both ends: the site sees the address that it should; large transfers of TCP
// arrive over a link of 1280 bytes that only ICMP errors tell of, and go on through a kill, other workers and a takeover;
// datagrams of 60,000 bytes come in parts both ways; traceroute shows us, and the router behind us; ping passes.
func TestTransparentModes(t *testing.T) {
	for _, c := range []struct {
		name, virtual, member, from string
	}{
		{"router-snat", "mode: router, pool: routersFAMILY", ", snat: provider-PORT", "provider"},
		{"router", "mode: router, pool: routersFAMILY", "", "host"},
		{"forward-automap", "mode: forward, snat: automap", "", "balancer"},
		{"forward-pool", "mode: forward, snat: provider-a", "", "provider"},
		{"forward", "mode: forward", "", "host"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, r := routersBed(t, 2, 1280)
			forward := strings.HasPrefix(c.name, "forward")
			if forward {
				ok(t, r.Balancer.DefaultRoute(r.Router4[0].String()))
				ok(t, r.Balancer.DefaultRoute(r.Router6[0].String()))
				b.before = b.hostState(false)
			}
			text := func(engine string) string { return b.routersText(r, engine, c.virtual, c.member, "on-down: keep") }
			b.write(text("workers: 2"))
			whoAsks(t, r.Site, b.vips(webPort)...)
			for _, to := range b.vips(bulkPort) {
				must(lab.TransferServer(r.Site, to.String()))(t)
			}
			b.serve(dnsPort, lab.UDPEcho)
			d := b.start()
			for f, to := range b.vips(webPort) {
				want := map[string][]netip.Addr{"provider": {r.Provider4[0], r.Provider4[1], r.Provider6[0], r.Provider6[1]}, "host": {r.Host4, r.Host6}, "balancer": {r.Balancer4[0], r.Balancer6[0]}}[c.from]
				for range 4 {
					from, err := asked(r.Host, to, waitTime)
					if err != nil {
						t.Fatalf("%s: %v; dropped %v\n%s", to, err, b.drops(), d.log)
					}
					found := false
					for _, a := range want {
						found = found || a == from.Addr()
					}
					if !found {
						t.Errorf("family %d: the site was asked from %s, want one of %s", f, from, want)
					}
				}
			}
			for _, to := range b.vips(dnsPort) {
				b.echoes(to, 60_000, 6)
			}
			for f, to := range b.vips(dnsPort) {
				hop2 := [2][]netip.Addr{r.Router4[:], r.Router6[:]}[f]
				if got := hopAt(t, r.Host, to, 1, f == 1); got != [2]netip.Addr{r.Inside4, r.Inside6}[f] {
					t.Errorf("%s: the first hop is %s", to, got)
				}
				if got := hopAt(t, r.Host, to, 2, f == 1); got != hop2[0] && (forward || got != hop2[1]) {
					t.Errorf("%s: the second hop is %s", to, got)
				}
				ok(t, ping(r.Host, to.Addr(), 7))
			}
			if forward { // to neighbours that are resolved when they are needed
				neighbours := []netip.Addr{r.Router4[0], r.Router6[0], r.Router4[1], r.Router6[1]}
				if c.name == "forward-pool" { // the other provider has no way back to its addresses
					neighbours = neighbours[:2]
				}
				for _, to := range neighbours {
					ctx, cancel := context.WithTimeout(t.Context(), waitTime)
					conn, err := r.Host.Dial(ctx, "tcp", netip.AddrPortFrom(to, 9).String())
					cancel()
					if !errors.Is(err, unix.ECONNREFUSED) {
						t.Errorf("%s, which has nothing there: %v %v; dropped %v", to, conn, err, b.drops())
					}
				}
			}
			before := b.totals()
			finished := make(chan error, 2)
			for i, to := range b.vips(bulkPort) {
				conn := must(r.Host.Dial(t.Context(), "tcp", to.String()))(t)
				defer conn.Close()
				go func() {
					_, err := lab.Transfer(t.Context(), conn, 24<<20, uint64(i))
					finished <- err
				}()
			}
			eventually(t, "errors of a router have come through", func() bool { return b.totals().ICMPErrors >= before.ICMPErrors+2 })
			for _, conn := range query[[]ctl.ConnView](b, "conn") {
				if !strings.HasPrefix(conn.VirtualServer, "out") || conn.ClientSideServer != conn.ServerSideServer {
					t.Errorf("%+v", conn)
				}
				if forward && !strings.HasSuffix(conn.ClientSideServer, ":9") && (!strings.HasSuffix(conn.Pool, "/0") || conn.Member != r.Router4[0].String() && conn.Member != r.Router6[0].String()) {
					t.Errorf("%+v", conn)
				}
			}
			d.kill()
			d = b.start()
			b.write(text("workers: 1"))
			if r := b.sluice(nil, "reload", "--socket", b.socket); r.code != 0 {
				t.Fatalf("reload: %s", r.stderr)
			}
			d, _ = b.takeover(d)
			for range 2 {
				if err := <-finished; err != nil {
					t.Errorf("a transfer through a kill, another number of workers and a takeover: %v; dropped %v", err, b.drops())
				}
			}
			d.stop()
			// The kernel stands aside: without the engine nothing passes.
			if from, err := asked(r.Host, b.vips(webPort)[0], listenTime); err == nil {
				t.Errorf("asked from %s without an engine", from)
			}
		})
	}
}

// hopAt is who says that the TTL of a datagram has ended.
func hopAt(t *testing.T, h *lab.Host, to netip.AddrPort, ttl int, v6 bool) netip.Addr {
	t.Helper()
	listen, level, option, exceeded := "ip4:icmp", unix.IPPROTO_IP, unix.IP_TTL, byte(11)
	if v6 {
		listen, level, option, exceeded = "ip6:ipv6-icmp", unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 3
	}
	var pc net.PacketConn
	ok(t, h.Do(func() (err error) {
		pc, err = net.ListenPacket(listen, "")
		return err
	}))
	defer pc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), waitTime)
	defer cancel()
	conn := must(h.Dial(ctx, "udp", to.String()))(t)
	defer conn.Close()
	raw := must(conn.(syscall.Conn).SyscallConn())(t)
	var err error
	ok(t, raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, ttl) }))
	ok(t, err)
	buf := make([]byte, 1500)
	for range 10 { // routers say it so often a second only
		if _, err := conn.Write([]byte("how far")); err != nil {
			continue // an error of an earlier one
		}
		_ = pc.SetReadDeadline(time.Now().Add(time.Second))
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				break
			}
			if n > 8 && buf[0] == exceeded {
				a, _ := netip.ParseAddr(from.String())
				return a
			}
		}
	}
	t.Fatalf("%s: nobody says that a TTL of %d has ended", to, ttl)
	return netip.Addr{}
}
