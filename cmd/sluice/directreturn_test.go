package main

import (
	"bytes"
	"context"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"sluice/ctl"
	"sluice/perf/lab"
)

// directText is the configuration with every virtual server in a mode in which members have its address themselves.
func (b *bed) directText(engine, mode string) string {
	text := strings.ReplaceAll(b.configText(settings{engine: engine}), ", pool: all}", ", pool: all, "+mode+"}")
	return strings.ReplaceAll(text, ", pool: all6}", ", pool: all6, "+mode+"}")
}

// serveVIP starts a server on every member, at the virtual addresses.
func (b *bed) serveVIP(port uint16, start func(h *lab.Host, addr, identity string) (*lab.Server, error)) {
	b.t.Helper()
	for i, h := range b.Servers {
		for _, a := range []netip.Addr{b.VIP4, b.VIP6} {
			must(start(h, netip.AddrPortFrom(a, port).String(), "server-"+string(rune('1'+i))))(b.t)
		}
	}
}

// Direct return with members that have the virtual addresses on their loopback and another link to the client: transfers of
// the kernels' own TCP arrive by SHA-256, large datagrams whole, and the engine sees no answer at all. Connections go on
// through a kill, other workers and a takeover.
func TestDirectReturn(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 2, Queues: 2}, settings{})
	ok(t, b.DirectReturn(b.Servers...))
	b.write(b.directText("workers: 2", "mode: direct-return"))
	b.serveVIP(bulkPort, func(h *lab.Host, addr, _ string) (*lab.Server, error) { return lab.TransferServer(h, addr) })
	b.serveVIP(webPort, lab.HTTPServer)
	b.serveVIP(dnsPort, lab.UDPEcho)
	d := b.start()
	for _, vip := range b.vips(webPort) {
		seen := map[string]int{}
		for range 4 {
			who, err := ask(b.Client, vip, waitTime)
			ok(t, err)
			seen[who]++
		}
		if seen["server-1"] != 2 || seen["server-2"] != 2 {
			t.Errorf("%s: answers of %v", vip, seen)
		}
	}
	for _, vip := range b.vips(dnsPort) {
		b.echoes(vip, 60_000, 10)
	}
	finished := make(chan error, 2)
	for i, vip := range b.vips(bulkPort) {
		conn := must(b.Client.Dial(t.Context(), "tcp", vip.String()))(t)
		defer conn.Close()
		go func() {
			_, err := lab.Transfer(t.Context(), conn, 64<<20, uint64(i))
			finished <- err
		}()
	}
	eventually(t, "both transfers are in the table", func() bool {
		n := 0
		for _, c := range query[[]ctl.ConnView](b, "conn") {
			if c.ClientSideServer != c.ServerSideServer || c.ServerSideClient != c.ClientSideClient || !strings.HasPrefix(c.NodeAddress, "192.168.20.") && !strings.HasPrefix(c.NodeAddress, "fd00:192") {
				t.Fatalf("%+v", c)
			}
			if c.State == "established" && strings.HasPrefix(c.VirtualServer, "bulk") {
				n++
			}
		}
		return n == 2
	})
	if s := b.totals(); s.ToClient != 0 || s.ToHost != 0 || s.Dropped != 0 {
		t.Errorf("%+v, dropped %v", s, b.drops())
	}
	d.kill()
	d = b.start()
	b.write(b.directText("workers: 1", "mode: direct-return"))
	if r := b.sluice(nil, "reload", "--socket", b.socket); r.code != 0 {
		t.Fatalf("reload: %s", r.stderr)
	}
	d, _ = b.takeover(d)
	for range 2 {
		if err := <-finished; err != nil {
			t.Errorf("a transfer through a kill, another number of workers and a takeover: %v; dropped %v", err, b.drops())
		}
	}
	if s := b.totals(); s.ToClient != 0 {
		t.Errorf("%+v", s)
	}
	d.stop()
}

// echoes sends large datagrams to a server that sends them back, in parts both ways.
func (b *bed) echoes(vip netip.AddrPort, size, rounds int) {
	t := b.t
	t.Helper()
	lost := 0
	for i := range rounds {
		ctx, cancel := context.WithTimeout(t.Context(), waitTime)
		conn := must(b.Client.Dial(ctx, "udp", vip.String()))(t)
		said, got := bytes.Repeat([]byte{byte(i), 1, 2, 3, 4, 5, 6}, size/7), make([]byte, 1<<16)
		if _, err := conn.Write(said); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
		n, err := conn.Read(got)
		if err != nil {
			lost++ // a ring that is full for a moment costs a datagram
		} else if n <= len(said) || !bytes.Equal(got[n-len(said):n], said) {
			t.Errorf("%s: %d bytes came back, other ones", vip, n)
		}
		conn.Close()
		cancel()
	}
	if lost > rounds/2 {
		t.Errorf("%s: %d of %d datagrams of %d bytes were lost; dropped %v", vip, lost, rounds, size, b.drops())
	}
}

// A client behind a link of 1280 bytes: routers tell the virtual address that answers are too big, which come past us, and
// the engine tells the member that has the connection.
func TestDirectReturnPathMTU(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 2, Queues: 2}, settings{})
	ok(t, b.DirectReturn(b.Servers...))
	far := must(b.BehindClient(1280))(t)
	b.before = b.hostState(false)
	b.write(b.directText("workers: 2", "mode: direct-return"))
	b.serveVIP(bulkPort, func(h *lab.Host, addr, _ string) (*lab.Server, error) { return lab.TransferServer(h, addr) })
	d := b.start()
	for i, vip := range b.vips(bulkPort) {
		before := b.totals()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		conn := must(far.Far.Dial(ctx, "tcp", vip.String()))(t)
		_, err := lab.Transfer(ctx, conn, 4<<20, uint64(i))
		conn.Close()
		cancel()
		after := b.totals()
		if err != nil {
			t.Fatalf("%s: %v; dropped %v, %+v", vip, err, b.drops(), after)
		}
		if after.ICMPErrors == before.ICMPErrors || after.ToClient != 0 {
			t.Errorf("%s: %+v", vip, after)
		}
	}
	d.stop()
}

// A member behind a gateway is refused, with the line: its packets would come back.
func TestDirectReturnBehindGateway(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1}, settings{})
	ok(t, b.Balancer.Route("192.168.77.0/24", b.ServerAddr4[0].String()))
	b.before = b.hostState(false)
	text := strings.Replace(b.directText("", "mode: direct-return"), b.ServerAddr4[0].String(), "192.168.77.7", 1)
	b.write(text)
	line := strings.Count(text[:strings.Index(text, "192.168.77.7")], "\n") + 1
	for _, command := range []string{"check", "run"} {
		r := b.sluice(nil, command, "-c", b.config)
		if r.code != 1 || !strings.Contains(r.stderr, "is behind the gateway 192.168.20.1") || !strings.Contains(r.stderr, ":"+strconv.Itoa(line)+":") {
			t.Errorf("%s: exit code %d: %s", command, r.code, r.stderr)
		}
	}
}
