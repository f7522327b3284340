package rewrite

import (
	"encoding/binary"
	"math/bits"

	"sluice/flow"
)

// A Diff is what replacing words of a packet adds to the one's complement sum that its checksum is the complement
// of: the sum of the new words plus the complements of the old ones (RFC 1624 equation 3). The way back adds the
// complement of the Diff.
type Diff = uint16

// fold brings a sum of 16-bit words to one's complement.
func fold(sum uint32) uint16 {
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	return uint16(sum)
}

// update applies a sum of Diffs to a checksum field: HC' = ~(~HC + ~m + m').
func update(checksum uint16, diff uint32) uint16 {
	return ^fold(uint32(^checksum) + diff)
}

// AddrDiff is the Diff of replacing an address. Mapped IPv4 addresses share their prefix, which cancels out.
func AddrDiff(old, new flow.Addr) Diff {
	return fold(sum64(^old.Hi) + sum64(^old.Lo) + sum64(new.Hi) + sum64(new.Lo))
}

// PortDiff is the Diff of replacing a port.
func PortDiff(old, new uint16) Diff { return fold(uint32(^old) + uint32(new)) }

// AddDiff combines two Diffs.
func AddDiff(a, b Diff) Diff { return fold(uint32(a) + uint32(b)) }

func sum64(v uint64) uint32 {
	const low = 0xffff0000ffff // of each half
	v = v&low + v>>16&low
	return uint32(v>>32) + uint32(v)
}

// ttlDiff is what decrementing TTL adds to the IPv4 header's sum: TTL is the upper half of its word.
const ttlDiff = 0xffff - 0x0100

// onesSum is the one's complement sum of b as big-endian 16-bit words, an odd last byte padded with zero (RFC 1071). The
// sum of words does not depend on their byte order but for a swap of the result, so it is made of the machine's words.
func onesSum(b []byte) uint16 {
	var sum, carry uint64
	for len(b) >= 32 {
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b), 0)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b[8:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b[16:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b[24:]), carry)
		sum += carry // cannot carry again: a sum that did is less than 2^64-1
		b = b[32:]
	}
	for len(b) >= 8 {
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b), 0)
		sum += carry
		b = b[8:]
	}
	var last uint64
	for i, v := range b {
		last |= uint64(v) << (8 * i)
	}
	sum, carry = bits.Add64(sum, last, 0)
	return bits.ReverseBytes16(fold(sum64(sum + carry)))
}

// pseudoSum is the sum of the pseudo-header: addresses, length and protocol (RFC 9293 section 3.1, RFC 8200 section 8.1).
func pseudoSum(h []byte, v6 bool, length int, proto uint8) uint16 {
	addresses := h[12:20]
	if v6 {
		addresses = h[8:40]
	}
	return fold(uint32(onesSum(addresses)) + uint32(length) + uint32(proto))
}
