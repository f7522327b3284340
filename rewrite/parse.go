// Package rewrite reads packets and changes them in place. It is pure: a frame is a byte slice, nothing is
// allocated, nothing is kept.
//
//	Parse ──▶ Packet (a small value: tuple, offsets, TCP fields) ──▶ a change of the frame, by mode:
//
//	nat             ToServer, ToClient         one end        nat.go
//	fullnat         Translate                  both ends      fullnat.go
//	mat, routing    Forward                    MAC, TTL       fullnat.go
//	tunnel          Encapsulate, Decapsulate   headroom       tunnel.go, decapsulate.go
//	all of them     ReadQuote, TranslateError  ICMP errors    quote.go
//	                ReadFirst, Translate*      fragments      fragment.go
//	                SetVLAN, ClampMSS          tags, SYNs     vlan.go, mss.go
//	in answer       AnswerReset, AnswerEcho, ErrorAnswer      reset.go, icmp.go, icmpanswer.go
//	on arrival      Verify, Recompute, CheckEnds              verify.go, address.go
//
// One parser serves every mode. It checks every length before it reads, and its result holds offsets that the
// rewrites may use without checking again: they must be given the same frame.
package rewrite

import (
	"encoding/binary"

	"sluice/flow"
)

// Verdict is what Parse found a frame to be.
type Verdict uint8

// The verdicts. Only OK leaves a Packet that can be looked up and rewritten.
const (
	OK             Verdict = iota
	NotIP                  // ARP or another EtherType
	Truncated              // the frame ends inside a header that it announces
	BadHeader              // a header contradicts itself, or the destination is not the last one
	BadLength              // a length field exceeds the frame
	Fragment               // part of a fragmented datagram; the tuple's ports are not valid
	NoPorts                // a protocol without ports; the tuple's ports are 0, or an ICMP query's id (see ICMPKind)
	ExtensionLimit         // more IPv6 extension headers than are followed
)

// IsPacket reports whether Parse has left a Packet and a tuple.
func (v Verdict) IsPacket() bool { return v == OK || v == NoPorts || v == Fragment }

// Packet is what the parser found. Offsets count from the start of the frame, in bytes; numbers are in host byte
// order. It is valid for the frame it was parsed from until that frame is changed in length.
type Packet struct {
	L3      uint16 // IP header
	L4      uint16 // TCP, UDP, SCTP, … header
	End     uint16 // end of the IP packet; the frame may have padding behind it
	Payload uint16 // first byte after the L4 header
	VLAN    uint16 // outermost VLAN id and priority as in the tag, 0 without
	V6      bool
	TTL     uint8
	Proto   uint8
	Opens   bool         // a SYN without more, or an INIT: what begins a connection with a handshake
	Plain   bool         // ParsePlain has read it
	ICMP    ICMPKind     // not where Plain: stale there
	TCP     flow.Segment // for TCP only
	SCTP    flow.Chunks  // for SCTP only
}

// EtherTypes (IEEE 802).
const (
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
	etherVLAN = 0x8100 // 802.1Q
	etherQinQ = 0x88a8 // 802.1ad
)

// Header lengths in bytes.
const (
	etherLen = 14
	vlanLen  = 4
	ipv4Len  = 20
	ipv6Len  = 40
	tcpLen   = 20
	udpLen   = 8
	sctpLen  = 12
	icmpLen  = 8
)

// maxFrame bounds a frame so that offsets fit 16 bits.
const maxFrame = 1<<16 - 1

// Parse reads frame b, an Ethernet frame without its check sequence, into p and its tuple into k. With a verdict
// other than OK, NoPorts or Fragment the tuple is not valid.
func Parse(b []byte, p *Packet, k *flow.Key) Verdict {
	if len(b) > maxFrame {
		return Truncated
	}
	return parse(b, len(b), p, k)
}

// parse is Parse for a frame of size bytes that begins with b.
func parse(b []byte, size int, p *Packet, k *flow.Key) Verdict {
	if len(b) < etherLen {
		return Truncated
	}
	l3 := etherLen
	etherType := binary.BigEndian.Uint16(b[12:])
	p.VLAN, p.Plain, p.ICMP = 0, false, ICMPOther
	if etherType == etherVLAN || etherType == etherQinQ {
		var ok bool
		if l3, etherType, ok = skipTags(b, p); !ok {
			return Truncated
		}
	}
	p.L3 = uint16(l3)
	switch etherType {
	case etherIPv4:
		return parse4(b, size, l3, p, k)
	case etherIPv6:
		return parse6(b, size, l3, p, k)
	}
	return NotIP
}

