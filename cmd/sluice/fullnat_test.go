package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/ctl"
	"sluice/perf/lab"
)

// oneArmBed is a bed with one port: clients and servers are on its network, and have no route through it.
func oneArmBed(t *testing.T, queues, servers int) (*bed, *lab.OneArm) {
	t.Helper()
	var arm *lab.OneArm
	b := newBedOn(t, func() (*lab.TwoArm, error) {
		var err error
		if arm, err = lab.NewOneArm(context.Background(), queues, servers); err != nil {
			return nil, err
		}
		return &lab.TwoArm{Lab: arm.Lab, Client: arm.Client, Balancer: arm.Balancer, Switch: arm.Switch, Servers: arm.Servers, Outside: arm.Port, Inside: arm.Port,
			VIP4: arm.VIP4, VIP6: arm.VIP6, Client4: arm.Client4, Client6: arm.Client6, ServerAddr4: arm.ServerAddr4, ServerAddr6: arm.ServerAddr6}, nil
	})
	return b, arm
}

// oneArmText is a configuration of full NAT for all of the lab's virtual servers.
func (b *bed) oneArmText(arm *lab.OneArm, engine, ports, mode string) string {
	var w strings.Builder
	fmt.Fprintf(&w, "engine: {%s}\ncontrol: {socket: %s}\nports: [{name: arm, interface: %s}]\n", engine, b.socket, arm.Port)
	fmt.Fprintf(&w, "snat-pools: [{name: out, addresses: [%s, \"%s\"], ports: %s}]\npools:\n", arm.SNAT4, arm.SNAT6, ports)
	for f, addrs := range [][]netip.Addr{arm.ServerAddr4, arm.ServerAddr6} {
		fmt.Fprintf(&w, "  - name: all%d\n    members:\n", f)
		for i, a := range addrs {
			fmt.Fprintf(&w, "      - {name: server-%d, address: \"%s\"}\n", i+1, a)
		}
	}
	w.WriteString("virtual-servers:\n")
	for f, vip := range []netip.Addr{arm.VIP4, arm.VIP6} {
		for _, v := range []struct {
			name, protocol string
			port           int
		}{{"web", "tcp", webPort}, {"bulk", "tcp", bulkPort}, {"dns", "udp", dnsPort}} {
			fmt.Fprintf(&w, "  - {name: %s%d, address: \"%s\", protocol: %s, pool: all%d, %s, timeouts: {", v.name, f, netip.AddrPortFrom(vip, uint16(v.port)), v.protocol, f, mode)
			if v.protocol == "udp" {
				w.WriteString("udp-unanswered: 10m")
			}
			w.WriteString("}}\n")
		}
	}
	return strings.ReplaceAll(w.String(), ", timeouts: {}", "")
}

// Clients and servers on one network, servers that have no route to us: large transfers of the kernel's TCP arrive by
// SHA-256 over both families, members see SNAT addresses only, and go on through a kill, other workers and a takeover.
// SNAT addresses are gone afterwards.
func TestOneArm(t *testing.T) {
	for _, mode := range []string{"mode: fullnat, snat: out", "mode: fullnat, snat: automap", "snat: out"} {
		t.Run(mode, func(t *testing.T) {
			b, arm := oneArmBed(t, 4, 2)
			b.write(b.oneArmText(arm, "workers: 2", "1024-65535", mode))
			b.serve(bulkPort, func(h *lab.Host, addr, _ string) (*lab.Server, error) { return lab.TransferServer(h, addr) })
			b.serve(webPort, lab.HTTPServer)
			d := b.start()
			from := []netip.Addr{arm.SNAT4, arm.SNAT6}
			if strings.Contains(mode, "automap") {
				from = []netip.Addr{arm.Balancer4, arm.Balancer6}
			}
			for f, vip := range b.vips(webPort) {
				captures := []*lab.Capture{must(arm.Servers[0].Capture("eth0", 1e4))(t), must(arm.Servers[1].Capture("eth0", 1e4))(t)}
				for range 4 {
					if who, err := ask(arm.Client, vip, waitTime); err != nil || !strings.HasPrefix(who, "server-") {
						t.Fatalf("%s: %q %v", vip, who, err)
					}
				}
				for i, c := range captures {
					ok(t, c.Close())
					n := 0
					for _, frame := range c.Frames() {
						p := gopacket.NewPacket(frame.Data, layers.LayerTypeEthernet, gopacket.Default)
						tcp, is := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
						if !is || tcp.DstPort != webPort {
							continue
						}
						n++
						if src, _ := netip.AddrFromSlice(p.NetworkLayer().NetworkFlow().Src().Raw()); src != from[f] {
							t.Errorf("server %d was asked by %s, want %s", i+1, src, from[f])
						}
					}
					if n < 6 {
						t.Errorf("server %d has seen %d segments", i+1, n)
					}
				}
			}
			for f, vip := range b.vips(bulkPort) {
				transfer(b, vip.String(), uint64(f))
			}
			finished := make(chan error, 2)
			for _, vip := range b.vips(bulkPort) {
				conn := must(arm.Client.Dial(t.Context(), "tcp", vip.String()))(t)
				defer conn.Close()
				go func() {
					_, err := lab.Transfer(t.Context(), conn, 48<<20, 5)
					finished <- err
				}()
			}
			time.Sleep(50 * time.Millisecond)
			d.kill()
			d = b.start()
			b.write(b.oneArmText(arm, "workers: 3", "1024-65535", mode))
			if r := b.sluice(nil, "reload", "--socket", b.socket); r.code != 0 {
				t.Fatalf("reload: %s", r.stderr)
			}
			for range 2 {
				if err := <-finished; err != nil {
					t.Errorf("a transfer through a kill and other workers: %v; dropped %v", err, b.drops())
				}
			}
			d.stop()
			// The kernel stands aside: without the engine nothing passes.
			ctx, cancel := context.WithTimeout(t.Context(), listenTime)
			defer cancel()
			if conn, err := arm.Client.Dial(ctx, "tcp", b.vips(webPort)[0].String()); err == nil {
				t.Errorf("connected to %s without an engine", conn.RemoteAddr())
			}
		})
	}
}

