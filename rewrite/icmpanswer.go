package rewrite

import (
	"encoding/binary"

	"sluice/flow"
)

// Problem is what an ICMP error reports; each family has its own type and code for it.
type Problem uint8

// The problems.
const (
	HopLimit            Problem = iota // TTL was used up here
	PacketTooBig                       // for the next link, whose MTU is told
	PortUnreachable                    // nobody is there
	ProtocolUnreachable                // nobody takes packets of this protocol; in IPv6 a parameter problem
	HostUnreachable                    // no way to the host
	Prohibited                         // forbidden by the administrator
)

// problems are type and code in ICMP (RFC 792, RFC 1812 section 5.2.7.1) and in ICMPv6 (RFC 4443 section 3).
var problems = [...][2][2]uint8{
	HopLimit:            {{icmpTimeExceeded, 0}, {icmp6TimeExceeded, 0}},
	PacketTooBig:        {{icmpUnreachable, codeNeedsFragmenting}, {icmp6TooBig, 0}},
	PortUnreachable:     {{icmpUnreachable, 3}, {icmp6Unreachable, 4}},
	ProtocolUnreachable: {{icmpUnreachable, 2}, {icmp6Parameter, 1}},
	HostUnreachable:     {{icmpUnreachable, 1}, {icmp6Unreachable, 3}},
	Prohibited:          {{icmpUnreachable, 13}, {icmp6Unreachable, 1}},
}

// An error with its IP header is at most this long (RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 c).
const (
	maxError4 = 576
	maxError6 = 1280
)

// ErrorAnswer describes an ICMP or ICMPv6 error to be made about a packet.
type ErrorAnswer struct {
	L2      L2
	Src     flow.Addr // an address of ours, of the packet's family
	Problem Problem
	MTU     uint32 // of PacketTooBig: of the next hop's link, in bytes; in IPv4 at most 65535
}

// Size is how many bytes of frame the longest error about p takes.
func (a *ErrorAnswer) Size(p *Packet) int {
	if p.V6 {
		return int(p.L3) + maxError6
	}
	return int(p.L3) + maxError4
}

// Build writes the error about the packet p of frame b into dst and returns the length of the frame, or 0 when there is
// no room for the headers and 8 bytes of the quoted transport header. dst may be another frame, or b with the room
// behind it. The packet is quoted as it is in b, so this comes before any change of it, from its IP header to as much as
// fits. VLAN tags stay. It has been asked MayAnswer.
func (a *ErrorAnswer) Build(dst, b []byte, p *Packet) int {
	ip, longest, family := ipv4Len, maxError4, 0
	if p.V6 {
		ip, longest, family = ipv6Len, maxError6, 1
	}
	l3, l4 := int(p.L3), int(p.L3)+ip
	n := min(p.reach(b)-l3, longest-ip-icmpLen, len(dst)-l4-icmpLen)
	if n < min(int(p.L4)+icmpLen, int(p.End))-l3 {
		return 0
	}
	to, _ := addresses(b[l3:], p.V6)
	copy(dst[l4+icmpLen:], b[l3:l3+n])
	copy(dst[etherLen-2:l3], b[etherLen-2:l3]) // EtherTypes and tags
	copy(dst, a.L2[:])
	m := dst[l4 : l4+icmpLen+n]
	kind := problems[a.Problem][family]
	clear(m[:icmpLen])
	m[0], m[1] = kind[0], kind[1]
	h := dst[l3:l4]
	clear(h)
	if p.V6 {
		switch a.Problem {
		case PacketTooBig:
			binary.BigEndian.PutUint32(m[4:], a.MTU)
		case ProtocolUnreachable:
			binary.BigEndian.PutUint32(m[4:], uint32(protocolAt(m[icmpLen:], int(p.L4)-l3)))
		}
		h[0], h[6], h[7] = 0x60, flow.ICMPv6, newTTL
		binary.BigEndian.PutUint16(h[4:], uint16(len(m)))
		putAddresses(h, true, a.Src, to)
		binary.BigEndian.PutUint16(m[icmpSumAt:], ^fold(uint32(onesSum(m))+uint32(pseudoSum(h, true, len(m), flow.ICMPv6))))
		return l4 + len(m)
	}
	if a.Problem == PacketTooBig {
		binary.BigEndian.PutUint16(m[6:], uint16(min(a.MTU, 0xffff)))
	}
	const internetworkControl = 6 << 5 // precedence (RFC 1812 section 4.3.2.5)
	h[0], h[1], h[6], h[8], h[9] = 0x45, internetworkControl, 0x40, newTTL, flow.ICMP
	binary.BigEndian.PutUint16(h[2:], uint16(ip+len(m)))
	putAddresses(h, false, a.Src, to)
	binary.BigEndian.PutUint16(h[10:], ^onesSum(h))
	binary.BigEndian.PutUint16(m[icmpSumAt:], ^onesSum(m))
	return l4 + len(m)
}

// MayAnswer reports whether an ICMP error may be sent about the packet p of frame b (RFC 1812 section 4.3.2.7, RFC 4443
// section 2.4 e): not about an ICMP error or redirect, to many (in IPv6 a packet that is too big may be), from an address
// that is no single host's, or, in IPv4, a later part of a datagram. Parse has taken the packet with OK, NoPorts or
// Fragment. How many a second is the caller's to limit.
func MayAnswer(b []byte, p *Packet, about Problem) bool {
	src, dst := addresses(b[p.L3:], p.V6)
	if BadSource(src) || b[6]&1 != 0 {
		return false
	}
	toMany := BadSource(dst) || b[0]&1 != 0
	l4, end, proto := int(p.L4), p.reach(b), p.Proto
	if !p.V6 {
		if toMany || binary.BigEndian.Uint16(b[p.L3+6:])&0x1fff != 0 {
			return false
		}
		return proto != flow.ICMP || l4 < end && kindOf(b[l4], false) != ICMPError && b[l4] != icmpRedirect
	}
	if toMany && about != PacketTooBig {
		return false
	}
	var f FragmentPart
	if f.Read(b, p) == Done {
		if f.Offset != 0 {
			return about == PacketTooBig // its sender has to know; whether it is part of an ICMP error does not show
		}
		var e extensions
		if e.skip(b, l4, end, proto) != OK || e.part {
			return false
		}
		l4, proto = int(e.l4), e.proto
	}
	return proto != flow.ICMPv6 || l4 < end && b[l4] >= icmp6Echo && b[l4] != icmp6Redirect
}
