package rewrite

import (
	"encoding/binary"

	"sluice/flow"
)

// ParseOpening is Parse for what begins nearly all connections of TCP over IPv4: an untagged frame b with a SYN right behind an IP
// header without options. It reports whether it is one with all lengths right; if not, p and k are not valid, and Parse says what it
// is. opening_test.go holds the two against each other.
func ParseOpening(b []byte, p *Packet, k *flow.Key) bool {
	if len(b) < plainL4+tcpLen || len(b) > maxFrame {
		return false
	}
	le, be := binary.LittleEndian, binary.BigEndian
	h := (*[plainL4 + tcpLen]byte)(b)
	const etherAndVersion = 0x45<<16 | etherIPv4&0xff<<8 | etherIPv4>>8
	flags, header, end := h[plainL4+13], int(h[plainL4+12]>>4)*4, etherLen+int(be.Uint16(h[plainLength:]))
	if le.Uint32(h[etherLen-2:])&0xffffff != etherAndVersion || le.Uint16(h[plainFragment:])&0xff3f != 0 || h[plainTTL+1] != flow.TCP ||
		flags&flow.FlagSYN == 0 || header < tcpLen || plainL4+header > end || end > len(b) {
		return false
	}
	p.L3, p.L4, p.End, p.Payload = etherLen, plainL4, uint16(end), uint16(plainL4+header)
	p.VLAN, p.V6, p.TTL, p.Proto, p.Plain, p.ICMP = 0, false, h[plainTTL], flow.TCP, false, ICMPOther
	p.Opens = flags&(flow.FlagSYN|flow.FlagACK|flow.FlagRST|flow.FlagFIN) == flow.FlagSYN
	ends := be.Uint64(h[plainSrc:])
	k.Src, k.Dst = flow.AddrFrom4(uint32(ends>>32)), flow.AddrFrom4(uint32(ends))
	k.Ports, k.Proto = be.Uint32(h[plainL4:]), flow.TCP
	s := &p.TCP
	s.Seq, s.Ack = be.Uint32(h[plainL4+4:]), be.Uint32(h[plainL4+8:])
	s.Len, s.Window = uint32(end-plainL4-header), be.Uint16(h[plainL4+14:])
	s.Flags, s.Scale = flags, flow.NoScale
	if header > tcpLen {
		s.Scale = windowScale(b[plainL4+tcpLen : plainL4+header])
	}
	return true
}
