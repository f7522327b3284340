package ctl

import (
	"fmt"
	"net/netip"
)

// complete fills in the defaults that depend on other keys.
func (f *File) complete() {
	for i := range f.Ports {
		if p := &f.Ports[i]; p.Name == "" {
			p.Name = p.Interface
		}
	}
	f.completeVLANs()
	f.completeMonitors()
	for i := range f.Pools {
		for j := range f.Pools[i].Members {
			if m := &f.Pools[i].Members[j]; m.Name == "" && m.Address.IsValid() {
				m.Name = m.Address.String()
				if m.Address.Port() == 0 {
					m.Name = m.Address.Addr().String()
				}
			}
		}
	}
	for i := range f.VirtualServers {
		v := &f.VirtualServers[i]
		if v.Port == "" && len(f.Ports) > 0 {
			v.Port = f.Ports[0].Name
		}
		v.completeEnds()
		v.Timeouts.inherit(&f.Timeouts)
		if v.Hairpin == "" && !v.Mode.translates() {
			v.Hairpin = HairpinForward
		}
		if v.Hairpin == "" {
			v.Hairpin = HairpinRefuse
			if v.SNAT != "" {
				v.Hairpin = HairpinSNAT
			}
		}
	}
	for i := range f.SNATPools {
		if p := &f.SNATPools[i]; p.Port == "" && len(f.Ports) > 0 {
			p.Port = f.Ports[len(f.Ports)-1].Name
		}
	}
}

// inherit takes what is not set from the global timeouts.
func (t *Timeouts) inherit(global *Timeouts) {
	for _, k := range timeoutFields {
		if own := k(t); *own == 0 {
			*own = *k(global)
		}
	}
}

// validator holds what the checks across keys need to know of the whole file, so that each of them is one
// look-up: a file may have ten thousand virtual servers on pools of thousands of members.
type validator struct {
	*collector
	file      *File
	ports     map[string]int
	portNames []string
	pools     map[string]*poolFacts
	poolNames []string
	virtual   map[netip.Addr]int // the first virtual server of each address
	prefixes  map[prefixOn]int   // and of each prefix
	lengths   map[prefixLengths][]int
	claims    map[claimKey][]taken // what virtual servers take
}

// validate checks what no key can check for itself. A value that is zero was refused before or is missing,
// and was reported then.
func validate(c *collector, f *File) {
	v := &validator{collector: c, file: f, ports: map[string]int{}, pools: map[string]*poolFacts{}, virtual: map[netip.Addr]int{},
		prefixes: map[prefixOn]int{}, lengths: map[prefixLengths][]int{}, claims: map[claimKey][]taken{}}
	for i := range f.VirtualServers {
		for _, a := range f.VirtualServers[i].addresses() {
			if _, ok := v.virtual[a]; !ok {
				v.virtual[a] = i
			}
		}
	}
	v.checkEngine()
	v.checkControl()
	v.checkPorts()
	v.checkNeighbours()
	v.checkRoutes()
	v.checkSNATPools()
	v.checkPools()
	v.checkMemberSNAT()
	v.checkMonitors()
	v.checkVirtualServers()
	v.checkTunnels()
	v.checkPersistences()
}

func (v *validator) errorf(key, format string, args ...any) {
	v.add(position{}, key, wrong(format, args...))
}

// line is where a key stands, for messages about another one.
func (v *validator) line(key string) int { return locate(v.where, key).line }

// unique finds things that are the same and names the first one's line.
type unique[K comparable] struct {
	v     *validator
	first map[K]string
}

func newUnique[K comparable](v *validator) unique[K] { return unique[K]{v, map[K]string{}} }

// check reports key if k was seen before; what and k are for the message.
func (u unique[K]) check(k K, key, what string) bool {
	first, seen := u.first[k]
	if !seen {
		u.first[k] = key
		return true
	}
	u.v.errorf(key, "%s %v is already in line %d", what, k, u.v.line(first))
	return false
}

// reference reports a name that nothing has.
func (v *validator) reference(key, kind, name string, names []string) {
	v.add(position{}, key, v.suggest(wrong("no %s named %q", kind, name), name, names))
}

func (v *validator) checkEngine() {
	e := &v.file.Engine
	cores := newUnique[int](v)
	for i, core := range e.Cores {
		cores.check(core, fmt.Sprintf("engine.cores[%d]", i), "core")
	}
	if n := len(e.Cores); n > 0 && e.Workers > n {
		if e.Polling == PollingBusy {
			v.errorf("engine.workers", "%d workers on %d cores cannot all poll busily", e.Workers, n)
		} else {
			v.warn("engine.workers", "%d workers share %d cores", e.Workers, n)
		}
	}
	if e.Frames > 0 {
		queues := 0
		for i := range v.file.Ports {
			queues += max(1, v.file.Ports[i].Queues)
		}
		if least := queues * e.RingSize; e.Frames < least {
			v.errorf("engine.frames", "%d frames do not fill the rings: %d queues with ring-size %d need at least %d",
				e.Frames, queues, e.RingSize, least)
		}
	}
	if t := &v.file.Timeouts; t.UDPUnanswered > t.UDP && t.UDP > 0 {
		v.warn("timeouts.udp-unanswered", "longer than udp: an unanswered exchange outlives one that was answered")
	}
}

