package engine

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"sluice/flow"
)

// networks are the prefixes that virtual servers have, each on an ingress port. A look-up costs one probe of a hash table
// for every length that the port has prefixes of, at most 33 for IPv4, and a binary search in each prefix that holds the
// address: how many virtual servers there are hardly matters.
type networks struct {
	lengths [][2]lengths // by ingress port, then IPv4 and IPv6; empty: there are none
	entries []network
	mask    uint64
	spans   spans
	pending []network // until sort
}

// lengths are numbers of bits of the mapped address, the longest first.
type lengths []uint8

// network is a prefix on an ingress port.
type network struct {
	addr    flow.Addr
	ingress uint16
	bits    uint8 // of the mapped address: an IPv4 prefix has 96 more than it says
	used    bool
	classes uint8 // that its spans have, a bit each
	through bool  // not ours: what no virtual server wants is nobody's (transparent modes)
	// unmatched is what becomes of packets that no virtual server wants.
	unmatched Unmatched
	first, n  uint32
}

// span is a range of ports of a protocol, of one address or prefix.
type span struct {
	first, last uint16
	proto       uint8
	class       uint8 // in the order in which they are looked at
	id          uint32
}

const (
	classPort = iota
	classRange
	classAnyPort
	classAnyProtocol
)

type spans struct {
	list    []span
	orders  []uint32      // of the list
	pending []pendingSpan // until sort
}

type pendingSpan struct {
	addr  flow.Addr
	scope uint32 // of a prefix: ingress port and bits
	span
}

// spanOf is a destination's ports.
func spanOf(d Destination, proto uint8, id uint32) span {
	s := span{first: d.Ports.First, last: max(d.Ports.First, d.Ports.Last), proto: proto, id: id}
	switch {
	case proto == 0:
		s.first, s.last, s.proto, s.class = 0, 65535, anyProtocol, classAnyProtocol
	case d.AnyPort():
		s.first, s.last, s.class = 0, 65535, classAnyPort
	case s.first != s.last:
		s.class = classRange
	}
	if s.class >= classAnyPort { // as an address has it in its key
		s.first = 0
	}
	return s
}

// order is how spans of one address or prefix are sorted.
func (s *span) order() uint32 {
	return uint32(s.class)<<24 | uint32(s.proto)<<16 | uint32(s.first)
}

// find looks for a port among n spans from first on. The search has no branch that depends on what it finds.
func (s *spans) find(first, n uint32, class, proto uint8, port uint16) uint32 {
	want := span{first: port, proto: proto, class: class}
	order := want.order()
	at := first // the last one that begins at or before the port, if any does
	for n > 1 {
		half := n / 2
		behind := uint32((uint64(order) - uint64(s.orders[at+half])) >> 63) // 1 or 0
		at += half & (behind - 1)
		n -= half
	}
	if e := &s.list[at]; e.class == class && e.proto == proto && e.first <= port && e.last >= port {
		return e.id
	}
	return 0
}

// sort makes the list and says where the spans of each address or prefix are.
func (s *spans) sort(place func(addr flow.Addr, first, n uint32)) error {
	return s.sortScopes(func(addr flow.Addr, _ uint32, first, n uint32) { place(addr, first, n) })
}

// orderPending sorts what is pending: each address or prefix together, in it by class, protocol and first port.
func (s *spans) orderPending() {
	slices.SortFunc(s.pending, func(a, b pendingSpan) int {
		return cmp.Or(cmp.Compare(a.addr.Hi, b.addr.Hi), cmp.Compare(a.addr.Lo, b.addr.Lo), cmp.Compare(a.scope, b.scope), cmp.Compare(a.order(), b.order()))
	})
}

func (s *spans) sortScopes(place func(addr flow.Addr, scope, first, n uint32)) error {
	s.orderPending()
	s.list, s.orders = make([]span, len(s.pending)), make([]uint32, len(s.pending))
	for i, begin := 0, 0; i < len(s.pending); i++ {
		p := &s.pending[i]
		s.list[i], s.orders[i] = p.span, p.order()
		if i > begin {
			if before := &s.pending[i-1]; before.class == p.class && before.proto == p.proto && before.last >= p.first {
				return &overlapError{before.id, p.id, before.first, before.last, p.first, p.last}
			}
		}
		if i+1 == len(s.pending) || s.pending[i+1].addr != p.addr || s.pending[i+1].scope != p.scope {
			place(p.addr, p.scope, uint32(begin), uint32(i+1-begin))
			begin = i + 1
		}
	}
	s.pending = nil
	return nil
}

// overlapError is two virtual servers, by their ids, that want the same packets.
type overlapError struct {
	a, b                       uint32
	aFirst, aLast, first, last uint16
}

