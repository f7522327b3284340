package rewrite

import (
	"encoding/binary"

	"sluice/flow"
)

// Nearly all packets are alike: no tag, IPv4 without options, TCP or UDP. For these Parse, ToServer and ToClient are here once
// more, with every offset a constant, no check made twice, and no branch on what traffic mixes: a third of the
// instructions. Whatever is unusual is left to them; plain_test.go holds the two against each other.

// HeadLen is how much of a frame's memory is read and changed here: Ethernet, IPv4 and TCP headers, 54 bytes, and some. The
// memory must be there, the packet may be shorter.
const HeadLen = 64

// Head is the first bytes of a frame.
type Head = [HeadLen]byte

// Offsets in a plain frame.
const (
	plainLength   = etherLen + 2
	plainFragment = etherLen + 6
	plainTTL      = etherLen + 8
	plainSum      = etherLen + 10
	plainSrc      = etherLen + 12
	plainDst      = etherLen + 16
	plainL4       = etherLen + ipv4Len
)

// ParsePlain is Parse for a plain packet that is not a SYN. n is the frame's length. It reports whether it is one with all
// lengths right; if not, p and k are not valid, and Parse says what it is. p is then marked as Plain.
func ParsePlain(h *Head, n uint32, p *Packet, k *flow.Key) bool {
	le, be := binary.LittleEndian, binary.BigEndian
	// EtherType, and version and header length behind it; no more fragments and no offset.
	const etherAndVersion = 0x45<<16 | etherIPv4&0xff<<8 | etherIPv4>>8
	if le.Uint32(h[etherLen-2:])&0xffffff != etherAndVersion || le.Uint16(h[plainFragment:])&0xff3f != 0 {
		return false
	}
	total, proto := uint32(be.Uint16(h[plainLength:])), uint32(h[plainTTL+1])
	const common = 1<<flow.TCP | 1<<flow.UDP
	if proto > 31 || 1<<proto&common == 0 || total < ipv4Len+udpLen || etherLen+total > n {
		return false
	}
	tcp := uint32(int32(proto-flow.UDP) >> 31) // all bits for TCP, none for UDP
	header, length := uint32(h[plainL4+12]>>4)*4, uint32(be.Uint16(h[plainL4+4:]))
	size := length ^ (length^header)&tcp // of what the packet must contain
	header = udpLen ^ (udpLen^header)&tcp
	flags := uint32(h[plainL4+13]) & tcp
	if size < udpLen+(tcpLen-udpLen)&tcp || size > total-ipv4Len || flags&flow.FlagSYN != 0 {
		return false
	}
	p.L3, p.L4, p.End, p.Payload = etherLen, plainL4, uint16(etherLen+total), uint16(plainL4+header)
	p.VLAN, p.V6, p.TTL, p.Proto, p.Opens, p.Plain = 0, false, h[plainTTL], uint8(proto), false, true
	ends := be.Uint64(h[plainSrc:])
	k.Src, k.Dst = flow.AddrFrom4(uint32(ends>>32)), flow.AddrFrom4(uint32(ends))
	k.Ports, k.Proto = be.Uint32(h[plainL4:]), uint8(proto)
	s := &p.TCP
	s.Seq, s.Ack = be.Uint32(h[plainL4+4:]), be.Uint32(h[plainL4+8:])
	s.Len, s.Window, s.Flags = total-ipv4Len-header, be.Uint16(h[plainL4+14:]), uint8(flags)
	return true
}

// PlainToServer is ToServer for a packet that ParsePlain has read; addr is the member's IPv4 address.
func PlainToServer(h *Head, l2 *L2, proto uint8, addr uint32, port uint16, l3, l4 Diff) {
	be := binary.BigEndian
	*(*L2)(h[:]) = *l2
	h[plainTTL]--
	be.PutUint16(h[plainSum:], update(be.Uint16(h[plainSum:]), uint32(l3)+ttlDiff))
	be.PutUint32(h[plainDst:], addr)
	be.PutUint16(h[plainL4+2:], port)
	updatePlain(h, proto, l4)
}

// PlainToClient is ToClient for a packet that ParsePlain has read; addr is the virtual IPv4 address.
func PlainToClient(h *Head, dst, src *[6]byte, proto uint8, addr uint32, port uint16, l3, l4 Diff) {
	be := binary.BigEndian
	*(*[6]byte)(h[:]), *(*[6]byte)(h[6:]) = *dst, *src
	h[plainTTL]--
	be.PutUint16(h[plainSum:], update(be.Uint16(h[plainSum:]), uint32(l3)+ttlDiff))
	be.PutUint32(h[plainSrc:], addr)
	be.PutUint16(h[plainL4:], port)
	updatePlain(h, proto, l4)
}

// updatePlain is updateL4.
func updatePlain(h *Head, proto uint8, diff Diff) {
	tcp := uint32(int32(uint32(proto)-flow.UDP) >> 31)
	at := plainL4 + 6 + 10&tcp
	b := (*[2]byte)(h[at&(HeadLen-2):])
	old := binary.BigEndian.Uint16(b[:])
	sum := update(old, uint32(diff))
	if old == 0 || sum == 0 {
		if tcp == 0 && old == 0 {
			return
		}
		if tcp == 0 {
			sum = 0xffff
		}
	}
	binary.BigEndian.PutUint16(b[:], sum)
}
