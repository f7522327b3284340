package rewrite

import (
	"encoding/binary"

	"sluice/flow"
)

// Nearly all ICMP errors are alike as well: no tag, IPv4 without options outside and inside, about TCP or UDP, no extension. For
// these Parse, ReadQuote and, in nat, TranslateError are here once more, as plain.go has it for plain packets;
// plainerror_test.go holds them against each other.

// ErrorHead is the least of such a frame: Ethernet, IPv4, the message's header, the quoted IPv4 header and 8 bytes behind it.
type ErrorHead = [errorL4 + icmpLen]byte

// Offsets in a plain error.
const (
	errorQuote    = plainL4 + icmpLen
	errorFragment = errorQuote + 6
	errorProto    = errorQuote + 9
	errorSum      = errorQuote + 10
	errorSrc      = errorQuote + 12
	errorDst      = errorQuote + 16
	errorL4       = errorQuote + ipv4Len
)

// ParsePlainError is Parse and ReadQuote for a plain error in frame b. It reports whether it is one; if not, p, q and k are not
// valid, and Parse says what it is. q is then marked as Plain.
func ParsePlainError(b []byte, p *Packet, q *Quote, k *flow.Key) bool {
	if len(b) < len(ErrorHead{}) {
		return false
	}
	h := (*ErrorHead)(b)
	le, be := binary.LittleEndian, binary.BigEndian
	const etherAndVersion = 0x45<<16 | etherIPv4&0xff<<8 | etherIPv4>>8
	if le.Uint32(h[etherLen-2:])&0xffffff != etherAndVersion || le.Uint16(h[plainFragment:])&0xff3f != 0 || h[plainTTL+1] != flow.ICMP {
		return false
	}
	end := etherLen + int(be.Uint16(h[plainLength:]))
	if end < len(ErrorHead{}) || end > len(b) {
		return false
	}
	// The kinds of kindOf. The byte behind the checksum and one more counts words of the quote if an extension follows it.
	const errors = 1<<icmpUnreachable | 1<<icmpQuench | 1<<icmpTimeExceeded | 1<<icmpParameter
	if h[plainL4] > 31 || 1<<(h[plainL4]&31)&errors == 0 || h[plainL4+5] != 0 && h[plainL4] != icmpQuench {
		return false
	}
	const common = 1<<flow.TCP | 1<<flow.UDP
	proto := h[errorProto]
	if h[errorQuote] != 0x45 || le.Uint16(h[errorFragment:])&0xff3f != 0 || proto > 31 || 1<<(proto&31)&common == 0 {
		return false
	}
	// Of the outer header the destination, of the quoted one the source.
	to, ends := be.Uint32(h[plainDst:]), be.Uint64(h[errorSrc:])
	if uint32(ends>>32) != to {
		return false
	}
	p.L3, p.L4, p.End, p.Payload = etherLen, plainL4, uint16(end), plainL4
	p.VLAN, p.V6, p.TTL, p.Proto, p.Opens, p.Plain, p.ICMP = 0, false, h[plainTTL], flow.ICMP, false, false, ICMPError
	total := int(be.Uint16(h[errorQuote+2:]))
	q.Whole = total >= ipv4Len+icmpLen && errorQuote+total <= end
	if q.Whole {
		end = errorQuote + total
	}
	q.L3, q.L4, q.End = errorQuote, errorL4, uint16(end)
	q.Proto, q.ICMP, q.Plain, q.Type, q.Code, q.MTU = proto, ICMPOther, true, h[plainL4], h[plainL4+1], 0
	if q.TooBig(p) {
		q.MTU = uint32(be.Uint16(h[plainL4+6:]))
	}
	ports := be.Uint32(h[errorL4:])
	k.Src, k.Dst = flow.AddrFrom4(uint32(ends)), flow.AddrFrom4(to)
	k.Ports, k.Proto = ports>>16|ports<<16, proto
	return true
}

// PlainErrorToServer is TranslateError for a plain error about a packet of a member, in destination NAT: addr and port are the
// member's, l3 and l4 the Diffs of ToServer, and the message is for the member.
func PlainErrorToServer(b []byte, q *Quote, l2 *L2, addr uint32, port uint16, l3, l4 Diff) {
	h := (*ErrorHead)(b)
	*(*L2)(h[:]) = *l2
	binary.BigEndian.PutUint32(h[plainDst:], addr)
	binary.BigEndian.PutUint32(h[errorSrc:], addr)
	binary.BigEndian.PutUint16(h[errorL4:], port)
	translatePlainError(b, q, l3, l3, l4)
}

// PlainErrorToClient is TranslateError for a plain error about a packet of the client, in destination NAT: addr and port are
// the virtual ones, l3 and l4 the Diffs of ToClient, and the message is for the client.
func PlainErrorToClient(b []byte, q *Quote, dst, src *[6]byte, addr uint32, port uint16, l3, l4 Diff) {
	h := (*ErrorHead)(b)
	*(*[6]byte)(h[:]), *(*[6]byte)(h[6:]) = *dst, *src
	outer := Diff(0)
	if binary.LittleEndian.Uint32(h[plainSrc:]) == binary.LittleEndian.Uint32(h[errorDst:]) { // the member itself, no router
		binary.BigEndian.PutUint32(h[plainSrc:], addr)
		outer = l3
	}
	binary.BigEndian.PutUint32(h[errorDst:], addr)
	binary.BigEndian.PutUint16(h[errorL4+2:], port)
	translatePlainError(b, q, outer, l3, l4)
}

// translatePlainError does what is the same both ways: TTL and checksums, by what has changed under them. In the message's sum
// the quoted header's checksum makes up for the address. The transport's, if it is quoted and there is one, makes up for the
// ports and the address once more; if not, the ports are what changes it.
func translatePlainError(b []byte, q *Quote, outer, l3, l4 Diff) {
	// A Diff of 0 does as little as one of 0xffff, but would let a sum of 0 be where the general function has none.
	const nothing = 0xffff
	h, be := (*ErrorHead)(b), binary.BigEndian
	h[plainTTL]--
	be.PutUint16(h[plainSum:], update(be.Uint16(h[plainSum:]), uint32(outer)+ttlDiff))
	be.PutUint16(h[errorSum:], update(be.Uint16(h[errorSum:]), uint32(l3)+nothing))
	diff := uint32(^l3) + nothing
	tcp := uint32(int32(uint32(q.Proto)-flow.UDP) >> 31)
	at, zero := errorL4+int(6+10&tcp), uint16(^tcp)
	if at+2 <= int(q.End) && (be.Uint16(b[at:]) != 0 || tcp != 0) {
		sum := update(be.Uint16(b[at:]), uint32(l4)+nothing)
		if sum == 0 {
			sum = zero
		}
		be.PutUint16(b[at:], sum)
	} else {
		diff += uint32(l4)
	}
	be.PutUint16(h[plainL4+icmpSumAt:], update(be.Uint16(h[plainL4+icmpSumAt:]), diff))
}
