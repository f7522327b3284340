package ctl

import (
	"fmt"
	"net/netip"
	"slices"

	"sluice/engine"
	"sluice/rings"
)

// The modes that serve destinations which are not ours: what their configuration must be, and what of the traffic is theirs.

// transparent reports whether the destinations of a virtual server are not ours and stay.
func (m Mode) transparent() bool { return m == ModeRouter || m == ModeFirewall || m == ModeForward }

// byRoute reports whether connections go where the kernel's routes lead; of firewalls, those that come in through them.
func (m Mode) byRoute() bool { return m == ModeFirewall || m == ModeForward }

// isTransparent reports whether a virtual server of the file has such a mode.
func (f *File) isTransparent() bool {
	return slices.ContainsFunc(f.VirtualServers, func(v VirtualServer) bool { return v.Mode.transparent() })
}

// isByRoute reports whether anything is forwarded by the kernel's routes.
func (f *File) isByRoute() bool {
	return slices.ContainsFunc(f.VirtualServers, func(v VirtualServer) bool { return v.Mode.byRoute() })
}

// servesFirewalls reports whether the pool is of a virtual server in mode firewall, or stands in for one.
func (f *File) servesFirewalls(p *Pool) (is bool) {
	for i := range f.VirtualServers {
		if v := &f.VirtualServers[i]; v.Mode == ModeFirewall {
			f.eachServing(v, func(have *Pool) { is = is || have == p })
		}
	}
	return is
}

// memberUses reports whether a member comes from the SNAT pool of that name.
func (f *File) memberUses(snat string) bool {
	for i := range f.Pools {
		if slices.ContainsFunc(f.Pools[i].Members, func(m Member) bool { return m.SNAT == snat }) {
			return true
		}
	}
	return false
}

// transparentRules are what a port takes for a virtual server in such a mode: its destinations on its own port, and on
// ports behind which members are, or anywhere where routes decide, everything that is nobody else's, among which the answers
// are. What has no connection goes on to the kernel. Where the source is translated answers go to the SNAT address instead.
func (f *File) transparentRules(t *topology, port int, v *VirtualServer, into *rings.Rules) {
	if t.physical(f.portIndex(v.Port)) == port {
		for _, d := range v.Destinations {
			takePrefix(into, d.Prefix)
		}
	}
	back := v.Mode == ModeForward && v.SNAT == ""
	f.eachServing(v, func(p *Pool) {
		for i := range p.Members {
			m := &p.Members[i]
			if hop, ok := t.hops[m.Address.Addr()]; ok && t.physical(hop.Port) == port && v.SNAT == "" && m.SNAT == "" {
				back = true
			}
		}
	})
	if back && v.Address.IsValid() {
		takePrefix(into, anywhere(v.Address.Addr()))
	}
}

// drainThrough is transparentRules for one that the file no longer has: its answers may come on any port.
func drainThrough(into *rings.Rules, v engine.VirtualSpec, ingress bool) {
	for _, d := range v.All() {
		if ingress {
			takePrefix(into, d.Prefix)
		}
		takePrefix(into, anywhere(d.Prefix.Addr()))
	}
}

func takePrefix(into *rings.Rules, p netip.Prefix) {
	if !slices.Contains(into.Prefixes, p) {
		into.Prefixes = append(into.Prefixes, p)
	}
}

// anywhere are all addresses of a family.
func anywhere(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// checkTransparent checks what a virtual server in such a mode has, and that others have what only these do without.
func (v *validator) checkTransparent(s *VirtualServer, at string) {
	switch {
	case s.Pool == "" && s.Mode != ModeForward:
		v.errorf(at, "pool is missing")
	case s.Pool != "" && s.Mode == ModeForward:
		v.errorf(at+".pool", "forward goes where the kernel's routes lead, not to members; remove pool, or use mode router")
	}
	if !s.Mode.transparent() {
		return
	}
	switch {
	case s.Mode == ModeFirewall && s.SNAT != "":
		v.errorf(at+".snat", "firewalls see both ends as they are; remove snat, or use mode router")
	case v.where[at+".hairpin"] != (position{}):
		v.errorf(at+".hairpin", "%s has no hairpin: no address of ours stands for a member; remove hairpin", s.Mode)
	case s.OnePacket:
		v.errorf(at+".one-packet", "%s needs an entry for every connection; one-packet is for mode nat", s.Mode)
	case s.TableFull == TableFullForward:
		v.errorf(at+".table-full", "%s needs an entry for every connection; forward is for mode nat", s.Mode)
	case v.where[at+".address-handling"] != (position{}):
		v.warn(at+".address-handling", "has no effect: what %s serves is put on no port", s.Mode)
	case v.where[at+".unmatched"] != (position{}):
		v.warn(at+".unmatched", "has no effect: what %s does not want is the kernel's", s.Mode)
	}
	v.file.eachServing(s, func(p *Pool) {
		facts, ok := v.pools[p.Name]
		if !ok {
			return
		}
		key := func(j int, name string) string { return fmt.Sprintf("pools[%d].members[%d].%s", facts.index, j, name) }
		for j, m := range p.Members {
			switch {
			case m.Address.IsValid() && m.Address.Port() != 0:
				v.errorf(at+".mode", "%s leaves ports as they are, and member %q of pool %q (line %d) has port %d; leave it out there",
					s.Mode, m.Name, p.Name, v.line(key(j, "address")), m.Address.Port())
				return
			case s.Mode == ModeFirewall && m.SNAT != "":
				v.errorf(at+".mode", "firewalls see both ends as they are, and member %q of pool %q (line %d) has snat; remove it there, or use mode router",
					m.Name, p.Name, v.line(key(j, "snat")))
				return
			}
		}
		if s.Mode == ModeFirewall && p.Scheduler != SourceHash && p.Scheduler != Maglev && p.Scheduler != "" {
			v.errorf(at+".mode", "firewall needs a pool that hashes, and scheduler %s of pool %q (line %d) does not: use maglev or source-hash",
				p.Scheduler, p.Name, v.line(fmt.Sprintf("pools[%d].scheduler", facts.index)))
		}
		for i := range v.file.VirtualServers {
			if other := &v.file.VirtualServers[i]; other.Pool == p.Name && (other.Mode == ModeFirewall) != (s.Mode == ModeFirewall) {
				v.errorf(at+".pool", "pool %q is that of virtual server %q (line %d) as well, whose mode is %s: firewalls are told apart by both ends of a connection, others by the client; give each a pool of its own",
					p.Name, other.Name, v.line(fmt.Sprintf("virtual-servers[%d].pool", i)), other.Mode)
				return
			}
		}
	})
}

// checkMemberSNAT checks what members want of SNAT. The names of SNAT pools are known.
func (v *validator) checkMemberSNAT() {
	for i := range v.file.Pools {
		for j := range v.file.Pools[i].Members {
			m, key := &v.file.Pools[i].Members[j], fmt.Sprintf("pools[%d].members[%d].snat", i, j)
			pool := v.file.SNATPool(m.SNAT)
			switch {
			case m.SNAT == "" || m.SNAT == Automap:
			case pool == nil:
				v.reference(key, "SNAT pool", m.SNAT, v.snatNames())
			case m.Address.IsValid() && len(pool.Addresses) > 0 && !slices.ContainsFunc(pool.Addresses, func(a netip.Addr) bool { return a.Is4() == m.Address.Addr().Is4() }):
				v.errorf(key, "member %q (%s) is %s, and SNAT pool %q has no such address", m.Name, m.Address.Addr(), familyOf(m.Address.Addr()), m.SNAT)
			}
		}
	}
}
