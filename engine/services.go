package engine

import "sluice/flow"

// services finds the virtual server of a packet's destination: an open-addressing hash table, filled when a
// configuration is compiled and only read afterwards. Beside the entries of virtual servers every address has one of its
// own, with key 0, which says what becomes of packets that no virtual server of the address wants.
type services struct {
	entries []service
	mask    uint64
	// There are virtual servers for any port of a protocol, or for any protocol: find looks for them as well.
	anyPort, anyProto bool
}

type service struct {
	addr flow.Addr
	key  uint32 // serviceKey; 0 for the address itself
	id   uint32 // of the virtual server; of an address, what becomes of echo requests (echo.go)
	node uint32 // of an answer's member
	used bool
	host bool
}

func newServices(n int) services {
	size := uint64(8)
	for size < uint64(n)*4 { // each adds itself and at most one address; at most half full
		size *= 2
	}
	return services{entries: make([]service, size), mask: size - 1}
}

// servicesSecret spreads entries; whoever fills this table is not an attacker.
var servicesSecret = flow.Secret{0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9, 0x94d049bb133111eb, 0xd6e8feb86659fd93}

func (s *services) slot(addr flow.Addr, key uint32) *service {
	h := servicesSecret.Hash(&flow.Key{Dst: addr, Ports: key})
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

func (s *services) add(addr flow.Addr, port uint16, proto uint8, id uint32, host bool) {
	key := serviceKey(proto, port)
	s.anyPort, s.anyProto = s.anyPort || port == 0, s.anyProto || proto == 0
	*s.slot(addr, key) = service{addr: addr, key: key, id: id, used: true}
	*s.slot(addr, 0) = service{addr: addr, used: true, host: host}
}

// addAddress makes addr a virtual address without a virtual server, unless it is one already.
func (s *services) addAddress(addr flow.Addr) {
	if e := s.slot(addr, 0); !e.used {
		*e = service{addr: addr, used: true}
	}
}

// find is the id of the virtual server for a destination, or 0. The port itself goes before any port, the protocol before
// any protocol. ICMP is of no other protocol's: it is the address's own, unless a virtual server is for it.
func (s *services) find(addr flow.Addr, port uint16, proto uint8) uint32 {
	if id := s.slot(addr, serviceKey(proto, port)).id; id != 0 {
		return id
	}
	if s.anyPort {
		if id := s.slot(addr, serviceKey(proto, 0)).id; id != 0 {
			return id
		}
	}
	if s.anyProto && proto != flow.ICMP && proto != flow.ICMPv6 {
		return s.slot(addr, serviceKey(0, 0)).id
	}
	return 0
}

// address reports whether addr is a virtual address and what to do with packets that no virtual server wants.
func (s *services) address(addr flow.Addr) (virtual, host bool) {
	e := s.slot(addr, 0)
	return e.used, e.host
}
