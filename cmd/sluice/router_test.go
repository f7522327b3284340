package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/ctl"
	"sluice/perf/lab"
)

// routersBed is a bed on the network with two routers; what others know as virtual addresses are those of the site.
func routersBed(t *testing.T, queues, mtu int) (*bed, *lab.Routers) {
	t.Helper()
	var r *lab.Routers
	b := newBedOn(t, func() (*lab.TwoArm, error) {
		var err error
		if r, err = lab.NewRouters(context.Background(), queues, mtu); err != nil {
			return nil, err
		}
		return &lab.TwoArm{Lab: r.Lab, Client: r.Host, Balancer: r.Balancer, Servers: []*lab.Host{r.Site}, Outside: r.Ports[0], Inside: r.Inside,
			VIP4: r.Site4, VIP6: r.Site6, Client4: r.Host4, Client6: r.Host6, Inside4: r.Inside4, Inside6: r.Inside6,
			ServerAddr4: []netip.Addr{r.Site4}, ServerAddr6: []netip.Addr{r.Site6}}, nil
	})
	return b, r
}

// routersText is a configuration for everything that goes out. Router b is known by the file, router a by ARP and ND.
func (b *bed) routersText(r *lab.Routers, engine, virtual, member, pool string) string {
	var w strings.Builder
	fmt.Fprintf(&w, "engine: {%s}\ncontrol: {socket: %s}\nports: [{name: inside, interface: %s}, {name: a, interface: %s}, {name: b, interface: %s}]\n",
		engine, b.socket, r.Inside, r.Ports[0], r.Ports[1])
	fmt.Fprintf(&w, "neighbours: [{address: %s, mac: \"%s\", port: b}, {address: \"%s\", mac: \"%s\", port: b}]\n", r.Router4[1], r.RouterMAC[1], r.Router6[1], r.RouterMAC[1])
	w.WriteString("monitors: [{name: up, type: icmp, interval: 100ms, timeout: 100ms, fall: 2, rise: 2}]\nsnat-pools:\n")
	for i, port := range r.Ports {
		fmt.Fprintf(&w, "  - {name: provider-%s, addresses: [%s, \"%s\"], port: %s}\n", port, r.Provider4[i], r.Provider6[i], port)
	}
	if !strings.Contains(virtual, "forward") {
		w.WriteString("pools:\n")
		for f, addrs := range [][2]netip.Addr{r.Router4, r.Router6} {
			fmt.Fprintf(&w, "  - name: routers%d\n    monitors: [up]\n    %s\n    members:\n", f, pool)
			for i, port := range r.Ports {
				fmt.Fprintf(&w, "      - {name: router-%s, address: \"%s\"%s}\n", port, addrs[i], strings.ReplaceAll(member, "PORT", port))
			}
		}
	}
	w.WriteString("virtual-servers:\n")
	for f, all := range []string{"0.0.0.0/0:any", "[::/0]:any"} {
		fmt.Fprintf(&w, "  - {name: out%d, address: \"%s\", protocol: any, port: inside, %s}\n", f, all, strings.ReplaceAll(virtual, "FAMILY", fmt.Sprint(f)))
	}
	return w.String()
}

// whoAsks has the site tell those who connect where they come from.
func whoAsks(t *testing.T, h *lab.Host, addrs ...netip.AddrPort) {
	t.Helper()
	for _, a := range addrs {
		l := must(h.Listen("tcp", a.String()))(t)
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					fmt.Fprintln(c, c.RemoteAddr())
				}()
			}
		}()
	}
}

// asked is the address that the site sees.
func asked(h *lab.Host, to netip.AddrPort, patience time.Duration) (netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := h.Dial(ctx, "tcp", to.String())
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	text, err := io.ReadAll(conn)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.ParseAddrPort(strings.TrimSpace(string(text)))
}

