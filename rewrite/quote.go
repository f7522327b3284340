package rewrite

import (
	"encoding/binary"

	"sluice/flow"
)

// Quote is what an ICMP error says, and where in the frame the packet is that it is about. Offsets count from the start
// of the frame.
type Quote struct {
	L3    uint16 // IP header
	L4    uint16 // transport header, of which at least 8 bytes are there
	End   uint16 // behind its last byte; an extension of the message (RFC 4884) may follow
	Proto uint8
	ICMP  ICMPKind // of a query
	Whole bool     // the packet is quoted to its end
	Plain bool     // ParsePlainError has read it
	Type  uint8    // of the error
	Code  uint8
	MTU   uint32 // of the next hop, if a packet was too big and its router says so; else 0
}

// TooBig reports whether the error says that a packet was too big for a link (RFC 1191, RFC 8201).
func (q *Quote) TooBig(p *Packet) bool {
	if p.V6 {
		return q.Type == icmp6TooBig
	}
	return q.Type == icmpUnreachable && q.Code == codeNeedsFragmenting
}

// ReadQuote reads an ICMP error that Parse took (verdict NoPorts, ICMPError). k becomes the tuple that finds the
// connection: that of packets which come from where the error comes from, which is the quoted tuple turned around. So
// the record's side is the one that the error is from, and it goes where that side's packets go. The frame is not
// changed and not read beyond p.End. With 8 bytes of the quoted transport header (RFC 792) everything is there.
func ReadQuote(b []byte, p *Packet, q *Quote, k *flow.Key) Refusal {
	if p.ICMP != ICMPError || !isICMP(p) {
		return QuoteNone
	}
	m := b[p.L4:p.reach(b)]
	if len(m) < icmpLen {
		return QuoteNone
	}
	q.Type, q.Code, q.MTU, q.Plain = m[0], m[1], 0, false
	if q.TooBig(p) {
		q.MTU = uint32(binary.BigEndian.Uint16(m[6:]))
		if p.V6 {
			q.MTU = binary.BigEndian.Uint32(m[4:])
		}
	}
	q.L3 = p.L4 + icmpLen
	end := min(p.reach(b), int(q.L3)+quoteLen(m, p.V6))
	var why Refusal
	if p.V6 {
		why = q.read6(b, end, k)
	} else {
		why = q.read4(b, end, k)
	}
	if why != Done {
		return why
	}
	if _, to := addresses(b[p.L3:], p.V6); to != k.Src {
		return QuoteForeign
	}
	if int(q.L4)+icmpLen > int(q.End) { // 8 bytes, of every protocol
		return QuoteTruncated
	}
	if why = q.readPorts(b, p.V6, k); why != Done {
		return why
	}
	k.Src, k.Dst = k.Dst, k.Src
	k.Ports = k.Ports>>16 | k.Ports<<16
	return Done
}

// quoteLen is how many bytes of the message are the quoted packet, as far as the message says: with an extension its
// length field counts words of 4 bytes, in ICMPv6 of 8 (RFC 4884 section 4). Other messages have a 0 or an MTU there.
func quoteLen(m []byte, v6 bool) int {
	n := 0
	switch {
	case v6 && (m[0] == icmp6Unreachable || m[0] == icmp6TimeExceeded):
		n = int(m[4]) * 8
	case !v6 && (m[0] == icmpUnreachable || m[0] == icmpTimeExceeded || m[0] == icmpParameter):
		n = int(m[5]) * 4
	}
	if n == 0 {
		return maxFrame
	}
	return n
}

