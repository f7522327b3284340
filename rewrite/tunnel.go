package rewrite

import (
	"encoding/binary"
	"math/bits"

	"sluice/flow"
)

// TunnelKind is what stands between the outer IP header and the packet.
type TunnelKind uint8

// The kinds. Each carries IPv4 and IPv6 over IPv4 and IPv6.
const (
	IPIP TunnelKind = iota // nothing (RFC 2003, RFC 2473, RFC 4213)
	GUE                    // UDP and a GUE header of variant 0 without options (draft-ietf-intarea-gue-09 section 3)
)

// DFPolicy is how an outer IPv4 header's DF is chosen. A packet of IPv6 cannot be fragmented on its way and always gets
// it (RFC 4213 section 3.2).
type DFPolicy uint8

// The policies.
const (
	CopyDF  DFPolicy = iota // the packet's own (RFC 2003 section 3.1)
	SetDF                   // no outer fragments: none to put together at the member
	ClearDF                 // routers may fragment whatever does not fit
)

// GUEPort is the destination port of GUE (IANA).
const GUEPort = 6080

// Protocol numbers of IP in IP (IANA).
const (
	protoIPv4 = 4
	protoIPv6 = 41
)

const gueLen = 4

// Tunnel is the way to a member through an encapsulation. It is not changed by its use.
type Tunnel struct {
	L2       L2
	Src, Dst flow.Addr // outer, of one family
	Kind     TunnelKind
	DF       DFPolicy
	// ZeroSum sends GUE without a UDP checksum. Over IPv4 that is usual; over IPv6 it takes a member that is set to
	// accept it (RFC 6935, RFC 6936), for others drop such packets.
	ZeroSum bool
	TTL     uint8  // outer; 0 is 64
	Port    uint16 // destination port of GUE; 0 is GUEPort
	MTU     uint16 // largest outer packet, in bytes: that of the link or path
}

// Overhead is how many bytes the tunnel adds to a packet.
func (t *Tunnel) Overhead() int {
	n := ipv6Len
	if t.Dst.Is4() {
		n = ipv4Len
	}
	if t.Kind == GUE {
		n += udpLen + gueLen
	}
	return n
}

// InnerMTU is the largest packet that fits; below 1280 IPv6 cannot be carried (RFC 8200 section 5).
func (t *Tunnel) InnerMTU() int { return int(t.MTU) - t.Overhead() }

// MSS is what ClampMSS is to be given for connections through the tunnel.
func (t *Tunnel) MSS(v6 bool) uint16 { return MSSOf(t.InnerMTU(), v6) }

// MSSOf is the maximum segment size of a link with an MTU: without IP and TCP headers (RFC 6691); 0 if they do not fit.
func MSSOf(mtu int, v6 bool) uint16 {
	header := ipv4Len + tcpLen
	if v6 {
		header = ipv6Len + tcpLen
	}
	return uint16(min(max(mtu-header, 0), 0xffff))
}

// Entropy is a number that packets of one connection share and those of others seldom do, for Encapsulate. For the parts
// of a datagram it has to come of the tuple without ports: later parts have none.
func Entropy(k *flow.Key) uint32 { return EntropyOf(&k.Src, &k.Dst, k.Ports, k.Proto) }

// EntropyOf is Entropy of a tuple that is in no Key: to make one would cost more.
func EntropyOf(src, dst *flow.Addr, ports uint32, proto uint8) uint32 {
	hi, lo := bits.Mul64(src.Lo^src.Hi^0x9e3779b97f4a7c15, dst.Lo^bits.RotateLeft64(dst.Hi, 32)^0xbf58476d1ce4e5b9)
	x := (hi ^ lo ^ uint64(ports)<<8 ^ uint64(proto)) * 0x94d049bb133111eb
	return uint32((x ^ x>>32) * 0xd6e8feb86659fd93 >> 32)
}

