package rewrite

import (
	"encoding/binary"

	"sluice/flow"
)

// ICMPKind is what an ICMP or ICMPv6 message is to a connection.
type ICMPKind uint8

// The kinds. A query's id stands for the client's port: the tuple's source port in a request, its destination port in a
// reply; the other port is 0. So a reply has the tuple of its request turned around, as with TCP.
const (
	ICMPOther   ICMPKind = iota // neither of the following, or not ICMP at all
	ICMPRequest                 // echo, timestamp, information, address mask (RFC 792, RFC 950, RFC 4443)
	ICMPReply
	ICMPError   // quotes the packet that it is about, see ReadQuote
	ICMPRelated // an error whose quote has been read: what is known as the packet's tuple is ReadQuote's. Parse finds none
)

// Types and codes of ICMP (RFC 792, RFC 1191, RFC 1812 section 5.2.7.1) and ICMPv6 (RFC 4443).
const (
	icmpEchoReply    = 0
	icmpUnreachable  = 3
	icmpQuench       = 4
	icmpRedirect     = 5
	icmpEcho         = 8
	icmpTimeExceeded = 11
	icmpParameter    = 12

	icmp6Unreachable  = 1
	icmp6TooBig       = 2
	icmp6TimeExceeded = 3
	icmp6Parameter    = 4
	icmp6Echo         = 128
	icmp6EchoReply    = 129
	icmp6Redirect     = 137

	codeNeedsFragmenting = 4 // of icmpUnreachable
)

// Where things are in a message.
const (
	icmpSumAt = 2
	icmpIDAt  = 4
)

// isICMP reports whether the packet is ICMP in IPv4 or ICMPv6 in IPv6; the other way around it is nothing.
func isICMP(p *Packet) bool {
	if p.V6 {
		return p.Proto == flow.ICMPv6
	}
	return p.Proto == flow.ICMP
}

func kindOf(kind uint8, v6 bool) ICMPKind {
	if v6 {
		switch kind {
		case icmp6Echo:
			return ICMPRequest
		case icmp6EchoReply:
			return ICMPReply
		case icmp6Unreachable, icmp6TooBig, icmp6TimeExceeded, icmp6Parameter:
			return ICMPError
		}
		return ICMPOther
	}
	switch kind {
	case icmpEcho, 13, 15, 17:
		return ICMPRequest
	case icmpEchoReply, 14, 16, 18:
		return ICMPReply
	case icmpUnreachable, icmpQuench, icmpTimeExceeded, icmpParameter:
		return ICMPError
	}
	return ICMPOther // a redirect too: it is for the next hop and is not forwarded (RFC 1812 section 5.2.7.2)
}

// ports puts a query's id where a tuple has it.
func (k ICMPKind) ports(id uint16) uint32 {
	switch k {
	case ICMPRequest:
		return flow.Ports(id, 0)
	case ICMPReply:
		return flow.Ports(0, id)
	}
	return 0
}

// queryID is the id that a message of kind k has between ends.
func (e *Ends) queryID(k ICMPKind) uint16 {
	if k == ICMPReply {
		return e.DstPort
	}
	return e.SrcPort
}

// IsEchoRequest reports whether p, with its frame b, is an echo request of its family, of the other queries none.
func IsEchoRequest(b []byte, p *Packet) bool {
	if p.ICMP != ICMPRequest || !isICMP(p) {
		return false
	}
	return b[p.L4] == icmpEcho && !p.V6 || b[p.L4] == icmp6Echo && p.V6
}

// AnswerEcho turns an echo request that Parse took into its reply, to the MAC that it came from, and returns the new
// length of the frame: IPv4 options and IPv6 extension headers go, which the frame is shorter by, as is b where it is the first
// buffer of more. It returns 0 and changes nothing for what is not an
// echo request or may not be answered. The payload's checksum is kept right incrementally: what was damaged stays so.
// TTL is that of a new packet, DSCP and, in IPv4, identification and DF are the request's (RFC 1122 section 3.2.2.6).
func AnswerEcho(b []byte, p *Packet) int {
	if p.ICMP != ICMPRequest || !isICMP(p) || b[0]&1 != 0 {
		return 0
	}
	h, m, size := b[p.L3:p.L4], b[p.L4:p.reach(b)], int(p.End-p.L4)
	src, dst := addresses(h, p.V6)
	request, reply := uint8(icmpEcho), uint8(icmpEchoReply)
	ip := ipv4Len
	if p.V6 {
		request, reply, ip = icmp6Echo, icmp6EchoReply, ipv6Len
	}
	if m[0] != request || m[1] != 0 || BadSource(src) || BadSource(dst) {
		return 0
	}
	turnMAC(b)
	m[0] = reply
	updateICMP(m, PortDiff(uint16(request)<<8, uint16(reply)<<8))
	copy(b[int(p.L3)+ip:], m)
	end := int(p.L3) + ip + size
	h = h[:ip]
	if p.V6 {
		h[6], h[7] = flow.ICMPv6, newTTL
		binary.BigEndian.PutUint16(h[4:], uint16(size))
		putAddresses(h, true, dst, src)
		return end
	}
	h[0], h[8], h[10], h[11] = 0x45, newTTL, 0, 0
	binary.BigEndian.PutUint16(h[2:], uint16(ip+size))
	putAddresses(h, false, dst, src)
	binary.BigEndian.PutUint16(h[10:], ^onesSum(h))
	return end
}

// turnMAC sends a frame back to where it came from.
func turnMAC(b []byte) {
	from := SourceMAC(b)
	copy(b[6:12], b[:6])
	copy(b[:6], from[:])
}

// updateICMP corrects the checksum of message m. Unlike the others it may cover nothing but zeros, in a reply with id and
// sequence number 0: the sum is then 0 as well, which updates cannot tell from 0xffff, and receivers do.
func updateICMP(m []byte, diff Diff) {
	field := m[icmpSumAt : icmpSumAt+2]
	sum := update(binary.BigEndian.Uint16(field), uint32(diff))
	binary.BigEndian.PutUint16(field, sum)
	if sum == 0 && onesSum(m) == 0 {
		binary.BigEndian.PutUint16(field, 0xffff)
	}
}
