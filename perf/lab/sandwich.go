package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
)

// Sandwich is a network of two balancers with two firewalls between them. The firewalls pass what they have seen open, of TCP
// by a SYN and of UDP by a datagram to port 53, and drop everything else; each has its own address on both sides.
//
//	near             lb-near                    wall-1             lb-far                 far
//	10.1.0.1 ── 10.1.0.254  10.0.1.254 ─┬─ 10.0.1.1  10.0.2.1 ─┬─ 10.0.2.254  10.2.0.254 ── 10.2.0.1
//	            hosts       walls       └─ 10.0.1.2  10.0.2.2 ─┘  walls       hosts
//
// IPv6 is fd00:10:... with the same last groups. Nothing but the balancers' program forwards in their hosts.
type Sandwich struct {
	Lab       *Lab
	Host      [2]*Host // near, far
	Balancer  [2]*Host
	Wall      [2]*Host
	Switch    [2]*Host
	Host4     [2]netip.Addr
	Host6     [2]netip.Addr
	Wall4     [2][2]netip.Addr // by side, then firewall
	Wall6     [2][2]netip.Addr
	Balancer4 [2]netip.Addr // towards the hosts
	Balancer6 [2]netip.Addr
}

// NewSandwich builds the network. Closing its Lab, or the end of ctx, takes it down.
func NewSandwich(ctx context.Context, queues int) (*Sandwich, error) {
	l, err := New(ctx, "sandwich")
	if err != nil {
		return nil, fmt.Errorf("sandwich lab: %w", err)
	}
	s := &Sandwich{Lab: l}
	if err := s.build(ctx, WireOptions{Queues: queues}); err != nil {
		return nil, errors.Join(fmt.Errorf("sandwich lab: %w", err), l.Close())
	}
	return s, nil
}

// wallRules are a stateful firewall that counts what it refuses.
const wallRules = `table inet wall {
	counter refused { }
	counter passed { }
	chain forward {
		type filter hook forward priority 0; policy drop;
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
		ct state established,related counter name passed accept
		ct state new tcp flags & (fin|syn|rst|ack) == syn counter name passed accept
		ct state new udp dport 53 counter name passed accept
		ct state new icmp type echo-request counter name passed accept
		ct state new icmpv6 type echo-request counter name passed accept
		counter name refused
	}
}`

func (s *Sandwich) build(ctx context.Context, wire WireOptions) error {
	var b builder
	in := func(format string, args ...any) netip.Addr { return netip.MustParseAddr(fmt.Sprintf(format, args...)) }
	names := [2]string{"near", "far"}
	for i := range s.Wall {
		s.Wall[i] = b.host(s.Lab, fmt.Sprintf("wall-%d", i+1))
	}
	for side, name := range names {
		n := side + 1
		s.Host[side], s.Balancer[side], s.Switch[side] = b.host(s.Lab, name), b.host(s.Lab, "lb-"+name), b.host(s.Lab, "switch-"+name)
		b.do(func() error { return s.Switch[side].Sysctl("net.ipv6.conf.default.disable_ipv6", "1") })
		s.Host4[side], s.Host6[side] = in("10.%d.0.1", n), in("fd00:10:%d::1", n)
		s.Balancer4[side], s.Balancer6[side] = in("10.%d.0.254", n), in("fd00:10:%d::254", n)
		b.do(func() error { return s.Lab.Wire(s.Host[side], "eth0", s.Balancer[side], "hosts", wire) })
		b.join(s.Host[side], "eth0", s.Host4[side], s.Host6[side])
		b.join(s.Balancer[side], "hosts", s.Balancer4[side], s.Balancer6[side])
		b.gateway(s.Host[side], s.Balancer4[side], s.Balancer6[side])
		b.do(func() error { return s.Lab.Wire(s.Balancer[side], "walls", s.Switch[side], "lb", wire) })
		near4, near6 := in("10.0.%d.254", n), in("fd00:10:0:%d::254", n)
		b.join(s.Balancer[side], "walls", near4, near6)
		ports := []string{"lb"}
		for i, wall := range s.Wall {
			s.Wall4[side][i], s.Wall6[side][i] = in("10.0.%d.%d", n, i+1), in("fd00:10:0:%d::%d", n, i+1)
			port := fmt.Sprintf("wall-%d", i+1)
			ports = append(ports, port)
			b.do(func() error { return s.Lab.Wire(wall, name, s.Switch[side], port, WireOptions{}) })
			b.join(wall, name, s.Wall4[side][i], s.Wall6[side][i])
			b.do(func() error { return wall.Route(fmt.Sprintf("10.%d.0.0/24", n), near4.String()) })
			b.do(func() error { return wall.Route(fmt.Sprintf("fd00:10:%d::/64", n), near6.String()) })
		}
		b.do(func() error { return s.Switch[side].Bridge("br0", ports...) })
		b.do(func() error { return s.Switch[side].waitUp("br0") })
	}
	for _, wall := range s.Wall {
		b.do(func() error {
			return errors.Join(wall.Sysctl("net.ipv4.ip_forward", "1"), wall.Sysctl("net.ipv6.conf.all.forwarding", "1"))
		})
		b.do(func() error {
			_, err := wall.Run(ctx, "nft", wallRules)
			return err
		})
		// Else conntrack takes up what it finds in the middle. The setting is there with its first rule.
		b.do(func() error { return wall.Sysctl("net.netfilter.nf_conntrack_tcp_loose", "0") })
	}
	return b.err
}
