package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sluice/ctl"
	"sluice/perf/lab"
	"sluice/rings"
)

const (
	jumboMTU      = 9000
	jumboDatagram = 8900
)

// needJumbo skips where the kernel has no packets of several frames.
func needJumbo(t *testing.T) {
	t.Helper()
	needRoot(t)
	if err := rings.ProbeMultiBuffer(); err != nil {
		t.Skip(err)
	}
}

// setMTU sets the MTU of an interface, or of all of a host but the loopback.
func setMTU(t *testing.T, h *lab.Host, ifname string, mtu int) {
	t.Helper()
	ok(t, h.Do(func() error {
		list, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range list {
			a := l.Attrs()
			if a.Flags&net.FlagLoopback != 0 || ifname != "" && a.Name != ifname {
				continue
			}
			if err := netlink.LinkSetMTU(l, mtu); err != nil {
				return fmt.Errorf("MTU of %s: %w", a.Name, err)
			}
		}
		return nil
	}))
}

// announced has a host's routes by a gateway announce a maximum segment size, whatever the link's MTU is.
func announced(t *testing.T, h *lab.Host, mss int) {
	t.Helper()
	ok(t, h.Do(func() error {
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			list, err := netlink.RouteList(nil, family)
			if err != nil {
				return err
			}
			for _, r := range list {
				if r.Gw == nil {
					continue
				}
				r.AdvMSS = mss
				if err := netlink.RouteReplace(&r); err != nil {
					return fmt.Errorf("route %s: %w", r, err)
				}
			}
		}
		return nil
	}))
}

// seen is the size of the largest frame of a protocol that a capture has, and of how many of that there are.
func seen(c *lab.Capture, proto byte, outgoing bool) (largest, n int) {
	for _, f := range c.Frames() {
		if p, is := protocolOf(f.Data); !is || p != proto || f.Outgoing != outgoing {
			continue
		}
		if len(f.Data) > largest {
			largest, n = len(f.Data), 0
		}
		if len(f.Data) == largest {
			n++
		}
	}
	return largest, n
}

// protocolOf is what a frame's packet carries; of a part of a datagram nothing.
func protocolOf(f []byte) (proto byte, ok bool) {
	switch {
	case len(f) > 34 && f[12] == 0x08 && f[13] == 0:
		return f[23], f[20]&0x3f|f[21] == 0
	case len(f) > 54 && f[12] == 0x86:
		return f[20], f[20] != 44
	}
	return 0, false
}

// jumboTraffic moves a transfer each way, and echoes datagrams, all of one packet of the MTU each, and asserts that they went so.
func (b *bed) jumboTraffic(client, server *lab.Host, bulk, dns netip.AddrPort) {
	t := b.t
	t.Helper()
	at := []*lab.Capture{must(client.Capture("eth0", 2000))(t), must(server.Capture("eth0", 2000))(t)}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn := must(client.Dial(ctx, "tcp", bulk.String()))(t)
	defer conn.Close()
	if _, err := lab.Transfer(ctx, conn, 8<<20, uint64(bulk.Port())); err != nil {
		t.Fatalf("%s: %v; dropped %v", bulk, err, b.drops())
	}
	for i, c := range at {
		ok(t, c.Close())
		for _, outgoing := range []bool{false, true} {
			if largest, n := seen(c, unix.IPPROTO_TCP, outgoing); largest != 14+jumboMTU || n < 50 {
				t.Errorf("%s: capture %d, outgoing %v: the largest frames have %d bytes, and there are %d", bulk, i, outgoing, largest, n)
			}
		}
	}
	at[0] = must(server.Capture("eth0", 1000))(t)
	const rounds = 16
	udp := must(client.Dial(ctx, "udp", dns.String()))(t)
	defer udp.Close()
	came := 0
	for i := range rounds {
		said, got := bytes.Repeat([]byte{byte(i), 1, 2, 3, 4}, jumboDatagram/5), make([]byte, 1<<16)
		_ = must(udp.Write(said))(t)
		_ = udp.SetReadDeadline(time.Now().Add(2 * time.Second))
		n, err := udp.Read(got)
		if err == nil && n > len(said) && bytes.Equal(got[n-len(said):n], said) {
			came++
		} else if err == nil {
			t.Errorf("%s: %d bytes came back, other ones", dns, n)
		}
	}
	ok(t, at[0].Close())
	if came < rounds*3/4 {
		t.Errorf("%s: %d of %d datagrams came back, dropped %v", dns, came, rounds, b.drops())
	}
	for _, outgoing := range []bool{false, true} {
		if largest, n := seen(at[0], unix.IPPROTO_UDP, outgoing); largest < 14+28+jumboDatagram || n < rounds*3/4 {
			t.Errorf("%s: outgoing %v: the largest datagrams have %d bytes, and there are %d", dns, outgoing, largest, n)
		}
	}
}

// serveJumbo has TCP transfers and UDP echoes served.
func (b *bed) serveJumbo() {
	b.serve(bulkPort, func(h *lab.Host, addr, _ string) (*lab.Server, error) { return lab.TransferServer(h, addr) })
	b.serve(dnsPort, lab.UDPEcho)
}

