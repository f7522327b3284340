package rewrite

import (
	"encoding/binary"

	"sluice/flow"
)

// What a tunnel puts in front of packets is nearly the same each time. A TunnelHead has it ready, with the sums of what does not
// change, for the packets that nearly all are: regular ones that fit, in one buffer each. Other packets are Tunnel's;
// tunnelhead_test.go holds the two against each other.
//
//	memory   │ TunnelRoom bytes                                  │ packet, from its IP header on
//	headers  │ nothing │ Ethernet │ IPv4 or IPv6 │ UDP and GUE, or nothing │
//
// They end where the packet begins, so that all offsets are constants for a family and kind.

// TunnelRoom is how many bytes in front of a packet's IP header a TunnelHead needs, and may write: the longest headers, of GUE over
// IPv6.
const TunnelRoom = etherLen + ipv6Len + udpLen + gueLen

// TunnelHead is the headers of a Tunnel for packets of one family. It is not changed by its use. The zero value takes no packet.
type TunnelHead struct {
	bytes  [TunnelRoom]byte
	most   uint16 // the largest packet that fits
	way    uint32 // as TunnelWay has it
	sum    uint32 // of the outer IPv4 header, without what comes of the packet
	sumUDP uint32 // of the pseudo-header, UDP and GUE, likewise
	last   uint32 // the third word of outer IPv4 without a checksum; the lower half of the second of IPv6
	set    uint16 // DF of outer IPv4, or 0
	copied uint16 // the same where it is the packet's own
	port   uint16 // of GUE
	added  uint8  // length, with Ethernet's header
	v6     bool
	over6  bool
	gue    bool
	summed bool // GUE has a checksum
}

// TunnelWay is how a tunnel encapsulates, in a word.
func TunnelWay(kind TunnelKind, port uint16) uint32 { return uint32(kind)<<16 | uint32(port) }

// Head makes the headers for packets of IPv6, or else of IPv4.
func (t *Tunnel) Head(v6 bool) TunnelHead {
	// What does not depend on the packet is as it is around the shortest one.
	n := ipv4Len
	if v6 {
		n = ipv6Len
	}
	like := *t
	like.MTU, like.ZeroSum = 0xffff, true
	var b [TunnelRoom + ipv6Len]byte
	p := Packet{L3: etherLen, End: uint16(etherLen + n), V6: v6}
	like.Encapsulate(b[:TunnelRoom+n], TunnelRoom-etherLen, &p, 0, 0)
	h := TunnelHead{
		bytes: [TunnelRoom]byte(b[:]), most: uint16(max(t.InnerMTU(), 0)), way: TunnelWay(t.Kind, t.Port),
		added: uint8(etherLen + t.Overhead()), v6: v6, over6: !t.Dst.Is4(), gue: t.Kind == GUE, summed: t.Kind == GUE && !t.ZeroSum,
	}
	be, outer := binary.BigEndian, h.bytes[TunnelRoom-t.Overhead():]
	ends := outer[src4:ipv4Len]
	if h.over6 {
		ends = outer[src6:ipv6Len]
		h.last = uint32(be.Uint16(outer[proto6:]))
	} else {
		h.last = be.Uint32(outer[ttl4:]) &^ 0xffff
		h.sum = versionAndLength + h.last>>16 + uint32(onesSum(ends))
	}
	if h.gue {
		h.port = be.Uint16(h.bytes[udpAt+2:])
		h.sumUDP = uint32(onesSum(ends)) + flow.UDP + uint32(h.port) + uint32(onesSum(h.bytes[udpAt+udpLen:]))
	}
	const df = 0x4000
	switch {
	case t.DF == SetDF || v6:
		h.set = df
	case t.DF == CopyDF:
		h.copied = df
	}
	return h
}

const (
	udpAt            = TunnelRoom - udpLen - gueLen
	versionAndLength = 0x4500 // the first word of IPv4, without DSCP and ECN
)

// Takes reports whether these are the headers for a packet of size bytes that goes this way.
func (t *TunnelHead) Takes(way uint32, size int) bool { return size <= int(t.most) && way == t.way }

// Varies reports whether Encapsulate makes use of entropy.
func (t *TunnelHead) Varies() bool { return t.over6 || t.gue }

// Summed reports whether Encapsulate makes use of the packet's sum.
func (t *TunnelHead) Summed() bool { return t.summed }

// Sum is the sum of packet b, from its IP header on, as it will be inside the tunnel: a hop further. In IPv4 the header's checksum
// makes up for that.
func (t *TunnelHead) Sum(b []byte) uint32 {
	sum := uint32(onesSum(b))
	if t.v6 {
		sum += 0xffff - 1
	}
	return sum
}

// Encapsulate is Tunnel.Encapsulate for a regular packet of size bytes that the headers are for, all of it in one buffer; its TTL is
// above 1. h is the memory from TunnelRoom bytes in front of its IP header on; the frame begins added bytes in front of that.
func (t *TunnelHead) Encapsulate(h *LongHead, size int, entropy uint32, id uint16, sum uint32) (added int) {
	be, le := binary.BigEndian, binary.LittleEndian
	ip := h[TunnelRoom:]
	var tos, flags uint32
	if t.v6 {
		tos = uint32(be.Uint16(ip)) >> 4 & 0xff
		ip[ttl6]--
	} else {
		tos, flags = uint32(ip[1]), uint32(be.Uint16(ip[fragment4:]))
		word := le.Uint32(ip[ttl4:]) // as forwardPlain does it
		le.PutUint32(ip[ttl4:], (word-1)&0xffff|^foldSwapped(^word>>16+swappedTTL)<<16)
	}
	*(*[TunnelRoom]byte)(h[:]) = t.bytes
	total := uint32(size) + uint32(t.added) - etherLen
	o := h[(TunnelRoom+etherLen-t.added)&(HeadLen-1):]
	if t.over6 {
		be.PutUint64(o, uint64(6<<28|tos<<20|entropy&0xfffff)<<32|uint64((total-ipv6Len)<<16|t.last))
	} else {
		df := uint32(t.set) | flags&uint32(t.copied)
		number := uint32(id)
		if df != 0 {
			number = 0
		}
		be.PutUint64(o, uint64(versionAndLength|tos)<<48|uint64(total)<<32|uint64(number<<16|df))
		be.PutUint32(o[8:], t.last|uint32(^fold(t.sum+tos+total+number+df)))
	}
	if t.gue {
		const dynamicPorts = 49152
		length, port, check := uint32(size)+udpLen+gueLen, dynamicPorts|entropy>>18, uint16(0)
		if t.summed {
			check = ^fold(t.sumUDP + sum + port + 2*length)
			if check == 0 {
				check = 0xffff
			}
		}
		be.PutUint64(h[udpAt:], uint64(port<<16|uint32(t.port))<<32|uint64(length<<16|uint32(check)))
	}
	return int(t.added)
}
