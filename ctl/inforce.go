package ctl

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"sluice/engine"
	"sluice/rings"
)

// What is in force follows from the file and from what the kernel says at the moment: ways to members, the compiled
// configuration, the rules of the XDP programs, and the addresses that are put on ports.

// awaitHops gives the kernel some time to resolve the next hops.
func (s *Server) awaitHops(ctx context.Context) error {
	for deadline := time.Now().Add(resolveTime); ; {
		t, err := s.topology()
		if err != nil {
			return err
		}
		missing := t.unresolved()
		if len(missing) == 0 {
			return nil
		}
		if ctx.Err() != nil {
			return nil // the start goes on to its end, which is near, and Run ends it in order
		}
		if time.Now().After(deadline) {
			s.log.Warn("members without a next hop yet: they take no connections until it answers", "members", missing)
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// resolveHops has the kernel keep the next hops resolved.
func (s *Server) resolveHops() error {
	want := map[placedNeighbour]bool{}
	for _, ways := range []map[netip.Addr]way{s.ways, s.drain.ways} {
		for _, w := range ways {
			if !s.isOpen(w.port) {
				continue // its interface is gone, and the kernel has forgotten them
			}
			want[placedNeighbour{s.ifaceOf(w.port).index, w.via}] = true
		}
	}
	s.eachForwarding(func(w way) {
		if s.isOpen(w.port) {
			want[placedNeighbour{s.ifaceOf(w.port).index, w.via}] = true
		}
	})
	return s.state.keepNeighbours(want)
}

func (s *Server) topology() (*topology, error) {
	t, err := s.file.live(s.reach(), s.ways, s.drain.ways, s.host)
	if err != nil {
		return nil, err
	}
	if err := s.forward(t); err != nil {
		return nil, err
	}
	for i := range s.file.enginePorts() {
		t.down = append(t.down, s.linkState(i) != "up")
	}
	for a, h := range t.hops {
		if t.down[h.Port] { // a neighbour of the file has a MAC all the same
			h.OK = false
			t.hops[a] = h
		}
	}
	return t, nil
}

// compile makes the engine's configuration, for so many workers, and the programs' rules from the file and the kernel as it
// is now.
func (s *Server) compile(workers int) (*engine.Config, []rings.Rules, error) {
	t, err := s.topology()
	if err != nil {
		return nil, nil, err
	}
	local, err := localAddresses()
	if err != nil {
		return nil, nil, err
	}
	rules := make([]rings.Rules, len(s.file.Ports))
	s.dropEnds(t)
	for i := range rules {
		rules[i] = s.file.rules(t, i, local)
		s.drain.rules(t, i, &rules[i])
	}
	s.generation++
	spec := s.file.spec(t, workers, s.generation)
	s.drain.spec(t, &spec)
	spec.RSSTableSize = s.tableSize
	cfg, err := s.health.compile(s.file, &spec, s.dict)
	if err != nil {
		return nil, nil, err
	}
	s.spec = spec
	if s.tables != nil {
		if err := s.noteIDs(); err != nil {
			return nil, nil, err
		}
	}
	s.hops, s.lastHops = t.hops, fmt.Sprint(t.hops, t.own, t.ports, t.down, t.routes)
	s.manageAgain(t)
	s.lastRules = describeRules(rules)
	return cfg, rules, nil
}

// manageAgain has the kernel look after neighbours again that it has forgotten, as it does when a link goes down. Each try
// is a change that is reported back to us, so there is one a second at most: an old kernel, which has no managed
// neighbours, would keep us busy.
func (s *Server) manageAgain(t *topology) {
	if len(t.unmanaged) == 0 {
		return
	}
	if time.Since(s.managed) < time.Second {
		s.lookAgain = s.lookAgain || len(t.unresolved()) > 0
		return
	}
	s.managed = time.Now()
	for _, w := range t.unmanaged {
		// With an old kernel this starts another resolution.
		_ = manage(s.ifaceOf(w.port).index, w.via)
		n := placedNeighbour{s.ifaceOf(w.port).index, w.via}
		if !slices.Contains(s.state.Neighbours, n) {
			s.state.Neighbours = append(s.state.Neighbours, n)
			_ = s.state.save() // only for a successor that cleans up
		}
	}
}

// noteIDs writes down what ids mean before a worker uses them.
func (s *Server) noteIDs() error {
	if s.tables.dictionary != nil {
		return s.tables.note(s.dict)
	}
	return s.tables.begin(s.file.enginePorts(), s.dict)
}

func describeRules(rules []rings.Rules) (out []string) {
	for i := range rules {
		out = append(out, fmt.Sprint(rules[i]))
	}
	return out
}

// want adds addresses to those that shall be on a port.
func (s *Server) want(want map[placedAddress]bool, port string, addrs ...netip.Addr) {
	if n, ok := s.file.portNumber(port); ok {
		f := s.ifaceOf(n)
		for _, a := range addrs {
			want[placedAddress{f.index, f.mac, a}] = true
		}
	}
}

// placeAddresses puts the managed virtual and SNAT addresses on their ports and takes off those of an earlier engine.
func (s *Server) placeAddresses() error {
	s.withdraw()
	want := map[placedAddress]bool{}
	for i := range s.file.VirtualServers {
		if v := &s.file.VirtualServers[i]; v.AddressHandling == AddressManaged {
			s.want(want, v.Port, s.announced(v)...)
		}
	}
	for i := range s.file.SNATPools {
		if p := &s.file.SNATPools[i]; p.AddressHandling == AddressManaged {
			s.want(want, p.Port, p.Addresses...)
		}
	}
	for _, p := range s.state.Addresses {
		for _, v := range s.drain.virtuals {
			for _, d := range v.All() {
				if d.IsAddress() && p.Address == d.Prefix.Addr() {
					want[p] = true
				}
			}
		}
	}
	for _, p := range s.state.Addresses {
		for _, a := range s.drain.snat {
			if p.Address == a {
				want[p] = true
			}
		}
	}
	placed := map[placedAddress]bool{}
	for p := range want {
		if !s.isOpenInterface(p.Index) {
			continue // later, on the interface that takes its place
		}
		if _, err := s.state.placeAddress(p); err != nil {
			return err
		}
		placed[p] = true
		if !s.placed[p] {
			s.announceSoon(p)
		}
	}
	s.placed = placed
	return s.state.keepAddresses(want)
}

// stopTimeout bounds a shutdown.
const stopTimeout = 5 * time.Second
