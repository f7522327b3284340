package engine

import (
	"math/bits"

	"sluice/flow"
)

// services finds the virtual server of a packet's destination. It is filled when a configuration is compiled and only
// read afterwards. What is looked for, until something is found:
//
//  1. the address itself: its port, a range of ports, any port, any protocol
//  2. prefixes that the packet's ingress port has, the longest first: in each its port, a range, any port, any protocol
//
// Addresses and single ports are in an open-addressing hash table, so that the usual packet costs one look-up however many
// virtual servers there are; the rest is only looked at when there is such. Beside the entries of virtual servers every
// address has one of its own, with key 0, which says where its ranges are and what becomes of packets that no virtual
// server wants. An address that is ours in another way, or whose other packets are the host's, no prefix covers.
type services struct {
	entries []service
	mask    uint64
	// There are virtual servers for any port of a protocol, for any protocol, for ranges of ports: find looks for them as well.
	anyPort, anyProto, anyRange bool
	spans                       spans // ranges of ports, of all addresses
	// All virtual addresses are from low to high.
	low, high flow.Addr
	networks  networks
}

type service struct {
	addr flow.Addr
	key  uint32 // serviceKey; 0 for the address itself
	id   uint32 // of the address itself: where its spans begin
	node uint32 // of an answer's member; of the address itself: how many spans it has
	echo uint32 // of an address: what becomes of echo requests (echo.go)
	used bool
	own  bool // not a virtual address, but no prefix covers it
	// unmatched is, of an address, what becomes of packets that no virtual server wants.
	unmatched Unmatched
}

func newServices(n int) services {
	size := uint64(8)
	for size < uint64(n)*4 { // each adds itself and at most one address; at most half full
		size *= 2
	}
	return services{entries: make([]service, size), mask: size - 1}
}

// spread is the hash of entries, which is not keyed: whoever fills this table is not an attacker.
func spread(addr flow.Addr, key uint32) uint64 {
	hi, lo := bits.Mul64(addr.Lo^uint64(key)<<32^0x9e3779b97f4a7c15, addr.Hi^0xbf58476d1ce4e5b9)
	return (hi ^ lo) * 0x94d049bb133111eb >> 20
}

func (s *services) slot(addr flow.Addr, key uint32) *service {
	h := spread(addr, key)
	for i := h & s.mask; ; i = (i + 1) & s.mask {
		e := &s.entries[i]
		if !e.used || e.key == key && e.addr == addr {
			return e
		}
	}
}

// anyProtocol is in the key of a virtual server for any protocol. It is no protocol's number (IANA: reserved).
const anyProtocol = 255

// serviceKey is the key of a protocol and port; proto 0 is any protocol, port 0 any port, or none where there are none.
func serviceKey(proto uint8, port uint16) uint32 {
	if proto == 0 {
		proto = anyProtocol
	}
	return uint32(proto)<<16 | uint32(port)
}

func (s *services) add(addr flow.Addr, port uint16, proto uint8, id uint32, rest Unmatched) {
	key := serviceKey(proto, port)
	s.anyPort, s.anyProto = s.anyPort || port == 0, s.anyProto || proto == 0
	*s.slot(addr, key) = service{addr: addr, key: key, id: id, used: true}
	e := s.addAddress(addr)
	e.unmatched = rest
}

// addAddress makes addr a virtual address, if it is none yet.
func (s *services) addAddress(addr flow.Addr) *service {
	e := s.slot(addr, 0)
	if !e.used {
		*e = service{addr: addr, used: true}
	}
	e.own = false
	if s.low == s.high && s.low == (flow.Addr{}) {
		s.low, s.high = addr, addr
	} else if addr.Less(s.low) {
		s.low = addr
	} else if s.high.Less(addr) {
		s.high = addr
	}
	return e
}

// mayBeVirtual reports whether addr is among the virtual addresses. That of a client nearly never is.
func (s *services) mayBeVirtual(addr flow.Addr) bool { return !addr.Less(s.low) && !s.high.Less(addr) }

