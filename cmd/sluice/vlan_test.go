package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sluice/ctl"
	"sluice/perf/lab"
)

// vlanSide is how one side of the lab's network is tagged: outermost first; none is untagged.
type vlanSide []int

// vlanBed is a bed whose client and servers are in VLANs: the kernels at all ends have VLAN interfaces (lab.Host.VLAN) with the addresses
// 172.16.11.x and 192.168.21.x, fd00:172:16:11::x and fd00:192:168:21::x, and no other way to each other.
func vlanBed(t *testing.T, client, member vlanSide) *bed {
	t.Helper()
	b := newBedOn(t, func() (*lab.TwoArm, error) {
		return lab.NewTwoArm(context.Background(), lab.TwoArmOptions{Servers: 2, Queues: 2})
	})
	text := b.configText(settings{engine: "workers: 2"})
	place := func(h *lab.Host, parent string, tags vlanSide, a4, a6 netip.Addr) (name string, vlan string) {
		t.Helper()
		name = parent
		for i, id := range tags {
			o := lab.VLANOptions{Service: len(tags) == 2 && i == 0}
			if len(client)+len(member) > 2 {
				o.MTU = 1492 // a veth takes one tag beyond its MTU, and a packet socket none of 802.1ad
			}
			name = must(h.VLAN(name, id, o))(t)
		}
		if len(tags) > 0 {
			ok(t, h.Addr(name, a4.String()+"/24"))
			ok(t, h.Addr(name, a6.String()+"/64"))
			vlan = fmt.Sprintf(", vlans: [{name: %s, id: %d, interface: %s", name, tags[0], name)
			if len(tags) == 2 {
				vlan += fmt.Sprintf(", inner: %d", tags[1])
			}
			vlan += "}]"
		}
		return name, vlan
	}
	in := func(a netip.Addr, from, to string) netip.Addr {
		return netip.MustParseAddr(strings.Replace(a.String(), from, to, 1))
	}
	gateway := func(h *lab.Host, via netip.Addr) {
		t.Helper()
		family := "-4"
		if via.Is6() {
			family = "-6"
		}
		_, err := h.Run(t.Context(), "ip", family, "route", "replace", "default", "via", via.String())
		ok(t, err)
	}
	out4, out6 := in(b.Outside4, "16.10.", "16.11."), in(b.Outside6, "16:10:", "16:11:")
	outName, vlan := place(b.Balancer, b.Outside, client, out4, out6)
	text = strings.Replace(text, "{name: outside, interface: outside", "{name: outside, interface: outside"+vlan, 1)
	if len(client) > 0 {
		b.Client4, b.Client6 = in(b.Client4, "16.10.", "16.11."), in(b.Client6, "16:10:", "16:11:")
		place(b.Client, "eth0", client, b.Client4, b.Client6)
		gateway(b.Client, out4)
		gateway(b.Client, out6)
		text = strings.ReplaceAll(text, "protocol:", "port: "+outName+", protocol:")
	}
	in4, in6 := in(b.Inside4, "168.20.", "168.21."), in(b.Inside6, "168:20:", "168:21:")
	_, vlan = place(b.Balancer, b.Inside, member, in4, in6)
	text = strings.Replace(text, "{name: inside, interface: inside", "{name: inside, interface: inside"+vlan, 1)
	if len(member) > 0 {
		text = strings.NewReplacer("192.168.20.", "192.168.21.", "fd00:192:168:20:", "fd00:192:168:21:").Replace(text)
		for i, h := range b.Servers {
			b.ServerAddr4[i], b.ServerAddr6[i] = in(b.ServerAddr4[i], "168.20.", "168.21."), in(b.ServerAddr6[i], "168:20:", "168:21:")
			place(h, "eth0", member, b.ServerAddr4[i], b.ServerAddr6[i])
			gateway(h, in4)
			gateway(h, in6)
		}
	}
	b.write(text)
	b.before = b.hostState(false)
	return b
}

// Kernels at both ends in VLANs, the same or different ones, or only at one end, and in a VLAN inside another: TCP, UDP in parts,
// and echo, of both families. What the far end receives it receives in its VLAN, for it has those addresses nowhere else.
func TestVLANs(t *testing.T) {
	for _, c := range []struct {
		name           string
		client, member vlanSide
	}{
		{"same", vlanSide{10}, vlanSide{10}}, {"different", vlanSide{10}, vlanSide{20}}, {"set", nil, vlanSide{20}}, {"removed", vlanSide{10}, nil},
		{"qinq", vlanSide{100, 10}, vlanSide{20}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := vlanBed(t, c.client, c.member)
			b.serve(bulkPort, func(h *lab.Host, addr, _ string) (*lab.Server, error) { return lab.TransferServer(h, addr) })
			b.serve(dnsPort, func(h *lab.Host, addr, identity string) (*lab.Server, error) { return lab.UDPEcho(h, addr, identity) })
			d := b.start()
			for f, vip := range b.vips(bulkPort) {
				b.move(vip, 4<<20, uint64(f))
			}
			for _, vip := range b.vips(dnsPort) {
				ctx, cancel := context.WithTimeout(t.Context(), waitTime)
				conn := must(b.Client.Dial(ctx, "udp", vip.String()))(t)
				for _, size := range []int{1, 1400, 9000} {
					if err := echoed(conn, size); err != nil {
						t.Errorf("%s, %d bytes: %v; dropped %v", vip, size, err, b.drops())
					}
				}
				conn.Close()
				cancel()
				ok(t, ping(b.Client, vip.Addr(), 1)) // the kernel's, in its VLAN
			}
			if s := b.totals(); s.Dropped != 0 || s.ToServer < 1000 || s.ToClient < 1000 {
				t.Errorf("%+v, dropped %v", s, b.drops())
			}
			names := map[string]string{}
			for _, p := range query[[]ctl.PortView](b, "port") {
				names[p.Name] = p.State
			}
			if len(c.client) > 0 && names[b.vlanName(b.Outside, c.client)] != "up" || len(c.member) > 0 && names[b.vlanName(b.Inside, c.member)] != "up" {
				t.Errorf("%v", names)
			}
			d.kill() // connections are found again by their ports' names
			d = b.start()
			for _, vip := range b.vips(bulkPort) {
				b.move(vip, 1<<20, 9)
			}
			d.stop()
		})
	}
}

