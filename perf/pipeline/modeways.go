package pipeline

import (
	"net/netip"

	"sluice/engine"
	"sluice/flow"
	"sluice/rewrite"
)

// The modes that leave the destination as it is: ways to somebody else's address, and tunnels. Members are the next hops.

// anywhere has a virtual server for all destinations of each protocol and family, for what comes from outside, in a mode.
func anywhere(s *engine.Spec, m engine.Mode) {
	type kind struct {
		proto   uint8
		version int
	}
	have := map[kind]bool{}
	var all []engine.VirtualSpec
	for _, v := range s.Virtuals {
		k := kind{v.Proto, version(&v)}
		if have[k] {
			continue
		}
		have[k] = true
		whole := netip.IPv4Unspecified()
		if k.version == 6 {
			whole = netip.IPv6Unspecified()
		}
		v.Destinations, v.Ingress = []engine.Destination{{Prefix: netip.PrefixFrom(whole, 0)}}, outside
		v.Addr, v.Port = netip.Addr{}, 0
		all = append(all, v)
	}
	s.Virtuals = all
	keepPorts(s)
	setMode(s, m)
}

func router(s *engine.Spec) { anywhere(s, engine.Router) }

func routerSNAT(s *engine.Spec) {
	router(s)
	addSNAT(s)
}

func firewall(s *engine.Spec) {
	anywhere(s, engine.Firewall)
	for i := range s.Pools {
		s.Pools[i].Scheduler, s.Pools[i].Symmetric = "maglev", true
	}
}

func forward(s *engine.Spec) {
	anywhere(s, engine.Forward)
	s.Pools = nil
	for i := range s.Virtuals {
		v := &s.Virtuals[i]
		v.Pool = -1
		d := v.Destinations[0].Prefix
		s.Routes = append(s.Routes, engine.RouteSpec{Prefix: d, Via: address(version(v), memberBase), Hop: engine.Hop{Port: inside, MAC: serverMAC, OK: true}})
	}
}

func forwardSNAT(s *engine.Spec) {
	forward(s)
	addSNAT(s)
}

func ipip(s *engine.Spec) { through(s, rewrite.IPIP) }
func gue(s *engine.Spec)  { through(s, rewrite.GUE) }

// through reaches members through tunnels.
func through(s *engine.Spec, kind rewrite.TunnelKind) {
	keepPorts(s)
	setMode(s, engine.Tunnel)
	for i := range s.Pools {
		s.Pools[i].Tunnel = engine.TunnelSpec{Kind: kind, Sources: []netip.Addr{address(4, snatBase), address(6, snatBase)}}
	}
}

// uncover is the frame of the packet inside that of a tunnel: its header is in front, as if it were the outer one's.
func uncover(frame []byte) []byte {
	outer := ipLen
	if frame[etherLen]>>4 == 6 {
		outer = ip6Len
	}
	proto := frame[etherLen+9]
	if outer == ip6Len {
		proto = frame[etherLen+6]
	}
	const gueLen = 4
	if proto == flow.UDP {
		outer += udpLen + gueLen
	}
	inner := append([]byte(nil), frame[outer:]...)
	copy(inner, frame[:etherLen]) // of the same family
	return inner
}