// skipTags passes at most two VLAN tags.
func skipTags(b []byte, p *Packet) (l3 int, etherType uint16, ok bool) {
	l3 = etherLen
	etherType = binary.BigEndian.Uint16(b[12:])
	for n := 0; n < 2 && (etherType == etherVLAN || etherType == etherQinQ); n++ {
		if len(b) < l3+vlanLen {
			return 0, 0, false
		}
		if n == 0 {
			p.VLAN = binary.BigEndian.Uint16(b[l3:])
		}
		etherType = binary.BigEndian.Uint16(b[l3+2:])
		l3 += vlanLen
	}
	return l3, etherType, true
}

// moreFragmentsOrOffset are the bits of an IPv4 header that a part of a datagram has.
const moreFragmentsOrOffset = 0x3fff

// parse4 reads an IPv4 header (RFC 791 section 3.1).
func parse4(b []byte, size, l3 int, p *Packet, k *flow.Key) Verdict {
	if len(b) < l3+ipv4Len {
		return Truncated
	}
	h := b[l3 : l3+ipv4Len]
	ihl := int(h[0]&0x0f) * 4
	total := int(binary.BigEndian.Uint16(h[2:]))
	const plain = 4<<4 | ipv4Len/4 // no options
	if h[0] != plain && (h[0]>>4 != 4 || ihl < ipv4Len) || total < ihl {
		return BadHeader
	}
	if l3+total > size {
		return BadLength
	}
	p.V6, p.TTL, p.Proto = false, h[8], h[9]
	p.L4, p.End = uint16(l3+ihl), uint16(l3+total)
	k.Src = flow.AddrFrom4(binary.BigEndian.Uint32(h[12:]))
	k.Dst = flow.AddrFrom4(binary.BigEndian.Uint32(h[16:]))
	k.Proto, k.Ports = h[9], 0
	if h[0] != plain {
		return parseOptions(b, p, k)
	}
	if binary.BigEndian.Uint16(h[6:])&moreFragmentsOrOffset != 0 {
		return Fragment
	}
	return parseL4(b, p, k)
}

// parseOptions goes on behind an IPv4 header with options.
func parseOptions(b []byte, p *Packet, k *flow.Key) Verdict {
	if sourceRouted(b[p.L3+ipv4Len : p.L4]) {
		return BadHeader
	}
	if binary.BigEndian.Uint16(b[p.L3+6:])&moreFragmentsOrOffset != 0 {
		return Fragment
	}
	return parseL4(b, p, k)
}

// parse6 reads an IPv6 header and its extension headers (RFC 8200 sections 3 and 4).
func parse6(b []byte, size, l3 int, p *Packet, k *flow.Key) Verdict {
	if len(b) < l3+ipv6Len {
		return Truncated
	}
	h := b[l3 : l3+ipv6Len]
	if h[0]>>4 != 6 {
		return BadHeader
	}
	end := l3 + ipv6Len + int(binary.BigEndian.Uint16(h[4:]))
	if end > size {
		return BadLength
	}
	p.V6, p.TTL = true, h[7]
	p.End = uint16(end)
	k.Src = flow.Addr{Hi: binary.BigEndian.Uint64(h[8:]), Lo: binary.BigEndian.Uint64(h[16:])}
	k.Dst = flow.Addr{Hi: binary.BigEndian.Uint64(h[24:]), Lo: binary.BigEndian.Uint64(h[32:])}
	k.Ports = 0
	if isMapped(k.Src) || isMapped(k.Dst) {
		return BadHeader // ::ffff:0:0/96 is our form of IPv4 and has no place on the wire (RFC 4038 section 4.2)
	}
	p.Proto, p.L4, k.Proto = h[6], uint16(l3+ipv6Len), h[6]
	if isExtension(h[6]) {
		return parseExtensions(b, p, k)
	}
	return parseL4(b, p, k)
}

// parseExtensions goes on behind an IPv6 header with extension headers.
func parseExtensions(b []byte, p *Packet, k *flow.Key) Verdict {
	var e extensions
	if v := e.skip(b, int(p.L4), p.reach(b), p.Proto); v != OK {
		return v
	}
	p.Proto, p.L4, k.Proto = e.proto, e.l4, e.proto
	if e.part {
		return Fragment
	}
	return parseL4(b, p, k)
}

func isMapped(a flow.Addr) bool { return a.Hi == 0 && a.Lo>>32 == 0xffff }