// One SNAT address with 28,232 ports gives one member as many connections, exactly; those after are dropped and counted by
// name, after a metric has warned. Another member still has all of its own.
func TestSNATExhausted(t *testing.T) {
	b, arm := oneArmBed(t, 2, 1)
	text := b.oneArmText(arm, "workers: 2, connections: 200000", "32768-60999", "mode: fullnat, snat: out")
	b.write(strings.Replace(text, "control: {", "control: {metrics: 127.0.0.1:9090, ", 1))
	member := must(arm.Servers[0].ListenPacket("udp4", netip.AddrPortFrom(arm.ServerAddr4[0], dnsPort).String()))(t)
	sources, done := map[string]int{}, make(chan struct{})
	var read atomic.Uint64
	go func() {
		defer close(done)
		buf := make([]byte, 64)
		for {
			_, from, err := member.ReadFrom(buf)
			if err != nil {
				return
			}
			sources[from.String()]++
			read.Add(1)
		}
	}()
	d := b.start()
	const first, sent, capacity = 1024, 40960, 28232
	to := netip.AddrPortFrom(arm.VIP4, dnsPort).String()
	const batch = 128 // fits the member's socket buffer
	for from := first; from < first+sent; from += batch {
		for port := from; port < from+batch; port++ {
			conn, err := arm.Client.DialFrom(t.Context(), "udp4", netip.AddrPortFrom(arm.Client4, uint16(port)), to)
			if err != nil {
				t.Fatalf("port %d: %v", port, err)
			}
			if _, err := conn.Write([]byte("?")); err != nil {
				t.Errorf("port %d: %v", port, err)
			}
			conn.Close()
		}
		eventually(t, "every datagram was dropped or has become a connection that the member has seen", func() bool {
			s := b.totals()
			return s.Opened+s.Dropped >= uint64(from+batch-first) && read.Load() >= s.Opened
		})
		if from == first+26*1024 { // more than seven eighths, and none refused
			resp := must(arm.Balancer.HTTPClient(false).Get("http://127.0.0.1:9090/metrics"))(t)
			all := string(must(io.ReadAll(resp.Body))(t))
			resp.Body.Close()
			if !regexp.MustCompile(`(?m)^sluice_snat_crowded_port_sets [1-9]`).MatchString(all) || b.totals().Dropped != 0 ||
				!strings.Contains(all, fmt.Sprintf(`sluice_snat_ports{address="172.16.10.200",pool="out"} %d`, read.Load())) {
				t.Errorf("no warning; dropped %v; of the metrics:\n%s", b.drops(), regexp.MustCompile("(?m)^sluice_snat.*$").FindAllString(all, -1))
			}
		}
	}
	if n, drops := dnsOpened(b), b.drops(); n != capacity || drops["snat_exhausted"] != sent-capacity {
		t.Errorf("%d connections, want %d; dropped %v, want %d exhausted", n, capacity, drops, sent-capacity)
	}
	d.stop()
	ok(t, member.Close())
	<-done
	if len(sources) != capacity {
		t.Errorf("the member was asked from %d addresses and ports, want %d", len(sources), capacity)
	}
	for from := range sources {
		if a := netip.MustParseAddrPort(from); a.Addr() != arm.SNAT4 || a.Port() < 32768 || a.Port() > 60999 {
			t.Fatalf("the member was asked by %s", from)
		}
	}
}

