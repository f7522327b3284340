package main

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"sluice/ctl"
	"sluice/perf/lab"
)

// serves asks every virtual address until it answers.
func (b *bed) serves(what string) {
	b.t.Helper()
	for _, vip := range b.vips(webPort) {
		deadline := time.Now().Add(3 * waitTime)
		for {
			_, err := ask(b.Client, vip, time.Second)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				b.t.Fatalf("%s: %s does not answer: %v\n%s", what, vip, err, b.daemons[len(b.daemons)-1].log)
			}
		}
	}
}

// onBalancer changes an interface of the balancer.
func (b *bed) onBalancer(name string, change func(netlink.Link) error) {
	b.t.Helper()
	ok(b.t, b.Balancer.Do(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return change(l)
	}))
}

// What others do to the host is followed: links that go down and come back, virtual addresses that are taken off, members
// that move to another MAC, also while another member has lost its route.
func TestFollowsTheHost(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 2, Queues: 2}, settings{})
	b.serve(webPort, lab.HTTPServer)
	d := b.start()
	b.serves("at first")

	for _, name := range []string{b.Outside, b.Inside} {
		v6 := b.Outside6.String() + "/64"
		if name == b.Inside {
			v6 = b.Inside6.String() + "/64"
		}
		b.onBalancer(name, netlink.LinkSetDown)
		eventually(t, name+" to be reported down", func() bool { return portState(b, name) == "down" })
		b.onBalancer(name, netlink.LinkSetUp)
		ok(t, b.Balancer.Addr(name, v6)) // the kernel flushes IPv6 addresses when a link goes down
		eventually(t, name+" to be reported up", func() bool { return portState(b, name) == "up" })
		b.serves("after " + name + " was down")
	}

	for _, a := range []string{b.VIP4.String() + "/32", b.VIP6.String() + "/128"} {
		addr, err := netlink.ParseAddr(a)
		ok(t, err)
		b.onBalancer(b.Outside, func(l netlink.Link) error { return netlink.AddrDel(l, addr) })
		eventually(t, a+" to be put back", func() bool { return strings.Contains(b.hostState(false), a) })
	}
	b.serves("after the virtual addresses were taken off")

	// The members lose IPv6; the first moves to another MAC and must be followed all the same.
	addr, err := netlink.ParseAddr(b.Inside6.String() + "/64")
	ok(t, err)
	b.onBalancer(b.Inside, func(l netlink.Link) error { return netlink.AddrDel(l, addr) })
	moved := net.HardwareAddr{2, 0, 0, 0, 0x77, 1}
	ok(t, b.Servers[0].Do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetHardwareAddr(l, moved)
	}))
	b.onBalancer(b.Inside, func(l netlink.Link) error { // what the member's own announcement would do
		return netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: b.ServerAddr4[0].AsSlice(), HardwareAddr: moved,
			State: netlink.NUD_REACHABLE, Family: netlink.FAMILY_V4})
	})
	eventually(t, "the new MAC to be followed", func() bool {
		for _, m := range query[[]ctl.MemberView](b, "member") {
			if m.Pool == "all" && m.Name == "server-1" && m.MAC == moved.String() {
				return true
			}
		}
		return false
	})
	eventually(t, "the members without a route to be told", func() bool {
		for _, m := range query[[]ctl.MemberView](b, "member") {
			if m.Pool == "all6" && m.State != "no-neighbour" {
				return false
			}
		}
		return true
	})
	ok(t, b.Balancer.Addr(b.Inside, b.Inside6.String()+"/64"))
	d.stop()
}

func portState(b *bed, ifname string) string {
	for _, p := range query[[]ctl.PortView](b, "port") {
		if p.Interface == ifname {
			return p.State
		}
	}
	return ""
}
