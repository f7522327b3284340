package ctl

import (
	"errors"
	"fmt"
	"net/netip"

	"sluice/engine"
	"sluice/rewrite"
)

// Tunnel is how the members of a pool are reached by virtual servers with mode tunnel.
type Tunnel struct {
	Encapsulation Encapsulation
	Port          int          // of GUE
	Sources       []netip.Addr // outer source addresses; without one of the member's family that of the port
	DF            DF
	Checksum      TunnelChecksum
}

// Words of tunnels.
type (
	Encapsulation  string
	DF             string
	TunnelChecksum string
)

// The words themselves.
const (
	IPIP Encapsulation = "ipip"
	GUE  Encapsulation = "gue"

	DFCopy  DF = "copy"
	DFSet   DF = "set"
	DFClear DF = "clear"

	TunnelChecksumAuto TunnelChecksum = "auto"
	ChecksumOn         TunnelChecksum = "on"
	ChecksumOff        TunnelChecksum = "off"
)

var tunnelKeys = mapping[Tunnel]{what: "the tunnel", keys: []configKey[Tunnel]{
	wordKey(keyDoc{name: "encapsulation", def: "ipip", example: "gue", text: "What is put around packets: ipip is another IP header and nothing else, gue is IP, UDP and a GUE header (variant 0), whose UDP source port tells connections apart for routers and NICs. Either carries both families over both."},
		[]Encapsulation{IPIP, GUE}, []Encapsulation{"gre", "vxlan", "geneve"}, func(t *Tunnel) *Encapsulation { return &t.Encapsulation }),
	numberKey(keyDoc{name: "port", def: "6080", example: "6081", text: "Destination port of gue."}, 1, 65535, func(t *Tunnel) *int { return &t.Port }),
	scalarsKey(keyDoc{name: "sources", kind: "list of IP addresses", otherwise: "the own address of the port that leads to the member", example: "[192.168.20.254]", text: "Outer source addresses, at most one of each family. ICMP errors of routers on the way come to them, so they must lead here."},
		textKey(keyDoc{kind: "IP address"}, parseAddr, func(a *netip.Addr) *netip.Addr { return a }), func(t *Tunnel) *[]netip.Addr { return &t.Sources }),
	wordKey(keyDoc{name: "df", def: "copy", example: "clear", text: "The don't-fragment bit of an outer IPv4 header: copy takes the packet's own. clear lets everything be fragmented on its way to the member, which has to put it together: for paths on which ICMP does not arrive. IPv6 packets always have it."},
		[]DF{DFCopy, DFSet, DFClear}, nil, func(t *Tunnel) *DF { return &t.DF }),
	wordKey(keyDoc{name: "checksum", def: "auto", example: "on", text: "Whether gue's UDP has a checksum: auto over IPv6 alone. Off over IPv6 takes a member that is set to accept that."},
		[]TunnelChecksum{TunnelChecksumAuto, ChecksumOn, ChecksumOff}, nil, func(t *Tunnel) *TunnelChecksum { return &t.Checksum }),
}}

var tunnelKey = nestedKey(keyDoc{name: "tunnel", example: "{encapsulation: gue}", text: "How members are reached by virtual servers with mode tunnel."},
	&tunnelKeys, func(p *Pool) *Tunnel { return &p.Tunnel })

// The range of mss-clamp: a segment of 536 bytes fits everywhere (RFC 9293 section 3.7.1).
const leastMSS, mostMSS = 536, 65495

// mssKey is auto, off or a number.
var mssKey = func() configKey[VirtualServer] {
	doc := keyDoc{name: "mss-clamp", kind: "number or word", limits: fmt.Sprintf("auto, off, %d to %d", leastMSS, mostMSS), def: "off", example: "auto",
		text: "Lower the maximum segment size that TCP SYNs announce: so segments fit where ICMP errors are lost. auto is what the smaller MTU of the client's and the member's port carries, and with mode tunnel what fits into the tunnel. With nat and fullnat both directions are clamped. With direct-return and tunnel the member's SYN goes past sluice: this bounds what the member sends, and what it receives is bounded on the member, by the MTU of its route or its own clamping."}
	k := textKey(doc, func(text string) (int, error) {
		switch text {
		case "off":
			return 0, nil
		case "auto":
			return engine.ClampAuto, nil
		}
		return parseNumber(text, leastMSS, mostMSS)
	}, func(v *VirtualServer) *int { return &v.MSSClamp })
	number := k.show
	k.show = func(from *VirtualServer, at string, emit func(Setting)) {
		switch from.MSSClamp {
		case 0:
			emit(Setting{at, "off"})
		case engine.ClampAuto:
			emit(Setting{at, "auto"})
		default:
			number(from, at, emit)
		}
	}
	return k
}()

