package rewrite

import "encoding/binary"

// SplitIPv4 cuts the IPv4 packet p of frame b in two, as a router does with one that is too big and has no DF (RFC 791
// section 3.2): the first part, of at most mtu bytes, stays in b, and p ends there; the rest becomes a frame in rest, with the
// same Ethernet header and tags, and may have to be split again. The packet may be a part itself. It returns the length of
// the frame in rest; 0, with nothing changed, where mtu leaves no room for 8 bytes of payload, or rest has none.
func SplitIPv4(rest, b []byte, p *Packet, mtu int) int {
	l3 := int(p.L3)
	h := b[l3:]
	ihl := int(h[0]&15) * 4
	body := int(p.End) - l3 - ihl
	size := (mtu - ihl) &^ 7
	if size < 8 || size >= body || len(rest) < l3+ihl+body-size {
		return 0
	}
	field := binary.BigEndian.Uint16(h[6:])
	copy(rest, b[:l3+ipv4Len])
	r := rest[l3:]
	n := ipv4Len + copyOptions(r[ipv4Len:], h[ipv4Len:ihl])
	r[0] = 4<<4 | uint8(n/4)
	copy(r[n:], h[ihl+size:ihl+body])
	putPart(r[:n], n+body-size, field+uint16(size/8))
	putPart(h[:ihl], ihl+size, field|0x2000)
	p.End = uint16(l3 + ihl + size)
	return l3 + n + body - size
}

// putPart writes length, flags and offset of a part, and its header's checksum.
func putPart(h []byte, total int, field uint16) {
	binary.BigEndian.PutUint16(h[2:], uint16(total))
	binary.BigEndian.PutUint16(h[6:], field)
	h[10], h[11] = 0, 0
	binary.BigEndian.PutUint16(h[10:], ^onesSum(h))
}

// copyOptions copies those options that belong into every part (RFC 791 section 3.1, the copied flag), and returns how many
// bytes they take with their padding.
func copyOptions(dst, options []byte) (n int) {
	const end, none, copied = 0, 1, 0x80
	for len(options) > 0 && options[0] != end {
		size := 1
		if options[0] != none {
			if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
				break
			}
			size = int(options[1])
		}
		if options[0]&copied != 0 {
			n += copy(dst[n:], options[:size])
		}
		options = options[size:]
	}
	for ; n%4 != 0; n++ {
		dst[n] = end
	}
	return n
}