// parseL4 reads ports and, for TCP and SCTP, what tracking needs.
func parseL4(b []byte, p *Packet, k *flow.Key) Verdict {
	const common = 1<<flow.TCP | 1<<flow.UDP
	if p.Proto < 64 && 1<<p.Proto&common != 0 && int(p.L4)+tcpLen <= len(b) {
		return parseCommon(b, p, k)
	}
	p.Opens = false
	switch p.Proto {
	case flow.TCP:
		return Truncated
	case flow.UDP:
		return parseUDP(b, p, k)
	case flow.SCTP: // RFC 9260 section 3.1
		l4, end := int(p.L4), p.reach(b)
		if l4+sctpLen > end {
			return Truncated
		}
		k.Ports = binary.BigEndian.Uint32(b[l4:])
		p.Payload = uint16(l4 + sctpLen)
		chunks(b[l4:end], p.behind(b), &p.SCTP)
		p.Opens = p.SCTP.Opens()
		return OK
	}
	return parseOther(b, p, k)
}

// parseCommon reads TCP (RFC 9293 section 3.1) and UDP in a frame that has room for a TCP header, which one without padding
// may not have. Both are read alike, without asking which it is: traffic is a mix of them, and the question would be answered
// wrong by the processor's prediction for a third of the packets. The TCP fields of a UDP packet are not valid.
func parseCommon(b []byte, p *Packet, k *flow.Key) Verdict {
	l4, end := int(p.L4), int(p.End)
	h := (*[tcpLen]byte)(b[l4:])
	isTCP := p.Proto == flow.TCP
	length, header, flags := int(binary.BigEndian.Uint16(h[4:])), int(h[12]>>4)*4, uint32(h[13])
	size, least := header, tcpLen // of what the packet must contain
	if !isTCP {                   // one assignment each: they become conditional moves
		size = length
	}
	if !isTCP {
		header = udpLen
	}
	if !isTCP {
		least = udpLen
	}
	if !isTCP {
		flags = 0
	}
	if size < least || l4+size > end {
		return badTransport(p, size, least)
	}
	if p.V6 && !isTCP && h[6]|h[7] == 0 {
		return BadHeader // the checksum is not optional in IPv6 (RFC 8200 section 8.1)
	}
	k.Ports = binary.BigEndian.Uint32(h[:])
	p.Payload = uint16(l4 + header)
	p.Opens = flags&(flow.FlagSYN|flow.FlagACK|flow.FlagRST|flow.FlagFIN) == flow.FlagSYN
	// Field by field: from a literal all would be put together in memory and loaded again, too early for the stores.
	s := &p.TCP
	s.Seq, s.Ack = binary.BigEndian.Uint32(h[4:]), binary.BigEndian.Uint32(h[8:])
	s.Len, s.Window = uint32(end-l4-header), binary.BigEndian.Uint16(h[14:])
	s.Flags, s.Scale = uint8(flags), flow.NoScale
	if flags&flow.FlagSYN != 0 {
		s.Scale = windowScale(b[l4+tcpLen : min(l4+header, len(b))])
	}
	return OK
}

// badTransport is what is wrong with a TCP or UDP header that says so many bytes, of which there must be so many at least.
func badTransport(p *Packet, size, least int) Verdict {
	switch {
	case int(p.L4)+least > int(p.End):
		return Truncated
	case size < least:
		return BadHeader
	case p.Proto == flow.TCP:
		return Truncated
	}
	return BadLength
}

// parseUDP reads UDP (RFC 768) in a frame that is too short for parseCommon.
func parseUDP(b []byte, p *Packet, k *flow.Key) Verdict {
	l4, end := int(p.L4), int(p.End)
	if l4+udpLen > p.reach(b) {
		return Truncated
	}
	h := b[l4 : l4+udpLen]
	size := int(binary.BigEndian.Uint16(h[4:]))
	if size < udpLen || l4+size > end {
		return badTransport(p, size, udpLen)
	}
	if p.V6 && h[6]|h[7] == 0 {
		return BadHeader
	}
	k.Ports = binary.BigEndian.Uint32(h)
	p.Payload = uint16(l4 + udpLen)
	return OK
}

// parseOther is for protocols without ports. Queries of ICMP have an id instead.
func parseOther(b []byte, p *Packet, k *flow.Key) Verdict {
	p.Payload, p.ICMP = p.L4, ICMPOther
	if !isICMP(p) {
		return NoPorts
	}
	if int(p.L4)+icmpLen > p.reach(b) {
		return Truncated
	}
	h := b[p.L4 : p.L4+icmpLen]
	p.ICMP = kindOf(h[0], p.V6)
	k.Ports = p.ICMP.ports(binary.BigEndian.Uint16(h[4:]))
	return NoPorts
}

// windowScale finds the window scale among the options of a SYN (RFC 9293 section 3.2, RFC 7323 section 2.2).
func windowScale(options []byte) uint8 {
	const end, none, scale = 0, 1, 3
	for len(options) > 0 && options[0] != end {
		if options[0] == none {
			options = options[1:]
			continue
		}
		if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
			break
		}
		if options[0] == scale && options[1] == 3 {
			return min(options[2], 14)
		}
		options = options[options[1]:]
	}
	return flow.NoScale
}
