package ctl

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"sluice/engine"
	"sluice/rings"
)

// draining is what connections use and the file no longer names: members and virtual servers, by their ids. New
// connections do not come to it. What has no connection left is forgotten.
type draining struct {
	nodes    map[uint32]engine.DrainingNode
	virtuals map[uint32]engine.VirtualSpec
	snat     map[uint32]netip.Addr   // SNAT addresses
	entries  map[uint32]engine.Entry // of nodes
	ways     map[netip.Addr]way      // to their addresses
	// ends are the server ends that connections may have, whatever virtual server they came by: a virtual server may be gone,
	// or have another pool now, and answers must still reach the workers. What they do not need goes to the kernel
	// through the host port. An end is kept until its member is gone.
	ends   map[rings.MemberRule]bool
	looked time.Time // when it was last asked what is still in use
}

func newDraining() draining {
	return draining{
		snat: map[uint32]netip.Addr{}, nodes: map[uint32]engine.DrainingNode{}, virtuals: map[uint32]engine.VirtualSpec{}, entries: map[uint32]engine.Entry{},
		ways: map[netip.Addr]way{}, ends: map[rings.MemberRule]bool{},
	}
}

// drainAdopted finds what adopted connections use and the file does not have.
func (s *Server) drainAdopted(inUse *engine.InUse) {
	s.drain = newDraining()
	for id := range inUse.Nodes {
		if s.inheritNear(id) {
			continue
		}
		if e, ok := s.dict.Node(id); ok && s.file.member(e) == nil {
			s.drainNode(id, e, e.Addr.String(), engine.TunnelSpec{})
		}
		if e, ok := s.dict.SNAT(id); ok && !s.file.hasSNAT(e.Addr) {
			s.drain.snat[id] = e.Addr
		}
	}
	for e := range inUse.Ends {
		s.drain.ends[rings.MemberRule(e)] = true
	}
	for id := range inUse.Virtuals {
		if e, ok := s.dict.Virtual(id); ok && s.file.virtual(e) == nil {
			s.drain.virtuals[id] = e.Spec(s.file.portNames())
		}
	}
}

func (s *Server) drainNode(id uint32, e engine.Entry, name string, tunnel engine.TunnelSpec) {
	s.drain.nodes[id], s.drain.entries[id] = engine.DrainingNode{Pool: e.Pool, Name: name, Tunnel: tunnel}, e
	w, known := s.ways[e.Addr]
	if _, static := s.file.staticHop(e.Addr); !known && !static {
		var err error
		if w, err = route(e.Addr, s.reach()); err != nil {
			s.log.Warn("connections to a member that is no longer configured cannot go on", "member", e.Addr, "reason", err)
			return
		}
	}
	s.drain.ways[e.Addr] = w
}

// drainRemoved makes what old has and the file does not have drain, and takes what the file has again out.
func (s *Server) drainRemoved(old *File, spec *engine.Spec) {
	before := s.drain
	s.drain = newDraining()
	s.drain.ends = maps.Clone(before.ends)
	for _, e := range old.ends() {
		s.drain.ends[e] = true
	}
	for _, e := range s.dict.Entries(0) {
		switch e.Kind {
		case "node":
			if s.file.member(e) != nil {
				continue
			}
			if n, ok := before.nodes[e.ID]; ok {
				s.drainNode(e.ID, e, n.Name, n.Tunnel)
			} else if m := old.member(e); m != nil {
				s.drainNode(e.ID, e, m.Name, old.Pool(e.Pool).Tunnel.compile())
			}
		case "snat": // drained sees whether it is in use at all
			if !s.file.hasSNAT(e.Addr) {
				s.drain.snat[e.ID] = e.Addr
			}
		case "virtual":
			if s.file.virtual(e) != nil {
				continue
			}
			if v, ok := before.virtuals[e.ID]; ok {
				s.drain.virtuals[e.ID] = v
			}
			for i := range spec.Virtuals {
				if v := &spec.Virtuals[i]; e.Same(v.Entry(spec.Ports)) {
					s.drain.virtuals[e.ID] = *v
				}
			}
		}
	}
}