// read4 reads a quoted IPv4 header. Its length is only believed where it can be: some systems quote a field that they
// had changed.
func (q *Quote) read4(b []byte, end int, k *flow.Key) Refusal {
	at := int(q.L3)
	if at+ipv4Len > end {
		return QuoteTruncated
	}
	h := b[at : at+ipv4Len]
	ihl := int(h[0]&0x0f) * 4
	if h[0]>>4 != 4 || ihl < ipv4Len {
		return QuoteBad
	}
	if at+ihl > end {
		return QuoteTruncated
	}
	total := int(binary.BigEndian.Uint16(h[2:]))
	q.Whole = total >= ihl+icmpLen && at+total <= end
	if q.Whole {
		end = at + total
	}
	q.Proto, q.L4, q.End = h[9], uint16(at+ihl), uint16(end)
	k.Src, k.Dst = addresses(h, false)
	k.Proto = h[9]
	field := binary.BigEndian.Uint16(h[6:])
	if field&0x1fff != 0 {
		return QuoteFragment
	}
	if field&0x2000 != 0 {
		q.Whole = false // the datagram goes on elsewhere
	}
	if sourceRouted(b[at+ipv4Len : at+ihl]) {
		return QuoteBad
	}
	return Done
}

// read6 reads a quoted IPv6 header and its extension headers.
func (q *Quote) read6(b []byte, end int, k *flow.Key) Refusal {
	at := int(q.L3)
	if at+ipv6Len > end {
		return QuoteTruncated
	}
	h := b[at : at+ipv6Len]
	if h[0]>>4 != 6 {
		return QuoteBad
	}
	total := ipv6Len + int(binary.BigEndian.Uint16(h[4:]))
	q.Whole = at+total <= end
	if q.Whole {
		end = at + total
	}
	k.Src, k.Dst = addresses(h, true)
	if isMapped(k.Src) || isMapped(k.Dst) {
		return QuoteBad
	}
	e := extensions{proto: h[6], l4: uint16(at + ipv6Len)}
	for first := true; first || e.part; first = false { // a first part's headers go on behind the fragment header
		e.part = false
		switch e.skip(b, int(e.l4), end, e.proto) {
		case OK:
		case Truncated:
			return QuoteTruncated
		default:
			return QuoteBad
		}
		if e.part {
			q.Whole = false
			if !first {
				return QuoteBad
			}
			if binary.BigEndian.Uint16(b[e.fragment+2:])&0xfff8 != 0 {
				return QuoteFragment
			}
		}
	}
	q.Proto, q.L4, q.End, k.Proto = e.proto, e.l4, uint16(end), e.proto
	return Done
}

// readPorts reads ports, or a query's id, into k; 8 bytes are there.
func (q *Quote) readPorts(b []byte, v6 bool, k *flow.Key) Refusal {
	h := b[q.L4 : q.L4+icmpLen]
	k.Ports, q.ICMP = 0, ICMPOther
	switch q.Proto {
	case flow.TCP, flow.UDP, flow.SCTP:
		k.Ports = binary.BigEndian.Uint32(h)
	case flow.ICMP, flow.ICMPv6:
		if v6 != (q.Proto == flow.ICMPv6) {
			return QuoteBad
		}
		q.ICMP = kindOf(h[0], v6)
		if q.ICMP != ICMPRequest && q.ICMP != ICMPReply {
			return QuoteError
		}
		k.Ports = q.ICMP.ports(binary.BigEndian.Uint16(h[icmpIDAt:]))
	}
	return Done
}

