package engine

import (
	"sluice/flow"
)

// The owner of an entry decides: the member that it names, if that takes the connection, else what the persistence says.

// persist is a worker's part of persistence.
type persist struct {
	table *flow.Persistence  // nil: there is no memory for it (yet: a reload that brings persistence also brings other workers)
	stats []PersistenceStats // by id of the persistence
	// pending says that there are packets for other workers in their batches.
	pending bool
	// The packets in hand whose member another worker has chosen.
	of    [burstSize]placement
	stubs [burstSize]member
}

// wanted is the member that an entry names, as choice sees it.
type wantedMember struct {
	pool          *pool // nil: none
	group, member int
	rules         *persistence
	outcome       wantedOutcome
	policy        PersistencePolicy // for a client whose member was not taken
	strict        bool              // no other member instead of the one that was taken
}

type wantedOutcome uint8

const (
	wantedUntried wantedOutcome = iota // a group that goes before took the connection, or no member did
	wantedTaken
	wantedDown
	wantedFull
)

// wish has the choice prefer the member at a place of pool p.
func (c *choice) wish(p *pool, at place, rules *persistence) {
	c.want = wantedMember{pool: p, group: int(at.group), member: int(at.member), rules: rules}
}

// tryWanted tries the member that the client's entry names, when its group's turn has come. It is taken whatever the others of
// its group do: minimum-active, slow start and return-after are for clients that can go anywhere. end says that the choice ends
// here, with m or, where the entry wants no other, without a member.
func (c *choice) tryWanted() (m *member, end bool) {
	w := &c.want
	g := &w.pool.groups[w.group]
	s := &c.pools[w.pool.index].groups[w.group]
	m = &g.members[w.member]
	w.outcome, w.policy = wantedDown, w.rules.OnDown
	takes := s.available.Has(w.member) || c.open && s.standing.Has(w.member)
	if kind := m.state().Kind; !takes && m.Hop.OK && (kind == MemberDraining || kind == MemberUp && m.Weight == 0) {
		takes, w.policy = !w.rules.MoveDraining, PersistenceMove
	}
	if takes {
		if c.reserve(m.shared, int64(m.Limit), uint32(m.Rate), c.now) {
			w.pool, w.outcome, w.strict = nil, wantedTaken, w.rules.OnFull == PersistenceStay
			return m, true
		}
		w.outcome, w.policy = wantedFull, w.rules.OnFull
	}
	if w.policy == PersistenceStay {
		w.pool, c.why = nil, PersistenceRefused
		return nil, true
	}
	return nil, false
}

// persistentMember is what choice.next is where entries decide: the member for a connection of a client, or why there is none.
// k belongs to virtual server v, and the entry to this worker.
func (w *worker) persistentMember(v *virtual, k *flow.Key) (*member, Reason) {
	p, t, c := v.persistence, w.persist.table, &w.runtime.choice
	c.begin(v.pool, k, w.now, false)
	if t == nil {
		return c.next(), c.why
	}
	s := &w.persist.stats[p.id]
	client := p.prefix(k.Src)
	i := t.Find(client, p.id, w.now)
	if i == 0 {
		return w.newEntry(v, client, s)
	}
	m := c.persisted(w.cfg, v, t.Node(i))
	switch {
	case m == nil && c.why == PersistenceRefused:
		s.Refused++
		t.Use(i, w.now)
	case m == nil:
	case c.want.outcome == wantedTaken:
		s.Hits++
		t.Use(i, w.now)
	case c.want.policy == PersistenceKeep:
		s.Elsewhere++
		t.Use(i, w.now)
	default:
		s.Moved++
		t.Assign(i, m.id)
		t.Use(i, w.now)
	}
	return m, c.why
}

// persisted is the member for a client whose entry names node.
func (c *choice) persisted(cfg *Config, v *virtual, node uint32) *member {
	c.want = wantedMember{}
	if at, pool, ok := cfg.home(v.pool, node); ok {
		c.wish(pool, at, v.persistence)
		if v.persistence.KeepLower {
			if m, end := c.tryWanted(); end {
				return m
			}
		}
	}
	return c.next()
}

// newEntry chooses a member for a client that has no entry, and makes one.
func (w *worker) newEntry(v *virtual, client flow.Addr, s *PersistenceStats) (*member, Reason) {
	p, t, c := v.persistence, w.persist.table, &w.runtime.choice
	s.Misses++
	room := t.Room(p.id)
	if !room {
		s.Full++
		if p.Full == PersistenceRefuse {
			s.Refused++
			return nil, PersistenceRefused
		}
	}
	m := c.next()
	if m == nil {
		return nil, c.why
	}
	if !room && p.Full == PersistenceEvict && t.Evict(p.id) {
		s.Evicted++
	}
	t.Insert(flow.PersistenceEntry{Client: client, Kind: p.id, Node: m.id, Used: w.now})
	return m, c.why
}

// choose begins the choice of a member for packet i, which opens a connection at v.
func (w *worker) choose(i int, v *virtual) (*member, Reason) {
	c, peek := &w.runtime.choice, w.runtime.peek
	if v.persistence != nil && peek == nil {
		return w.choosePersistent(i, v)
	}
	c.begin(v.pool, &w.keys[i], w.now, peek != nil)
	var m *member
	if v.persistence != nil {
		m, peek.persistence = w.cfg.explainMember(v, c, peek.node)
		if m != nil && w.entrySlot(v.persistence, &w.keys[i]) != w.slot {
			peek.handedOn = true
		}
	} else {
		m = c.next()
	}
	return m, c.why
}

// choosePersistent is choose where there is persistence: another worker has chosen, or this one owns the entry, or, where the
// frame has no room for a note, nobody can be asked.
func (w *worker) choosePersistent(i int, v *virtual) (*member, Reason) {
	c, k := &w.runtime.choice, &w.keys[i]
	if w.placed > 0 {
		if a := &w.persist.of[i]; a.is != notPlaced {
			is := a.is
			a.is = notPlaced
			c.begin(v.pool, k, w.now, false)
			switch is {
			case placedAt:
				c.want.strict = v.persistence.OnFull == PersistenceStay
				return a.member, 0
			case placedNowhere:
				c.pool = v.pool.last()
				return nil, a.why
			}
			return c.next(), c.why
		}
	}
	if w.entrySlot(v.persistence, k) == w.slot {
		return w.persistentMember(v, k)
	}
	c.begin(v.pool, k, w.now, false)
	return c.next(), c.why
}

// last is the pool that decides about refusals: the end of those that are fallen back to.
func (p *pool) last() *pool {
	for p.allDown == AllDownPool {
		p = p.fallback
	}
	return p
}

// entrySlot is the slot of the worker that owns the entry of a packet's client.
func (w *worker) entrySlot(p *persistence, k *flow.Key) int {
	return int(w.slots[w.cfg.entryWorker(p, k.Src)])
}
