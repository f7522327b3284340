// Package flow is the connection table: which connection a packet belongs to, and what is known about it.
//
//	packet's tuple ──hash──▶ bucket (one cache line) ──tag──▶ record (two cache lines)
//	                           ▲            ▲                    │
//	           client-side tuple            server-side tuple ───┘ both name the same record
//
// A Table belongs to one worker. Nothing in it is locked or shared; time is a parameter; its memory is given by
// the caller and holds no Go pointers, so that the collector never looks at it. One record is found by both of
// its tuples, so that no half of a connection can outlive the other.
package flow

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// Addr is an IPv6 address, or an IPv4 address mapped into IPv6 (::ffff:a.b.c.d, RFC 4291 section 2.5.5.2), as
// two big-endian halves.
type Addr struct{ Hi, Lo uint64 }

const v4Prefix = 0xffff << 32

// AddrFrom4 maps an IPv4 address, given as the number a<<24|b<<16|c<<8|d.
func AddrFrom4(a uint32) Addr { return Addr{Lo: v4Prefix | uint64(a)} }

// AddrFrom converts an address; a zone is ignored.
func AddrFrom(a netip.Addr) Addr {
	b := a.As16()
	return Addr{Hi: binary.BigEndian.Uint64(b[:8]), Lo: binary.BigEndian.Uint64(b[8:])}
}

// Netip converts back; an IPv4 address comes out unmapped.
func (a Addr) Netip() netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], a.Hi)
	binary.BigEndian.PutUint64(b[8:], a.Lo)
	return netip.AddrFrom16(b).Unmap()
}

// Is4 reports whether a is a mapped IPv4 address.
func (a Addr) Is4() bool { return a.Hi == 0 && a.Lo>>32 == 0xffff }

// Less orders addresses as numbers.
func (a Addr) Less(b Addr) bool { return a.Hi < b.Hi || a.Hi == b.Hi && a.Lo < b.Lo }

// V4 is the IPv4 address as a number.
func (a Addr) V4() uint32 { return uint32(a.Lo) }

// Key is a packet's tuple as the packet carries it.
type Key struct {
	Src, Dst Addr
	Ports    uint32 // source port in the upper half, destination port in the lower; 0 where there are none
	Proto    uint8  // IP protocol number
}

// Ports packs two ports for a Key.
func Ports(src, dst uint16) uint32 { return uint32(src)<<16 | uint32(dst) }

// SrcPort is the source port.
func (k *Key) SrcPort() uint16 { return uint16(k.Ports >> 16) }

// DstPort is the destination port.
func (k *Key) DstPort() uint16 { return uint16(k.Ports) }

// IP protocol numbers (IANA).
const (
	ICMP   = 1
	TCP    = 6
	UDP    = 17
	ICMPv6 = 58
	SCTP   = 132
)

// Secret keys the table's hash, so that an attacker cannot aim at one bucket. It is random per start and is kept
// with a table that outlives the process.
type Secret [4]uint64

// Hash is the table's hash of a tuple: multiply and fold over 128-bit products, keyed. Every bit of the result
// depends on every bit of the tuple. It has no branch on the address family: a mix of both would mispredict it, and
// with it end the overlap of the loads that follow.
func (s *Secret) Hash(k *Key) uint64 { return s.hash(k.Src, k.Dst, uint64(k.Ports)<<8|uint64(k.Proto)) }

// hash is Hash of a tuple that is in no Key; rest is its ports<<8 | protocol.
func (s *Secret) hash(src, dst Addr, rest uint64) uint64 {
	h := fold(src.Lo^s[0], dst.Lo^s[1]) ^ fold(src.Hi^s[2], dst.Hi^s[3])
	return fold(h^s[1], rest^s[2])
}

func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}
