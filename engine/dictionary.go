package engine

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"sluice/flow"
)

// Dictionary gives stable ids to what flow records name: virtual servers and nodes (members of a pool). An id is
// never reused while the process lives, so a flow keeps its meaning across configurations. It also holds what
// workers share: whose turn it is in a pool and how many connections a node has. It belongs to the control side;
// workers only follow the pointers that a Config carries.
type Dictionary struct {
	virtuals map[Entry]uint32 // entries without their ids
	nodes    map[nodeKey]uint32
	values   []flow.Addr // by node id
	mu       sync.RWMutex
	shared   []*shared // by node id; mu guards the list, for SetMembers
	services []*shared // by virtual server id
	turns    map[turnKey]*atomic.Uint64
	sources  map[netip.Addr]uint32     // SNAT addresses; their ids are among those of nodes
	kinds    map[persistenceKey]uint32 // persistences
	log      []Entry                   // every id in the order it was given
	rates    *sourceRates              // nil until it is needed
}

type nodeKey struct {
	pool string
	addr netip.Addr
	port uint16
}

type turnKey struct {
	pool     string
	priority int
}

// NewDictionary makes an empty dictionary. Id 0 means none in both spaces.
func NewDictionary() *Dictionary {
	return &Dictionary{
		virtuals: map[Entry]uint32{}, nodes: map[nodeKey]uint32{}, turns: map[turnKey]*atomic.Uint64{}, sources: map[netip.Addr]uint32{},
		kinds:  map[persistenceKey]uint32{},
		values: make([]flow.Addr, 1), shared: []*shared{new(shared)}, services: []*shared{new(shared)},
	}
}

func (d *Dictionary) virtual(e Entry) uint32 {
	e.ID = 0
	id, ok := d.virtuals[e]
	if !ok {
		id = uint32(len(d.virtuals) + 1)
		d.virtuals[e] = id
		d.services = append(d.services, new(shared))
		e.ID = id
		d.log = append(d.log, e)
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
		d.mu.Lock()
		d.shared = append(d.shared, new(shared))
		d.mu.Unlock()
		d.log = append(d.log, Entry{Kind: "node", ID: id, Pool: pool, Addr: addr, Port: port})
	}
	return id
}

// member is what workers share about a node, or nil for an id that was not given.
func (d *Dictionary) member(id uint32) *shared {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if id == 0 || int(id) >= len(d.shared) {
		return nil
	}
	return d.shared[id]
}

// snat gives a SNAT address an id among those of nodes, because records resolve both by one table.
func (d *Dictionary) snat(addr netip.Addr) uint32 {
	id, ok := d.sources[addr]
	if !ok {
		id = uint32(len(d.values))
		d.sources[addr] = id
		d.values = append(d.values, flow.AddrFrom(addr))
		d.mu.Lock()
		d.shared = append(d.shared, new(shared))
		d.mu.Unlock()
		d.log = append(d.log, Entry{Kind: "snat", ID: id, Addr: addr})
	}
	return id
}

// persistenceKey has the prefix lengths: with others, entries are of other clients.
type persistenceKey struct {
	name         string
	bits4, bits6 int
}

// persistence is the id of a persistence: the kind of its entries.
func (d *Dictionary) persistence(name string, bits4, bits6 int) uint32 {
	k := persistenceKey{name, bits4, bits6}
	id, ok := d.kinds[k]
	if !ok {
		id = uint32(len(d.kinds) + 1)
		d.kinds[k] = id
		d.log = append(d.log, Entry{Kind: "persistence", ID: id, Name: name, Bits4: bits4, Bits6: bits6})
	}
	return id
}

// sourceRates is what workers share about sources.
func (d *Dictionary) sourceRates() *sourceRates {
	if d.rates == nil {
		d.rates = new(sourceRates)
	}
	return d.rates
}

// turn is whose turn it is in a pool's group.
func (d *Dictionary) turn(pool string, priority int) *atomic.Uint64 {
	k := turnKey{pool, priority}
	if d.turns[k] == nil {
		d.turns[k] = new(atomic.Uint64)
	}
	return d.turns[k]
}

// counts are what workers share about nodes and virtual servers, by id.
type counts struct{ nodes, virtuals []*shared }

func (d *Dictionary) counts() counts { return counts{slices.Clone(d.shared), slices.Clone(d.services)} }

// addrs is a copy of the addresses by id, for a Config.
func (d *Dictionary) addrs() []flow.Addr { return append([]flow.Addr(nil), d.values...) }

// add counts a connection that comes or goes.
func (c *counts) add(r *flow.Record, n int64) {
	c.nodes[r.Node].active.Add(n)
	c.virtuals[r.VS].active.Add(n)
}
