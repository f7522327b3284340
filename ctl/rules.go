package ctl

import (
	"net/netip"
	"slices"

	"sluice/rings"
)

// rules are what the port takes from its traffic: what goes to a virtual server, on every port, and what comes from
// members, on the port that routes to them. local are the host's own addresses.
func (f *File) rules(t *topology, port int, local []netip.Addr) rings.Rules {
	var r rings.Rules
	virtual := map[netip.Addr]bool{}
	for i := range f.VirtualServers {
		v := &f.VirtualServers[i]
		a := v.Address.Addr()
		r.Virtuals = append(r.Virtuals, rings.VirtualRule{Addr: a, Proto: v.number(), Port: v.Address.Port()})
		if !virtual[a] {
			virtual[a] = true
			r.Addresses = append(r.Addresses, rings.AddressRule{Addr: a, UnmatchedHost: v.Unmatched == UnmatchedHost})
		}
		if v.Mode == ModeNAT { // answers of others go to a SNAT address, or past us
			r.Members = append(r.Members, f.memberRules(t, port, v)...)
		}
	}
	r.SNAT = f.snatRules(t)
	r.FarEnds = f.farEnds()
	slices.SortFunc(r.Members, compareRules)
	r.Members = slices.Compact(r.Members) // virtual servers may share members
	for _, a := range local {
		if !virtual[a] {
			r.Local = append(r.Local, a)
		}
	}
	return r
}

// farEnds are the members to which packets go from addresses of ours: through tunnels, or from SNAT addresses.
func (f *File) farEnds() (out []netip.Addr) {
	for i := range f.VirtualServers {
		v := &f.VirtualServers[i]
		if v.Mode != ModeTunnel && v.SNAT == "" {
			continue
		}
		f.eachServing(v, func(pool *Pool) {
			for _, m := range pool.Members {
				out = append(out, m.Address.Addr())
			}
		})
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// ends are the server ends that connections of the file's virtual servers have.
func (f *File) ends() (out []rings.MemberRule) {
	for i := range f.VirtualServers {
		v := &f.VirtualServers[i]
		if !v.Mode.translates() {
			continue
		}
		f.eachServing(v, func(pool *Pool) {
			for j := range pool.Members {
				out = append(out, v.end(&pool.Members[j]))
			}
		})
	}
	return out
}

// end is the server end of connections of v to m. A virtual server for any port, or a protocol without ports, has all.
func (v *VirtualServer) end(m *Member) rings.MemberRule {
	end := m.Target(v.Address.Port())
	r := rings.MemberRule{Addr: end.Addr(), Proto: v.number(), Port: end.Port()}
	if v.Protocol == ICMP || v.Protocol == AnyProtocol {
		r.Port = 0
	}
	return r
}

// memberRules are the server ends of a virtual server's connections that are behind the port.
func (f *File) memberRules(t *topology, port int, v *VirtualServer) (out []rings.MemberRule) {
	f.eachServing(v, func(pool *Pool) {
		for i := range pool.Members {
			end := v.end(&pool.Members[i])
			if hop, ok := t.hops[end.Addr]; ok && hop.Port == port {
				out = append(out, end)
			}
		}
	})
	return out
}

func compareRules(a, b rings.MemberRule) int {
	if c := a.Addr.Compare(b.Addr); c != 0 {
		return c
	}
	if a.Proto != b.Proto {
		return int(a.Proto) - int(b.Proto)
	}
	return int(a.Port) - int(b.Port)
}

// ownAddresses are the host's addresses as far as the file gives them, for where no kernel is asked.
func (f *File) ownAddresses() (out []netip.Addr) {
	for i := range f.Ports {
		for _, p := range f.Ports[i].Addresses {
			out = append(out, p.Addr())
		}
	}
	return out
}
