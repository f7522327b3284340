package rewrite

import (
	"encoding/binary"

	"sluice/flow"
)

// L2 is the start of an Ethernet frame: destination address, then source address.
type L2 [12]byte

// MakeL2 puts two addresses together, in words as large as those in which it is copied: a load that needs the bytes of two
// stores waits until both have left for the cache.
func MakeL2(dst, src [6]byte) (l L2) {
	le := binary.LittleEndian
	le.PutUint64(l[:], uint64(le.Uint32(dst[:]))|uint64(le.Uint16(dst[4:]))<<32|uint64(le.Uint16(src[:]))<<48)
	le.PutUint32(l[8:], le.Uint32(src[2:]))
	return l
}

// SourceMAC is the Ethernet source address of a frame that Parse accepted.
func SourceMAC(b []byte) [6]byte { return [6]byte(b[6:12]) }

// ToServer is destination NAT: destination address and port become the member's, TTL falls by one, and the frame
// is addressed to the next hop. l3 and l4 are the Diffs of this change; SCTP has no use for l4. The caller has checked TTL > 1.
func ToServer(b []byte, p *Packet, l2 *L2, addr flow.Addr, port uint16, l3, l4 Diff) {
	*(*L2)(b) = *l2
	h := b[p.L3:]
	if p.V6 {
		h = h[:ipv6Len]
		h[7]--
		binary.BigEndian.PutUint64(h[24:], addr.Hi)
		binary.BigEndian.PutUint64(h[32:], addr.Lo)
	} else {
		h = h[:ipv4Len]
		h[8]--
		binary.BigEndian.PutUint32(h[16:], addr.V4())
		binary.BigEndian.PutUint16(h[10:], update(binary.BigEndian.Uint16(h[10:]), uint32(l3)+ttlDiff))
	}
	setPort(b, p, 2, port, l4)
}

// ToClient is the way back: source address and port become the virtual server's again. l3 and l4 are the Diffs
// of this change, the complements of ToServer's.
func ToClient(b []byte, p *Packet, l2 *L2, addr flow.Addr, port uint16, l3, l4 Diff) {
	*(*L2)(b) = *l2
	h := b[p.L3:]
	if p.V6 {
		h = h[:ipv6Len]
		h[7]--
		binary.BigEndian.PutUint64(h[8:], addr.Hi)
		binary.BigEndian.PutUint64(h[16:], addr.Lo)
	} else {
		h = h[:ipv4Len]
		h[8]--
		binary.BigEndian.PutUint32(h[12:], addr.V4())
		binary.BigEndian.PutUint16(h[10:], update(binary.BigEndian.Uint16(h[10:]), uint32(l3)+ttlDiff))
	}
	setPort(b, p, 0, port, l4)
}

// updateL4 corrects the TCP or UDP checksum, which covers addresses (by the pseudo-header) and ports. A UDP
// checksum of 0 says that there is none and stays; a sum that comes out as 0 is sent as 0xffff (RFC 768). It asks for the
// protocol only where one of them is 0, which is rare: asked each time, the answer would often be predicted wrong.
func updateL4(b []byte, p *Packet, diff Diff) {
	at := int(p.L4) + 6
	if p.Proto == flow.TCP {
		at += 10
	}
	c := b[at : at+2]
	old := binary.BigEndian.Uint16(c)
	sum := update(old, uint32(diff))
	if (old == 0 || sum == 0) && p.Proto == flow.UDP {
		if old == 0 {
			return
		}
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(c, sum)
}