// Encapsulate puts the tunnel's headers in front of the packet p of the frame b[head:], whose Ethernet header and tags
// they replace; the packet stays where it is. The new frame is b[start:head+p.End]: padding goes, p is no longer valid.
//
// The packet's TTL falls by one, since it is forwarded into the tunnel (RFC 2003 section 3.1); the caller has checked that
// it is above 1. DSCP and ECN are copied to the outer header (RFC 6040 section 4.1, normal mode). entropy chooses the flow
// label of outer IPv6 (RFC 6438) and the source port of GUE, 49152 and up. id is the identification of an outer IPv4
// header without DF, which the sender must not repeat soon (RFC 6864 section 4.2); with DF it is 0.
//
// b may end before the packet does, in the first buffer of a chain. GUE then has no UDP checksum yet: see PutGUEChecksum.
//
// TooBig is the answer for a packet above InnerMTU: the caller sends an error to the sender of one with DF or of IPv6 (see
// PacketTooBig); an IPv4 packet without DF is not fragmented here.
func (t *Tunnel) Encapsulate(b []byte, head int, p *Packet, entropy uint32, id uint16) (start int, why Refusal) {
	inner := b[head+int(p.L3) : min(head+int(p.End), len(b))]
	size := int(p.End-p.L3) + t.Overhead()
	if size > int(t.MTU) {
		return head, TooBig
	}
	start = head + int(p.L3) - t.Overhead() - etherLen
	if start < 0 {
		return head, NoRoom
	}
	tos, df := decrementInner(inner, p.V6)
	copy(b[start:], t.L2[:])
	o := b[start+etherLen : min(start+etherLen+size, len(b))]
	proto := uint8(protoIPv4)
	if p.V6 {
		proto = protoIPv6
	}
	carried := proto
	if t.Kind == GUE {
		proto = flow.UDP
	}
	ttl := t.TTL
	if ttl == 0 {
		ttl = newTTL
	}
	if t.Dst.Is4() {
		binary.BigEndian.PutUint16(b[start+typeAt:], etherIPv4)
		df = t.DF == SetDF || p.V6 || df && t.DF == CopyDF
		putOuter4(o, t, size, tos, ttl, proto, id, df)
	} else {
		binary.BigEndian.PutUint16(b[start+typeAt:], etherIPv6)
		binary.BigEndian.PutUint32(o, 6<<28|uint32(tos)<<20|entropy&0xfffff)
		binary.BigEndian.PutUint16(o[4:], uint16(size-ipv6Len))
		o[6], o[7] = proto, ttl
		putAddresses(o, true, t.Src, t.Dst)
	}
	if t.Kind == GUE {
		t.putGUE(o, size, t.Overhead()-udpLen-gueLen, carried, entropy)
	}
	return start, Done
}

// decrementInner takes one hop off the packet and tells what the outer header copies.
func decrementInner(h []byte, v6 bool) (tos uint8, df bool) {
	if v6 {
		h[7]--
		return h[0]<<4 | h[1]>>4, true
	}
	h = h[:ipv4Len]
	h[8]--
	binary.BigEndian.PutUint16(h[10:], update(binary.BigEndian.Uint16(h[10:]), ttlDiff))
	return h[1], h[6]&0x40 != 0
}

func putOuter4(h []byte, t *Tunnel, size int, tos, ttl, proto uint8, id uint16, df bool) {
	h = h[:ipv4Len]
	flags := uint16(0)
	if df {
		flags, id = 0x4000, 0
	}
	h[0], h[1] = 0x45, tos
	binary.BigEndian.PutUint16(h[2:], uint16(size))
	binary.BigEndian.PutUint16(h[4:], id)
	binary.BigEndian.PutUint16(h[6:], flags)
	h[8], h[9], h[10], h[11] = ttl, proto, 0, 0
	putAddresses(h, false, t.Src, t.Dst)
	binary.BigEndian.PutUint16(h[10:], ^onesSum(h))
}

// putGUE writes UDP and GUE headers at offset at of the outer packet of size bytes, which begins with o.
func (t *Tunnel) putGUE(o []byte, size, at int, carried uint8, entropy uint32) {
	const dynamicPorts = 49152 // to 65535 (RFC 6335 section 6)
	u := o[at:]
	port := t.Port
	if port == 0 {
		port = GUEPort
	}
	binary.BigEndian.PutUint16(u, dynamicPorts|uint16(entropy>>18))
	binary.BigEndian.PutUint16(u[2:], port)
	binary.BigEndian.PutUint16(u[4:], uint16(size-at))
	u[6], u[7] = 0, 0
	// Variant 0, a data packet, no optional fields; its protocol; no flags.
	u[8], u[9], u[10], u[11] = 0, carried, 0, 0
	if t.ZeroSum || size > len(o) {
		return
	}
	putSumUDP(u, pseudoSum(o, !t.Dst.Is4(), len(u), flow.UDP))
}
