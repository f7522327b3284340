package rewrite

import (
	"encoding/binary"
	"math/bits"

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

// Frame is where a frame lies: Len bytes from byte Addr on of the memory of all frames. It is a descriptor of the rings.
type Frame struct {
	Addr    uint64
	Len     uint32
	Options uint32
}

// plainLeast is the least that a header of each protocol says of its own length, or of what it heads; only TCP and UDP are plain.
var plainLeast = func() (least [256]uint8) {
	for i := range least {
		least[i] = 0xff // more than a header can say
	}
	least[flow.TCP], least[flow.UDP] = tcpLen, udpLen
	return least
}()

// MayBePlain reports whether a frame is of IPv4, without a tag, and not of ICMP: only such a one can be plain.
func MayBePlain(h *Head) bool {
	return binary.BigEndian.Uint16(h[etherLen-2:]) == etherIPv4 && h[plainTTL+1] != flow.ICMP
}

// ParsePlain is Parse for a plain packet: not a SYN, not about to end (its TTL is above 1), and not larger than most bytes from
// its IP header on. n is the frame's length. It reports whether it is one with all lengths right; if not, p and k are not
// valid, and Parse says what it is. p is then marked as Plain.
func ParsePlain(h *Head, n, most uint32, p *Packet, k *flow.Key) bool {
	le, be := binary.LittleEndian, binary.BigEndian
	// EtherType, and version and header length behind it; no more fragments and no offset.
	const etherAndVersion = 0x45<<16 | etherIPv4&0xff<<8 | etherIPv4>>8
	if le.Uint32(h[etherLen-2:])&0xffffff != etherAndVersion || le.Uint16(h[plainFragment:])&0xff3f != 0 {
		return false
	}
	total, proto := uint32(be.Uint16(h[plainLength:])), uint32(h[plainTTL+1])
	const common = 1<<flow.TCP | 1<<flow.UDP
	if proto > 31 || 1<<proto&common == 0 || h[plainTTL] < 2 || total < ipv4Len+udpLen || total > most || etherLen+total > n {
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

// PlainSize is the length of a packet that ParsePlain has read, from its IP header on.
func (p *Packet) PlainSize() int { return int(p.End) - etherLen }

// PlainToServer is ToServer for a packet that ParsePlain has read, of TCP or else of UDP; addr is the member's IPv4 address.
func PlainToServer(h *Head, l2 *L2, tcp bool, addr uint32, port uint16, l3, l4 Diff) {
	*(*L2)(h[:]) = *l2
	binary.BigEndian.PutUint32(h[plainDst:], addr)
	binary.BigEndian.PutUint16(h[plainL4+2:], port)
	forwardPlain(h, l3)
	if tcp {
		updateTCP(h, l4)
	} else {
		updateUDP(h, l4)
	}
}

// PlainToClient is ToClient for a packet that ParsePlain has read, of TCP or else of UDP; addr is the virtual IPv4 address.
func PlainToClient(h *Head, dst, src *[6]byte, tcp bool, addr uint32, port uint16, l3, l4 Diff) {
	*(*[6]byte)(h[:]), *(*[6]byte)(h[6:]) = *dst, *src
	binary.BigEndian.PutUint32(h[plainSrc:], addr)
	binary.BigEndian.PutUint16(h[plainL4:], port)
	forwardPlain(h, l3)
	if tcp {
		updateTCP(h, l4)
	} else {
		updateUDP(h, l4)
	}
}

// The sums that follow are of words whose bytes are swapped: in one's complement that swaps the bytes of the sum (RFC 1071
// section 2), and what is swapped is a Diff instead of a field twice.

// forwardPlain takes one from the TTL and corrects the header's checksum for that and for l3: both are in one word, the TTL in
// its lowest byte.
func forwardPlain(h *Head, l3 Diff) {
	word := binary.LittleEndian.Uint32(h[plainTTL:])
	sum := foldSwapped(^word>>16 + uint32(bits.ReverseBytes16(l3)) + swappedTTL)
	binary.LittleEndian.PutUint32(h[plainTTL:], (word-1)&0xffff|^sum<<16)
}

// swappedTTL is ttlDiff in such a sum.
const swappedTTL = ttlDiff>>8 | ttlDiff&0xff<<8

// foldSwapped is fold; the upper half of the result is not to be looked at.
func foldSwapped(sum uint32) uint32 { return (sum + bits.RotateLeft32(sum, 16)) >> 16 }

func updateTCP(h *Head, diff Diff) {
	le := binary.LittleEndian
	at := h[plainL4+16 : plainL4+18]
	le.PutUint16(at, uint16(^foldSwapped(uint32(^le.Uint16(at))+uint32(bits.ReverseBytes16(diff)))))
}

// updateUDP leaves a checksum of 0, which is none, and makes no other one 0 (RFC 768).
func updateUDP(h *Head, diff Diff) {
	le := binary.LittleEndian
	at := h[plainL4+6 : plainL4+8]
	old := le.Uint16(at)
	sum := uint16(^foldSwapped(uint32(^old) + uint32(bits.ReverseBytes16(diff))))
	if old == 0 {
		return
	}
	if sum == 0 {
		sum = 0xffff
	}
	le.PutUint16(at, sum)
}
