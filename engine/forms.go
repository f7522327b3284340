package engine

import (
	"errors"
	"fmt"

	"sluice/flow"
)

// addDestinations enters what virtual server id takes.
func (c *Config) addDestinations(v *virtual, id uint32) error {
	if v.withoutEntry() && !v.Simple() {
		return fmt.Errorf("virtual server %s: only one port of one address can do without the table: an answer does not say which port it is from", v.Name)
	}
	for _, d := range v.All() {
		if !d.Prefix.IsValid() || d.Prefix != d.Prefix.Masked() {
			return fmt.Errorf("virtual server %s: %s is not a prefix", v.Name, d.Prefix)
		}
		if d.Ports.Last < d.Ports.First {
			return fmt.Errorf("virtual server %s: ports %d to %d are not a range", v.Name, d.Ports.First, d.Ports.Last)
		}
		if (!d.IsAddress() || v.Mode.Transparent()) && (v.Ingress < 0 || v.Ingress >= len(c.Ports)) {
			return fmt.Errorf("virtual server %s: no port %d for prefix %s", v.Name, v.Ingress, d.Prefix)
		}
		if v.Mode.Transparent() { // not an address of ours, even if it is one alone
			c.services.networks.addThrough(flow.AddrFrom(d.Prefix.Addr()), prefixBits(d.Prefix), uint16(v.Ingress), spanOf(d, v.Proto, id))
			continue
		}
		if other := c.services.addDestination(d, v.Proto, uint16(v.Ingress), id, v.Unmatched); other != 0 {
			return fmt.Errorf("virtual server %s: %s already has %s", v.Name, c.virtuals[other].Name, d)
		}
	}
	return nil
}

// addPortAddresses keeps prefixes from covering the ports' own addresses, as the XDP program does with all of the host's.
func (c *Config) addPortAddresses() {
	for i := range c.exits {
		for _, a := range []flow.Addr{c.exits[i].addr4, c.exits[i].addr6} {
			if a != (flow.Addr{}) {
				c.services.addOwn(a)
			}
		}
	}
}

// addDraining makes the addresses and prefixes of a virtual server that is no longer configured virtual still: what goes to
// them is a client's packet.
func (c *Config) addDraining(v *VirtualSpec) {
	for _, d := range v.All() {
		if !d.Prefix.IsValid() || v.Mode.Transparent() {
			continue
		}
		if addr := flow.AddrFrom(d.Prefix.Addr()); d.IsAddress() {
			c.services.addAddress(addr)
		} else if v.Ingress >= 0 && v.Ingress < len(c.Ports) {
			c.services.networks.add(addr, prefixBits(d.Prefix), uint16(v.Ingress), span{}, UnmatchedDrop)
		}
	}
}

// sortServices ends the compilation of destinations.
func (c *Config) sortServices() error {
	err := c.services.sort()
	var o *overlapError
	if errors.As(err, &o) {
		return fmt.Errorf("virtual servers %s and %s: %w", c.virtuals[o.a].Name, c.virtuals[o.b].Name, err)
	}
	if err == nil && len(c.services.networks.lengths) > 0 {
		return c.compileServerEnds()
	}
	return err
}

// compileServerEnds makes the table of the members' ends of connections: what comes from there, by the port that leads to the
// member, is no client's packet, whatever prefix it goes to.
func (c *Config) compileServerEnds() error {
	n := 0
	for i := range c.virtuals {
		if v := &c.virtuals[i]; v.exists && v.Mode == NAT {
			v.pool.eachServing(func(*member) { n += len(v.All()) })
		}
	}
	c.serverEnds = newServices(n)
	s := &c.serverEnds
	for i := range c.virtuals {
		v := &c.virtuals[i]
		if !v.exists || v.Mode != NAT { // answers of others go to a SNAT address, or past us
			continue
		}
		v.pool.eachServing(func(m *member) {
			for _, d := range v.All() {
				end := Destination{Prefix: AddressPort(m.Addr, 0).Prefix, Ports: d.Ports}
				if m.Port != 0 && hasPorts(v.Proto) {
					end = AddressPort(m.Addr, m.Port)
				}
				s.addEnd(end, v.Proto, uint32(m.Hop.Port)+1)
			}
		})
	}
	return s.spans.merge(func(addr flow.Addr, first, n uint32) {
		e := s.slot(addr, 0)
		e.id, e.node = first, n
	})
}

// addEnd is addDestination for a member's end, which several virtual servers may have; id is the port that leads there.
func (s *services) addEnd(d Destination, proto uint8, id uint32) {
	addr, sp := flow.AddrFrom(d.Prefix.Addr()), spanOf(d, proto, id)
	if sp.class == classRange {
		s.anyRange = true
		s.addAddress(addr)
		s.spans.pending = append(s.spans.pending, pendingSpan{addr: addr, span: sp})
		return
	}
	s.add(addr, sp.first, proto, id, UnmatchedDrop)
}

// merge is sort for spans that may overlap, which become one.
func (s *spans) merge(place func(addr flow.Addr, first, n uint32)) error {
	s.orderPending()
	var joined []pendingSpan
	for _, p := range s.pending {
		if n := len(joined); n > 0 && joined[n-1].addr == p.addr && joined[n-1].proto == p.proto && joined[n-1].last >= p.first {
			joined[n-1].last = max(joined[n-1].last, p.last)
			continue
		}
		joined = append(joined, p)
	}
	s.pending = joined
	return s.sort(place)
}

// find is the virtual server that a packet is for that arrived on a port, or 0.
func (c *Config) find(k *flow.Key, ingress uint16) uint32 {
	id := c.services.find(k.Dst, k.DstPort(), k.Proto, ingress)
	if id != 0 && c.serverEnds.entries != nil && !c.virtuals[id].Mode.Transparent() && c.fromServer(k, ingress) {
		return c.services.findAddress(k.Dst, k.DstPort(), k.Proto)
	}
	return id
}

// covered reports whether a packet that arrived on a port goes to a virtual address or prefix, and what becomes of what no
// virtual server wants there.
func (c *Config) covered(k *flow.Key, ingress uint16) (virtual bool, rest Unmatched) {
	if c.serverEnds.entries != nil && c.fromServer(k, ingress) {
		return c.services.address(k.Dst)
	}
	return c.services.covered(k.Dst, ingress)
}

// fromServer reports whether a packet comes from a member's end, by the port that leads there. ICMP errors are judged by the
// packet that they quote, fragments by the tuple of their datagram.
func (c *Config) fromServer(k *flow.Key, ingress uint16) bool {
	return c.serverEnds.findAddress(k.Src, k.SrcPort(), k.Proto) == uint32(ingress)+1
}