func (e *overlapError) Error() string {
	return fmt.Sprintf("ports %d-%d and %d-%d overlap", e.aFirst, e.aLast, e.first, e.last)
}

// prefixBits is the length of a prefix counted from the beginning of the mapped address.
func prefixBits(p netip.Prefix) uint8 { return uint8(p.Bits() + 128 - p.Addr().BitLen()) }

func family(a flow.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

func scopeOf(ingress uint16, bits uint8) uint32 { return uint32(ingress)<<8 | uint32(bits) }

// add enters a span of a prefix, addr with bits as prefixBits has them; one with id 0 is the prefix alone. What overlaps is
// found by sort.
func (n *networks) add(addr flow.Addr, bits uint8, ingress uint16, s span, rest Unmatched) {
	addr = maskAddr(addr, int(bits))
	for len(n.lengths) <= int(ingress) {
		n.lengths = append(n.lengths, [2]lengths{})
	}
	l := &n.lengths[ingress][family4(bits, addr)]
	if at, found := slices.BinarySearchFunc(*l, bits, func(have, want uint8) int { return cmp.Compare(want, have) }); !found {
		*l = slices.Insert(*l, at, bits)
	}
	n.pending = append(n.pending, network{addr: addr, ingress: ingress, bits: bits, used: true, unmatched: rest})
	if s.id != 0 {
		n.spans.pending = append(n.spans.pending, pendingSpan{addr: addr, scope: scopeOf(ingress, bits), span: s})
	}
}

// family4 is the family of a masked prefix. The zero prefix of IPv4 keeps the bits that mark a mapped address.
func family4(bits uint8, masked flow.Addr) int {
	if bits >= 96 && masked.Is4() {
		return 0
	}
	return 1
}

// addThrough is add for a prefix that is not ours.
func (n *networks) addThrough(addr flow.Addr, bits uint8, ingress uint16, s span) {
	n.add(addr, bits, ingress, s, UnmatchedDrop)
	n.pending[len(n.pending)-1].through = true
}

func (n *networks) sort() error {
	size := uint64(8)
	for size < uint64(len(n.pending))*2 {
		size *= 2
	}
	n.entries, n.mask = make([]network, size), size-1
	for i := range n.pending {
		if e := n.slot(n.pending[i].addr, n.pending[i].ingress, n.pending[i].bits); !e.used {
			*e = n.pending[i]
		} else {
			e.through = e.through && n.pending[i].through
		}
	}
	n.pending = nil
	return n.spans.sortScopes(func(addr flow.Addr, scope, first, count uint32) {
		e := n.slot(addr, uint16(scope>>8), uint8(scope))
		e.first, e.n = first, count
		for _, p := range n.spans.list[first : first+count] {
			e.classes |= 1 << p.class
		}
	})
}

func (n *networks) slot(addr flow.Addr, ingress uint16, bits uint8) *network {
	h := spread(addr, scopeOf(ingress, bits))
	for i := h & n.mask; ; i = (i + 1) & n.mask {
		e := &n.entries[i]
		if !e.used || e.bits == bits && e.ingress == ingress && e.addr == addr {
			return e
		}
	}
}

// find is the id of the virtual server for a destination, or 0. A shorter prefix is looked at when no virtual server of a
// longer one wants the packet, unless what they do not want is the host's.
func (n *networks) find(addr flow.Addr, port uint16, proto uint8, ingress uint16) uint32 {
	if int(ingress) >= len(n.lengths) {
		return 0
	}
	for _, bits := range n.lengths[ingress][family(addr)] {
		e := n.slot(maskAddr(addr, int(bits)), ingress, bits)
		if !e.used {
			continue
		}
		if id := n.spans.findAny(e, port, proto); id != 0 {
			return id
		}
		if e.unmatched == UnmatchedHost {
			return 0
		}
	}
	return 0
}

// findAny goes through the classes in their order.
func (s *spans) findAny(e *network, port uint16, proto uint8) uint32 {
	for class := uint8(classPort); class <= classAnyProtocol; class++ {
		if e.classes&(1<<class) == 0 {
			continue
		}
		if class == classAnyProtocol {
			proto = anyProtocol
		}
		if id := s.find(e.first, e.n, class, proto, port); id != 0 {
			return id
		}
	}
	return 0
}

// longest is the longest prefix of an ingress port that holds addr, or nil.
func (n *networks) longest(addr flow.Addr, ingress uint16) *network {
	if int(ingress) >= len(n.lengths) {
		return nil
	}
	for _, bits := range n.lengths[ingress][family(addr)] {
		if e := n.slot(maskAddr(addr, int(bits)), ingress, bits); e.used {
			return e
		}
	}
	return nil
}
