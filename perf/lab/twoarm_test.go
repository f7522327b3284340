package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// serverAddrs are the addresses of all servers, both families, with a port.
func serverAddrs(ta *TwoArm, port uint16) (addrs []netip.AddrPort, index []int) {
	for i := range ta.Servers {
		addrs = append(addrs, netip.AddrPortFrom(ta.ServerAddr4[i], port), netip.AddrPortFrom(ta.ServerAddr6[i], port))
		index = append(index, i, i)
	}
	return addrs, index
}

// The balancer carries nothing by itself: the client reaches no server until its kernel forwards, and none after.
func TestTwoArmForwarding(t *testing.T) {
	ta := twoArm(t, TwoArmOptions{Queues: 2})
	addrs, index := serverAddrs(ta, 80)
	var servers []*Server
	for i, a := range addrs {
		servers = append(servers, must(HTTPServer(ta.Servers[index[i]], a.String(), fmt.Sprintf("server %d", index[i]+1)))(t))
	}
	unreachable := func() {
		t.Helper()
		for _, a := range addrs {
			ctx, cancel := context.WithTimeout(context.Background(), 150*time.Millisecond)
			if conn, err := ta.Client.Dial(ctx, "tcp", a.String()); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("dial %s without forwarding: %v %v", a, conn, err)
			}
			cancel()
		}
	}
	unreachable()
	ok(t, ta.Forward(true))
	for _, keepAlive := range []bool{true, false} {
		client := ta.Client.HTTPClient(keepAlive)
		for i, a := range addrs {
			for range 3 {
				if body, err := get(client, "http://"+a.String()); err != nil || body != fmt.Sprintf("server %d\n", index[i]+1) {
					t.Errorf("get %s: %q %v", a, body, err)
				}
			}
		}
		client.CloseIdleConnections()
	}
	for i, s := range servers {
		if r, c := s.Requests.Load(), s.Connections.Load(); r != 6 || c != 4 {
			t.Errorf("%s: %d requests, %d connections, want 6 and 4", addrs[i], r, c)
		}
	}
	ok(t, ta.Forward(false))
	unreachable()
}

// Client addresses, routes to the virtual address and links are as documented, seen by the tools of the system.
func TestTwoArmSeenByTools(t *testing.T) {
	ta := twoArm(t, TwoArmOptions{Queues: 3, Servers: 2, MTU: 3000})
	for _, tool := range []string{"ip", "ethtool"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed: %v", tool, err)
		}
	}
	run := func(h *Host, args ...string) string {
		t.Helper()
		out, err := h.Run(context.Background(), args[0], args[1:]...)
		if err != nil {
			t.Fatalf("%s: %v\n%s", args, err, out)
		}
		return string(out)
	}
	for _, vip := range []netip.Addr{ta.VIP4, ta.VIP6} {
		gw := ta.Outside4
		if vip.Is6() {
			gw = ta.Outside6
		}
		if out := run(ta.Client, "ip", "route", "get", vip.String()); !strings.Contains(out, "via "+gw.String()+" dev eth0") {
			t.Errorf("route to %s: %s", vip, out)
		}
	}
	// `ip netns exec` finds the namespace by its name.
	out, err := exec.Command("ip", "netns", "exec", ta.Balancer.Namespace(), "ip", "-br", "addr").CombinedOutput()
	if err != nil || !regexp.MustCompile(`(?m)^inside@\S+\s+UP\s+192.168.20.254/24 fd00:192:168:20::254/64`).Match(out) {
		t.Errorf("ip netns exec: %v\n%s", err, out)
	}
	if out := run(ta.Balancer, "ip", "-6", "addr", "show", "tentative"); out != "" {
		t.Errorf("tentative addresses: %s", out)
	}
	off := []string{"tx-checksumming", "tcp-segmentation-offload", "generic-segmentation-offload", "generic-receive-offload",
		"tx-vlan-offload", "rx-vlan-offload", "tx-udp-segmentation"}
	ends := []struct {
		h    *Host
		name string
	}{{ta.Client, "eth0"}, {ta.Balancer, "outside"}, {ta.Balancer, "inside"}, {ta.Switch, "lb"}, {ta.Switch, "srv2"}, {ta.Servers[1], "eth0"}}
	for _, end := range ends {
		features := run(end.h, "ethtool", "-k", end.name)
		for _, f := range off {
			if !strings.Contains(features, f+": off") {
				t.Errorf("%s of %s: %s is not off", end.name, end.h.Name(), f)
			}
		}
		link := run(end.h, "ip", "-d", "link", "show", end.name)
		if !strings.Contains(link, "mtu 3000") || !strings.Contains(link, "numtxqueues 3") || !strings.Contains(link, "numrxqueues 3") {
			t.Errorf("%s of %s: %s", end.name, end.h.Name(), link)
		}
		channels := run(end.h, "ethtool", "-l", end.name)
		if current := channels[strings.Index(channels, "Current"):]; strings.Count(current, "3\n") < 2 {
			t.Errorf("channels of %s of %s: %s", end.name, end.h.Name(), channels)
		}
	}
}

