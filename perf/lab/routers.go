package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Routers is a network with two ways out: the balancer stands between a host and the routers of two providers, each with a
// network of its own, behind which there is a site. The links between routers and edge have an MTU of their own, so that
// neither end knows how small packets have to be until a router says so.
//
//	host             lb                                router-a                   edge            site
//	192.168.20.1 ─── inside   a  203.0.113.254 ─── 203.0.113.1  10.1.0.1 ─ MTU ─┐
//	                          b 198.51.100.254 ─── 198.51.100.1 10.2.0.1 ─ MTU ─┴─ 10.3.0.1 ─── 10.3.0.2, 192.0.2.80
//
// Every other router has the MAC addresses of the classic figure, aa:aa:aa:aa:aa:aa and ba:bb:bb:bb:bb:bb. Answers to a
// provider's network go through its router. The host's own network leads back through router-b.
type Routers struct {
	Lab            *Lab
	Host, Balancer *Host
	Router         [2]*Host
	Edge, Site     *Host

	Inside string    // interfaces of the balancer
	Ports  [2]string // towards the routers

	Host4, Host6     netip.Addr
	Router4, Router6 [2]netip.Addr
	Inside4, Inside6 netip.Addr
	Balancer4        [2]netip.Addr // on the providers' networks
	Balancer6        [2]netip.Addr
	Provider4        [2]netip.Addr // free addresses of the providers' networks
	Provider6        [2]netip.Addr
	Site4, Site6     netip.Addr
	RouterMAC        [2]net.HardwareAddr
}

// NewRouters builds the network; mtu is that of the links between routers and edge. Closing its Lab, or the end of ctx, takes
// it down.
func NewRouters(ctx context.Context, queues, mtu int) (*Routers, error) {
	l, err := New(ctx, "routers")
	if err != nil {
		return nil, fmt.Errorf("routers lab: %w", err)
	}
	a := netip.MustParseAddr
	r := &Routers{
		Lab: l, Inside: "inside", Ports: [2]string{"a", "b"},
		Host4: a("192.168.20.1"), Host6: a("fd00:192:168:20::1"), Inside4: a("192.168.20.254"), Inside6: a("fd00:192:168:20::254"),
		Router4:   [2]netip.Addr{a("203.0.113.1"), a("198.51.100.1")},
		Router6:   [2]netip.Addr{a("2001:db8:a::1"), a("2001:db8:b::1")},
		Balancer4: [2]netip.Addr{a("203.0.113.254"), a("198.51.100.254")},
		Balancer6: [2]netip.Addr{a("2001:db8:a::254"), a("2001:db8:b::254")},
		Provider4: [2]netip.Addr{a("203.0.113.100"), a("198.51.100.100")},
		Provider6: [2]netip.Addr{a("2001:db8:a::100"), a("2001:db8:b::100")},
		Site4:     a("192.0.2.80"), Site6: a("2001:db8:ff::80"),
		RouterMAC: [2]net.HardwareAddr{{0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa}, {0xba, 0xbb, 0xbb, 0xbb, 0xbb, 0xbb}},
	}
	if err := r.build(WireOptions{Queues: queues}, WireOptions{MTU: mtu}); err != nil {
		return nil, errors.Join(fmt.Errorf("routers lab: %w", err), l.Close())
	}
	return r, nil
}

func (r *Routers) build(wire, narrow WireOptions) error {
	var b builder
	in := func(format string, args ...any) netip.Addr { return netip.MustParseAddr(fmt.Sprintf(format, args...)) }
	r.Host, r.Balancer = b.host(r.Lab, "host"), b.host(r.Lab, "lb")
	r.Edge, r.Site = b.host(r.Lab, "edge"), b.host(r.Lab, "site")
	b.do(func() error { return r.Lab.Wire(r.Host, "eth0", r.Balancer, r.Inside, wire) })
	b.join(r.Host, "eth0", r.Host4, r.Host6)
	b.join(r.Balancer, r.Inside, r.Inside4, r.Inside6)
	b.gateway(r.Host, r.Inside4, r.Inside6)
	b.do(func() error { return r.Lab.Wire(r.Edge, "site", r.Site, "eth0", WireOptions{}) })
	b.join(r.Edge, "site", in("10.3.0.1"), in("fd00:10:3::1"))
	b.join(r.Site, "eth0", in("10.3.0.2"), in("fd00:10:3::2"))
	b.do(func() error { return r.Site.Addr("lo", r.Site4.String()+"/32") })
	b.do(func() error { return r.Site.Addr("lo", r.Site6.String()+"/128") })
	b.gateway(r.Site, in("10.3.0.1"), in("fd00:10:3::1"))
	route := func(h *Host, to4, to6 string, via4, via6 netip.Addr) {
		b.do(func() error { return h.Route(to4, via4.String()) })
		b.do(func() error { return h.Route(to6, via6.String()) })
	}
	site4, site6 := r.Site4.String()+"/32", r.Site6.String()+"/128"
	route(r.Edge, site4, site6, in("10.3.0.2"), in("fd00:10:3::2"))
	const inside4, inside6 = "192.168.20.0/24", "fd00:192:168:20::/64"
	for i, name := range []string{"a", "b"} {
		h := b.host(r.Lab, "router-"+name)
		r.Router[i] = h
		b.do(func() error { return r.Lab.Wire(h, "eth0", r.Balancer, r.Ports[i], wire) })
		b.do(func() error { return h.setMAC("eth0", r.RouterMAC[i]) })
		b.join(h, "eth0", r.Router4[i], r.Router6[i])
		b.join(r.Balancer, r.Ports[i], r.Balancer4[i], r.Balancer6[i])
		b.do(func() error { return r.Lab.Wire(h, "eth1", r.Edge, name, narrow) })
		near4, near6 := in("10.%d.0.1", i+1), in("fd00:10:%d::1", i+1)
		far4, far6 := in("10.%d.0.2", i+1), in("fd00:10:%d::2", i+1)
		b.join(h, "eth1", near4, near6)
		b.join(r.Edge, name, far4, far6)
		route(h, site4, site6, far4, far6)
		route(h, inside4, inside6, r.Balancer4[i], r.Balancer6[i])
		route(r.Edge, netip.PrefixFrom(r.Router4[i], 24).Masked().String(), netip.PrefixFrom(r.Router6[i], 64).Masked().String(), near4, near6)
		if i == 1 {
			route(r.Edge, inside4, inside6, near4, near6)
		}
	}
	for _, h := range []*Host{r.Router[0], r.Router[1], r.Edge} {
		b.do(func() error {
			return errors.Join(h.Sysctl("net.ipv4.ip_forward", "1"), h.Sysctl("net.ipv6.conf.all.forwarding", "1"))
		})
	}
	return b.err
}

// setMAC gives an interface another hardware address.
func (h *Host) setMAC(ifname string, mac net.HardwareAddr) error {
	return h.withLink(ifname, func(l netlink.Link) error { return netlink.LinkSetHardwareAddr(l, mac) })
}

// Silence has a host pass and answer nothing from now on, its links up, or lets it speak again.
func (h *Host) Silence(ctx context.Context, on bool) error {
	script := "delete table inet silence"
	if on {
		script = "table inet silence { chain i { type filter hook input priority -300; policy drop; }; chain f { type filter hook forward priority -300; policy drop; }; }"
	}
	_, err := h.Run(ctx, "nft", script)
	return err
}
