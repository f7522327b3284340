package engine

import (
	"fmt"

	"sluice/flow"
)

// Persistence sends a client's connections to the member that had its last one. What a client is, is a prefix of its source
// address; the memory of it is an entry of a table (flow.Persistence), and virtual servers that name the same persistence share
// its entries. The scheduler is asked only for clients without an entry, and for those whose member does not take them.
//
// An entry has one owner, the worker of the bin of the client's prefix, and only the owner decides. A connection has an owner too,
// by the whole of the client's end, which is often another worker. So a first packet makes one bounce:
//
//	who received it ──▶ owner of the entry: the member, with a place taken there ──▶ owner of the connection
//
// as a descriptor with a note at the start of its frame, and nothing waits for an answer (persisthandoff.go). Where clients' ends
// are addresses (engine.client-end) and the prefix is the whole address, both owners are the same and nothing is handed over.

// PersistenceSpec is a persistence.
type PersistenceSpec struct {
	Name         string
	Bits4, Bits6 int    // of the source address
	Timeout      uint32 // milliseconds since the client's last new connection
	Entries      int    // over all workers; each has its share
	Full         PersistenceFull
	OnDown       PersistencePolicy
	OnFull       PersistencePolicy
	// MoveDraining has clients leave a member that drains, or whose weight is 0; else it still gets those that it has.
	MoveDraining bool
	// KeepLower has clients stay with a member of a lower priority, or of a pool that is fallen back to, when a higher one takes
	// connections again.
	KeepLower bool
}

// PersistenceFull is what happens to a client without an entry when there is no room for one.
type PersistenceFull uint8

// The settings of PersistenceFull.
const (
	PersistenceEvict  PersistenceFull = iota // the entry that was used least recently gives way
	PersistencePass                          // the client is scheduled, and not remembered
	PersistenceRefuse                        // its connection is refused
)

// PersistencePolicy is what happens to a client whose member does not take its connection.
type PersistencePolicy uint8

// The settings of PersistencePolicy.
const (
	PersistenceMove PersistencePolicy = iota // another is chosen, and has the client from now on
	PersistenceKeep                          // another is chosen for this connection; the entry stays
	PersistenceStay                          // the connection is refused; the entry stays
)

// PersistenceStats are a worker's counters of a persistence, or their sum.
type PersistenceStats struct {
	Entries   uint64 // now
	Hits      uint64 // connections that went to their client's member
	Misses    uint64 // connections of clients without an entry
	Moved     uint64 // entries that got another member
	Elsewhere uint64 // connections that went to another member than their client's entry, which kept it
	Refused   uint64 // connections that were refused for the sake of an entry, or for want of one
	Full      uint64 // clients that found no room for an entry
	Evicted   uint64 // entries that gave way, of those Full
}

// Add adds b to s.
func (s *PersistenceStats) Add(b *PersistenceStats) {
	s.Entries += b.Entries
	s.Hits += b.Hits
	s.Misses += b.Misses
	s.Moved += b.Moved
	s.Elsewhere += b.Elsewhere
	s.Refused += b.Refused
	s.Full += b.Full
	s.Evicted += b.Evicted
}

// persistence is a compiled PersistenceSpec.
type persistence struct {
	PersistenceSpec
	id uint32 // of its entries: their kind
}

// prefix is what identifies a client.
func (p *persistence) prefix(a flow.Addr) flow.Addr {
	if a.Is4() {
		return maskAddr(a, 96+p.Bits4)
	}
	return maskAddr(a, p.Bits6)
}

// PersistenceCapacity is how many entries each of so many workers needs room for.
func PersistenceCapacity(specs []PersistenceSpec, workers int) (n int) {
	for i := range specs {
		n += share(specs[i].Entries, max(workers, 1))
	}
	return n
}

