package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
)

// OneArm is a network for full NAT: the balancer has one interface, on the network where clients and servers are.
//
//	client  172.16.10.55 ─┐
//	lb      172.16.10.1  ─┼─ bridge
//	srv1..N 172.16.10.101─┘
//
// Nobody has a default gateway; IPv6 is fd00:172:16:10::/64 with the same last groups. The client has a host route to the
// virtual addresses through the balancer, and the servers have none: they can answer only to an address of their network,
// and what they answer to the client itself goes past the balancer.
type OneArm struct {
	Lab      *Lab
	Client   *Host
	Balancer *Host
	Switch   *Host
	Servers  []*Host

	Port string // interface of the balancer

	VIP4, VIP6               netip.Addr
	Client4, Client6         netip.Addr
	Balancer4, Balancer6     netip.Addr
	SNAT4, SNAT6             netip.Addr // free addresses of the network
	ServerAddr4, ServerAddr6 []netip.Addr
}

// NewOneArm builds the network. Closing its Lab, or the end of ctx, takes it down.
func NewOneArm(ctx context.Context, queues, servers int) (*OneArm, error) {
	if servers < 1 || servers > 90 {
		return nil, fmt.Errorf("one-arm lab: %d servers, want 1 to 90", servers)
	}
	l, err := New(ctx, "one-arm")
	if err != nil {
		return nil, fmt.Errorf("one-arm lab: %w", err)
	}
	host4 := func(n int) netip.Addr { return netip.AddrFrom4([4]byte{172, 16, 10, byte(n)}) }
	host6 := func(n int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fd00:172:16:10::%d", n)) }
	o := &OneArm{
		Lab: l, Port: "arm",
		VIP4: netip.MustParseAddr("10.10.1.100"), VIP6: netip.MustParseAddr("fd00:10:10:1::100"),
		Client4: host4(55), Client6: host6(55), Balancer4: host4(1), Balancer6: host6(1), SNAT4: host4(200), SNAT6: host6(200),
	}
	for i := range servers {
		o.ServerAddr4, o.ServerAddr6 = append(o.ServerAddr4, host4(101+i)), append(o.ServerAddr6, host6(101+i))
	}
	if err := o.build(WireOptions{Queues: queues}); err != nil {
		return nil, errors.Join(fmt.Errorf("one-arm lab: %w", err), l.Close())
	}
	return o, nil
}

func (o *OneArm) build(wire WireOptions) error {
	var b builder
	o.Client, o.Balancer, o.Switch = b.host(o.Lab, "client"), b.host(o.Lab, "lb"), b.host(o.Lab, "switch")
	b.do(func() error { return o.Switch.Sysctl("net.ipv6.conf.default.disable_ipv6", "1") })
	b.do(func() error { return o.Lab.Wire(o.Client, "eth0", o.Switch, "client", wire) })
	b.do(func() error { return o.Lab.Wire(o.Balancer, o.Port, o.Switch, "lb", wire) })
	b.join(o.Client, "eth0", o.Client4, o.Client6)
	b.join(o.Balancer, o.Port, o.Balancer4, o.Balancer6)
	ports := []string{"client", "lb"}
	for i := range o.ServerAddr4 {
		name := fmt.Sprintf("srv%d", i+1)
		srv := b.host(o.Lab, name)
		o.Servers, ports = append(o.Servers, srv), append(ports, name)
		b.do(func() error { return o.Lab.Wire(srv, "eth0", o.Switch, name, wire) })
		b.join(srv, "eth0", o.ServerAddr4[i], o.ServerAddr6[i])
	}
	b.do(func() error { return o.Client.Route(o.VIP4.String()+"/32", o.Balancer4.String()) })
	b.do(func() error { return o.Client.Route(o.VIP6.String()+"/128", o.Balancer6.String()) })
	b.do(func() error { return o.Switch.Bridge("br0", ports...) })
	b.do(func() error { return o.Switch.waitUp("br0") })
	return b.err
}