func (v *validator) checkPorts() {
	names, interfaces, addresses := newUnique[string](v), newUnique[string](v), newUnique[netip.Addr](v)
	for i := range v.file.Ports {
		p, at := &v.file.Ports[i], fmt.Sprintf("ports[%d]", i)
		if p.Interface != "" && !interfaces.check(p.Interface, at+".interface", "interface") && p.Name == p.Interface {
			continue // its default name is taken as well, and that says nothing more
		}
		if _, err := parseName(p.Name); p.Name != "" && err != nil {
			// Only a name taken from the interface was not read by parseName yet.
			v.add(position{}, at+".interface", err.(*problem).orUse("give the port a name"))
			continue
		}
		if p.Name != "" && names.check(p.Name, at+".name", "port") {
			v.ports[p.Name] = i
			v.portNames = append(v.portNames, p.Name)
		}
		for j, a := range p.Addresses {
			key := fmt.Sprintf("%s.addresses[%d]", at, j)
			addresses.check(a.Addr(), key, "address")
			if why := noStation(a.Addr()); why != "" && why != linkLocal {
				v.errorf(key, "%s is %s", a.Addr(), why)
			}
		}
	}
	v.checkVLANs(names)
}

func (v *validator) checkNeighbours() {
	type place struct {
		netip.Addr
		port string
	}
	seen := newUnique[place](v)
	for i := range v.file.Neighbours {
		n, at := &v.file.Neighbours[i], fmt.Sprintf("neighbours[%d]", i)
		if n.Port != "" {
			v.checkPortName(at+".port", n.Port)
		}
		if !n.Address.IsValid() {
			continue
		}
		if why := noStation(n.Address); why != "" && why != linkLocal {
			v.errorf(at+".address", "%s is %s", n.Address, why)
		}
		if first, ok := seen.first[place{n.Address, n.Port}]; ok {
			v.errorf(at+".address", "%s on this port is already in line %d", n.Address, v.line(first))
		} else {
			seen.first[place{n.Address, n.Port}] = at + ".address"
		}
	}
}

func (v *validator) checkPortName(key, name string) {
	if _, ok := v.ports[name]; !ok && len(v.ports) > 0 {
		v.reference(key, "port", name, v.portNames)
	}
}

func (v *validator) checkRoutes() {
	known := map[netip.Addr]bool{}
	for _, n := range v.file.Neighbours {
		known[n.Address] = true
	}
	prefixes := newUnique[netip.Prefix](v)
	for i := range v.file.Routes {
		r, at := &v.file.Routes[i], fmt.Sprintf("routes[%d]", i)
		if r.Prefix.IsValid() {
			prefixes.check(r.Prefix, at+".prefix", "the route to")
		}
		if !r.Via.IsValid() {
			continue
		}
		if why := noStation(r.Via); why != "" && why != linkLocal {
			v.errorf(at+".via", "%s is %s", r.Via, why)
		}
		if r.Prefix.IsValid() && r.Prefix.Addr().Is4() != r.Via.Is4() {
			v.errorf(at+".via", "%s is %s, and prefix %s is %s", r.Via, familyOf(r.Via), r.Prefix, familyOf(r.Prefix.Addr()))
		}
		if on, any := v.onLink(r.Via); any && !on && !known[r.Via] {
			v.warn(at+".via", "%s is on no port's network and no neighbour: the route cannot be used", r.Via)
		}
	}
}

// onLink tells whether a is on the network of a port, and whether any port has a network.
func (v *validator) onLink(a netip.Addr) (on, any bool) {
	for _, network := range v.file.networks() {
		for _, prefix := range network {
			any = true
			if prefix.Contains(a) {
				return true, true
			}
		}
	}
	return false, any
}

const linkLocal = "a link-local address"

// noStation says why an address cannot be that of one machine beyond the link, or nothing if it can.
func noStation(a netip.Addr) string {
	switch {
	case a.IsUnspecified():
		return "the unspecified address"
	case a.IsLoopback():
		return "a loopback address"
	case a.IsMulticast():
		return "a multicast address"
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "the broadcast address"
	case a.Is4() && a.As4()[0] == 0:
		return "an address of 0.0.0.0/8, which no packet may go to"
	case a.IsLinkLocalUnicast():
		return linkLocal
	}
	return ""
}

func familyOf(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}