// move sends so many bytes each way over TCP.
func (b *bed) move(to netip.AddrPort, size int64, seed uint64) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	conn := must(b.Client.Dial(ctx, "tcp", to.String()))(b.t)
	defer conn.Close()
	if _, err := lab.Transfer(ctx, conn, size, seed); err != nil {
		b.t.Fatalf("%s: %v; dropped %v", to, err, b.drops())
	}
}

// echoed sends a datagram of so many bytes and waits for its echo.
func echoed(conn net.Conn, size int) error {
	said := bytes.Repeat([]byte("0123456789"), size/10+1)[:size]
	if _, err := conn.Write(said); err != nil {
		return err
	}
	_ = conn.SetReadDeadline(time.Now().Add(waitTime))
	got := make([]byte, 1<<16)
	n, err := conn.Read(got)
	if err == nil && !bytes.HasSuffix(got[:n], said) {
		err = fmt.Errorf("%d other bytes came back", n)
	}
	return err
}

func (b *bed) vlanName(parent string, tags vlanSide) string {
	for _, id := range tags {
		parent += fmt.Sprintf(".%d", id)
	}
	return parent
}

// Two clients with one address in two VLANs: the one's connection is not the other's, and a VLAN that the file does not have is
// dropped by name. A VLAN interface that goes and comes back is followed.
func TestVLANsApart(t *testing.T) {
	b := vlanBed(t, vlanSide{10}, vlanSide{20})
	other := must(b.Client.VLAN("eth0", 11, lab.VLANOptions{}))(t)
	b.echoServer(b.Servers[0], netip.AddrPortFrom(b.ServerAddr4[0], webPort))
	b.echoServer(b.Servers[1], netip.AddrPortFrom(b.ServerAddr4[1], webPort))
	d := b.start()
	s := must(openSession(b.Client, b.vips(webPort)[0]))(t)
	ok(t, s.say(waitTime))
	before := b.drops()["vlan_unknown"]
	// The same packets now leave by the other VLAN: a strange one.
	move := func(dev string) {
		t.Helper()
		mac := must(b.Balancer.MAC(b.Outside))(t)
		for _, args := range [][]string{
			{"neigh", "replace", "172.16.12.1", "lladdr", mac.String(), "dev", other},
			{"route", "replace", b.VIP4.String() + "/32", "dev", dev, "via", map[string]string{other: "172.16.12.1", "eth0.10": "172.16.11.1"}[dev], "onlink"},
		} {
			_, err := b.Client.Run(t.Context(), "ip", args...)
			ok(t, err)
		}
	}
	move(other)
	if err := s.say(listenTime); err == nil {
		t.Error("a segment in another VLAN was taken for one of the connection")
	}
	if n := b.drops()["vlan_unknown"]; n <= before {
		t.Errorf("dropped %v", b.drops())
	}
	move("eth0.10")
	_ = s.SetDeadline(time.Now().Add(waitTime)) // what was sent arrives when TCP sends it again
	got := make([]byte, len("line 2\n"))
	if _, err := io.ReadFull(s, got); err != nil || string(got) != "line 2\n" {
		t.Errorf("back in its VLAN: %q, %v; dropped %v", got, err, b.drops())
	}
	s.Close()
	_, err := b.Balancer.Run(t.Context(), "ip", "link", "del", "inside.20")
	ok(t, err)
	eventually(t, "the VLAN's interface is gone", func() bool { return b.portState("inside.20") == "gone" })
	name := must(b.Balancer.VLAN(b.Inside, 20, lab.VLANOptions{}))(t)
	ok(t, b.Balancer.Addr(name, "192.168.21.254/24"))
	ok(t, b.Balancer.Addr(name, "fd00:192:168:21::254/64"))
	eventually(t, "the VLAN's interface is back", func() bool {
		s, err := openSession(b.Client, b.vips(webPort)[0])
		if err == nil {
			defer s.Close()
			err = s.say(listenTime)
		}
		return err == nil && b.portState("inside.20") == "up"
	})
	b.replugged = true
	d.stop()
}

func (b *bed) portState(name string) string {
	for _, p := range query[[]ctl.PortView](b, "port") {
		if p.Name == name {
			return p.State
		}
	}
	return ""
}

// A VLAN without an interface of the kernel's, and one that is listed twice, are refused with what to do.
func TestVLANRefused(t *testing.T) {
	b := vlanBed(t, vlanSide{10}, nil)
	text := strings.Replace(b.configText(settings{}), "interface: outside", "interface: outside, vlans: [{id: 12}]", 1)
	b.write(text)
	for _, command := range []string{"check", "run"} {
		r := b.sluice(nil, command, "-c", b.config)
		if r.code != 1 || !strings.Contains(r.stderr, "ports[0].vlans[0].id: outside has no VLAN interface for id 12; make one: ip link add link outside name outside.12 type vlan id 12") {
			t.Errorf("%s: %d %s", command, r.code, r.stderr)
		}
	}
}