// compilePersistence makes the persistences of spec.
func (c *Config) compilePersistence(specs []PersistenceSpec, dict *Dictionary) error {
	c.persistences = make([]persistence, len(specs))
	for i, s := range specs {
		if s.Bits4 < 1 || s.Bits4 > 32 || s.Bits6 < 1 || s.Bits6 > 128 || s.Timeout == 0 || s.Entries < 1 {
			return fmt.Errorf("persistence %s: prefixes of /%d and /%d, %d ms, %d entries: none of it may be 0 or too long", s.Name, s.Bits4, s.Bits6, s.Timeout, s.Entries)
		}
		p := persistence{s, dict.persistence(s.Name, s.Bits4, s.Bits6)}
		for len(c.persistenceRules) <= int(p.id) {
			c.persistenceRules = append(c.persistenceRules, flow.PersistenceRule{})
		}
		if c.persistenceRules[p.id].Limit != 0 {
			return fmt.Errorf("persistence %s is there twice", s.Name)
		}
		c.persistenceRules[p.id] = flow.PersistenceRule{Timeout: uint64(s.Timeout), Limit: share(s.Entries, c.owners.workers)}
		c.persistences[i] = p
	}
	return nil
}

// resolvePersistence finds the persistence of a virtual server.
func (v *virtual) resolvePersistence(list []persistence) error {
	if v.Persistence == "" {
		return nil
	}
	for i := range list {
		if list[i].Name == v.Persistence {
			v.persistence = &list[i]
		}
	}
	switch {
	case v.persistence == nil:
		return fmt.Errorf("virtual server %s: no persistence %s", v.Name, v.Persistence)
	case v.withoutEntry():
		return fmt.Errorf("virtual server %s: packets that are forwarded without an entry in the connection table go by their hash or turn, not by persistence", v.Name)
	}
	return nil
}

// placeHomes notes at which member of a pool a server is, by its address: virtual servers with different pools may share a
// persistence, whose entries name a member of one of them.
func (c *Config) placeHomes() {
	n := 0
	each := func(f func(p *pool, m *member)) {
		for i := range c.virtuals {
			if !c.virtuals[i].exists || c.virtuals[i].persistence == nil {
				continue
			}
			c.persists = true
			for p := c.virtuals[i].pool; p != nil; p = p.fallback {
				p.each(func(_ *group, m *member) { f(p, m) })
			}
		}
	}
	each(func(*pool, *member) { n++ })
	c.homes = newServices(n)
	each(func(p *pool, m *member) {
		if e := c.homes.slot(m.addr, uint32(p.index)+1); !e.used {
			*e = service{addr: m.addr, key: uint32(p.index) + 1, id: m.id, used: true}
		}
	})
}

// home is where, among the members that may serve p's virtual servers, the server of a node is. The node itself goes before
// another one of its address.
func (c *Config) home(p *pool, node uint32) (place, *pool, bool) {
	if int(node) >= len(c.addrs) {
		return place{}, nil, false
	}
	if int(node) < len(c.places) && c.places[node].exists {
		at := c.places[node]
		for q := p; q != nil; q = q.fallback {
			if q.index == int(at.pool) {
				return at, q, true
			}
		}
	}
	for q := p; q != nil; q = q.fallback {
		if e := c.homes.slot(c.addrs[node], uint32(q.index)+1); e.used {
			return c.places[e.id], q, true
		}
	}
	return place{}, nil, false
}

// PersistenceInfo is a persistence of a configuration, with its index in Snapshot.Persistence.
type PersistenceInfo struct {
	ID uint32
	PersistenceSpec
}

// Persistences lists the persistences.
func (c *Config) Persistences() []PersistenceInfo {
	out := make([]PersistenceInfo, len(c.persistences))
	for i := range c.persistences {
		out[i] = PersistenceInfo{c.persistences[i].id, c.persistences[i].PersistenceSpec}
	}
	return out
}

// entryWorker is the worker that owns the entry of a client.
func (c *Config) entryWorker(p *persistence, client flow.Addr) int {
	return int(c.owners.worker[c.owners.bin(p.prefix(client), 0)])
}

// persistent is the virtual server that a packet that arrived on a port would open a connection at, if it has persistence.
func (c *Config) persistent(k *flow.Key, ingress uint16) *virtual {
	id := c.find(k, ingress)
	if id == 0 || c.virtuals[id].persistence == nil {
		return nil
	}
	return &c.virtuals[id]
}