// drained forgets what has no connection left, and reports whether there was such. The workers must have the
// configuration in which it drains, so that nothing new comes to it.
func (s *Server) drained(ctx context.Context) (bool, error) {
	if len(s.drain.nodes)+len(s.drain.virtuals)+len(s.drain.snat) == 0 || time.Since(s.drain.looked) < time.Second {
		return false, nil
	}
	s.drain.looked = time.Now()
	snaps, err := s.engine.Snapshots(ctx)
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found := false
	for id, n := range s.drain.nodes {
		if sum := sumService(snaps, nodesOf, id); sum.Active == 0 {
			s.log.Info("a removed member has no connection left", "pool", n.Pool, "member", n.Name)
			delete(s.drain.nodes, id)
			delete(s.drain.entries, id)
			found = true
		}
	}
	for id := range s.drain.virtuals {
		if sum := sumService(snaps, virtualsOf, id); sum.Active == 0 {
			delete(s.drain.virtuals, id)
			found = true
		}
	}
	for id := range s.drain.snat {
		if sum := sumService(snaps, nodesOf, id); sum.Active == 0 {
			delete(s.drain.snat, id)
			found = true
		}
	}
	used := map[netip.Addr]bool{}
	for _, e := range s.drain.entries {
		used[e.Addr] = true
	}
	for a := range s.drain.ways {
		if !used[a] {
			delete(s.drain.ways, a)
		}
	}
	return found, nil
}

// member is the member of the file that an entry of the dictionary stands for, or nil.
func (f *File) member(e engine.Entry) *Member {
	p := f.Pool(e.Pool)
	if p == nil {
		return nil
	}
	for i := range p.Members {
		if a := p.Members[i].Address; a.Addr() == e.Addr && a.Port() == e.Port {
			return &p.Members[i]
		}
	}
	return nil
}

// virtual is the virtual server of the file that an entry of the dictionary stands for, or nil.
func (f *File) virtual(e engine.Entry) *VirtualServer {
	for i := range f.VirtualServers {
		v := &f.VirtualServers[i]
		if len(v.Destinations) == 0 || v.Destinations[0].Prefix.Addr() != e.Addr || !v.Destinations[0].AnyPort() && v.Destinations[0].Ports.First != e.Port {
			continue // the rest costs more to compare
		}
		if e.Same(f.entry(v)) {
			return v
		}
	}
	return nil
}

// spec adds what drains to what the engine compiles.
func (d *draining) spec(t *topology, into *engine.Spec) {
	into.Draining = engine.Draining{Nodes: map[uint32]engine.DrainingNode{}, Virtuals: map[uint32]engine.VirtualSpec{}, SNAT: maps.Clone(d.snat)}
	for id, n := range d.nodes {
		n.Hop = t.hops[d.entries[id].Addr]
		into.Draining.Nodes[id] = n
	}
	for id, v := range d.virtuals {
		into.Draining.Virtuals[id] = v
	}
}

// rules adds what drains to what the XDP program of a port takes.
func (d *draining) rules(t *topology, port int, into *rings.Rules) {
	have := map[netip.Addr]bool{}
	for _, a := range into.Addresses {
		have[a.Addr] = true
	}
	for _, id := range slices.Sorted(maps.Keys(d.virtuals)) { // in an order: rules are compared
		v := d.virtuals[id]
		if v.Mode.Transparent() {
			drainThrough(into, v, t.physical(v.Ingress) == port)
			continue
		}
		destinationRules(into, v.All(), v.Proto, t.physical(v.Ingress) == port, rings.AddressRule{}, have)
	}
	for _, id := range slices.Sorted(maps.Keys(d.snat)) {
		a := d.snat[id]
		if !slices.ContainsFunc(into.SNAT, func(r rings.SNATRule) bool { return r.Addr == a }) {
			into.SNAT = append(into.SNAT, rings.SNATRule{Addr: a, First: 1, Last: 65535}) // what has no connection goes to the kernel
		}
	}
	var local []netip.Addr
	for _, a := range into.Local {
		if !have[a] {
			local = append(local, a)
		}
	}
	into.Local = local
	for e := range d.ends {
		if hop, ok := t.hops[e.Addr]; ok && t.physical(hop.Port) == port {
			into.Members = append(into.Members, e)
		}
	}
	slices.SortFunc(into.Members, compareRules)
	into.Members = slices.Compact(into.Members)
	for _, id := range slices.Sorted(maps.Keys(d.entries)) {
		into.FarEnds = append(into.FarEnds, d.entries[id].Addr)
	}
}

// dropEnds forgets the ends of members that are neither in the file nor drain.
func (s *Server) dropEnds(t *topology) {
	for e := range s.drain.ends {
		if _, ok := t.hops[e.Addr]; !ok {
			delete(s.drain.ends, e)
		}
	}
}
