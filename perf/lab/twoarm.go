package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// TwoArmOptions describe a TwoArm network; the zero value is one queue, four servers and MTU 1500.
type TwoArmOptions struct {
	Queues  int // of every interface
	Servers int // 1 to 100
	MTU     int
}

// TwoArm is a network for server NAT: the balancer is the router between the clients and the servers.
//
//	client                      lb                          switch              srv1 ... srvN
//	172.16.10.55   ────────  172.16.10.1   192.168.20.254 ─────────── bridge ───  192.168.20.1 ... N
//	fd00:172:16:10::55     fd00:172:16:10::1   fd00:192:168:20::254               fd00:192:168:20::1 ... N
//	eth0                     outside           inside                             eth0
//
// Client and servers have the balancer as their default gateway, which forwards nothing by itself: whatever crosses
// was carried by the program under test. The virtual addresses are configured nowhere; the client reaches them by its
// default route.
type TwoArm struct {
	Lab      *Lab
	Client   *Host
	Balancer *Host
	Switch   *Host
	Servers  []*Host

	Outside, Inside string // interfaces of the balancer

	VIP4, VIP6               netip.Addr
	Client4, Client6         netip.Addr
	Outside4, Outside6       netip.Addr
	Inside4, Inside6         netip.Addr
	ServerAddr4, ServerAddr6 []netip.Addr // by index into Servers

	clientMAC net.HardwareAddr // while its wire is unplugged
}

// NewTwoArm builds the network. Closing its Lab, or the end of ctx, takes it down.
func NewTwoArm(ctx context.Context, o TwoArmOptions) (*TwoArm, error) {
	if o.Servers == 0 {
		o.Servers = 4
	}
	if o.Servers < 1 || o.Servers > 100 {
		return nil, fmt.Errorf("two-arm lab: %d servers, want 1 to 100", o.Servers)
	}
	l, err := New(ctx, "two-arm")
	if err != nil {
		return nil, fmt.Errorf("two-arm lab: %w", err)
	}
	t := &TwoArm{
		Lab: l, Outside: "outside", Inside: "inside",
		VIP4: netip.MustParseAddr("10.10.1.100"), VIP6: netip.MustParseAddr("fd00:10:10:1::100"),
		Client4: netip.MustParseAddr("172.16.10.55"), Client6: netip.MustParseAddr("fd00:172:16:10::55"),
		Outside4: netip.MustParseAddr("172.16.10.1"), Outside6: netip.MustParseAddr("fd00:172:16:10::1"),
		Inside4: netip.MustParseAddr("192.168.20.254"), Inside6: netip.MustParseAddr("fd00:192:168:20::254"),
	}
	for i := range o.Servers {
		t.ServerAddr4 = append(t.ServerAddr4, netip.AddrFrom4([4]byte{192, 168, 20, byte(i + 1)}))
		t.ServerAddr6 = append(t.ServerAddr6, netip.MustParseAddr(fmt.Sprintf("fd00:192:168:20::%d", i+1)))
	}
	if err := t.build(o); err != nil {
		return nil, errors.Join(fmt.Errorf("two-arm lab: %w", err), l.Close())
	}
	return t, nil
}

// builder carries the first error through a list of steps; the steps after it do nothing.
type builder struct{ err error }

func (b *builder) host(l *Lab, name string) (h *Host) {
	if b.err == nil {
		h, b.err = l.Host(name)
	}
	return h
}

func (b *builder) do(step func() error) {
	if b.err == nil {
		b.err = step()
	}
}

// join gives an interface its address in the /24 and the /64 of a network.
func (b *builder) join(h *Host, ifname string, a4, a6 netip.Addr) {
	b.do(func() error { return h.Addr(ifname, a4.String()+"/24") })
	b.do(func() error { return h.Addr(ifname, a6.String()+"/64") })
}

func (b *builder) gateway(h *Host, via4, via6 netip.Addr) {
	b.do(func() error { return h.DefaultRoute(via4.String()) })
	b.do(func() error { return h.DefaultRoute(via6.String()) })
}

func (t *TwoArm) build(o TwoArmOptions) error {
	wire := WireOptions{Queues: o.Queues, MTU: o.MTU}
	var b builder
	t.Client, t.Balancer, t.Switch = b.host(t.Lab, "client"), b.host(t.Lab, "lb"), b.host(t.Lab, "switch")
	// The switch only passes frames on; it shall not speak itself.
	b.do(func() error { return t.Switch.Sysctl("net.ipv6.conf.default.disable_ipv6", "1") })

	b.do(func() error { return t.Lab.Wire(t.Client, "eth0", t.Balancer, t.Outside, wire) })
	b.join(t.Balancer, t.Outside, t.Outside4, t.Outside6)
	b.join(t.Client, "eth0", t.Client4, t.Client6)
	b.gateway(t.Client, t.Outside4, t.Outside6)

	b.do(func() error { return t.Lab.Wire(t.Balancer, t.Inside, t.Switch, "lb", wire) })
	b.join(t.Balancer, t.Inside, t.Inside4, t.Inside6)

	ports := []string{"lb"}
	for i := range o.Servers {
		name := fmt.Sprintf("srv%d", i+1)
		srv := b.host(t.Lab, name)
		t.Servers, ports = append(t.Servers, srv), append(ports, name)
		b.do(func() error { return t.Lab.Wire(srv, "eth0", t.Switch, name, wire) })
		b.join(srv, "eth0", t.ServerAddr4[i], t.ServerAddr6[i])
		b.gateway(srv, t.Inside4, t.Inside6)
	}
	b.do(func() error { return t.Switch.Bridge("br0", ports...) })
	b.do(func() error { return t.Switch.waitUp("br0") })
	return b.err
}

// Forward switches the kernel of the balancer to forward packets of both families, or not to. It is off unless a test
// wants the kernel's own routing to compare with.
func (t *TwoArm) Forward(on bool) error {
	value := "0"
	if on {
		value = "1"
	}
	return errors.Join(
		t.Balancer.Sysctl("net.ipv4.ip_forward", value),
		t.Balancer.Sysctl("net.ipv6.conf.all.forwarding", value))
}
