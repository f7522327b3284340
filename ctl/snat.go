package ctl

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"sluice/engine"
	"sluice/flow"
	"sluice/rings"
)

// SNATPool is a set of addresses that connections to members come from.
type SNATPool struct {
	Name            string
	Addresses       []netip.Addr
	Ports           flow.PortRange // and ICMP query ids
	Port            string         // name of a Port
	AddressHandling AddressHandling
}

// Automap is the name of the pool that every file has: of each port the own address.
const Automap = "automap"

// automapPorts are the ports that connections from own addresses have: below those that Linux gives to the host's own
// connections unless it is told otherwise (ip_local_port_range, 32768 to 60999).
var automapPorts = flow.PortRange{First: 16384, Last: 32767}

// parsePortRange reads first-last.
func parsePortRange(text string) (r flow.PortRange, err error) {
	first, last, ok := strings.Cut(text, "-")
	a, errA := strconv.ParseUint(first, 10, 16)
	b, errB := strconv.ParseUint(last, 10, 16)
	if !ok || errA != nil || errB != nil {
		return r, wrong("want first-last, found %q", shorten(text)).orUse("such as 1024-65535")
	}
	switch r = (flow.PortRange{First: uint16(a), Last: uint16(b)}); {
	case a == 0 || b < a:
		return r, wrong("ports %d to %d are not a range", a, b)
	case b-a+1 < flow.PortBins:
		return r, wrong("%d ports are too few: each of %d bins of clients has its own", b-a+1, flow.PortBins)
	}
	return r, nil
}

// SNATPool returns the SNAT pool of that name, or nil.
func (f *File) SNATPool(name string) *SNATPool {
	return findNamed(f.SNATPools, name, func(p *SNATPool) string { return p.Name })
}

// usesAutomap is the place of the first virtual server or member that does, or "".
func (f *File) usesAutomap() string {
	for i := range f.VirtualServers {
		if f.VirtualServers[i].SNAT == Automap {
			return fmt.Sprintf("virtual-servers[%d].snat", i)
		}
	}
	for i := range f.Pools {
		for j := range f.Pools[i].Members {
			if f.Pools[i].Members[j].SNAT == Automap {
				return fmt.Sprintf("pools[%d].members[%d].snat", i, j)
			}
		}
	}
	return ""
}

// snat are the pools as the engine knows them.
func (f *File) snat(t *topology) (out []engine.SNATSpec) {
	for i := range f.SNATPools {
		p := &f.SNATPools[i]
		s := engine.SNATSpec{Name: p.Name}
		for _, a := range p.Addresses {
			s.Addresses = append(s.Addresses, engine.SNATAddress{Addr: a, Ports: p.Ports})
		}
		out = append(out, s)
	}
	if f.usesAutomap() == "" {
		return out
	}
	auto := engine.SNATSpec{Name: Automap}
	for i, own := range t.own {
		var has [2]bool // by family: one address is enough
		for _, p := range own {
			if a := p.Addr(); !has[a.BitLen()>>7] {
				has[a.BitLen()>>7] = true
				auto.Addresses = append(auto.Addresses, engine.SNATAddress{Addr: a, Ports: automapPorts, Egress: i + 1})
			}
		}
	}
	return append(out, auto)
}

// snatRules are what every port takes of the traffic to SNAT addresses.
func (f *File) snatRules(t *topology) (out []rings.SNATRule) {
	// Errors come from routers anywhere, about packets to anywhere; and of queries in parts the later ones have no identifier to tell ours by.
	icmp := f.isTransparent() || slices.ContainsFunc(f.VirtualServers, func(v VirtualServer) bool {
		return v.Protocol == ICMP || v.Protocol == AnyProtocol
	})
	for _, p := range f.snat(t) {
		for _, a := range p.Addresses {
			out = append(out, rings.SNATRule{Addr: a.Addr, First: a.Ports.First, Last: a.Ports.Last, ICMPEngine: icmp})
		}
	}
	return out
}

// hasSNAT reports whether the address is in a pool of the file.
func (f *File) hasSNAT(a netip.Addr) bool {
	for i := range f.SNATPools {
		for _, have := range f.SNATPools[i].Addresses {
			if have == a {
				return true
			}
		}
	}
	return false
}

func (m Mode) compile() engine.Mode {
	switch m {
	case ModeFullNAT:
		return engine.FullNAT
	case ModeRouter:
		return engine.Router
	case ModeFirewall:
		return engine.Firewall
	case ModeForward:
		return engine.Forward
	case ModeDirectReturn:
		return engine.DirectReturn
	case ModeTunnel:
		return engine.Tunnel
	}
	return engine.NAT
}

func (h HairpinMode) compile() engine.Hairpin {
	switch h {
	case HairpinSNAT:
		return engine.HairpinSNAT
	case HairpinRefuse:
		return engine.HairpinRefuse
	}
	return engine.HairpinForward
}

// subnet is the network on which both the member and its port are, or the zero value.
func (t *topology) subnet(a netip.Addr) netip.Prefix {
	if hop, ok := t.hops[a]; ok && hop.Port < len(t.own) {
		for _, p := range t.own[hop.Port] {
			if p.Contains(a) {
				return p
			}
		}
	}
	return netip.Prefix{}
}