// Packets of 9,000 bytes between kernels at both ends, where addresses of one end or both change, over both families; and to the
// kernel of the balancer, by the host port.
func TestJumboFrames(t *testing.T) {
	for _, c := range []struct{ name, engine, virtual string }{
		{"nat", "workers: 2", ""},
		{"fullnat", "workers: 2, frame-size: 4096", "mode: fullnat, snat: out, "},
		{"generic", "workers: 2, mode: generic", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			needJumbo(t)
			s := settings{engine: c.engine}
			b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 2, MTU: jumboMTU}, s)
			text := strings.ReplaceAll(b.configText(s), "pool: all", c.virtual+"pool: all")
			if c.virtual != "" {
				text += "snat-pools: [{name: out, addresses: [192.168.20.200, \"fd00:192:168:20::200\"]}]\n"
			}
			b.write(text)
			b.serveJumbo()
			d := b.start()
			for _, p := range query[[]ctl.PortView](b, "port") {
				if !p.Jumbo || p.MTU != jumboMTU && p.Name != ctl.HostPortName {
					t.Errorf("%+v", p)
				}
			}
			for f, vip := range b.vips(bulkPort) {
				b.jumboTraffic(b.Client, b.Servers[0], vip, b.vips(dnsPort)[f])
			}
			if s := b.totals(); s.Dropped != 0 || s.ToHost != 0 {
				t.Errorf("%+v, dropped %v", s, b.drops())
			}
			if c.name == "nat" {
				b.jumboToHost()
			}
			d.stop()
		})
	}
}

// jumboToHost asks a member itself. The question is the kernel's to route; the answer, from the port of a service and of no
// connection, comes to the engine, which hands it to the kernel.
func (b *bed) jumboToHost() {
	t := b.t
	t.Helper()
	ok(t, b.Forward(true))
	defer func() { ok(t, b.Forward(false)) }()
	for _, a := range []netip.Addr{b.ServerAddr4[0], b.ServerAddr6[0]} {
		before := b.totals()
		conn := must(b.Client.Dial(t.Context(), "udp", netip.AddrPortFrom(a, dnsPort).String()))(t)
		defer conn.Close()
		if err := echoed(conn, jumboDatagram); err != nil {
			t.Errorf("%s: %v; dropped %v", a, err, b.drops())
		}
		if after := b.totals(); after.ToHost == before.ToHost {
			t.Errorf("%s: nothing went to the kernel: %+v", a, after)
		}
	}
}

// What goes through by routing in no virtual server's name is forwarded as large.
func TestJumboForward(t *testing.T) {
	needJumbo(t)
	b, r := routersBed(t, 2, 0)
	for _, h := range []*lab.Host{r.Host, r.Balancer, r.Edge, r.Site, r.Router[0], r.Router[1]} {
		setMTU(t, h, "", jumboMTU)
	}
	b.before = b.hostState(false)
	b.write(b.routersText(r, "workers: 2", "mode: router, pool: routersFAMILY, mid-stream: adopt", ", snat: provider-PORT", "on-down: keep"))
	for _, a := range []netip.Addr{r.Site4, r.Site6} {
		must(lab.TransferServer(r.Site, netip.AddrPortFrom(a, bulkPort).String()))(t)
		must(lab.UDPEcho(r.Site, netip.AddrPortFrom(a, dnsPort).String(), "site"))(t)
	}
	d := b.start()
	eventually(t, "the routers are up", func() bool {
		for _, m := range query[[]ctl.MemberView](b, "member") {
			if m.State != "active" {
				return false
			}
		}
		return true
	})
	for _, a := range []netip.Addr{r.Site4, r.Site6} {
		b.jumboTraffic(r.Host, r.Site, netip.AddrPortFrom(a, bulkPort), netip.AddrPortFrom(a, dnsPort))
	}
	d.stop()
}

// A port with jumbo frames, and one without: the sender of a packet that is too big for the other is told by ICMP, and TCP goes on.
func TestJumboToSmallPort(t *testing.T) {
	needJumbo(t)
	s := settings{engine: "workers: 2"}
	b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 2, MTU: jumboMTU}, s)
	// The servers, and the way from the balancer to them, take large packets and say so; only the balancer's end does not.
	setMTU(t, b.Balancer, b.Inside, 1500)
	announced(t, b.Client, 1400) // what servers send fits
	b.before = b.hostState(false)
	b.serveJumbo()
	d := b.start()
	for _, p := range query[[]ctl.PortView](b, "port") {
		if want := p.Name != "inside"; p.Jumbo != want {
			t.Errorf("%+v", p)
		}
	}
	for i, vip := range b.vips(bulkPort) {
		before := b.totals()
		at := must(b.Client.Capture("eth0", 2000))(t)
		b.move(vip, 8<<20, uint64(i))
		ok(t, at.Close())
		if largest, _ := seen(at, unix.IPPROTO_TCP, true); largest != 14+jumboMTU {
			t.Errorf("%s: the client's largest segment has %d bytes: it should have tried", vip, largest)
		}
		if after := b.totals(); after.ICMPSent == before.ICMPSent {
			t.Errorf("%s: the client was not told: %+v, dropped %v", vip, after, b.drops())
		}
	}
	d.stop()
}

