package ctl

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"sluice/engine"
	"sluice/sched"
)

// timeoutFields are all of Timeouts.
var timeoutFields = []func(*Timeouts) *time.Duration{
	func(t *Timeouts) *time.Duration { return &t.ICMP }, func(t *Timeouts) *time.Duration { return &t.Other },
	func(t *Timeouts) *time.Duration { return &t.TCPHandshake },
	func(t *Timeouts) *time.Duration { return &t.TCPEstablished },
	func(t *Timeouts) *time.Duration { return &t.TCPClosing },
	func(t *Timeouts) *time.Duration { return &t.TCPClosed },
	func(t *Timeouts) *time.Duration { return &t.UDP },
	func(t *Timeouts) *time.Duration { return &t.UDPUnanswered },
	func(t *Timeouts) *time.Duration { return &t.SCTPInit },
	func(t *Timeouts) *time.Duration { return &t.SCTPEstablished },
	func(t *Timeouts) *time.Duration { return &t.SCTPShutdown },
	func(t *Timeouts) *time.Duration { return &t.SCTPClosed },
}

// poolFacts is what virtual servers ask about a pool, so that they need not read its members.
type poolFacts struct {
	index  int
	used   bool
	family map[bool]int   // the first member that is IPv4 (true) or IPv6 (false)
	twice  map[uint16]int // a virtual port through which this member is the same as another one
}

func (v *validator) checkPools() {
	names := newUnique[string](v)
	for i := range v.file.Pools {
		p, at := &v.file.Pools[i], fmt.Sprintf("pools[%d]", i)
		facts := v.checkMembers(p, at)
		facts.index = i
		if p.Name != "" && names.check(p.Name, at+".name", "pool") {
			v.pools[p.Name] = facts
			v.poolNames = append(v.poolNames, p.Name)
		}
	}
}

func (v *validator) checkMembers(p *Pool, at string) *poolFacts {
	facts := &poolFacts{family: map[bool]int{}, twice: map[uint16]int{}}
	names, targets := newUnique[string](v), newUnique[netip.AddrPort](v)
	portless := map[netip.Addr]bool{}
	weights, uneven := 0, ""
	for j := range p.Members {
		m, at := &p.Members[j], fmt.Sprintf("%s.members[%d]", at, j)
		weights += m.Weight
		if uneven == "" && m.Weight > 1 {
			uneven = at + ".weight"
		}
		a := m.Address.Addr()
		if !a.IsValid() {
			continue
		}
		if _, ok := facts.family[a.Is4()]; !ok {
			facts.family[a.Is4()] = j
		}
		portless[a] = portless[a] || m.Address.Port() == 0
		if first, ok := targets.first[m.Address]; ok {
			v.errorf(at+".address", "%s is already the address of a member of this pool, in line %d", m.Name, v.line(first))
			continue // its default name is taken as well, and that says nothing more
		}
		targets.first[m.Address] = at + ".address"
		names.check(m.Name, at+".name", "member")
		if why := noStation(a); why != "" {
			v.errorf(at+".address", "a member cannot be %s", why)
		}
		if first, ok := v.virtual[a]; ok {
			v.errorf(at+".address", "%s is the address of virtual server %q (line %d): its packets would come back",
				a, v.file.VirtualServers[first].Name, v.line(fmt.Sprintf("virtual-servers[%d].address", first)))
		}
	}
	for j := range p.Members {
		if a := p.Members[j].Address; a.Port() != 0 && portless[a.Addr()] {
			facts.twice[a.Port()] = j
		}
	}
	if weights == 0 && len(p.Members) > 0 {
		v.warn(at, "all members have weight 0: the pool takes no new connection")
	}
	if uneven != "" && p.Scheduler != "" && !sched.UsesWeights(string(p.Scheduler)) {
		v.warn(uneven, "scheduler %s does not look at weights other than 0; %s does", p.Scheduler, weightedLike(string(p.Scheduler)))
	}
	if p.TableSize != 0 {
		if err := sched.CheckTableSize(p.TableSize, len(p.Members)); err != nil {
			v.errorf(at+".table-size", "%v", err)
		}
	}
	return facts
}