// TranslateError translates an ICMP error inside and out. to is what the quoted packet's ends become, in the quoted
// packet's own direction: those that it had when its sender sent it. The message is then for that sender. Its source
// becomes the quoted destination if it was that before, or with hide in any case (RFC 5508 section 4.2, for networks
// whose routers shall not be seen); else it stays, a router's. TTL falls by one, and the frame is addressed to the next
// hop. The caller has checked TTL > 1.
//
// Each checksum is changed by what changed under it: the quoted IPv4 header's, the quoted transport's where it is
// quoted, the ICMP message's, for which all of these are data, and the outer header's. One that was wrong stays so.
func TranslateError(b []byte, p *Packet, q *Quote, l2 *L2, to *Ends, hide bool) {
	h := b[p.L3:]
	oldSrc, oldDst := addresses(h, p.V6)
	quotedSrc, quotedDst := addresses(b[q.L3:], p.V6)
	src := oldSrc
	if hide || oldSrc == quotedDst {
		src = to.Dst
	}
	outer := AddDiff(AddrDiff(oldSrc, src), AddrDiff(oldDst, to.Src))
	sum := q.translate(b, p.V6, to, AddDiff(AddrDiff(quotedSrc, to.Src), AddrDiff(quotedDst, to.Dst)))
	if p.V6 {
		sum += uint32(outer) // by the pseudo-header
	}
	TranslateAddresses(b, p, l2, src, to.Src, outer)
	m := b[p.L4 : p.L4+icmpLen]
	binary.BigEndian.PutUint16(m[icmpSumAt:], update(binary.BigEndian.Uint16(m[icmpSumAt:]), sum))
}

// translate changes the quoted packet and returns what that adds to the sum of the message, not yet folded. All words
// of it are at even offsets from the message's start.
func (q *Quote) translate(b []byte, v6 bool, to *Ends, addrs Diff) uint32 {
	h := b[q.L3:]
	putAddresses(h, v6, to.Src, to.Dst)
	sum := uint32(addrs)
	if !v6 {
		sum += putSum(h[10:12], uint32(addrs), 0)
	}
	t := b[q.L4:q.End]
	switch q.Proto {
	case flow.TCP:
		diff := putPorts(t, to)
		sum += uint32(diff)
		if len(t) >= 18 {
			sum += putSum(t[16:18], uint32(diff)+uint32(addrs), 0)
		}
	case flow.UDP:
		diff := putPorts(t, to)
		sum += uint32(diff)
		if t[6] != 0 || t[7] != 0 {
			sum += putSum(t[6:8], uint32(diff)+uint32(addrs), 0xffff)
		}
	case flow.SCTP:
		sum += uint32(q.putPortsSCTP(t, to))
	case flow.ICMP, flow.ICMPv6:
		diff := PortDiff(binary.BigEndian.Uint16(t[icmpIDAt:]), to.queryID(q.ICMP))
		binary.BigEndian.PutUint16(t[icmpIDAt:], to.queryID(q.ICMP))
		sum += uint32(diff)
		if v6 {
			diff = AddDiff(diff, addrs)
		}
		before := binary.BigEndian.Uint16(t[icmpSumAt:])
		updateICMP(t, diff)
		sum += uint32(PortDiff(before, binary.BigEndian.Uint16(t[icmpSumAt:])))
	}
	return sum
}

// putSum updates a checksum inside the quote and returns the Diff of its field. zero is what is sent for 0.
func putSum(field []byte, diff uint32, zero uint16) uint32 {
	old := binary.BigEndian.Uint16(field)
	sum := update(old, diff)
	if sum == 0 {
		sum = zero
	}
	binary.BigEndian.PutUint16(field, sum)
	return uint32(PortDiff(old, sum))
}

// putPorts writes ports and returns their Diff.
func putPorts(t []byte, to *Ends) Diff {
	old := binary.BigEndian.Uint32(t)
	binary.BigEndian.PutUint32(t, flow.Ports(to.SrcPort, to.DstPort))
	return AddDiff(PortDiff(uint16(old>>16), to.SrcPort), PortDiff(uint16(old), to.DstPort))
}

// putPortsSCTP writes ports and, when all of the packet is quoted, its CRC32c, and returns the Diff of all that. A
// sender judges an error by the verification tag (RFC 9260 section 10), so a CRC that cannot be made right does no harm.
func (q *Quote) putPortsSCTP(t []byte, to *Ends) Diff {
	if !q.Whole || len(t) < sctpLen {
		return putPorts(t, to)
	}
	before := onesSum(t[:sctpLen])
	setPortsSCTP(t, 0, flow.Ports(to.SrcPort, to.DstPort))
	return AddDiff(^before, onesSum(t[:sctpLen]))
}
