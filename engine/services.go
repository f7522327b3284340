package engine

import "sluice/flow"

// services finds the virtual server of a packet's destination: an open-addressing hash table, filled when a
// configuration is compiled and only read afterwards. An entry with port 0 stands for the address itself and says
// what becomes of packets that no virtual server of the address wants.
type services struct {
	entries []service
	mask    uint64
}

type service struct {
	addr flow.Addr
	key  uint32 // proto<<16 | port; 0 for the address itself
	id   uint32
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

func (s *services) add(addr flow.Addr, port uint16, proto uint8, id uint32, host bool) {
	key := uint32(proto)<<16 | uint32(port)
	*s.slot(addr, key) = service{addr: addr, key: key, id: id, used: true}
	*s.slot(addr, 0) = service{addr: addr, used: true, host: host}
}

// addAddress makes addr a virtual address without a virtual server, unless it is one already.
func (s *services) addAddress(addr flow.Addr) {
	if e := s.slot(addr, 0); !e.used {
		*e = service{addr: addr, used: true}
	}
}

// find is the id of the virtual server for a destination, or 0.
func (s *services) find(addr flow.Addr, port uint16, proto uint8) uint32 {
	return s.slot(addr, uint32(proto)<<16|uint32(port)).id
}

// address reports whether addr is a virtual address and what to do with packets that no virtual server wants.
func (s *services) address(addr flow.Addr) (virtual, host bool) {
	e := s.slot(addr, 0)
	return e.used, e.host
}