func (v *validator) checkVirtualServers() {
	names := newUnique[string](v)
	own := v.portAddresses()
	for i := range v.file.VirtualServers {
		s, at := &v.file.VirtualServers[i], fmt.Sprintf("virtual-servers[%d]", i)
		if s.Name != "" {
			names.check(s.Name, at+".name", "virtual server")
		}
		if s.Port != "" {
			v.checkPortName(at+".port", s.Port)
		}
		v.checkEnds(s, i, at, own)
		v.checkAccess(s, at)
		if s.Pool != "" {
			v.checkPoolOf(s, at)
		}
		v.checkTransparent(s, at)
		v.checkOverrides(s, at)
		v.checkConnections(s, at)
		v.checkSNATOf(s, at)
		v.checkUntranslated(s, at)
		v.checkEcho(s, at)
		v.checkUnmatched(s, at)
	}
	if len(v.file.VirtualServers) == 0 {
		v.warn("virtual-servers", "no virtual server: all traffic goes to the kernel")
	}
	for _, name := range v.poolNames {
		if facts := v.pools[name]; !facts.used {
			v.warn(fmt.Sprintf("pools[%d]", facts.index), "no virtual server uses pool %q", name)
		}
	}
}

// checkConnections refuses settings that the protocol has no use for.
func (v *validator) checkConnections(s *VirtualServer, at string) {
	ported := slices.IndexFunc(s.Destinations, func(d engine.Destination) bool { return !d.AnyPort() })
	switch portless := s.Protocol == ICMP || s.Protocol == AnyProtocol; {
	case portless && ported >= 0:
		v.errorf(at+s.endKeys[ported], "protocol %s has no ports; write %s:any", s.Protocol, s.Destinations[ported].Host())
	case s.OnePacket && (portless || s.Address.IsValid() && !s.simple()):
		v.errorf(at+".one-packet", "one-packet is for one port of UDP of one address: answers are told by the member's port")
	case s.TableFull == TableFullForward && (portless || s.Address.IsValid() && !s.simple()):
		v.errorf(at+".table-full", "forward is for one port of TCP or UDP of one address: answers are told by the member's port")
	case s.Protocol == ICMP && s.MidStream != MidStreamDrop && s.MidStream != "":
		v.errorf(at+".mid-stream", "ICMP has no streams; mid-stream is for TCP")
	case s.Protocol == ICMP && s.ResetExpired:
		v.errorf(at+".reset-on-expiry", "ICMP has no resets; reset-on-expiry is for TCP")
	case s.OnePacket && s.Protocol == TCP:
		v.errorf(at+".one-packet", "TCP has connections; one-packet is for UDP")
	case s.OnePacket && s.Protocol == SCTP:
		v.errorf(at+".one-packet", "SCTP has associations; one-packet is for UDP")
	case s.Protocol == UDP && s.MidStream != MidStreamDrop && s.MidStream != "":
		v.errorf(at+".mid-stream", "UDP has no streams; mid-stream is for TCP")
	case s.Protocol == SCTP && s.MidStream != MidStreamDrop && s.MidStream != "":
		v.errorf(at+".mid-stream", "an SCTP association cannot be judged without its tags; mid-stream is for TCP")
	case s.Protocol == UDP && s.ResetExpired:
		v.errorf(at+".reset-on-expiry", "UDP has no resets; reset-on-expiry is for TCP")
	case s.Protocol == SCTP && s.ResetExpired:
		v.errorf(at+".reset-on-expiry", "an SCTP association that expires ends in silence; reset-on-expiry is for TCP")
	case s.TableFull == TableFullForward && s.Protocol == SCTP:
		v.errorf(at+".table-full", "SCTP needs an association's tags; forward is for TCP and UDP")
	case s.TableFull == TableFullForward && !v.hashes(s.Pool):
		v.errorf(at+".table-full", "forward needs a pool that hashes clients: scheduler source-hash or maglev")
	case s.OnePacket && s.HalfOpenLimit > 0:
		v.warn(at+".half-open-limit", "has no effect with one-packet, which opens no connections")
	}
}

// hashes reports whether the pool's scheduler goes by the client alone; a pool that is not there is reported elsewhere.
func (v *validator) hashes(pool string) bool {
	p := v.file.Pool(pool)
	return p == nil || p.Scheduler == SourceHash || p.Scheduler == Maglev
}

// portAddresses maps the ports' own addresses, and the broadcast addresses of their networks (-1).
func (v *validator) portAddresses() map[netip.Addr]int {
	own := map[netip.Addr]int{}
	networks := v.file.networks()
	for i := range networks {
		for _, a := range networks[i] {
			own[a.Addr()] = i
		}
	}
	for i := range networks {
		for _, a := range networks[i] {
			if b, ok := broadcast(a); ok {
				own[b] = -1
			}
		}
	}
	return own
}

