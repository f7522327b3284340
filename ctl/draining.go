package ctl

import (
	"net/netip"

	"sluice/engine"
	"sluice/rings"
)

// draining is what adopted connections use and the file no longer names: members and virtual addresses. It lasts until
// the process ends; new connections do not come to it.
type draining struct {
	nodes     map[uint32]netip.Addr // by id
	addresses map[uint32]netip.Addr // virtual, by id of the virtual server
	ways      map[netip.Addr]way
}

// findDraining compares the ids in use with the file.
func (s *Server) findDraining(inUse *engine.InUse) {
	s.drain = draining{nodes: map[uint32]netip.Addr{}, addresses: map[uint32]netip.Addr{}, ways: map[netip.Addr]way{}}
	for id := range inUse.Nodes {
		e, ok := s.dict.Node(id)
		if !ok || s.file.hasMember(e) {
			continue
		}
		s.drain.nodes[id] = e.Addr
		if w, err := route(e.Addr, s.ifaces[:len(s.file.Ports)]); err == nil {
			s.drain.ways[e.Addr] = w
		} else {
			s.log.Warn("connections to a member that is no longer configured cannot go on", "member", e.Addr, "reason", err)
		}
	}
	for id := range inUse.Virtuals {
		if e, ok := s.dict.Virtual(id); ok && !s.file.hasVirtual(e) {
			s.drain.addresses[id] = e.Addr
		}
	}
}

func (f *File) hasMember(e engine.Entry) bool {
	p := f.Pool(e.Pool)
	if p == nil {
		return false
	}
	for i := range p.Members {
		if a := p.Members[i].Address; a.Addr() == e.Addr && a.Port() == e.Port {
			return true
		}
	}
	return false
}

func (f *File) hasVirtual(e engine.Entry) bool {
	for i := range f.VirtualServers {
		v := &f.VirtualServers[i]
		if v.Address == netip.AddrPortFrom(e.Addr, e.Port) && v.Protocol.number() == e.Proto {
			return true
		}
	}
	return false
}

// spec adds what drains to what the engine compiles.
func (d *draining) spec(t *topology, into *engine.Spec) {
	into.Draining = engine.Draining{Nodes: map[uint32]engine.Hop{}, Virtuals: d.addresses}
	for id, a := range d.nodes {
		into.Draining.Nodes[id] = t.hops[a]
	}
}

// rules adds what drains to what the XDP program of a port takes: a member that drains with all it sends, because its
// connections say which of it they need, and the rest goes to the kernel through the host port.
func (d *draining) rules(t *topology, port int, into *rings.Rules) {
	have := map[netip.Addr]bool{}
	for _, a := range into.Addresses {
		have[a.Addr] = true
	}
	for _, a := range d.addresses {
		if !have[a] {
			have[a] = true
			into.Addresses = append(into.Addresses, rings.AddressRule{Addr: a})
		}
	}
	var local []netip.Addr
	for _, a := range into.Local {
		if !have[a] {
			local = append(local, a)
		}
	}
	into.Local = local
	seen := map[netip.Addr]bool{}
	for _, a := range d.nodes {
		if hop, ok := t.hops[a]; ok && hop.Port == port && !seen[a] {
			seen[a] = true
			into.Members = append(into.Members, rings.MemberRule{Addr: a})
		}
	}
}
