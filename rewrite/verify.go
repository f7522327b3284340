package rewrite

import (
	"encoding/binary"
	"hash/crc32"

	"sluice/flow"
)

// Sums is what Verify found a packet's checksums to be.
type Sums uint8

// The findings.
const (
	SumsRight Sums = iota
	SumsPartial
	SumsWrongIP
	SumsWrongTransport
)

// Verify computes the checksums of the packet p of frame b, which Parse took with OK, NoPorts or, with part, Fragment: a
// part's transport is not looked at. Protocols without a checksum that is known here are right.
//
// SumsPartial is a checksum that the sender left for its device to finish (CHECKSUM_PARTIAL, include/linux/skbuff.h), as
// frames from veth and virtio are: the field holds the folded sum of the pseudo-header, or with SCTP 0, and is not what
// it should be; so is one damaged packet in 65,536. Such a frame is whole, and incremental changes would carry the wrong sum on: Recompute it. An SCTP sender
// may also have agreed to send 0 (RFC 9653); a receiver takes a right one as well.
func Verify(b []byte, p *Packet, part bool) Sums {
	h := b[p.L3:]
	if !p.V6 && onesSum(h[:int(h[0]&15)*4]) != 0xffff {
		return SumsWrongIP
	}
	if part {
		return SumsRight
	}
	t := b[p.L4:p.End]
	pseudo := uint16(0)
	at := 0
	switch {
	case p.Proto == flow.TCP:
		at = 16
	case p.Proto == flow.UDP:
		t = t[:binary.BigEndian.Uint16(t[4:])]
		at = 6
		if t[6]|t[7] == 0 {
			return SumsRight // there is none; Parse has refused it in IPv6
		}
	case p.Proto == flow.SCTP:
		return verifySCTP(t)
	case isICMP(p):
		at = icmpSumAt
	default:
		return SumsRight
	}
	if p.Proto != flow.ICMP {
		pseudo = pseudoSum(h, p.V6, len(t), p.Proto)
	}
	if fold(uint32(onesSum(t))+uint32(pseudo)) == 0xffff {
		return SumsRight
	}
	if p.Proto != flow.ICMP && binary.BigEndian.Uint16(t[at:]) == pseudo {
		return SumsPartial
	}
	return SumsWrongTransport
}

func verifySCTP(t []byte) Sums {
	switch binary.LittleEndian.Uint32(t[sctpSumAt:]) {
	case sumSCTP(t):
		return SumsRight
	case 0:
		return SumsPartial
	}
	return SumsWrongTransport
}

// sumSCTP is the CRC32c of a packet with zeros for its checksum.
func sumSCTP(t []byte) uint32 {
	var zero [4]byte
	sum := crc32.Update(0, castagnoli, t[:sctpSumAt])
	sum = crc32.Update(sum, castagnoli, zero[:])
	return crc32.Update(sum, castagnoli, t[sctpSumAt+4:])
}

// Recompute replaces the checksums of the packet p of frame b by what they should be, whatever they are: damage that they
// would have shown is no longer seen. A UDP checksum of 0 in IPv4 stays: there is none. With part, and for protocols
// without a checksum that is known here, only the IPv4 header's is replaced.
func Recompute(b []byte, p *Packet, part bool) {
	h := b[p.L3:]
	if !p.V6 {
		header := h[:int(h[0]&15)*4]
		header[10], header[11] = 0, 0
		binary.BigEndian.PutUint16(header[10:], ^onesSum(header))
	}
	if part {
		return
	}
	t := b[p.L4:p.End]
	switch {
	case p.Proto == flow.TCP:
		putSumOf(t, 16, pseudoSum(h, p.V6, len(t), flow.TCP))
	case p.Proto == flow.UDP:
		t = t[:binary.BigEndian.Uint16(t[4:])]
		if t[6]|t[7] == 0 {
			return
		}
		putSumUDP(t, pseudoSum(h, p.V6, len(t), flow.UDP))
	case p.Proto == flow.SCTP:
		binary.LittleEndian.PutUint32(t[sctpSumAt:], sumSCTP(t))
	case !isICMP(p):
	case p.V6:
		putSumOf(t, icmpSumAt, pseudoSum(h, true, len(t), flow.ICMPv6))
	default:
		putSumOf(t, icmpSumAt, 0)
	}
}

// putSumOf writes the checksum over t and a pseudo-header at t[at].
func putSumOf(t []byte, at int, pseudo uint16) {
	t[at], t[at+1] = 0, 0
	binary.BigEndian.PutUint16(t[at:], ^fold(uint32(onesSum(t))+uint32(pseudo)))
}
