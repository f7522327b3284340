package ctl

import (
	"fmt"
	"net/netip"
	"slices"

	"sluice/engine"
)

// offline makes a topology from the file alone: no kernel is asked. What the file does not say is made up so that
// the same file always gives the same packets: port n has the MAC 02:00:00:00:01:0n, and a neighbour without an
// entry has 02:01 followed by the last four bytes of its address.
func (f *File) offline(near ...netip.Addr) (*topology, error) {
	t := &topology{hops: map[netip.Addr]engine.Hop{}}
	for i := range f.Ports {
		mac := [6]byte{2, 0, 0, 0, 1, byte(i + 1)}
		if f.Ports[i].MAC != nil {
			mac = [6]byte(f.Ports[i].MAC)
		}
		p := f.offlinePort(f.Ports[i].Addresses)
		p.MAC = mac
		t.ports = append(t.ports, p)
		t.own = append(t.own, slices.DeleteFunc(slices.Clone(f.Ports[i].Addresses), func(p netip.Prefix) bool { return !isNetwork(p) }))
	}
	onLink := f.onLinkMembers()
	t.noteVLANs(f)
	if len(t.parents) > 0 && f.Engine.HostPort { // its place
		t.ports, t.own = append(t.ports, engine.PortSpec{}), append(t.own, nil)
	}
	f.eachVLAN(func(_, port int, v *VLAN, _ *Port, _ string) {
		p := f.offlinePort(v.Addresses)
		p.MAC = t.ports[port].MAC
		if v.MAC != nil {
			p.MAC = [6]byte(v.MAC)
		}
		t.ports = append(t.ports, p)
		t.own = append(t.own, slices.DeleteFunc(slices.Clone(v.Addresses), func(p netip.Prefix) bool { return !isNetwork(p) }))
	})
	for _, a := range f.memberAddrs() {
		hop, err := f.offlineHop(a)
		if err != nil {
			return nil, err
		}
		t.hops[a] = hop
		if r := f.routeTo(a); r != nil {
			if _, near := f.onLink(a); !near {
				if err := f.checkOnLink(a, r.Via, onLink); err != nil {
					return nil, err
				}
			}
		}
	}
	t.routes = f.offlineRoutes(near)
	err := f.checkSources(func(a netip.Addr) (int, *engine.PortSpec, bool) {
		return t.hops[a].Port, &t.ports[t.hops[a].Port], true
	})
	if err != nil {
		return nil, err
	}
	if f.Engine.HostPort {
		t.host = &engine.HostSpec{Port: len(f.Ports), MAC: [6]byte{2, 0, 0, 0, 1, 0xff}}
	}
	return t, nil
}

// offlinePort is a port with these addresses.
func (f *File) offlinePort(addresses []netip.Prefix) (p engine.PortSpec) {
	for _, prefix := range addresses {
		switch a := prefix.Addr(); {
		case f.isVirtual(a):
		case a.Is4() && !p.Addr4.IsValid():
			p.Addr4 = a
		case a.Is6() && !p.Addr6.IsValid():
			p.Addr6 = a
		}
	}
	return p
}

// offlineHop finds the way to a member: a static neighbour, a port whose addresses cover it, a route to a gateway
// for which one of these holds, or the last port where the file says nothing at all about addresses.
func (f *File) offlineHop(a netip.Addr) (engine.Hop, error) {
	if hop, ok := f.onLink(a); ok {
		return hop, nil
	}
	if r := f.routeTo(a); r != nil {
		if hop, ok := f.onLink(r.Via); ok {
			return hop, nil
		}
		return engine.Hop{}, fmt.Errorf("%s: the gateway %s of route %s is on no port; give a port addresses or list it under neighbours", f.Name, r.Via, r.Prefix)
	}
	for _, network := range f.networks() {
		if len(network) > 0 {
			return engine.Hop{}, fmt.Errorf("%s: no port reaches member %s; give a port an address in its subnet, or list it under neighbours or its subnet under routes", f.Name, a)
		}
	}
	return engine.Hop{Port: len(f.Ports) - 1, MAC: madeUpMAC(a), OK: true}, nil
}

// routeTo is the route of the file with the longest prefix for an address, or nil.
func (f *File) routeTo(a netip.Addr) (best *Route) {
	for i := range f.Routes {
		if r := &f.Routes[i]; r.Prefix.Contains(a) && (best == nil || r.Prefix.Bits() > best.Prefix.Bits()) {
			best = r
		}
	}
	return best
}

func (f *File) onLink(a netip.Addr) (engine.Hop, bool) {
	if hop, ok := f.staticHop(a); ok {
		return hop, true
	}
	for i, network := range f.networks() {
		for _, p := range network {
			if p.Contains(a) {
				return engine.Hop{Port: i, MAC: madeUpMAC(a), OK: true}, true
			}
		}
	}
	return engine.Hop{}, false
}

// staticHop is the neighbour entry of the file for an address, which holds live as well.
func (f *File) staticHop(a netip.Addr) (engine.Hop, bool) {
	for _, n := range f.Neighbours {
		if n.Address == a {
			if i, ok := f.portNumber(n.Port); ok {
				return engine.Hop{Port: i, MAC: [6]byte(n.MAC), OK: true}, true
			}
		}
	}
	return engine.Hop{}, false
}

func madeUpMAC(a netip.Addr) [6]byte {
	b := a.AsSlice()
	b = b[len(b)-4:]
	return [6]byte{2, 1, b[0], b[1], b[2], b[3]}
}

// Offline compiles the file without asking the kernel, for one worker: for replay and explain. near are addresses whose
// neighbours forwarding needs.
func (f *File) Offline(near ...netip.Addr) (*engine.Config, *engine.Dictionary, error) {
	t, err := f.offline(near...)
	if err != nil {
		return nil, nil, err
	}
	dict := engine.NewDictionary()
	cfg, err := engine.NewConfig(f.spec(t, 1, 1), dict)
	return cfg, dict, err
}
