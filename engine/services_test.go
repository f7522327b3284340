package engine

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"sluice/flow"
)

// naive is the look-up of virtual servers by going over all of them.
type naive struct {
	specs []VirtualSpec
	own   []netip.Addr
}

// rank says how closely a destination of a virtual server fits a packet; 0: not at all. Bits first, an address before a prefix,
// then the port, a range, any port, any protocol.
func rank(d Destination, s *VirtualSpec, addr netip.Addr, port uint16, proto uint8, ingress int) int {
	if !d.Prefix.Contains(addr) || !d.IsAddress() && s.Ingress != ingress {
		return 0
	}
	if s.Proto == 0 && d.IsAddress() && (proto == flow.ICMP || proto == flow.ICMPv6) || s.Proto != 0 && s.Proto != proto {
		return 0
	}
	if !d.AnyPort() && !d.Ports.Contains(port) {
		return 0
	}
	class := 4
	switch {
	case s.Proto == 0:
		class = 1
	case d.AnyPort():
		class = 2
	case d.Ports.First != d.Ports.Last:
		class = 3
	}
	return (d.Prefix.Bits()+1)*8 + class
}

func (n *naive) find(addr netip.Addr, port uint16, proto uint8, ingress int) string {
	least := 0 // prefixes below it do not cover the address
	for i := range n.specs {
		for _, d := range n.specs[i].All() {
			here := d.IsAddress() || n.specs[i].Ingress == ingress
			if here && d.Prefix.Contains(addr) && (n.specs[i].Unmatched == UnmatchedHost || d.IsAddress() && isICMP(proto)) {
				least = max(least, (d.Prefix.Bits()+1)*8)
			}
		}
	}
	for _, a := range n.own {
		if a == addr {
			least = max(least, (addr.BitLen()+1)*8)
		}
	}
	best, name := 0, ""
	for i := range n.specs {
		for _, d := range n.specs[i].All() {
			if r := rank(d, &n.specs[i], addr, port, proto, ingress); r > best && r >= least {
				best, name = r, n.specs[i].Name
			}
		}
	}
	return name
}

// covered is the fate of what no virtual server wants.
func (n *naive) covered(addr netip.Addr, ingress int) (virtual bool, rest Unmatched) {
	best := -1
	for i := range n.specs {
		for _, d := range n.specs[i].All() {
			if d.Prefix.Contains(addr) && (d.IsAddress() || n.specs[i].Ingress == ingress) && d.Prefix.Bits() > best {
				best, virtual, rest = d.Prefix.Bits(), true, n.specs[i].Unmatched
			}
		}
	}
	if best < addr.BitLen() && slices.Contains(n.own, addr) {
		return false, UnmatchedDrop
	}
	return virtual, rest
}

// randomServices makes virtual servers around few addresses, so that they nest, and drops those that would overlap.
func randomServices(rnd *rand.Rand, v6 bool) naive {
	var n naive
	base := netip.MustParseAddr("10.1.2.0")
	if v6 {
		base = netip.MustParseAddr("2001:db8::10:0")
	}
	address := func() netip.Addr { return nearby(rnd, base) }
	taken := map[string][]flow.PortRange{}
	for i := range 1 + rnd.IntN(60) {
		s := VirtualSpec{Name: fmt.Sprintf("v%d", i), Ingress: rnd.IntN(2), Proto: []uint8{0, flow.TCP, flow.TCP, flow.UDP, flow.ICMP}[rnd.IntN(5)]}
		if v6 && s.Proto == flow.ICMP {
			s.Proto = flow.ICMPv6
		}
		for range 1 + rnd.IntN(3) {
			bits := base.BitLen()
			if rnd.IntN(2) == 0 {
				bits = []int{0, 8, 16, 24, 28, bits - 1, bits - 2, bits - 9}[rnd.IntN(8)]
			}
			d := Destination{Prefix: netip.PrefixFrom(address(), bits).Masked()}
			if s.Proto == flow.TCP || s.Proto == flow.UDP {
				first := uint16(1 + rnd.IntN(20))
				d.Ports = []flow.PortRange{{}, {First: first, Last: first}, {First: first, Last: first + uint16(rnd.IntN(6))}}[rnd.IntN(3)]
			}
			place := d.Prefix.String()
			if !d.IsAddress() {
				place += fmt.Sprint(" on ", s.Ingress)
			}
			class := fmt.Sprint(place, s.Proto, d.AnyPort(), d.Ports.First == d.Ports.Last)
			if slices.ContainsFunc(taken[class], func(r flow.PortRange) bool { return r.First <= d.Ports.Last && d.Ports.First <= r.Last }) {
				continue
			}
			taken[class] = append(taken[class], d.Ports)
			s.Destinations = append(s.Destinations, d)
		}
		if len(s.Destinations) > 0 {
			n.specs = append(n.specs, s)
		}
	}
	for range rnd.IntN(4) {
		a := address()
		virtual := slices.ContainsFunc(n.specs, func(s VirtualSpec) bool {
			return slices.ContainsFunc(s.Destinations, func(d Destination) bool { return d.IsAddress() && d.Prefix.Addr() == a })
		})
		if !virtual { // an address cannot be both
			n.own = append(n.own, a)
		}
	}
	return n
}

