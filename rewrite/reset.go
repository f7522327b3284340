package rewrite

import (
	"encoding/binary"

	"sluice/flow"
)

// Reset describes a RST to be made from nothing.
type Reset struct {
	L2               L2
	Src, Dst         flow.Addr
	SrcPort, DstPort uint16
	Seq, Ack         uint32
}

// newTTL is the TTL of packets that begin here (RFC 1700).
const newTTL = 64

// Build writes the frame into b, which must have room for 74 bytes, and returns its length.
func (r *Reset) Build(b []byte) int {
	copy(b, r.L2[:])
	l4 := etherLen + ipv4Len
	if r.Src.Is4() {
		binary.BigEndian.PutUint16(b[12:], etherIPv4)
	} else {
		binary.BigEndian.PutUint16(b[12:], etherIPv6)
		l4 = etherLen + ipv6Len
	}
	putIP(b[etherLen:l4], r.Src, r.Dst)
	putReset(b[l4:l4+tcpLen], r.SrcPort, r.DstPort, r.Seq, r.Ack, flow.FlagRST|flow.FlagACK)
	putTCPChecksum(b[l4:l4+tcpLen], r.Src, r.Dst)
	return l4 + tcpLen
}

// AnswerReset turns a TCP segment into the RST that answers it as a closed port would (RFC 9293 section 3.10.7.1), to the
// MAC that it came from, and returns the new length of the frame. VLAN tags stay. The segment must not be a RST itself.
func AnswerReset(b []byte, p *Packet) int {
	var src, dst flow.Addr
	h := b[p.L3:]
	if p.V6 {
		dst = flow.Addr{Hi: binary.BigEndian.Uint64(h[8:]), Lo: binary.BigEndian.Uint64(h[16:])}
		src = flow.Addr{Hi: binary.BigEndian.Uint64(h[24:]), Lo: binary.BigEndian.Uint64(h[32:])}
	} else {
		dst, src = flow.AddrFrom4(binary.BigEndian.Uint32(h[12:])), flow.AddrFrom4(binary.BigEndian.Uint32(h[16:]))
	}
	t := b[p.L4:]
	dport, sport := binary.BigEndian.Uint16(t), binary.BigEndian.Uint16(t[2:])
	size := p.TCP.Len
	if IsPart(b, p) { // how long all of it is does not show, and more than was sent must not be acknowledged
		size = uint32(p.End - p.Payload)
	}
	seq, ack, flags := uint32(0), p.TCP.Seq+size, uint8(flow.FlagRST|flow.FlagACK)
	if p.TCP.Flags&flow.FlagSYN != 0 {
		ack++
	}
	if p.TCP.Flags&flow.FlagFIN != 0 {
		ack++
	}
	if p.TCP.Flags&flow.FlagACK != 0 {
		seq, ack, flags = p.TCP.Ack, 0, flow.FlagRST
	}
	from := SourceMAC(b)
	copy(b[6:12], b[:6])
	copy(b[:6], from[:])
	l4 := int(p.L3) + ipv4Len // options and extension headers go
	if p.V6 {
		l4 = int(p.L3) + ipv6Len
	}
	putIP(b[p.L3:l4], src, dst)
	putReset(b[l4:l4+tcpLen], sport, dport, seq, ack, flags)
	putTCPChecksum(b[l4:l4+tcpLen], src, dst)
	return l4 + tcpLen
}

// putIP writes an IP header for a TCP segment without payload.
func putIP(h []byte, src, dst flow.Addr) {
	clear(h)
	if src.Is4() {
		h[0], h[8], h[9] = 0x45, newTTL, flow.TCP
		binary.BigEndian.PutUint16(h[2:], ipv4Len+tcpLen)
		h[6] = 0x40 // do not fragment
		binary.BigEndian.PutUint32(h[12:], src.V4())
		binary.BigEndian.PutUint32(h[16:], dst.V4())
		binary.BigEndian.PutUint16(h[10:], ^fold(sumBytes(h)))
		return
	}
	h[0], h[6], h[7] = 0x60, flow.TCP, newTTL
	binary.BigEndian.PutUint16(h[4:], tcpLen)
	binary.BigEndian.PutUint64(h[8:], src.Hi)
	binary.BigEndian.PutUint64(h[16:], src.Lo)
	binary.BigEndian.PutUint64(h[24:], dst.Hi)
	binary.BigEndian.PutUint64(h[32:], dst.Lo)
}

func putReset(t []byte, sport, dport uint16, seq, ack uint32, flags uint8) {
	clear(t)
	binary.BigEndian.PutUint16(t, sport)
	binary.BigEndian.PutUint16(t[2:], dport)
	binary.BigEndian.PutUint32(t[4:], seq)
	binary.BigEndian.PutUint32(t[8:], ack)
	t[12], t[13] = tcpLen/4<<4, flags
}

// putTCPChecksum fills in the checksum over segment and pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1).
func putTCPChecksum(t []byte, src, dst flow.Addr) {
	sum := sumBytes(t) + uint32(len(t)) + flow.TCP
	if src.Is4() {
		sum += sum64(uint64(src.V4())) + sum64(uint64(dst.V4()))
	} else {
		sum += sum64(src.Hi) + sum64(src.Lo) + sum64(dst.Hi) + sum64(dst.Lo)
	}
	binary.BigEndian.PutUint16(t[16:], ^fold(sum))
}

// sumBytes adds up an even number of bytes as 16-bit words, up to a header's worth.
func sumBytes(b []byte) uint32 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	return sum
}
