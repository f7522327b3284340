package pipeline

import (
	"encoding/binary"
	"math/bits"

	"sluice/flow"
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
	id       uint16 // IPv4 identification, or of the flow label; nobody rewrites it
	v6       bool
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

// sentLen is the length of the frame around the IP packet whose header a head has.
func sentLen(head []byte) uint16 {
	h := head[etherLen:]
	if binary.BigEndian.Uint16(head[12:]) == etherIP6 {
		return frameLen(ip6Len + int(binary.BigEndian.Uint16(h[4:])))
	}
	return frameLen(int(binary.BigEndian.Uint16(h[2:])))
}

// packetLen is the length of the IP packet in a frame of the given size, of which 4 bytes are the check sequence.
func packetLen(size int) int { return size - 4 - etherLen }

// writeHead writes the first bytes of a frame, all of b, whose IP packet is ip bytes long and has a payload of zeros,
// with right checksums (RFC 791, 768, 9293).
func writeHead(b []byte, dst, src [6]byte, t tuple, s segment, ip int) {
	clear(b)
	copy(b, dst[:])
	copy(b[6:], src[:])
	pseudo, l := writeIP(b, t, &s, ip)
	binary.BigEndian.PutUint16(l, t.sport)
	binary.BigEndian.PutUint16(l[2:], t.dport)
	if s.proto == flow.UDP {
		binary.BigEndian.PutUint16(l[4:], uint16(etherLen+ip-(len(b)-len(l))))
		binary.BigEndian.PutUint16(l[6:], checksum(pseudo, l[:udpLen]))
		return
	}
	binary.BigEndian.PutUint32(l[4:], s.seq)
	binary.BigEndian.PutUint32(l[8:], s.ack)
	l[12], l[13] = tcpLen/4<<4, s.flags
	binary.BigEndian.PutUint16(l[14:], window)
	binary.BigEndian.PutUint16(l[16:], checksum(pseudo, l[:tcpLen]))
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