// isNetwork reports whether an address of a port stands for a network of more than itself, which the link-local one does not.
func isNetwork(p netip.Prefix) bool { return !p.IsSingleIP() && !p.Addr().IsLinkLocalUnicast() }

// checkLocalPorts refuses automap where the kernel gives its ports to the host's own connections.
func (f *File) checkLocalPorts() error {
	at := f.usesAutomap()
	if at == "" {
		return nil
	}
	const path = "/proc/sys/net/ipv4/ip_local_port_range"
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read which ports the host's own connections have: %w", err)
	}
	var first, last uint16
	if _, err := fmt.Sscan(string(b), &first, &last); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if first <= automapPorts.Last && last >= automapPorts.First {
		return f.problem(at, fmt.Errorf("automap takes ports %d to %d of the port's own address, and the kernel gives %d to %d to the host's own connections; set net.ipv4.ip_local_port_range to others, or use a snat-pool with addresses of its own",
			automapPorts.First, automapPorts.Last, first, last))
	}
	return nil
}

// checkSNATPools checks the pools by themselves. The virtual addresses are known.
func (v *validator) checkSNATPools() {
	names, addresses := newUnique[string](v), newUnique[netip.Addr](v)
	own := v.portAddresses()
	for i := range v.file.SNATPools {
		p, at := &v.file.SNATPools[i], fmt.Sprintf("snat-pools[%d]", i)
		switch {
		case p.Name == Automap:
			v.errorf(at+".name", "automap is the pool of the ports' own addresses; choose another name")
		case p.Name != "":
			names.check(p.Name, at+".name", "SNAT pool")
		}
		if p.Port != "" {
			v.checkPortName(at+".port", p.Port)
		}
		if len(p.Addresses) > maxSNATAddresses {
			v.errorf(at+".addresses", "%d addresses; at most %d", len(p.Addresses), maxSNATAddresses)
		}
		used := v.file.memberUses(p.Name)
		for j := range v.file.VirtualServers {
			used = used || v.file.VirtualServers[j].SNAT == p.Name
		}
		if !used {
			v.warn(at, "no virtual server uses SNAT pool %q", p.Name)
		}
		for j, a := range p.Addresses {
			v.checkSNATAddress(p, a, fmt.Sprintf("%s.addresses[%d]", at, j), own)
			addresses.check(a, fmt.Sprintf("%s.addresses[%d]", at, j), "SNAT address")
		}
	}
}

// maxSNATAddresses bounds the search of a connection that finds every address exhausted.
const maxSNATAddresses = 64

func (v *validator) checkSNATAddress(p *SNATPool, a netip.Addr, at string, own map[netip.Addr]int) {
	if why := noStation(a); why != "" {
		v.errorf(at, "a SNAT address cannot be %s", why)
	}
	if first, ok := v.virtual[a]; ok {
		v.errorf(at, "%s is the address of virtual server %q (line %d): answers could not be told from requests",
			a, v.file.VirtualServers[first].Name, v.line(fmt.Sprintf("virtual-servers[%d].address", first)))
	}
	switch port, ok := own[a]; {
	case ok && port < 0:
		v.errorf(at, "%s is the broadcast address of a port's network", a)
	case ok:
		v.errorf(at, "%s is the own address of port %q, whose connections would be lost", a, v.file.portName(port))
	}
	for i := range v.file.Pools {
		for j := range v.file.Pools[i].Members {
			if v.file.Pools[i].Members[j].Address.Addr() == a {
				v.errorf(at, "%s is the address of a member (line %d)", a, v.line(fmt.Sprintf("pools[%d].members[%d].address", i, j)))
				return
			}
		}
	}
}

// snatNames are the names that a snat key may have.
func (v *validator) snatNames() []string {
	names := []string{Automap}
	for i := range v.file.SNATPools {
		names = append(names, v.file.SNATPools[i].Name)
	}
	return names
}

// checkSNATOf checks what a virtual server wants of SNAT.
func (v *validator) checkSNATOf(s *VirtualServer, at string) {
	pool := v.file.SNATPool(s.SNAT)
	full := s.Mode == ModeFullNAT
	switch {
	case s.SNAT != "" && s.SNAT != Automap && pool == nil:
		v.reference(at+".snat", "SNAT pool", s.SNAT, v.snatNames())
	case full && s.SNAT == "":
		v.errorf(at+".mode", "fullnat needs snat: the name of a snat-pool, or automap")
	case s.Hairpin == HairpinSNAT && s.SNAT == "":
		v.errorf(at+".hairpin", "snat needs snat: the name of a snat-pool, or automap")
	case full && s.OnePacket:
		v.errorf(at+".one-packet", "fullnat needs an entry for every connection; one-packet is for mode nat")
	case full && s.TableFull == TableFullForward:
		v.errorf(at+".table-full", "fullnat needs an entry for every connection; forward is for mode nat")
	case full && v.where[at+".hairpin"] != (position{}):
		v.warn(at+".hairpin", "has no effect with fullnat, which translates every client")
	case pool != nil && s.Address.IsValid() && len(pool.Addresses) > 0:
		for _, a := range pool.Addresses {
			if a.Is4() == s.Address.Addr().Is4() {
				return
			}
		}
		v.errorf(at+".snat", "virtual server %q (%s) is %s, and SNAT pool %q has no such address", s.Name, s.Address, familyOf(s.Address.Addr()), s.SNAT)
	}
}