// addOwn keeps prefixes from covering addr, which is ours in another way.
func (s *services) addOwn(addr flow.Addr) {
	if e := s.slot(addr, 0); !e.used {
		*e = service{addr: addr, used: true, own: true}
	}
}

// addDestination enters a destination of virtual server id, which must not have another's already. Once all are entered
// sort makes them ready.
func (s *services) addDestination(d Destination, proto uint8, ingress uint16, id uint32, rest Unmatched) (other uint32) {
	addr, sp := flow.AddrFrom(d.Prefix.Addr()), spanOf(d, proto, id)
	switch {
	case !d.IsAddress():
		s.networks.add(addr, prefixBits(d.Prefix), ingress, sp, rest)
		return 0
	case sp.class == classRange:
		s.anyRange = true
		s.addAddress(addr).unmatched = rest
		s.spans.pending = append(s.spans.pending, pendingSpan{addr: addr, span: sp})
		return 0
	}
	if e := s.slot(addr, serviceKey(proto, sp.first)); e.id != 0 {
		return e.id
	}
	s.add(addr, sp.first, proto, id, rest)
	return 0
}

// sort makes ranges and prefixes ready to be looked at. It refuses ranges that overlap.
func (s *services) sort() error {
	err := s.spans.sort(func(addr flow.Addr, first, n uint32) {
		e := s.slot(addr, 0)
		e.id, e.node = first, n
	})
	if err != nil {
		return err
	}
	return s.networks.sort()
}

// find is the id of the virtual server for a destination, or 0. Of an address ICMP is of no other protocol's: it is the
// address's own, unless a virtual server is for it.
func (s *services) find(addr flow.Addr, port uint16, proto uint8, ingress uint16) uint32 {
	if id := s.slot(addr, serviceKey(proto, port)).id; id != 0 {
		return id
	}
	if id, ok := s.findWide(addr, port, proto); id != 0 || ok || len(s.networks.lengths) == 0 {
		return id
	}
	return s.networks.find(addr, port, proto, ingress)
}

// findAddress is find without prefixes.
func (s *services) findAddress(addr flow.Addr, port uint16, proto uint8) uint32 {
	if id := s.slot(addr, serviceKey(proto, port)).id; id != 0 {
		return id
	}
	id, _ := s.findWide(addr, port, proto)
	return id
}

// findWide looks for what takes more of an address than one port. done is whether no prefix is to be looked at.
func (s *services) findWide(addr flow.Addr, port uint16, proto uint8) (id uint32, done bool) {
	icmp := isICMP(proto)
	if s.anyRange {
		if e := s.slot(addr, 0); e.used && e.node > 0 {
			if id := s.spans.find(e.id, e.node, classRange, proto, port); id != 0 {
				return id, true
			}
		}
	}
	if s.anyPort {
		if id := s.slot(addr, serviceKey(proto, 0)).id; id != 0 {
			return id, true
		}
	}
	if s.anyProto && !icmp {
		if id := s.slot(addr, serviceKey(0, 0)).id; id != 0 {
			return id, true
		}
	}
	if len(s.networks.lengths) == 0 {
		return 0, true
	}
	e := s.slot(addr, 0)
	return 0, e.used && (e.own || e.unmatched == UnmatchedHost || icmp)
}

// address reports whether addr is a virtual address and what to do with packets that no virtual server wants.
func (s *services) address(addr flow.Addr) (virtual bool, rest Unmatched) {
	e := s.slot(addr, 0)
	return e.used && !e.own, e.unmatched
}

// covered is address for a packet that arrives on a port, prefixes included.
func (s *services) covered(addr flow.Addr, ingress uint16) (virtual bool, rest Unmatched) {
	e := s.slot(addr, 0)
	if e.used || len(s.networks.lengths) == 0 {
		return e.used && !e.own, e.unmatched
	}
	n := s.networks.longest(addr, ingress)
	if n == nil || n.through {
		return false, UnmatchedDrop
	}
	return true, n.unmatched
}