// The classic figure: two routers, aa:aa:aa:aa:aa:aa and ba:bb:bb:bb:bb:bb, each with its provider's network. The host reaches
// a site through both, as an address of the provider, and every answer comes back through the same router. A router that falls
// silent gets nothing new within the monitor's time, and is used again when it speaks.
func TestRouterBalancing(t *testing.T) {
	b, r := routersBed(t, 2, 1500)
	b.write(b.routersText(r, "workers: 2", "mode: router, pool: routersFAMILY", ", snat: provider-PORT", "scheduler: round-robin"))
	whoAsks(t, r.Site, b.vips(webPort)...)
	captures := []*lab.Capture{must(r.Router[0].Capture("eth0", 1e4))(t), must(r.Router[1].Capture("eth0", 1e4))(t)}
	d := b.start()
	if r := b.sluice(nil, "check", "-c", b.config); r.code != 0 {
		t.Errorf("check: %s", r.stderr)
	}
	for f, to := range b.vips(webPort) {
		seen := map[netip.Addr]int{}
		for range 20 {
			from, err := asked(r.Host, to, waitTime)
			if err != nil {
				t.Fatalf("%s: %v; dropped %v", to, err, b.drops())
			}
			seen[from.Addr()]++
		}
		for i := range 2 {
			if own := [][2]netip.Addr{r.Provider4, r.Provider6}[f][i]; seen[own] != 10 {
				t.Errorf("%s was asked from %v, want 10 times from %s", to, seen, own)
			}
		}
	}
	for i, c := range captures {
		ok(t, c.Close())
		count := [2]int{}
		for _, frame := range c.Frames() {
			p := gopacket.NewPacket(frame.Data, layers.LayerTypeEthernet, gopacket.Default)
			tcp, is := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
			if !is {
				continue
			}
			eth := p.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
			src, _ := netip.AddrFromSlice(p.NetworkLayer().NetworkFlow().Src().Raw())
			dst, _ := netip.AddrFromSlice(p.NetworkLayer().NetworkFlow().Dst().Raw())
			own, out := src, 0
			if tcp.SrcPort == webPort {
				own, out = dst, 1
			}
			if own != r.Provider4[i] && own != r.Provider6[i] {
				t.Fatalf("router %d has seen a packet from %s to %s", i, src, dst)
			}
			if out == 0 && eth.DstMAC.String() != r.RouterMAC[i].String() {
				t.Errorf("router %d: a frame for %s", i, eth.DstMAC)
			}
			count[out]++
		}
		if count[0] < 20*4 || count[1] < 20*3 {
			t.Errorf("router %d has seen %d packets out and %d back", i, count[0], count[1])
		}
	}
	for _, c := range query[[]ctl.ConnView](b, "conn") {
		if c.ClientSideServer != c.ServerSideServer || c.ServerSideClient == c.ClientSideClient || !strings.HasPrefix(c.Member, "router-") || !strings.HasPrefix(c.Pool, "routers") {
			t.Errorf("%+v", c)
		}
	}
	to := b.vips(webPort)[0]
	used := func(patience time.Duration) int {
		from, err := asked(r.Host, to, patience)
		if err != nil {
			return -1
		}
		for i := range 2 {
			if from.Addr() == r.Provider4[i] {
				return i
			}
		}
		t.Fatalf("asked from %s", from)
		return -1
	}
	ok(t, r.Router[0].Silence(t.Context(), true))
	silent := time.Now()
	eventually(t, "router a is found down", func() bool {
		for _, m := range query[[]ctl.MemberView](b, "member") {
			if m.Pool == "routers0" && m.Name == "router-a" {
				return strings.HasPrefix(m.State, "down")
			}
		}
		return false
	})
	t.Logf("found down after %s", time.Since(silent).Round(time.Millisecond))
	for range 10 {
		if i := used(waitTime); i != 1 {
			t.Errorf("a new connection went by router %d, with router 0 down", i)
		}
	}
	ok(t, r.Router[0].Silence(t.Context(), false))
	eventually(t, "router a is used again", func() bool { return used(waitTime) == 0 })
	d.stop()
}

// Connections without SNAT move to the other router at once when theirs falls silent, where the pool says so: a transfer
// goes on. With reset they end.
func TestRouterMoves(t *testing.T) {
	for _, policy := range []string{"move", "reset"} {
		t.Run(policy, func(t *testing.T) {
			b, r := routersBed(t, 2, 1500)
			b.write(b.routersText(r, "workers: 2", "mode: router, pool: routersFAMILY", "", "on-down: "+policy))
			must(lab.TransferServer(r.Site, netip.AddrPortFrom(r.Site4, bulkPort).String()))(t)
			d := b.start()
			finished := make(chan error, 4)
			var conns []net.Conn
			for i := range 4 {
				conn := must(r.Host.Dial(t.Context(), "tcp", netip.AddrPortFrom(r.Site4, bulkPort).String()))(t)
				defer conn.Close()
				conns = append(conns, conn)
				go func() {
					_, err := lab.Transfer(t.Context(), conn, 48<<20, uint64(i))
					finished <- err
				}()
			}
			eventually(t, "all connections are in the table", func() bool { return len(query[[]ctl.ConnView](b, "conn")) == 4 })
			ok(t, r.Router[0].Silence(t.Context(), true))
			failed := 0
			for range conns {
				if err := <-finished; err != nil {
					failed++
				}
			}
			if want := map[string]int{"move": 0, "reset": 2}[policy]; failed != want {
				t.Errorf("%d of 4 transfers failed, want %d; dropped %v", failed, want, b.drops())
			}
			d.stop()
		})
	}
}