// Transfers in large segments go on through kill -9 with a restart, and through takeovers; every frame is accounted for in the end.
func TestJumboSurvives(t *testing.T) {
	needJumbo(t)
	s := settings{engine: "workers: 2"}
	b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 2, MTU: jumboMTU}, s)
	b.serveJumbo()
	d := b.start()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var done atomic.Bool
	var moved atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, 4)
	for i := range 4 {
		conn := must(b.Client.Dial(ctx, "tcp", b.vips(bulkPort)[i%2].String()))(t)
		wg.Go(func() {
			defer conn.Close()
			endless := &untilDone{Conn: conn, done: &done, moved: &moved}
			if _, err := lab.Transfer(ctx, endless, 64<<20, uint64(i)); err != nil {
				errs <- fmt.Errorf("transfer %d: %w", i, err)
			}
		})
	}
	underWay := func() { // packets are in all rings when it happens
		t.Helper()
		from := moved.Load()
		eventually(t, "transfers move on", func() bool { return moved.Load() > from+8<<20 })
	}
	for range 2 {
		underWay()
		d.kill()
		d = b.start()
		underWay()
		d, _ = b.takeover(d)
	}
	underWay()
	// A takeover of a port whose MTU is another now goes on with the sockets as they are.
	setMTU(t, b.Balancer, b.Outside, jumboMTU-100)
	d, _ = b.takeover(d)
	setMTU(t, b.Balancer, b.Outside, jumboMTU)
	t.Logf("%d MiB of %d moved meanwhile", moved.Load()>>20, 4*2*64)
	done.Store(true)
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Errorf("%v; dropped %v", err, b.drops())
	}
	d.end(syscall.SIGTERM)
}

// untilDone is a connection that goes slowly until it is done, so that a transfer of a known length is under way as long as it
// is needed.
type untilDone struct {
	net.Conn
	done  *atomic.Bool
	moved *atomic.Int64
}

func (u *untilDone) Read(b []byte) (int, error) {
	n, err := u.Conn.Read(b)
	u.moved.Add(int64(n))
	if !u.done.Load() {
		time.Sleep(5 * time.Millisecond)
	}
	return n, err
}

func (u *untilDone) Write(b []byte) (int, error) {
	if !u.done.Load() {
		time.Sleep(5 * time.Millisecond)
	}
	n, err := u.Conn.Write(b)
	u.moved.Add(int64(n))
	return n, err
}

func (u *untilDone) CloseWrite() error { return u.Conn.(interface{ CloseWrite() error }).CloseWrite() }

// An MTU that is raised while sluice runs: a port that is open for jumbo frames takes them at once, of another it is said that a
// restart is needed, and check says it too.
func TestJumboRaised(t *testing.T) {
	needJumbo(t)
	b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 2}, settings{})
	b.serveJumbo()
	const warning = "packets that do not fit a frame are lost"
	raised := func(mtu int, ends ...*lab.Host) {
		t.Helper()
		setMTU(t, b.Balancer, b.Outside, mtu)
		setMTU(t, b.Balancer, b.Inside, mtu)
		for _, h := range ends {
			setMTU(t, h, "", mtu)
		}
	}
	d := b.start()
	raised(jumboMTU) // the kernel does not let the other ends follow
	eventually(t, "it says that it must be restarted", func() bool {
		return strings.Count(d.log.String(), warning) == 2 && strings.Contains(d.log.String(), "or restart sluice")
	})
	d.stop()
	raised(1500)
	on := strings.NewReplacer("interface: outside", "interface: outside, jumbo: on", "interface: inside", "interface: inside, jumbo: on").Replace(b.configText(settings{}))
	b.write(on)
	d = b.start()
	for i, vip := range b.vips(bulkPort) {
		b.move(vip, 1<<20, uint64(i)) // small ones go as before
	}
	raised(jumboMTU, b.Client, b.Servers[0], b.Switch)
	eventually(t, "it knows the MTU", func() bool {
		for _, p := range query[[]ctl.PortView](b, "port") {
			if p.Name != ctl.HostPortName && p.MTU != jumboMTU {
				return false
			}
		}
		return true
	})
	for f, vip := range b.vips(bulkPort) {
		b.jumboTraffic(b.Client, b.Servers[0], vip, b.vips(dnsPort)[f])
	}
	if strings.Contains(d.log.String(), warning) {
		t.Errorf("warned without cause:\n%s", d.log)
	}
	d.stop()
	b.write(strings.ReplaceAll(on, "jumbo: on", "jumbo: off"))
	if r := b.sluice(nil, "check", "-c", b.config); r.code != 0 || strings.Count(r.stdout, warning) != 2 || !strings.Contains(r.stdout, "set jumbo: auto") {
		t.Errorf("check: %+v", r)
	}
	raised(1500)
}
