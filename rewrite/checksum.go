package rewrite

import "sluice/flow"

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
	return uint32(v>>48) + uint32(v>>32&0xffff) + uint32(v>>16&0xffff) + uint32(v&0xffff)
}

// ttlDiff is what decrementing TTL adds to the IPv4 header's sum: TTL is the upper half of its word.
const ttlDiff = 0xffff - 0x0100
