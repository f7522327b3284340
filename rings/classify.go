package rings

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Action is what the XDP program of a port decides about a frame.
type Action uint8

// The actions. Only ActionEngine and ActionWildcard bring a frame to the engine.
const (
	ActionPass      Action = iota // the kernel's
	ActionMalformed               // the kernel's: the headers up to IP do not fit, and it counts them too
	ActionEngine                  // ours
	ActionWildcard                // ours, by a prefix of a virtual server only
)

func (a Action) String() string {
	return [...]string{"pass", "malformed", "engine", "wildcard"}[a]
}

// Ours reports whether the frame goes to the engine.
func (a Action) Ours() bool { return a >= ActionEngine }

// Classifier decides as the XDP program with the same rules does while sockets are there and the heartbeat is
// fresh, for what sees no kernel: replay and explain. It reads the same table. xdp/classify.c is the source of the
// rules' order; the tests run both over the same frames. It is immutable.
type Classifier struct {
	table    ruleTable
	wildcard uint32
}

// NewClassifier compiles the rules.
func NewClassifier(r Rules) (*Classifier, error) {
	table, wildcard, err := r.compile()
	if err != nil {
		return nil, err
	}
	return &Classifier{table, wildcard}, nil
}

// classified is struct packet of xdp/classify.c.
type classified struct {
	src, dst netip.Addr
	srcPort  uint16 // 0 where there is none
	dstPort  uint16 // the identifier of an ICMP echo reply; in an error the source port, or identifier, that is quoted
	proto    uint8
	v6       bool
	icmp     bool // ICMP of its own family
	fragment bool
	noL4     bool       // the transport header is truncated or was not reached
	failure  bool       // an ICMP error
	quoted   netip.Addr // the destination of the packet that it is about
}

// The limits of the XDP program.
const (
	classifyTags       = 2
	classifyExtensions = 6
)

// Classify decides about an Ethernet frame without its check sequence.
func (c *Classifier) Classify(frame []byte) Action {
	if len(frame) < 14 {
		return ActionMalformed
	}
	if frame[0]&1 != 0 {
		return ActionPass
	}
	etherType, l3 := binary.BigEndian.Uint16(frame[12:]), frame[14:]
	for range classifyTags {
		if etherType != unix.ETH_P_8021Q && etherType != unix.ETH_P_8021AD {
			break
		}
		if len(l3) < 4 {
			return ActionMalformed
		}
		etherType, l3 = binary.BigEndian.Uint16(l3[2:]), l3[4:]
	}
	var p classified
	var decided bool
	var a Action
	switch etherType {
	case unix.ETH_P_IP:
		a, decided = p.read4(l3)
	case unix.ETH_P_IPV6:
		a, decided = p.read6(l3)
	default:
		return ActionPass
	}
	if decided {
		return a
	}
	return c.decide(&p)
}

// read4 is rule 1 for IPv4; what it does not decide it has read.
func (p *classified) read4(b []byte) (a Action, decided bool) {
	if len(b) < 20 || b[0]>>4 != 4 || b[0]&15 < 5 || len(b) < int(b[0]&15)*4 {
		return ActionMalformed, true
	}
	p.src, p.dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	if b[16] >= 0xe0 || p.dst.IsLinkLocalUnicast() {
		return ActionPass, true
	}
	p.proto = b[9]
	p.icmp = p.proto == unix.IPPROTO_ICMP
	p.fragment = binary.BigEndian.Uint16(b[6:])&0x3fff != 0 // more fragments, or an offset
	if !p.fragment {
		p.readL4(b[int(b[0]&15)*4:])
	}
	return 0, false
}

// read6 is rule 1 for IPv6; what it does not decide it has read.
func (p *classified) read6(b []byte) (a Action, decided bool) {
	if len(b) < 40 || b[0]>>4 != 6 {
		return ActionMalformed, true
	}
	p.v6 = true
	p.src, p.dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	if b[24] == 0xff || b[24] == 0xfe && b[25]&0xc0 == 0x80 {
		return ActionPass, true
	}
	p.proto = b[6]
	rest := b[40:]
	for i := 0; isExtension(p.proto) && !p.fragment; i++ {
		if i == classifyExtensions || len(rest) < 8 {
			p.noL4 = true
			break
		}
		size := (int(rest[1]) + 1) * 8
		if p.proto == unix.IPPROTO_FRAGMENT {
			size = 8
			p.fragment = binary.BigEndian.Uint16(rest[2:])&0xfff9 != 0 // a datagram in one fragment is whole (RFC 6946)
		}
		p.proto = rest[0]
		rest = rest[min(size, len(rest)):]
	}
	p.icmp = p.proto == unix.IPPROTO_ICMPV6
	if !p.fragment && !p.noL4 && p.readL4(rest) {
		return ActionPass, true
	}
	return 0, false
}

func isExtension(proto uint8) bool {
	switch proto {
	case unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS, unix.IPPROTO_FRAGMENT:
		return true
	}
	return false
}