// Bulk transfers of the kernel's TCP through the kernel's forwarding work without offloads, and every checksum on the
// wire is complete and right by an independent computation.
func TestChecksumsOnTheWire(t *testing.T) {
	ta := twoArm(t, TwoArmOptions{Servers: 1})
	ok(t, ta.Forward(true))
	for _, vip := range []netip.Addr{ta.ServerAddr4[0], ta.ServerAddr6[0]} {
		addr := netip.AddrPortFrom(vip, 9000).String()
		s := must(TransferServer(ta.Servers[0], addr))(t)
		captures := []*Capture{
			must(ta.Client.Capture("eth0", 1e5))(t), must(ta.Balancer.Capture("outside", 1e5))(t),
			must(ta.Balancer.Capture("inside", 1e5))(t), must(ta.Servers[0].Capture("eth0", 1e5))(t),
		}
		conn := must(ta.Client.Dial(context.Background(), "tcp", addr))(t)
		must(Transfer(context.Background(), conn, 1<<20, 7))(t)
		conn.Close()
		ok(t, s.Close())
		for i, c := range captures {
			ok(t, c.Close())
			segments, unfinished, wrong, long := countChecksums(c.Frames())
			if segments < 2*(1<<20)/1448 || c.Dropped() > 0 || unfinished+wrong+long > 0 {
				t.Errorf("%s capture %d: %d segments, %d unfinished, %d wrong, %d longer than the MTU", vip, i, segments, unfinished, wrong, long)
			}
		}
	}
}

// The control for TestChecksumsOnTheWire: with the offloads that veth starts with, checksums are unfinished.
func TestChecksumsWithOffloads(t *testing.T) {
	l := open(t)
	a, b := pair(t, l)
	if _, err := exec.LookPath("ethtool"); err != nil {
		t.Skipf("needs ethtool to turn the offloads on again: %v", err)
	}
	for _, h := range []*Host{a, b} {
		must(h.Run(context.Background(), "ethtool", "-K", "eth0", "tx", "on", "tso", "on", "gso", "on"))(t)
	}
	must(TransferServer(b, "10.0.0.2:9000"))(t)
	c := must(b.Capture("eth0", 1e5))(t)
	conn := must(a.Dial(context.Background(), "tcp", "10.0.0.2:9000"))(t)
	defer conn.Close()
	must(Transfer(context.Background(), conn, 1<<20, 7))(t)
	ok(t, c.Close())
	segments, unfinished, wrong, _ := countChecksums(c.Frames())
	if segments == 0 || unfinished == 0 || wrong == 0 {
		t.Errorf("%d segments, %d unfinished, %d wrong: want some of each", segments, unfinished, wrong)
	}
}

func countChecksums(frames []CapturedFrame) (segments, unfinished, wrong, long int) {
	for _, f := range frames {
		p := gopacket.NewPacket(f.Data, layers.LayerTypeEthernet, gopacket.Default)
		tcp, isTCP := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !isTCP {
			continue
		}
		segments++
		if f.Unfinished {
			unfinished++
		}
		if len(f.Data) > 14+1500 {
			long++
		}
		tcp.SetNetworkLayerForChecksum(p.NetworkLayer())
		if err, result := tcp.VerifyChecksum(); err != nil || !result.Valid {
			wrong++
		}
	}
	return segments, unfinished, wrong, long
}

func TestUDPEcho(t *testing.T) {
	ta := twoArm(t, TwoArmOptions{Servers: 2})
	ok(t, ta.Forward(true))
	addrs, index := serverAddrs(ta, 5353)
	for i, a := range addrs {
		s := must(UDPEcho(ta.Servers[index[i]], a.String(), fmt.Sprintf("server %d", index[i]+1)))(t)
		conn := must(ta.Client.Dial(context.Background(), "udp", a.String()))(t)
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		fmt.Fprint(conn, "hello")
		got := make([]byte, 100)
		n, err := conn.Read(got)
		if want := fmt.Sprintf("server %d hello", index[i]+1); err != nil || string(got[:n]) != want {
			t.Errorf("%s: %q %v, want %q", a, got[:n], err, want)
		}
		if s.Requests.Load() != 1 {
			t.Errorf("%s: %d requests", a, s.Requests.Load())
		}
		conn.Close()
	}
}

func TestTwoLabsAtOnce(t *testing.T) {
	needRoot(t)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			ta, err := NewTwoArm(context.Background(), TwoArmOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			defer closeClean(t, ta.Lab)
			if err := ta.Forward(true); err != nil {
				t.Error(err)
			}
			addr := netip.AddrPortFrom(ta.ServerAddr4[3], 80).String()
			if _, err := HTTPServer(ta.Servers[3], addr, ta.Lab.ID()); err != nil {
				t.Error(err)
			}
			if body, err := get(ta.Client.HTTPClient(false), "http://"+addr); err != nil || body != ta.Lab.ID()+"\n" {
				t.Errorf("get: %q %v, want %q", body, err, ta.Lab.ID())
			}
		})
	}
	wg.Wait()
}

// A shell in the namespace reads its own network settings, and its output arrives line by line.
func TestStartStreamsOutput(t *testing.T) {
	l := open(t)
	a, _ := pair(t, l)
	cmd := exec.Command("sh", "-c", "cat /proc/sys/net/ipv4/ip_forward; grep -c eth0 /proc/net/dev; exec sleep 100")
	out := must(cmd.StdoutPipe())(t)
	ok(t, a.Sysctl("net.ipv4.ip_forward", "1"))
	p := must(a.Start(cmd))(t)
	lines := bufio.NewScanner(out)
	for _, want := range []string{"1", "1"} {
		if !lines.Scan() || lines.Text() != want {
			t.Errorf("read %q, want %q", lines.Text(), want)
		}
	}
	if err := p.Stop(time.Second); err == nil {
		t.Error("a process that was stopped reports success")
	}
}