// broadcast is the broadcast address of an IPv4 network. Networks of one or two addresses have none (RFC 3021).
func broadcast(p netip.Prefix) (netip.Addr, bool) {
	if !p.Addr().Is4() || p.Bits() >= 31 {
		return netip.Addr{}, false
	}
	a := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		a[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(a), true
}

func (v *validator) checkAddress(s *VirtualServer, a netip.Addr, key string, own map[netip.Addr]int) {
	if why := noStation(a); why != "" {
		v.errorf(key, "a virtual server cannot have %s", why)
		return
	}
	switch port, ok := own[a]; {
	case ok && port < 0:
		v.errorf(key, "%s is the broadcast address of a port's network", a)
	case ok && (s.Unmatched == UnmatchedDrop || s.Unmatched == UnmatchedReset):
		v.warn(key, "%s is the own address of port %q, and unmatched is %s: the host is not reached by it, not even by ssh; set unmatched: host and address-handling: external", a, v.file.portName(port), s.Unmatched)
	case ok && s.AddressHandling == AddressManaged:
		v.warn(key, "%s is the own address of port %q: address-handling should be external", a, v.file.portName(port))
	}
}

// checkSameAddress compares what belongs to the address rather than to one virtual server.
func (v *validator) checkSameAddress(s *VirtualServer, at string, a netip.Addr, first int) {
	f := &v.file.VirtualServers[first]
	for _, k := range []struct{ key, mine, other string }{
		{"unmatched", string(s.Unmatched), string(f.Unmatched)},
		{"echo", string(s.Echo), string(f.Echo)},
		{"address-handling", string(s.AddressHandling), string(f.AddressHandling)},
		{"port", s.Port, f.Port},
	} {
		if k.mine != "" && k.other != "" && k.mine != k.other {
			v.errorf(at+"."+k.key, "%s is %s here and %s in virtual server %q (line %d), which has the same address %s", k.key, k.mine, k.other,
				f.Name, v.line(fmt.Sprintf("virtual-servers[%d].%s", first, k.key)), a)
		}
	}
}

func (v *validator) checkPoolOf(s *VirtualServer, at string) {
	facts, ok := v.pools[s.Pool]
	if !ok {
		v.reference(at+".pool", "pool", s.Pool, v.poolNames)
		return
	}
	facts.used = true
	if !s.Address.IsValid() {
		return
	}
	members := v.file.Pools[facts.index].Members
	member := func(j int) (string, int) {
		return members[j].Name, v.line(fmt.Sprintf("pools[%d].members[%d].address", facts.index, j))
	}
	a := s.Address.Addr()
	if j, ok := facts.family[!a.Is4()]; ok && s.Mode != ModeTunnel {
		name, line := member(j)
		v.errorf(at+".pool", "virtual server %q (%s) is %s, and member %q of pool %q (line %d) is %s",
			s.Name, s.Address, familyOf(a), name, s.Pool, line, familyOf(members[j].Address.Addr()))
	}
	for _, d := range s.Destinations {
		for _, port := range slices.Sorted(maps.Keys(facts.twice)) {
			if !d.AnyPort() && d.Ports.Contains(port) {
				name, line := member(facts.twice[port])
				v.errorf(at+".pool", "with port %d, member %q of pool %q (line %d) is the same as one without a port", port, name, s.Pool, line)
				return
			}
		}
	}
}

// checkOverrides warns about timeouts that the protocol never uses.
func (v *validator) checkOverrides(s *VirtualServer, at string) {
	if v.where[at+".timeouts"] == (position{}) {
		return
	}
	if s.Protocol == "" {
		return
	}
	for _, k := range timeoutKeys(false).keys {
		own := k.doc.name == string(s.Protocol) || strings.HasPrefix(k.doc.name, string(s.Protocol)+"-")
		if s.Protocol == AnyProtocol && !strings.HasPrefix(k.doc.name, "icmp") {
			own = true
		}
		if key := at + ".timeouts." + k.doc.name; !own && v.where[key] != (position{}) {
			v.warn(key, "has no effect: the virtual server's protocol is %s", s.Protocol)
		}
	}
}

// weightedLike is the scheduler that does with weights what this one does without.
func weightedLike(scheduler string) string {
	if weighted := "weighted-" + scheduler; sched.UsesWeights(weighted) {
		return weighted
	}
	return "weighted-round-robin"
}
