package ctl

import (
	"fmt"
	"net/netip"
)

// What the modes have in common in which addresses and ports stay as the client sent them, and answers go past us.

// translates reports whether members get packets with their own address.
func (m Mode) translates() bool { return m != ModeDirectReturn && m != ModeTunnel }

// checkUntranslated refuses what has no meaning where no address changes and no answer is seen.
func (v *validator) checkUntranslated(s *VirtualServer, at string) {
	if s.Mode.translates() {
		return
	}
	switch {
	case s.SNAT != "":
		v.errorf(at+".snat", "%s changes no address: members see the client, and answer it themselves; remove snat", s.Mode)
	case v.where[at+".hairpin"] != (position{}):
		v.errorf(at+".hairpin", "%s has no hairpin: answers go past sluice wherever the client is; remove hairpin", s.Mode)
	case s.OnePacket:
		v.errorf(at+".one-packet", "%s needs an entry for every connection; one-packet is for mode nat", s.Mode)
	case s.TableFull == TableFullForward:
		v.errorf(at+".table-full", "%s needs an entry for every connection; forward is for mode nat", s.Mode)
	}
	key := at + ".mode"
	v.file.eachServing(s, func(p *Pool) {
		facts, ok := v.pools[p.Name]
		if !ok {
			return
		}
		for j, m := range p.Members {
			if port := m.Address.Port(); m.Address.IsValid() && s.Address.IsValid() && port != 0 && port != s.Address.Port() {
				v.errorf(key, "%s leaves ports as they are, and member %q of pool %q (line %d) has port %d; leave it out there",
					s.Mode, m.Name, p.Name, v.line(fmt.Sprintf("pools[%d].members[%d].address", facts.index, j)), port)
				return
			}
		}
		switch {
		case p.Scheduler == Fastest:
			v.errorf(key, "scheduler fastest of pool %q (line %d) measures answers, which go past sluice with %s; least-connections does without",
				p.Name, v.line(fmt.Sprintf("pools[%d].scheduler", facts.index)), s.Mode)
		case p.Passive.Enabled():
			v.errorf(key, "passive of pool %q (line %d) judges members by their answers, which go past sluice with %s; use monitors",
				p.Name, v.line(fmt.Sprintf("pools[%d].passive", facts.index)), s.Mode)
		}
	})
}

// onLinkMembers are the members that have to be neighbours of a port: a frame is theirs by its MAC address alone, and a router on
// the way would send it back to where the virtual address leads.
func (f *File) onLinkMembers() map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	for i := range f.VirtualServers {
		if v := &f.VirtualServers[i]; v.Mode == ModeDirectReturn {
			f.eachServing(v, func(p *Pool) {
				for _, m := range p.Members {
					out[m.Address.Addr()] = true
				}
			})
		}
	}
	return out
}

// checkOnLink refuses a gateway in front of a member that has to be a neighbour.
func (f *File) checkOnLink(a, via netip.Addr, onLink map[netip.Addr]bool) error {
	if a == via || !onLink[a] {
		return nil
	}
	return f.problem(f.memberKey(a), fmt.Errorf("member %s is behind the gateway %s, and %s needs it on a network of a port: the virtual address stays in the packet, and the gateway would send it back; use mode fullnat, or move the member",
		a, via, ModeDirectReturn))
}
