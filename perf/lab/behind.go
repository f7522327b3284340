package lab

import (
	"errors"
	"fmt"
	"net/netip"
)

// Behind is a host of a TwoArm network that is two routers away from it. The link between the two has an MTU of its own:
//
//	… ── near (an existing host) ── link, MTU ── edge ── MTU 1500 ── far
//
// So neither end knows how small packets have to be until a router says so.
type Behind struct {
	Edge, Far *Host
	Addr4     netip.Addr
	Addr6     netip.Addr // not valid where the link is too small for IPv6
}

// BehindClient puts a host behind the client, 172.16.11.55 and fd00:172:16:11::55.
func (t *TwoArm) BehindClient(mtu int) (*Behind, error) {
	return t.behind(t.Client, "client", "172.16", "fd00:172:16", 10, 55, mtu, t.Client4, t.Client6)
}

// BehindServer puts a host behind the first server, 192.168.21.55 and fd00:192:168:21::55.
func (t *TwoArm) BehindServer(mtu int) (*Behind, error) {
	return t.behind(t.Servers[0], "server", "192.168", "fd00:192:168", 20, 55, mtu, t.ServerAddr4[0], t.ServerAddr6[0])
}

// behind uses the two networks after subnet: the next for the far host, the one after for the link.
func (t *TwoArm) behind(near *Host, name, net4, net6 string, subnet, host, mtu int, near4, near6 netip.Addr) (*Behind, error) {
	v6 := mtu >= 1280 // RFC 8200 section 5
	in := func(subnet, host int) (a4, a6 netip.Addr) {
		return netip.MustParseAddr(fmt.Sprintf("%s.%d.%d", net4, subnet, host)), netip.MustParseAddr(fmt.Sprintf("%s:%d::%d", net6, subnet, host))
	}
	var b builder
	f := &Behind{Edge: b.host(t.Lab, "edge-"+name), Far: b.host(t.Lab, "far-"+name)}
	join := func(h *Host, ifname string, a4, a6 netip.Addr) {
		b.do(func() error { return h.Addr(ifname, a4.String()+"/24") })
		if v6 {
			b.do(func() error { return h.Addr(ifname, a6.String()+"/64") })
		}
	}
	route := func(h *Host, subnet int, via4, via6 netip.Addr) {
		to4, to6 := in(subnet, 0)
		b.do(func() error { return h.Route(to4.String()+"/24", via4.String()) })
		if v6 {
			b.do(func() error { return h.Route(to6.String()+"/64", via6.String()) })
		}
	}
	b.do(func() error { return t.Lab.Wire(near, "far0", f.Edge, "eth0", WireOptions{MTU: mtu}) })
	b.do(func() error { return t.Lab.Wire(f.Edge, "eth1", f.Far, "eth0", WireOptions{}) })
	link4, link6 := in(subnet+2, 1)
	edge4, edge6 := in(subnet+2, 2)
	gateway4, gateway6 := in(subnet+1, 1)
	f.Addr4, f.Addr6 = in(subnet+1, host)
	join(near, "far0", link4, link6)
	join(f.Edge, "eth0", edge4, edge6)
	join(f.Edge, "eth1", gateway4, gateway6)
	join(f.Far, "eth0", f.Addr4, f.Addr6)
	if !v6 {
		f.Addr6, link6, gateway6 = netip.Addr{}, netip.Addr{}, netip.Addr{}
	}
	for _, h := range []*Host{near, f.Edge} {
		b.do(func() error {
			return errors.Join(h.Sysctl("net.ipv4.ip_forward", "1"), h.Sysctl("net.ipv6.conf.all.forwarding", "1"))
		})
	}
	route(near, subnet+1, edge4, edge6)
	route(t.Balancer, subnet+1, near4, near6)
	route(t.Balancer, subnet+2, near4, near6)
	for _, hop := range []struct {
		h        *Host
		via4, v6 netip.Addr
	}{{f.Edge, link4, link6}, {f.Far, gateway4, gateway6}} {
		b.do(func() error { return hop.h.DefaultRoute(hop.via4.String()) })
		if v6 {
			b.do(func() error { return hop.h.DefaultRoute(hop.v6.String()) })
		}
	}
	if b.err != nil {
		return nil, fmt.Errorf("host behind the %s: %w", name, b.err)
	}
	return f, nil
}