func dnsOpened(b *bed) uint64 {
	for _, v := range query[[]ctl.VirtualView](b, "virtual") {
		if v.Name == "dns0" {
			return v.Opened
		}
	}
	return 0
}

// A SNAT address that the file no longer has stays, on the port and in the XDP program, until its last connection has
// ended: also for a successor. New connections have the new address at once.
func TestSNATDrains(t *testing.T) {
	b, arm := oneArmBed(t, 2, 1)
	b.echoServer(arm.Servers[0], netip.AddrPortFrom(arm.ServerAddr4[0], webPort))
	b.write(b.oneArmText(arm, "workers: 2", "1024-65535", "mode: fullnat, snat: out"))
	d := b.start()
	var old []*session
	for range 8 { // in bins of both workers
		old = append(old, must(openSession(arm.Client, b.vips(webPort)[0]))(t))
	}
	other := *arm
	other.SNAT4 = netip.MustParseAddr("172.16.10.201")
	b.write(b.oneArmText(&other, "workers: 2", "1024-65535", "mode: fullnat, snat: out"))
	talk := func(list []*session, when string) {
		t.Helper()
		for i, s := range list {
			if err := s.say(waitTime); err != nil {
				t.Fatalf("%s: session %d: %v; dropped %v", when, i, err, b.drops())
			}
		}
	}
	placed := func(a netip.Addr) bool {
		out, err := arm.Balancer.Run(t.Context(), "ip", "-4", "addr", "show", arm.Port)
		ok(t, err)
		return strings.Contains(string(out), a.String()+"/32")
	}
	talk(old, "before")
	if r := b.sluice(nil, "reload", "--socket", b.socket); r.code != 0 {
		t.Fatalf("reload: %s", r.stderr)
	}
	fresh := []*session{must(openSession(arm.Client, b.vips(webPort)[0]))(t)}
	talk(append(fresh, old...), "after the reload")
	time.Sleep(1500 * time.Millisecond) // longer than between two looks at what has drained
	talk(append(fresh, old...), "later")
	d, _ = b.takeover(d)
	talk(append(fresh, old...), "after a takeover")
	time.Sleep(1500 * time.Millisecond)
	talk(append(fresh, old...), "later")
	if !placed(arm.SNAT4) || !placed(other.SNAT4) {
		t.Errorf("%s is on the port: %v, %s: %v", arm.SNAT4, placed(arm.SNAT4), other.SNAT4, placed(other.SNAT4))
	}
	from := map[string]int{}
	for _, c := range query[[]ctl.ConnView](b, "conn") {
		from[netip.MustParseAddrPort(c.ServerSideClient).Addr().String()]++
	}
	if from["172.16.10.200"] != 8 || from["172.16.10.201"] != 1 {
		t.Errorf("connections by SNAT address: %v", from)
	}
	for _, s := range old {
		s.Close()
	}
	eventually(t, "the old address is taken off the port", func() bool { return !placed(arm.SNAT4) })
	talk(fresh, "when the others have ended")
	fresh[0].Close()
	d.stop()
}

// automap is refused where the kernel gives the same ports of the port's own address to the host's connections.
func TestAutomapPorts(t *testing.T) {
	b, arm := oneArmBed(t, 1, 1)
	b.write(b.oneArmText(arm, "", "1024-65535", "mode: fullnat, snat: automap"))
	if r := b.sluice(nil, "check", "-c", b.config); r.code != 0 {
		t.Fatalf("check: %s", r.stderr)
	}
	ok(t, arm.Balancer.Sysctl("net.ipv4.ip_local_port_range", "20000 60999"))
	for _, command := range []string{"check", "run"} {
		if r := b.sluice(nil, command, "-c", b.config); r.code != 1 || !strings.Contains(r.stderr, "automap takes ports 16384 to 32767") || !strings.Contains(r.stderr, "20000 to 60999") {
			t.Errorf("%s: exit code %d: %s", command, r.code, r.stderr)
		}
	}
}
