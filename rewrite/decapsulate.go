package rewrite

import (
	"encoding/binary"

	"sluice/flow"
)

// Decapsulate takes the outer headers off the packet p of the frame b[head:], which Parse took: IP in IP, or GUE to
// guePort (0: GUEPort). MAC addresses and tags move in front of the inner packet; the new frame is b[start:end] and is to
// be parsed again. Who may send through a tunnel is the caller's to check (RFC 4213 section 5).
//
// Refused are outer fragments (Parse says so), an inner header that is not what the outer one announces, that is longer
// than what is carried or, in IPv4, has a wrong checksum, a wrong checksum of outer IPv4 or UDP, GUE that is not plain
// data, and congestion marked on a packet whose ends do not know ECN. UDP without a checksum is taken in IPv4 only.
// Congestion marks pass to the inner header (RFC 6040 section 4.2); TTL and DSCP stay as they are inside (RFC 2983).
func Decapsulate(b []byte, head int, p *Packet, guePort uint16) (start, end int, why Refusal) {
	f := b[head:]
	proto, at, limit := p.Proto, int(p.L4), int(p.End)
	if proto == flow.UDP {
		if proto, at, limit, why = readGUE(f, p, guePort); why != Done {
			return head, 0, why
		}
	}
	if !p.V6 && onesSum(f[p.L3:int(p.L3)+int(f[p.L3]&15)*4]) != 0xffff {
		return head, 0, TunnelSum
	}
	inner := f[at:limit]
	size, etherType := 0, uint16(etherIPv4)
	switch proto {
	case protoIPv4:
		if len(inner) < ipv4Len || inner[0]>>4 != 4 {
			return head, 0, TunnelInner
		}
		size = int(binary.BigEndian.Uint16(inner[2:]))
		ihl := int(inner[0]&15) * 4
		if ihl < ipv4Len || size < ihl || size > len(inner) {
			return head, 0, TunnelInner
		}
		if onesSum(inner[:ihl]) != 0xffff {
			return head, 0, TunnelSum
		}
	case protoIPv6:
		etherType = etherIPv6
		if len(inner) < ipv6Len || inner[0]>>4 != 6 {
			return head, 0, TunnelInner
		}
		if size = ipv6Len + int(binary.BigEndian.Uint16(inner[4:])); size > len(inner) {
			return head, 0, TunnelInner
		}
	default:
		return head, 0, TunnelNone
	}
	outer := f[p.L3+1]
	if p.V6 {
		outer >>= 4
	}
	if !passECN(inner, proto == protoIPv6, outer&3) {
		return head, 0, TunnelCongestion
	}
	start = head + at - int(p.L3)
	copy(b[start:], f[:p.L3])
	binary.BigEndian.PutUint16(b[head+at-2:], etherType)
	return start, head + at + size, Done
}

// readGUE reads UDP and GUE headers: what is carried, and from where to where.
func readGUE(f []byte, p *Packet, port uint16) (proto uint8, at, limit int, why Refusal) {
	if port == 0 {
		port = GUEPort
	}
	u := f[p.L4:p.End]
	if binary.BigEndian.Uint16(u[2:]) != port {
		return 0, 0, 0, TunnelNone
	}
	u = u[:binary.BigEndian.Uint16(u[4:])] // Parse has checked it
	if len(u) < udpLen+gueLen {
		return 0, 0, 0, TunnelHeader
	}
	const variantAndControl, words = 0xe0, 0x1f
	if u[8]&variantAndControl != 0 || u[10] != 0 || u[11] != 0 {
		return 0, 0, 0, TunnelHeader // flags change how what follows is read
	}
	skip := udpLen + gueLen + int(u[8]&words)*4
	if skip > len(u) {
		return 0, 0, 0, TunnelHeader
	}
	if u[6]|u[7] != 0 && fold(uint32(onesSum(u))+uint32(pseudoSum(f[p.L3:], p.V6, len(u), flow.UDP))) != 0xffff {
		return 0, 0, 0, TunnelSum
	}
	return u[9], int(p.L4) + skip, int(p.L4) + len(u), Done
}

// Values of the ECN field (RFC 3168 section 5).
const (
	ecnNone = 0
	ecnECT1 = 1
	ecnECT0 = 2
	ecnCE   = 3
)

// passECN combines the outer ECN field with the inner header's (RFC 6040 figure 4) and reports whether the packet may
// go on.
func passECN(h []byte, v6 bool, outer uint8) bool {
	inner := h[1] & 3
	if v6 {
		inner = h[1] >> 4 & 3
	}
	now := inner
	switch {
	case inner == ecnNone:
		return outer != ecnCE
	case outer == ecnCE, outer == ecnECT1 && inner == ecnECT0:
		now = outer
	}
	if now == inner {
		return true
	}
	if v6 {
		h[1] = h[1]&^0x30 | now<<4
		return true
	}
	old := binary.BigEndian.Uint16(h)
	h[1] = h[1]&^3 | now
	binary.BigEndian.PutUint16(h[10:], update(binary.BigEndian.Uint16(h[10:]), uint32(PortDiff(old, binary.BigEndian.Uint16(h)))))
	return true
}
