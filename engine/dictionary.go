package engine

import (
	"net/netip"
	"sync/atomic"

	"sluice/flow"
)

// Dictionary gives stable ids to what flow records name: virtual servers and nodes (members of a pool). An id is
// never reused while the process lives, so a flow keeps its meaning across configurations. It also holds what
// workers share: whose turn it is in a pool and how many connections a node has. It belongs to the control side;
// workers only follow the pointers that a Config carries.
type Dictionary struct {
	virtuals map[virtualKey]uint32
	nodes    map[nodeKey]uint32
	values   []flow.Addr // by node id
	actives  []*atomic.Int64
	turns    map[string]*atomic.Uint64
	log      []Entry // every id in the order it was given
}

type virtualKey struct {
	addr  netip.Addr
	port  uint16
	proto uint8
}

type nodeKey struct {
	pool string
	addr netip.Addr
	port uint16
}

// NewDictionary makes an empty dictionary. Id 0 means none in both spaces.
func NewDictionary() *Dictionary {
	return &Dictionary{
		virtuals: map[virtualKey]uint32{}, nodes: map[nodeKey]uint32{}, turns: map[string]*atomic.Uint64{},
		values: make([]flow.Addr, 1), actives: []*atomic.Int64{new(atomic.Int64)},
	}
}

func (d *Dictionary) virtual(addr netip.Addr, port uint16, proto uint8) uint32 {
	k := virtualKey{addr, port, proto}
	id, ok := d.virtuals[k]
	if !ok {
		id = uint32(len(d.virtuals) + 1)
		d.virtuals[k] = id
		d.log = append(d.log, Entry{Kind: "virtual", ID: id, Addr: addr, Port: port, Proto: proto})
	}
	return id
}

func (d *Dictionary) node(pool string, addr netip.Addr, port uint16) uint32 {
	k := nodeKey{pool, addr, port}
	id, ok := d.nodes[k]
	if !ok {
		id = uint32(len(d.values))
		d.nodes[k] = id
		d.values = append(d.values, flow.AddrFrom(addr))
		d.actives = append(d.actives, new(atomic.Int64))
		d.log = append(d.log, Entry{Kind: "node", ID: id, Pool: pool, Addr: addr, Port: port})
	}
	return id
}

func (d *Dictionary) active(id uint32) *atomic.Int64 { return d.actives[id] }

func (d *Dictionary) turn(pool string) *atomic.Uint64 {
	if d.turns[pool] == nil {
		d.turns[pool] = new(atomic.Uint64)
	}
	return d.turns[pool]
}

// addrs is a copy of the addresses by id, for a Config.
func (d *Dictionary) addrs() []flow.Addr { return append([]flow.Addr(nil), d.values...) }
