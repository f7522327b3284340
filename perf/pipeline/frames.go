package pipeline

import (
	"encoding/binary"
	"math/bits"

	"sluice/flow"
	"sluice/rings"
)

// tuple is the addresses and ports of a packet over IPv4, in host byte order.
type tuple struct {
	src, dst     uint32
	sport, dport uint16
}

func (t tuple) reversed() tuple { return tuple{t.dst, t.src, t.dport, t.sport} }

// Sizes of packets. Frames are without their check sequence, as the engine sees them.
const (
	etherLen = 14
	ipLen    = 20
	tcpLen   = 20
	udpLen   = 8
	minFrame = 60
)

// segment is what of a packet is neither addresses nor size.
type segment struct {
	proto    uint8
	flags    uint8
	seq, ack uint32
	id       uint16 // IPv4 identification; nobody rewrites it
}

// The sequence numbers of every TCP connection: the client begins with 1000, the server with 9000, and nothing but
// acknowledgements follows, or the same data again and again.
const (
	clientISN = 1000
	serverISN = 9000
	window    = 64000
)

// frameLen is the length of the frame around an IP packet.
func frameLen(ip int) uint16 { return uint16(max(etherLen+ip, minFrame)) }

// packetLen is the length of the IP packet in a frame of the given size, of which 4 bytes are the check sequence.
func packetLen(size int) int { return size - 4 - etherLen }

// writeHead writes the first rings.HeadLen bytes of a frame whose IP packet is ip bytes long and has a payload of zeros,
// with right checksums (RFC 791, 768, 9293).
func writeHead(b []byte, dst, src [6]byte, t tuple, s segment, ip int) {
	b = b[:rings.HeadLen:rings.HeadLen]
	clear(b)
	copy(b, dst[:])
	copy(b[6:], src[:])
	b[12] = 0x08
	h := b[etherLen:]
	h[0], h[8], h[9] = 0x45, 64, s.proto
	binary.BigEndian.PutUint16(h[2:], uint16(ip))
	binary.BigEndian.PutUint16(h[4:], s.id)
	h[6] = 0x40 // do not fragment
	binary.BigEndian.PutUint32(h[12:], t.src)
	binary.BigEndian.PutUint32(h[16:], t.dst)
	binary.BigEndian.PutUint16(h[10:], checksum(0, h[:ipLen]))
	l := h[ipLen:]
	binary.BigEndian.PutUint16(l, t.sport)
	binary.BigEndian.PutUint16(l[2:], t.dport)
	pseudo := add32(add32(uint32(s.proto)+uint32(ip-ipLen), t.src), t.dst)
	if s.proto == flow.UDP {
		binary.BigEndian.PutUint16(l[4:], uint16(ip-ipLen))
		binary.BigEndian.PutUint16(l[6:], checksum(pseudo, l[:udpLen]))
		return
	}
	binary.BigEndian.PutUint32(l[4:], s.seq)
	binary.BigEndian.PutUint32(l[8:], s.ack)
	l[12], l[13] = tcpLen/4<<4, s.flags
	binary.BigEndian.PutUint16(l[14:], window)
	binary.BigEndian.PutUint16(l[16:], checksum(pseudo, l[:tcpLen]))
}

// readHead is the tuple and the identification of a frame over IPv4 without options.
func readHead(b []byte) (t tuple, id uint16) {
	if b[12] == 0x81 { // a VLAN tag
		b = b[4:]
	}
	h := b[etherLen:]
	return tuple{
		src: binary.BigEndian.Uint32(h[12:]), dst: binary.BigEndian.Uint32(h[16:]),
		sport: binary.BigEndian.Uint16(h[ipLen:]), dport: binary.BigEndian.Uint16(h[ipLen+2:]),
	}, binary.BigEndian.Uint16(h[4:])
}

// add32 adds a 32-bit word to a sum of 16-bit ones, with the carry.
func add32(sum, v uint32) uint32 {
	s, carry := bits.Add32(sum, v, 0)
	return s + carry
}

// checksum is the Internet checksum (RFC 1071) of b, of even length, after sum.
func checksum(sum uint32, b []byte) uint16 {
	for ; len(b) >= 4; b = b[4:] {
		sum = add32(sum, binary.BigEndian.Uint32(b))
	}
	s := sum>>16 + sum&0xffff
	s = s>>16 + s&0xffff
	if s == 0xffff {
		return 0xffff // never 0, which for UDP says that there is none
	}
	return ^uint16(s)
}
