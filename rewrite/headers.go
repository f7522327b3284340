package rewrite

import "encoding/binary"

// IPv6 extension headers that are passed (RFC 8200 section 4, RFC 4302).
const (
	extHopByHop    = 0
	extRouting     = 43
	extFragment    = 44
	extAuth        = 51
	extDestination = 60
)

// maxExtensions is how many extension headers are followed: real packets have one or two, and every one costs.
const maxExtensions = 8

func isExtension(proto uint8) bool {
	switch proto {
	case extHopByHop, extRouting, extFragment, extAuth, extDestination:
		return true
	}
	return false
}

// extensions is what was found behind an IPv6 header: up to the transport header or, in a later part of a fragmented
// datagram, up to the part's bytes. Offsets count as in the slice given.
type extensions struct {
	proto    uint8
	part     bool   // the fragment header says that there are other parts
	l4       uint16 // behind the last header that was passed
	fragment uint16 // fragment header, 0 without
}

// skip passes the extension headers that begin at b[at], the first of them of type next, and ends at a header that says
// that the packet is a part: what follows is for first. No byte from b[end] on is read.
func (e *extensions) skip(b []byte, at, end int, next uint8) Verdict {
	for n := 0; isExtension(next); n++ {
		if at+8 > end {
			return Truncated
		}
		size := extensionSize(b, at, next)
		if at+size > end {
			return Truncated
		}
		if n == maxExtensions {
			return ExtensionLimit
		}
		if next == extRouting && b[at+3] != 0 {
			// On its way to another address, which is the one that checksums cover (RFC 8200 section 8.1).
			return BadHeader
		}
		if next == extFragment {
			// An atomic fragment (offset 0, no more) is a whole datagram (RFC 6946).
			e.fragment, e.part = uint16(at), binary.BigEndian.Uint16(b[at+2:])&0xfff9 != 0
		}
		next = b[at]
		at += size
		if e.part {
			break
		}
	}
	e.proto, e.l4 = next, uint16(at)
	return OK
}

// extensionSize is how long the extension header of type kind at b[at] says that it is.
func extensionSize(b []byte, at int, kind uint8) int {
	switch kind {
	case extFragment:
		return 8
	case extAuth:
		return (int(b[at+1]) + 2) * 4
	}
	return (int(b[at+1]) + 1) * 8
}

// protocolAt is where the byte is in the IPv6 packet h that names the protocol of what begins at h[l4]. Parse has been over it.
func protocolAt(h []byte, l4 int) int {
	named := 6
	for at := ipv6Len; at < l4; {
		size := extensionSize(h, at, h[named])
		named, at = at, at+size
	}
	return named
}

// sourceRouted reports whether IPv4 options name addresses that the packet has yet to visit: its destination is not the
// one that checksums and connections know (RFC 791 section 3.1, RFC 7126 sections 4.3 and 4.4). Options that cannot be
// read are not followed by anybody and are carried through.
func sourceRouted(options []byte) bool {
	const end, none, loose, strict = 0, 1, 131, 137
	for len(options) > 0 && options[0] != end {
		if options[0] == none {
			options = options[1:]
			continue
		}
		if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
			return false
		}
		if (options[0] == loose || options[0] == strict) && (options[1] < 3 || options[2] <= options[1]) {
			return true
		}
		options = options[options[1]:]
	}
	return false
}
