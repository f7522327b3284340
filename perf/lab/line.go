package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
)

// Line is the shortest network for server NAT, for measurements: one wire to the clients and one to the servers, which are
// addresses of one host, and nothing else in the way.
//
//	client                      lb                          servers
//	172.16.10.55   ────────  172.16.10.1   192.168.20.254 ────────  192.168.20.1 ... N
//	eth0                     outside           inside               eth0
//
// The balancer knows all neighbours by static entries, and behind the client the network 198.18.0.0/15 of a generator
// (RFC 2544 section C.2.2). It forwards nothing by itself.
type Line struct {
	Lab      *Lab
	Client   *Host
	Balancer *Host
	Servers  *Host

	Outside, Inside string // interfaces of the balancer
	VIP4            netip.Addr
	Client4         netip.Addr
	Outside4        netip.Addr
	Inside4         netip.Addr
	ServerAddr4     []netip.Addr
}

// Sources is where a generator's packets come from, behind the client (RFC 2544 section C.2.2), and ServerNet the servers'
// network.
var (
	Sources   = netip.MustParsePrefix("198.18.0.0/15")
	ServerNet = netip.MustParsePrefix("192.168.20.0/24")
)

// NewLine builds the network with so many servers, 1 to 100. Closing its Lab, or the end of ctx, takes it down.
func NewLine(ctx context.Context, servers int) (*Line, error) {
	if servers < 1 || servers > 100 {
		return nil, fmt.Errorf("line lab: %d servers, want 1 to 100", servers)
	}
	l, err := New(ctx, "line")
	if err != nil {
		return nil, fmt.Errorf("line lab: %w", err)
	}
	t := &Line{
		Lab: l, Outside: "outside", Inside: "inside",
		VIP4: netip.MustParseAddr("10.10.1.100"), Client4: netip.MustParseAddr("172.16.10.55"),
		Outside4: netip.MustParseAddr("172.16.10.1"), Inside4: netip.MustParseAddr("192.168.20.254"),
	}
	for i := range servers {
		t.ServerAddr4 = append(t.ServerAddr4, netip.AddrFrom4([4]byte{192, 168, 20, byte(i + 1)}))
	}
	if err := t.build(); err != nil {
		return nil, errors.Join(fmt.Errorf("line lab: %w", err), l.Close())
	}
	return t, nil
}

func (t *Line) build() error {
	var b builder
	t.Client, t.Balancer, t.Servers = b.host(t.Lab, "client"), b.host(t.Lab, "lb"), b.host(t.Lab, "servers")
	b.do(func() error { return t.Lab.Wire(t.Client, "eth0", t.Balancer, t.Outside, WireOptions{}) })
	b.do(func() error { return t.Lab.Wire(t.Balancer, t.Inside, t.Servers, "eth0", WireOptions{}) })
	b.do(func() error { return t.Client.Addr("eth0", t.Client4.String()+"/24") })
	b.do(func() error { return t.Balancer.Addr(t.Outside, t.Outside4.String()+"/24") })
	b.do(func() error { return t.Balancer.Addr(t.Inside, t.Inside4.String()+"/24") })
	for _, a := range t.ServerAddr4 {
		b.do(func() error { return t.Servers.Addr("eth0", a.String()+"/24") })
	}
	b.do(func() error { return t.Client.DefaultRoute(t.Outside4.String()) })
	b.do(func() error { return t.Servers.DefaultRoute(t.Inside4.String()) })
	b.do(func() error { return t.Balancer.Route(Sources.String(), t.Client4.String()) })
	know := func(h *Host, ifname string, a netip.Addr, of *Host, ofName string) {
		b.do(func() error {
			mac, err := of.MAC(ofName)
			if err != nil {
				return err
			}
			return h.Neighbour(ifname, a, mac)
		})
	}
	know(t.Balancer, t.Outside, t.Client4, t.Client, "eth0")
	know(t.Client, "eth0", t.Outside4, t.Balancer, t.Outside)
	know(t.Servers, "eth0", t.Inside4, t.Balancer, t.Inside)
	for _, a := range t.ServerAddr4 {
		know(t.Balancer, t.Inside, a, t.Servers, "eth0")
	}
	return b.err
}
