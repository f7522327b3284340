package lab

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// enslave makes an interface a port of a bridge that there is.
func (h *Host) enslave(bridge, ifname string) error {
	return h.withLink(bridge, func(master netlink.Link) error {
		port, err := netlink.LinkByName(ifname)
		if err != nil {
			return err
		}
		return netlink.LinkSetMaster(port, master)
	})
}

// loopback adds an address to lo. It can be bound to at once: nobody is asked whether it is taken.
func (h *Host) loopback(a netip.Addr) error {
	return h.withLink("lo", func(lo netlink.Link) error {
		n := &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
		return netlink.AddrAdd(lo, &netlink.Addr{IPNet: n, Flags: unix.IFA_F_NODAD})
	})
}

// DirectReturn gives the owners, hosts of the network, the virtual addresses, on their loopback, and the client an interface on
// the servers' network, eth1 with 192.168.20.250 and fd00:192:168:20::250, which is the servers' way to all clients. What the
// balancer sends on without a change of addresses is answered past it.
func (t *TwoArm) DirectReturn(owners ...*Host) error {
	via4, via6 := netip.MustParseAddr("192.168.20.250"), netip.MustParseAddr("fd00:192:168:20::250")
	var b builder
	b.do(func() error { return t.Lab.Wire(t.Client, "eth1", t.Switch, "client", WireOptions{}) })
	b.join(t.Client, "eth1", via4, via6)
	b.do(func() error { return t.Switch.enslave("br0", "client") })
	for _, s := range t.Servers {
		b.do(func() error { return s.Route("172.16.0.0/16", via4.String()) })
		b.do(func() error { return s.Route("fd00:172::/32", via6.String()) })
	}
	for _, s := range owners {
		// For the virtual address nobody but the balancer may answer ARP (Documentation/networking/ip-sysctl.rst). In IPv6 an
		// address is only ever answered for on its own interface.
		b.do(func() error { return s.Sysctl("net.ipv4.conf.all.arp_ignore", "1") })
		b.do(func() error { return s.Sysctl("net.ipv4.conf.all.arp_announce", "2") })
		b.do(func() error { return s.loopback(t.VIP4) })
		b.do(func() error { return s.loopback(t.VIP6) })
	}
	if b.err != nil {
		return fmt.Errorf("direct return: %w", b.err)
	}
	return nil
}