func (t *Tunnel) compile() engine.TunnelSpec {
	s := engine.TunnelSpec{Sources: t.Sources, Port: uint16(t.Port)}
	if t.Encapsulation == GUE {
		s.Kind = rewrite.GUE
	}
	switch t.DF {
	case DFSet:
		s.DF = rewrite.SetDF
	case DFClear:
		s.DF = rewrite.ClearDF
	}
	switch t.Checksum {
	case ChecksumOn:
		s.Checksum = engine.ChecksumOn
	case ChecksumOff:
		s.Checksum = engine.ChecksumOff
	}
	return s
}

// tunnelled are the pools that virtual servers with mode tunnel use.
func (f *File) tunnelled() map[string]bool {
	out := map[string]bool{}
	for i := range f.VirtualServers {
		if v := &f.VirtualServers[i]; v.Mode == ModeTunnel {
			f.eachServing(v, func(p *Pool) { out[p.Name] = true })
		}
	}
	return out
}

// checkSources refuses tunnels that would have no source address; hop tells the port that leads to a member.
func (f *File) checkSources(hop func(netip.Addr) (int, *engine.PortSpec, bool)) error {
	var errs []error
	used := f.tunnelled()
	for i := range f.Pools {
		p := &f.Pools[i]
		if !used[p.Name] {
			continue
		}
		s := p.Tunnel.compile()
		for j := range p.Members {
			a := p.Members[j].Address.Addr()
			port, spec, ok := hop(a)
			if ok && !s.Source(a, spec).IsValid() {
				errs = append(errs, f.problem(fmt.Sprintf("pools[%d].members[%d].address", i, j), fmt.Errorf("port %s has no %s address for tunnels to member %s to come from; give it one, or name one in tunnel.sources",
					f.Ports[port].Name, familyOf(a), p.Members[j].Name)))
				break
			}
		}
	}
	return errors.Join(errs...)
}

// checkLiveSources is checkSources by what the kernel says.
func (f *File) checkLiveSources(ways map[netip.Addr]way, ifaces []iface) error {
	return f.checkSources(func(a netip.Addr) (int, *engine.PortSpec, bool) {
		w, known := ways[a]
		if hop, ok := f.staticHop(a); ok {
			w, known = way{port: hop.Port}, true
		}
		if !known {
			return 0, nil, false
		}
		return w.port, &engine.PortSpec{Addr4: ifaces[w.port].addr4, Addr6: ifaces[w.port].addr6}, true
	})
}

// withoutSource takes its next hop from a member whose tunnel has no source address now.
func (t *topology) withoutSource(s *engine.TunnelSpec, m *engine.MemberSpec) {
	if m.Hop.OK && m.Hop.Port < len(t.ports) && !s.Source(m.Addr, &t.ports[m.Hop.Port]).IsValid() {
		m.Hop.OK = false
	}
}

// checkTunnel checks what a pool says of tunnels.
func (v *validator) checkTunnel(p *Pool, at string, used bool) {
	if v.where[at+".tunnel"] == (position{}) {
		return
	}
	if !used {
		v.warn(at+".tunnel", "has no effect: no virtual server with mode tunnel uses pool %q", p.Name)
	}
	if p.Tunnel.Encapsulation == IPIP {
		for _, key := range []string{"port", "checksum"} {
			if k := at + ".tunnel." + key; v.where[k] != (position{}) {
				v.warn(k, "has no effect with ipip, which has neither UDP nor ports")
			}
		}
	}
	families := map[bool]bool{}
	for i, a := range p.Tunnel.Sources {
		key := fmt.Sprintf("%s.tunnel.sources[%d]", at, i)
		if why := noStation(a); why != "" {
			v.errorf(key, "a tunnel cannot come from %s", why)
		}
		if families[a.Is4()] {
			v.errorf(key, "a second %s address; tunnels come from one of each family", familyOf(a))
		}
		families[a.Is4()] = true
	}
}

// checkTunnels checks all pools' tunnels, and what virtual servers want of segment sizes.
func (v *validator) checkTunnels() {
	used := v.file.tunnelled()
	for i := range v.file.Pools {
		v.checkTunnel(&v.file.Pools[i], fmt.Sprintf("pools[%d]", i), used[v.file.Pools[i].Name])
	}
	for i := range v.file.VirtualServers {
		s, at := &v.file.VirtualServers[i], fmt.Sprintf("virtual-servers[%d]", i)
		if s.MSSClamp != 0 && s.Protocol != TCP && s.Protocol != AnyProtocol && s.Protocol != "" {
			v.warn(at+".mss-clamp", "has no effect: the virtual server's protocol is %s", s.Protocol)
		}
		if s.MSSClamp != 0 && s.TableFull == TableFullForward {
			v.errorf(at+".mss-clamp", "needs an entry for every connection, and table-full is forward")
		}
	}
}