// readL4 reports whether it is neighbour or listener discovery.
func (p *classified) readL4(b []byte) bool {
	switch {
	case p.proto == unix.IPPROTO_TCP || p.proto == unix.IPPROTO_UDP || p.proto == unix.IPPROTO_SCTP:
		if len(b) < 4 {
			p.noL4 = true
			return false
		}
		p.srcPort, p.dstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	case p.icmp:
		echoReply := uint8(0)
		if p.v6 {
			echoReply = 129
		}
		if len(b) > 0 && p.v6 && (b[0] >= 130 && b[0] <= 137 || b[0] == 143) {
			return true
		}
		if len(b) < 6 {
			p.noL4 = true
			return false
		}
		if b[0] == echoReply {
			p.dstPort = binary.BigEndian.Uint16(b[4:])
		}
		if isICMPError(b[0], p.v6) {
			p.failure = true
			p.readQuote(b)
		}
	}
	return false
}

// isICMPError is is_error of xdp/classify.c.
func isICMPError(kind uint8, v6 bool) bool {
	if v6 {
		return kind >= 1 && kind <= 4
	}
	return kind == 3 || kind == 4 || kind == 11 || kind == 12
}

// readQuote reads the destination and the source port in the packet that an ICMP error quotes.
func (p *classified) readQuote(b []byte) {
	proto, at := uint8(0), 0
	switch q := b[min(8, len(b)):]; {
	case p.v6 && len(q) >= 40:
		p.quoted = netip.AddrFrom16([16]byte(q[24:40]))
		proto, at = q[6], 40
	case !p.v6 && len(q) >= 20:
		p.quoted = netip.AddrFrom4([4]byte(q[16:20]))
		if binary.BigEndian.Uint16(q[6:])&0x1fff != 0 {
			return
		}
		proto, at = q[9], int(q[0]&15)*4
	default:
		return
	}
	switch proto {
	case p.proto:
		at += 4 // a query's identifier
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP:
	default:
		return
	}
	if len(b) >= 8+at+2 {
		p.dstPort = binary.BigEndian.Uint16(b[8+at:])
	}
}

// find is the entry of an address for a port and protocol. The family comes from the packet: an IPv6 packet with an
// IPv4-mapped address never meets the entry of the IPv4 one.
func (c *Classifier) find(addr netip.Addr, kind, proto uint8, port uint16) (ruleValue, bool) {
	v, ok := c.table[newRuleKey(kind, addr, proto, port)]
	return v, ok
}

// findEnd looks for a port, then for any port.
func (c *Classifier) findEnd(p *classified, addr netip.Addr, kind uint8, port uint16) bool {
	_, exact := c.find(addr, kind, p.proto, port)
	_, any := c.find(addr, kind, p.proto, 0)
	return exact || any
}

// decide is rules 2 to 7, the same for both families.
func (c *Classifier) decide(p *classified) Action {
	about := uint32(addrMember | addrFarEnd)
	if v, ok := c.find(p.dst, kindAddress, 0, 0); ok {
		if a, decided := c.decideOwn(p, v); decided {
			return a
		}
		if v.flags&addrLocal != 0 {
			about = addrFarEnd
		}
	}
	if p.failure && p.quoted.IsValid() {
		if v, ok := c.find(p.quoted, kindAddress, 0, 0); ok && v.flags&about != 0 {
			return ActionEngine
		}
	}
	if about == addrFarEnd {
		return ActionPass
	}
	if v, ok := c.find(p.src, kindAddress, 0, 0); ok && v.flags&addrMember != 0 {
		if p.fragment || v.flags&addrMemberAny != 0 || !p.noL4 && c.findEnd(p, p.src, kindMember, p.srcPort) {
			return ActionEngine
		}
	}
	if (!p.v6 && c.wildcard&wildcardV4 != 0 || p.v6 && c.wildcard&wildcardV6 != 0) && c.inPrefix(p) {
		return ActionWildcard
	}
	return ActionPass
}

// inPrefix reports whether the destination is in one of the prefixes.
func (c *Classifier) inPrefix(p *classified) bool {
	for i := range valueLengths {
		v, ok := c.table[lengthsKey(p.v6, i)]
		if !ok {
			return false
		}
		var lengths [ruleValueSize]byte
		binary.NativeEndian.PutUint32(lengths[:], v.flags)
		binary.NativeEndian.PutUint16(lengths[4:], v.first)
		binary.NativeEndian.PutUint16(lengths[6:], v.last)
		for _, bits := range lengths {
			if bits == noLength {
				return false
			}
			network := netip.PrefixFrom(p.dst, int(bits)-128+p.dst.BitLen()).Masked()
			if _, ok := c.find(network.Addr(), kindPrefix, bits, 0); ok {
				return true
			}
		}
	}
	return false
}

// decideOwn is rules 2 to 4, for an address that the table has.
func (c *Classifier) decideOwn(p *classified, v ruleValue) (a Action, decided bool) {
	virtual := v.flags&addrVirtual != 0
	switch {
	case p.icmp && (v.flags&addrICMPEngine != 0 || virtual && p.failure):
		return ActionEngine, true
	case !p.icmp && virtual && (v.flags&addrUnmatchedHost == 0 || p.fragment || p.noL4):
		return ActionEngine, true // only the engine can tell the server of a fragment, and counts what is malformed
	}
	if v.flags&addrSNAT != 0 {
		inside := p.dstPort != 0 && p.dstPort >= v.first && p.dstPort <= v.last
		if p.fragment && !p.icmp || !p.fragment && inside {
			return ActionEngine, true
		}
	}
	if virtual && !p.icmp && c.findEnd(p, p.dst, kindService, p.dstPort) {
		return ActionEngine, true
	}
	return ActionPass, virtual || v.flags&addrLocal != 0 && !p.failure
}
