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
		if v.Mode.transparent() {
			f.transparentRules(t, port, v, &r)
			continue
		}
		destinationRules(&r, v.Destinations, v.number(), t.physical(f.portIndex(v.Port)) == port,
			rings.AddressRule{UnmatchedHost: v.Unmatched == UnmatchedHost, ICMPEngine: v.Echo != EchoKernel}, virtual)
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
				out = append(out, v.serverEnds(&pool.Members[j])...)
			}
		})
	}
	return out
}

// serverEnds are the server ends of connections of v to m. A virtual server for any port, for a range, or of a protocol without
// ports has all: what has no connection is handed to the kernel.
func (v *VirtualServer) serverEnds(m *Member) (out []rings.MemberRule) {
	for _, from := range v.firstEnds() {
		end := m.Target(from.Port())
		r := rings.MemberRule{Addr: end.Addr(), Proto: v.number(), Port: end.Port()}
		if v.Protocol == ICMP || v.Protocol == AnyProtocol {
			r.Port = 0
		}
		if !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out
}

// memberRules are the server ends of a virtual server's connections that are behind the port.
func (f *File) memberRules(t *topology, port int, v *VirtualServer) (out []rings.MemberRule) {
	f.eachServing(v, func(pool *Pool) {
		for i := range pool.Members {
			if hop, ok := t.hops[pool.Members[i].Address.Addr()]; ok && t.physical(hop.Port) == port {
				out = append(out, v.serverEnds(&pool.Members[i])...)
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
	for _, network := range f.networks() {
		for _, p := range network {
			out = append(out, p.Addr())
		}
	}
	return out
}
