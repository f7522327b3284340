package rewrite

import (
	"encoding/binary"

	"sluice/flow"
)

// Ends are the addresses and ports of a packet as it carries them, in host byte order. Ports are 0 where there are none;
// an ICMP query's id is where ICMPKind says.
type Ends struct {
	Src, Dst         flow.Addr
	SrcPort, DstPort uint16
}

// Reverse is the Ends of an answer.
func (e *Ends) Reverse() Ends {
	return Ends{Src: e.Dst, Dst: e.Src, SrcPort: e.DstPort, DstPort: e.SrcPort}
}

// EndsOf are a tuple's.
func EndsOf(k *flow.Key) Ends {
	return Ends{Src: k.Src, Dst: k.Dst, SrcPort: k.SrcPort(), DstPort: k.DstPort()}
}

// EndsDiff is what replacing Ends adds to the sum of the IPv4 header and to that which the protocol's checksum covers.
// The way back adds the complements. SCTP has no use for l4, ICMP covers no addresses, ICMPv6 does.
func EndsDiff(from, to *Ends, proto uint8) (l3, l4 Diff) {
	l3 = AddDiff(AddrDiff(from.Src, to.Src), AddrDiff(from.Dst, to.Dst))
	l4 = AddDiff(PortDiff(from.SrcPort, to.SrcPort), PortDiff(from.DstPort, to.DstPort))
	if proto != flow.ICMP {
		l4 = AddDiff(l3, l4)
	}
	return l3, l4
}

// Translate is full NAT in either direction: both ends of the packet become to's, TTL falls by one, and the frame is
// addressed to the next hop. l3 and l4 are the Diffs of this change (EndsDiff). TCP, UDP, SCTP and ICMP queries have
// their ports or id changed; ICMPv6's checksum is kept right whatever the message; of other protocols the addresses
// change and nothing else, see CanTranslate. The caller has checked TTL > 1. An ICMP error is for TranslateError.
func Translate(b []byte, p *Packet, l2 *L2, to *Ends, l3, l4 Diff) {
	TranslateAddresses(b, p, l2, to.Src, to.Dst, l3)
	ports := flow.Ports(to.SrcPort, to.DstPort)
	switch p.Proto {
	case flow.TCP, flow.UDP:
		binary.BigEndian.PutUint32(b[p.L4:], ports)
		updateL4(b, p, l4)
	case flow.SCTP:
		setPortsSCTP(b[p.L4:p.reach(b)], p.behind(b), ports)
	case flow.ICMP, flow.ICMPv6:
		if !isICMP(p) {
			return
		}
		m := b[p.L4:p.reach(b)] // all that updateICMP asks of the rest is whether it is zeros too
		if p.ICMP == ICMPRequest || p.ICMP == ICMPReply {
			binary.BigEndian.PutUint16(m[icmpIDAt:], to.queryID(p.ICMP))
		}
		updateICMP(m, l4)
	}
}

// TranslateAddresses changes both addresses and nothing behind the IP header: for later parts of a fragmented datagram,
// whose first part carries the checksum, and for protocols that do not cover addresses. TTL falls by one, and the frame
// is addressed to the next hop.
func TranslateAddresses(b []byte, p *Packet, l2 *L2, src, dst flow.Addr, l3 Diff) {
	*(*L2)(b) = *l2
	h := b[p.L3:]
	putAddresses(h, p.V6, src, dst)
	if p.V6 {
		h[7]--
		return
	}
	h = h[:ipv4Len]
	h[8]--
	binary.BigEndian.PutUint16(h[10:], update(binary.BigEndian.Uint16(h[10:]), uint32(l3)+ttlDiff))
}

// Forward is routing without translation: the frame is addressed to the next hop and TTL falls by one. The caller has
// checked TTL > 1.
func Forward(b []byte, p *Packet, l2 *L2) {
	*(*L2)(b) = *l2
	h := b[p.L3:]
	if p.V6 {
		h[7]--
		return
	}
	h = h[:ipv4Len]
	h[8]--
	binary.BigEndian.PutUint16(h[10:], update(binary.BigEndian.Uint16(h[10:]), ttlDiff))
}

// Protocols that only CanTranslate names (IANA).
const (
	protoDCCP    = 33
	protoUDPLite = 136
)

// CanTranslate tells whether a change of addresses and, with ports, of ports can be carried through to the packet's end.
// part says that the packet is part of a fragmented datagram. An authentication header signs the addresses (RFC 4302
// section 3.3.3, RFC 3715 section 2.1); DCCP and UDP-Lite cover them with checksums that are not followed.
func CanTranslate(p *Packet, part, ports bool) Refusal {
	switch p.Proto {
	case extAuth, protoDCCP, protoUDPLite:
		return Untranslatable
	case flow.SCTP:
		if part && ports {
			return FragmentSCTP
		}
	}
	return Done
}
