package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sluice/ctl"
	"sluice/perf/lab"
)

// experimental is a protocol number for experiments (RFC 3692): nothing in the kernel answers it.
const experimental = 253

// echoRaw returns what comes for a protocol to where it came from, until the test ends.
func (b *bed) echoRaw(h *lab.Host, at netip.Addr) {
	b.t.Helper()
	pc := rawSocket(b.t, h, at)
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(buf[:n], from)
		}
	}()
}

func rawSocket(t *testing.T, h *lab.Host, at netip.Addr) (pc net.PacketConn) {
	t.Helper()
	family := "ip4"
	if at.Is6() {
		family = "ip6"
	}
	ok(t, h.Do(func() (err error) {
		pc, err = net.ListenPacket(fmt.Sprintf("%s:%d", family, experimental), at.String())
		return err
	}))
	t.Cleanup(func() { pc.Close() })
	return pc
}

// Virtual servers for ICMP queries, for any port and for any other protocol: members' kernels answer, from the virtual
// address, and what has a virtual server of its own goes there.
func TestAnyProtocol(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 4, Queues: 2}, settings{engine: "workers: 2"})
	var text strings.Builder
	text.WriteString(b.configText(settings{engine: "workers: 2"}))
	for i, vip := range []netip.Addr{b.VIP4, b.VIP6} {
		family := []string{"", "6"}[i]
		at := vip.String()
		if vip.Is6() {
			at = "[" + at + "]"
		}
		for _, protocol := range []string{"icmp", "tcp", "any"} {
			fmt.Fprintf(&text, "  - {name: every-%s%s, address: \"%s:any\", protocol: %s, pool: all%s}\n", protocol, family, at, protocol, family)
		}
	}
	b.write(strings.Replace(text.String(), "engine:", "timeouts: {icmp: 8s, other: 8s}\nengine:", 1)) // of their own
	const port = 12345
	b.serve(port, func(h *lab.Host, addr, identity string) (*lab.Server, error) {
		return lab.HTTPServer(h, addr, identity)
	})
	b.serve(webPort, func(h *lab.Host, addr, identity string) (*lab.Server, error) {
		return lab.HTTPServer(h, addr, identity)
	})
	for i, h := range b.Servers {
		b.echoRaw(h, b.ServerAddr4[i])
		b.echoRaw(h, b.ServerAddr6[i])
	}
	d := b.start()
	for i, vip := range []netip.Addr{b.VIP4, b.VIP6} {
		family := []string{"", "6"}[i]
		for seq := range uint16(3) {
			ok(t, ping(b.Client, vip, seq))
		}
		for range 4 {
			for _, to := range []uint16{port, webPort} {
				if _, err := ask(b.Client, netip.AddrPortFrom(vip, to), waitTime); err != nil {
					t.Errorf("%s port %d: %v", vip, to, err)
				}
			}
		}
		pc := rawSocket(t, b.Client, []netip.Addr{b.Client4, b.Client6}[i])
		_ = pc.SetDeadline(time.Now().Add(waitTime))
		said := []byte("neither TCP nor UDP, and longer than a header")
		if _, err := pc.WriteTo(said, &net.IPAddr{IP: vip.AsSlice()}); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 1500)
		if n, from, err := pc.ReadFrom(buf); err != nil || !bytes.Equal(buf[:n], said) || from.String() != vip.String() {
			t.Errorf("%s: %q from %v, %v", vip, buf[:n], from, err)
		}
		opened := map[string]uint64{}
		for _, v := range query[[]ctl.VirtualView](b, "virtual") {
			opened[v.Name] = v.Opened
		}
		for name, want := range map[string]uint64{"every-icmp": 1, "every-tcp": 4, "every-any": 1, "web": 4} {
			if opened[name+family] != want {
				t.Errorf("%s has opened %d connections, want %d", name+family, opened[name+family], want)
			}
		}
	}
	states := map[string]int{}
	for _, c := range query[[]ctl.ConnView](b, "conn", "list") {
		states[c.Protocol+" "+c.State]++
	}
	if states["icmp open"] != 2 || states["253 open"] != 2 {
		t.Errorf("%v", states)
	}
	if drops := b.drops(); len(drops) > 0 {
		t.Errorf("dropped %v", drops)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*waitTime)
	defer cancel()
	for n := -1; n != 0 && ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
		n = 0
		for _, c := range query[[]ctl.ConnView](b, "conn", "list") {
			if c.Protocol == "icmp" || c.Protocol == "253" {
				n++
			}
		}
	}
	if ctx.Err() != nil {
		t.Error("connections of ICMP and others do not expire")
	}
	d.stop()
}
