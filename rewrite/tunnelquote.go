package rewrite

import (
	"encoding/binary"

	"sluice/flow"
)

// ReadTunnelQuote goes on where ReadQuote has read q: in an ICMP error about a packet that was sent into a tunnel, to the packet
// inside. inner becomes what is known of that one, offsets from the start of the same frame, and k its tuple, as it went into
// the tunnel. guePort 0 is GUEPort. Routers that quote no more than 8 bytes behind the outer header (RFC 792) say nothing of
// it: QuoteTruncated. TunnelNone is an error about something else.
func ReadTunnelQuote(b []byte, q *Quote, guePort uint16, inner *Packet, k *flow.Key) Refusal {
	proto, at, end := q.Proto, int(q.L4), int(q.End)
	if proto == flow.UDP {
		if guePort == 0 {
			guePort = GUEPort
		}
		if binary.BigEndian.Uint16(b[at+2:]) != guePort {
			return TunnelNone
		}
		if at+udpLen+gueLen > end {
			return QuoteTruncated
		}
		const variantAndControl, words = 0xe0, 0x1f
		g := b[at+udpLen:]
		if g[0]&variantAndControl != 0 {
			return TunnelHeader
		}
		proto, at = g[1], at+udpLen+gueLen+int(g[0]&words)*4
	}
	if proto != protoIPv4 && proto != protoIPv6 {
		return TunnelNone
	}
	in := Quote{L3: uint16(at)}
	v6 := proto == protoIPv6
	var why Refusal
	if v6 {
		why = in.read6(b, end, k)
	} else {
		why = in.read4(b, end, k)
	}
	if why != Done {
		return why
	}
	if int(in.L4)+icmpLen > int(in.End) {
		return QuoteTruncated
	}
	if why = in.readPorts(b, v6, k); why != Done {
		return why
	}
	*inner = Packet{L3: in.L3, L4: in.L4, End: in.End, Payload: in.L4, V6: v6, Proto: in.Proto, ICMP: in.ICMP}
	return Done
}

// Unreachable reports whether the error says that packets do not arrive: destination unreachable, but for one that was too big,
// or hops used up. Of a tunnel both mean that its end is not reached (RFC 2003 section 4, RFC 2473 section 8).
func (q *Quote) Unreachable(p *Packet) bool {
	if p.V6 {
		return q.Type == icmp6Unreachable || q.Type == icmp6TimeExceeded
	}
	return q.Type == icmpUnreachable && q.Code != codeNeedsFragmenting || q.Type == icmpTimeExceeded
}

// UncoverQuote makes the quoted packet inner of frame b, which went into a tunnel, the packet of a frame of its own, as it came
// from its sender: the hop that it lost at the tunnel's entry is given back. The frame is b[start:], and inner's offsets
// count from there.
func UncoverQuote(b []byte, inner *Packet) (start int) {
	start = int(inner.L3) - etherLen
	e := b[start:inner.L3]
	clear(e[:typeAt])
	h := b[inner.L3:]
	if inner.V6 {
		binary.BigEndian.PutUint16(e[typeAt:], etherIPv6)
		h[7]++
		inner.TTL = h[7]
	} else {
		binary.BigEndian.PutUint16(e[typeAt:], etherIPv4)
		h[8]++
		inner.TTL = h[8]
		binary.BigEndian.PutUint16(h[10:], update(binary.BigEndian.Uint16(h[10:]), 0xffff-ttlDiff))
	}
	inner.Shift(-start)
	return start
}