// nearby is an address that has most bits of base.
func nearby(rnd *rand.Rand, base netip.Addr) netip.Addr {
	b := base.As16()
	b[15] = byte(rnd.IntN(4))
	if rnd.IntN(3) == 0 {
		b[12+rnd.IntN(3)] ^= 1 << rnd.IntN(8)
	}
	return netip.AddrFrom16(b).Unmap()
}

// TestServicesRandom compares the look-up with a linear one over random virtual servers.
func TestServicesRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	hits, wide := 0, 0
	for round := range 600 {
		n := randomServices(rnd, round%2 == 1)
		rest := []Unmatched{UnmatchedDrop, UnmatchedHost, UnmatchedReset}[rnd.IntN(3)] // of all destinations
		for i := range n.specs {
			n.specs[i].Unmatched = rest
		}
		s := newServices(200)
		for i := range n.specs {
			for _, d := range n.specs[i].Destinations {
				if other := s.addDestination(d, n.specs[i].Proto, uint16(n.specs[i].Ingress), uint32(i+1), n.specs[i].Unmatched); other != 0 {
					t.Fatalf("%s of %+v is refused", d, n.specs[i])
				}
			}
		}
		for _, a := range n.own {
			s.addOwn(flow.AddrFrom(a))
		}
		if err := s.sort(); err != nil {
			t.Fatal(err)
		}
		base := netip.MustParseAddr("10.1.2.0")
		if round%2 == 1 {
			base = netip.MustParseAddr("2001:db8::10:0")
		}
		for range 300 {
			addr, port, ingress := nearby(rnd, base), uint16(rnd.IntN(28)), rnd.IntN(3)
			proto := []uint8{flow.TCP, flow.UDP, flow.ICMP, 47}[rnd.IntN(4)]
			if round%2 == 1 && proto == flow.ICMP {
				proto = flow.ICMPv6
			}
			if !hasPorts(proto) && !isICMP(proto) {
				port = 0
			}
			want, got := n.find(addr, port, proto, ingress), ""
			id := s.find(flow.AddrFrom(addr), port, proto, uint16(ingress))
			if id != 0 {
				got = n.specs[id-1].Name
				hits++
				if s.findAddress(flow.AddrFrom(addr), port, proto) == 0 {
					wide++
				}
			}
			if got != want {
				t.Fatalf("protocol %d %s port %d on %d is for %q, want %q, of %+v, own %v", proto, addr, port, ingress, got, want, n.specs, n.own)
			}
			wantVirtual, wantRest := n.covered(addr, ingress)
			if virtual, rest := s.covered(flow.AddrFrom(addr), uint16(ingress)); virtual != wantVirtual || rest != wantRest {
				t.Fatalf("%s on %d is virtual %v, unmatched %v, want %v, %v, of %+v", addr, ingress, virtual, rest, wantVirtual, wantRest, n.specs)
			}
		}
	}
	if hits < 50000 || wide < 10000 {
		t.Errorf("only %d packets were for a virtual server, %d of them by a prefix", hits, wide)
	}
}
