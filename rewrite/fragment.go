package rewrite

import (
	"encoding/binary"

	"sluice/flow"
)

// FragmentPart is where a part of a fragmented datagram belongs (RFC 791 section 3.2, RFC 8200 section 4.5). Numbers are
// in bytes and host byte order. With source, destination and Proto, ID names the datagram.
type FragmentPart struct {
	ID     uint32
	Offset uint16 // of the part's first byte in the datagram's payload; 0 is the first part
	Len    uint16 // bytes
	More   bool   // others follow
	Proto  uint8  // in IPv6 the fragment header's number: what follows it may differ from part to part
}

// Read tells what part of its datagram the packet p of frame b is. It is FragmentHeader when it is none; Parse says
// Fragment to those that are.
func (f *FragmentPart) Read(b []byte, p *Packet) Refusal {
	f.Len = p.End - p.L4
	h := b[p.L3:]
	if !p.V6 {
		field := binary.BigEndian.Uint16(h[6:])
		f.ID, f.Proto = uint32(binary.BigEndian.Uint16(h[4:])), p.Proto
		f.Offset, f.More = field<<3, field&0x2000 != 0
		if field&0x3fff == 0 {
			return FragmentHeader
		}
		return Done
	}
	// A packet without any extension header is none; else the last header that Parse has passed is the fragment header.
	if p.L4 < p.L3+ipv6Len+8 || !hasFragment(b, p) {
		return FragmentHeader
	}
	h = b[p.L4-8 : p.L4]
	field := binary.BigEndian.Uint16(h[2:])
	f.ID, f.Proto = binary.BigEndian.Uint32(h[4:]), extFragment
	f.Offset, f.More = field&0xfff8, field&1 != 0
	return Done
}

// hasFragment reports whether Parse has ended at a fragment header.
func hasFragment(b []byte, p *Packet) bool {
	var e extensions
	return e.skip(b, int(p.L3)+ipv6Len, int(p.L4), b[p.L3+6]) == OK && e.part
}

// IsPart reports whether the packet p of frame b is part of a fragmented datagram, also after ReadFirst.
func IsPart(b []byte, p *Packet) bool {
	if !p.V6 {
		return binary.BigEndian.Uint16(b[p.L3+6:])&moreFragmentsOrOffset != 0
	}
	var e extensions
	return e.skip(b, int(p.L3)+ipv6Len, p.reach(b), b[p.L3+6]) == OK && e.part
}

// Check refuses parts that cannot be put together, or that would be put together over the transport header, so that
// filters and the receiver see different ones (RFC 1858, RFC 3128, RFC 5722). Overlaps further back only show in the
// table of fragments (flow.Fragments).
func (f *FragmentPart) Check(p *Packet) Refusal {
	end := int(f.Offset) + int(f.Len)
	if !p.V6 {
		end += int(p.L4 - p.L3) // the datagram's length counts its header
	}
	if f.Len == 0 || f.More && f.Len%8 != 0 || end > maxFrame {
		return FragmentLength
	}
	if f.Offset == 0 {
		return Done
	}
	// ReadFirst wants at least this much in the first part, so a part that begins there overlaps it.
	header := uint16(icmpLen)
	switch p.Proto {
	case flow.TCP:
		header = tcpLen
	case flow.SCTP:
		header = sctpLen
	}
	if f.Offset < header {
		return FragmentOverlap
	}
	return Done
}

// largestSegment is the payload of a TCP segment, at most, on the links of the largest MTU that is in use.
const largestSegment = 9216

// ReadFirst reads on where Parse has ended in the first part of a datagram: the transport header, all of which has to be
// there (RFC 1858 section 3, RFC 7112 section 5). p and k become what they were if the part were all: k's ports or query id,
// p's offsets and what tracking needs. How long a TCP segment is only its last part tells: TCP.Len is largestSegment, so that an
// acknowledgement of all of it is one of what was sent. Translate may then change the part: the
// checksum, which covers the whole datagram, takes the difference; see CanTranslate for SCTP.
func ReadFirst(b []byte, p *Packet, k *flow.Key) Refusal {
	p.Opens = false
	if p.V6 {
		var e extensions
		switch e.skip(b, int(p.L4), p.reach(b), p.Proto) {
		case OK:
		case Truncated:
			return FragmentTiny
		default:
			return FragmentHeader
		}
		if e.part {
			return FragmentHeader
		}
		p.Proto, p.L4, k.Proto = e.proto, e.l4, e.proto
	}
	var v Verdict
	if p.Proto == flow.UDP {
		v = parseFirstUDP(b, p, k)
	} else {
		v = parseL4(b, p, k)
	}
	switch v {
	case OK, NoPorts:
		if p.Proto == flow.TCP && IsPart(b, p) {
			p.TCP.Len = max(p.TCP.Len, largestSegment)
		}
		return Done
	case Truncated:
		return FragmentTiny
	}
	return FragmentHeader
}

// parseFirstUDP is parseL4 for UDP whose length goes beyond the part.
func parseFirstUDP(b []byte, p *Packet, k *flow.Key) Verdict {
	if int(p.L4)+udpLen > p.reach(b) {
		return Truncated
	}
	h := b[p.L4 : p.L4+udpLen]
	if binary.BigEndian.Uint16(h[4:]) < udpLen || p.V6 && h[6] == 0 && h[7] == 0 {
		return BadHeader
	}
	k.Ports, p.Payload = binary.BigEndian.Uint32(h), p.L4+udpLen
	return OK
}
