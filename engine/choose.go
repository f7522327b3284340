package engine

import (
	"slices"
	"sync/atomic"

	"sluice/flow"
	"sluice/sched"
)

// Choosing a member, in the order in which it is asked:
//
//	1 groups of members by priority, the highest first: a group that has fewer usable members than the pool's minimum is
//	  passed over, and stays so for a while after it has recovered, if the pool says that
//	2 the pool's scheduler, among the members of the group that are up, have a next hop, and are not full; a member that has
//	  just come up takes part in a growing share of the choices
//	3 a place with the member: limits hold over all workers, because a place is taken by one atomic operation and given
//	  back if it was one too many; then the next member is asked
//	4 where no member of the pool is usable, what the pool has for that: those that are down all the same, or another pool
//
// The same code explains: it then takes neither turns nor places.

// shared is what all workers count about a member or a virtual server: one atomic operation per new connection.
type shared struct {
	active  atomic.Int64  // connections
	rate    atomic.Uint64 // second << 32 | connections opened in it
	latency atomic.Uint64 // of handshakes: milliseconds of the clock when measured << 32 | microseconds, smoothed
	state   atomic.Uint64 // of a member: MemberState in a word; control writes it
	_       [32]byte
}

// reserve takes a place for a connection, if a limit does not forbid it. now is in milliseconds; a limit of 0 is none.
func (s *shared) reserve(limit int64, rate uint32, now uint64) bool {
	if n := s.active.Add(1); limit > 0 && n > limit || rate > 0 && !s.takeRate(rate, now) {
		s.active.Add(-1)
		return false
	}
	return true
}

// cancel gives a place back that reserve took at the same time now.
func (s *shared) cancel(rate uint32, now uint64) {
	s.active.Add(-1)
	if rate > 0 {
		if old := s.rate.Load(); old>>32 == now/1000&0xffffffff && uint32(old) > 0 {
			s.rate.CompareAndSwap(old, old-1)
		}
	}
}

// takeRate counts one in the second of now, unless there were limit already.
func (s *shared) takeRate(limit uint32, now uint64) bool {
	second := now / 1000 & 0xffffffff
	for {
		old := s.rate.Load()
		at, n := old>>32, uint32(old)
		// Another worker, which has read its clock later, may have begun the next second. Then that one counts: if each went back
		// to its own, each would begin at none again.
		if ahead := (at - second) & 0xffffffff; ahead > clocksApart/1000 {
			at, n = second, 0
		}
		if n >= limit {
			return false
		}
		if s.rate.CompareAndSwap(old, at<<32|uint64(n+1)) {
			return true
		}
	}
}

// clocksApart bounds how much later than this worker another, or control, has read the clock, in milliseconds: a worker reads it once
// a step, and the kernel may take its core in the middle of one.
const clocksApart = 60_000

// elapsed is the time from then to now, in milliseconds on the clock of all; none where then is what another has read a moment later.
func elapsed(then, now uint32) uint32 {
	if d := now - then; d < 1<<32-clocksApart {
		return d
	}
	return 0
}

// poolState is what a worker knows of a pool's members.
type poolState struct {
	name   string
	groups []groupState
	// due is how many choices of the burst are still to come that begin with first, turn and turns what is left of the turns that
	// were taken for them.
	due, turns int
	turn       uint64
}

type groupState struct {
	priority    int
	available   sched.Bitmap // up, with a weight and a next hop
	count       int          // of them
	standing    sched.Bitmap // these, and those that would be but for their monitors
	rising      []rising
	passedUntil uint64 // ms: the group is passed over until then
}

// rising is a member that has come up a short while ago.
type rising struct {
	index int
	since uint64 // ms
}

// choice is the search for a member for one connection; it belongs to a worker, or to an explanation, and is used again.
type choice struct {
	pools      []poolState // by pool of the configuration
	candidates []sched.Candidate
	mask       sched.Bitmap
	pool       *pool
	in         sched.Input
	want       wantedMember // by persistence
	now        uint64
	key        *flow.Key
	group      int
	least      int // members that a group must have
	entered    bool
	open       bool // down members are asked as well: the pool has no other
	peek       bool // take nothing
	why        Reason
	trail      trail // of a choice that only looks: what it has met
	// Of these a connection is about to go, for an explanation.
	going [2]*shared
}

// apply makes the states fit a configuration. What goes on over time stays for groups that were there before.
func (c *choice) apply(cfg *Config) {
	old := c.pools
	c.pools = make([]poolState, len(cfg.pools))
	most := 0
	for i := range cfg.pools {
		p := &cfg.pools[i]
		s := poolState{name: p.name}
		for j := range p.groups {
			g := &p.groups[j]
			most = max(most, len(g.members))
			gs := groupState{priority: g.priority, available: sched.NewBitmap(len(g.members)), standing: sched.NewBitmap(len(g.members))}
			for k := range g.members {
				gs.set(p, g, k, g.members[k].state())
			}
			s.groups = append(s.groups, gs)
		}
		c.pools[i] = s
	}
	for i := range old {
		for j := range c.pools {
			if old[i].name == c.pools[j].name {
				c.pools[j].resume(&old[i])
			}
		}
	}
	c.mask = sched.NewBitmap(most)
	c.candidates = make([]sched.Candidate, most)
}

func (s *poolState) resume(old *poolState) {
	for i := range s.groups {
		for j := range old.groups {
			if s.groups[i].priority == old.groups[j].priority {
				s.groups[i].passedUntil = old.groups[j].passedUntil
			}
		}
	}
}

// set notes the state of member k.
func (s *groupState) set(p *pool, g *group, k int, state MemberState) {
	m := &g.members[k]
	usable := state.Kind == MemberUp && m.Weight > 0 && m.Hop.OK
	if usable || state.Kind == MemberDown && m.Weight > 0 && m.Hop.OK {
		s.standing.Set(k)
	} else {
		s.standing.Clear(k)
	}
	switch was := s.available.Has(k); {
	case usable && !was:
		s.available.Set(k)
		s.count++
		if p.slowStart > 0 && state.Since > 0 {
			s.rising = append(s.rising, rising{k, state.Since})
		}
	case !usable && was:
		s.available.Clear(k)
		s.count--
		s.rising = slices.DeleteFunc(s.rising, func(r rising) bool { return r.index == k })
	}
}

// begin starts the search for a member of p for the connection with key k.
func (c *choice) begin(p *pool, k *flow.Key, now uint64, peek bool) {
	c.key, c.now, c.peek, c.why = k, now, peek, NoMember
	if peek {
		c.trail = trail{}
	}
	c.want.pool, c.want.strict = nil, false
	c.enterPool(p)
}

// isDirect reports whether the first member that p's scheduler picks is the one, unless members are missing or have just come up:
// there is one group, and neither limits nor numbers of connections matter.
func (p *pool) isDirect() bool {
	if len(p.groups) != 1 || p.groups[0].needs&(sched.NeedsActive|sched.NeedsLatency) != 0 {
		return false
	}
	return !slices.ContainsFunc(p.groups[0].members, func(m member) bool { return m.Limit > 0 || m.Rate > 0 })
}

// first is begin and next, which it spares what nearly no choice needs. Then the place is not reserved yet.
// The caller has counted in due, of each pool, how many times it will be called before anybody else chooses.
func (c *choice) first(p *pool, k *flow.Key, now uint64) (m *member, reserved bool) {
	s := &c.pools[p.index]
	s.due--
	if !p.direct || len(s.groups[0].rising) > 0 || s.groups[0].count < max(1, p.minimum) {
		c.begin(p, k, now, false)
		return c.next(), true
	}
	g, in := &p.groups[0], &c.in
	in.Available, in.Candidates = s.groups[0].available, g.weights
	if g.needs&(sched.NeedsTurn|sched.NeedsRandom) != 0 {
		in.Turn = s.nextTurn(g)
		in.Random = sched.Mix(in.Turn)
	}
	if g.needs&sched.NeedsHash != 0 {
		in.Hash = p.hashOf(k)
	}
	i := g.scheduler.Pick(in)
	if i == sched.None {
		return nil, false
	}
	return &g.members[i], false
}

// nextTurn is a turn of the only group g. The choices that are due take theirs together: one atomic operation instead of one each, and
// the workers' turns still are all turns, each once.
func (s *poolState) nextTurn(g *group) uint64 {
	if s.turns == 0 {
		s.turns = s.due + 1
		s.turn = g.turn.Add(uint64(s.turns)) - uint64(s.turns)
	}
	s.turns--
	s.turn++
	return s.turn - 1
}

// enterPool begins with the first group of p.
func (c *choice) enterPool(p *pool) {
	c.pool, c.open = p, false
	c.group, c.entered, c.least = 0, false, max(1, p.minimum)
	c.in = sched.Input{}
	if p.needs&sched.NeedsHash != 0 {
		c.in.Hash = p.hashOf(c.key)
	}
}

// hashOf is what schedulers that hash go by.
func (p *pool) hashOf(k *flow.Key) uint64 {
	if p.symmetric {
		return p.hash.HashBoth(&pickSeed, k.Src, k.Dst, k.SrcPort(), k.DstPort())
	}
	return p.hash.Hash(&pickSeed, k.Src, k.SrcPort())
}

// identity is what a member is known by to schedulers.
func (p *pool) identity(m *member) uint64 {
	if p.symmetric {
		return sched.NameIdentity(m.Name)
	}
	return sched.Identity(m.addr, m.Port)
}

// pickSeed is the same everywhere: machines with the same pool must send a client to the same member.
var pickSeed = flow.Secret{0x243f6a8885a308d3, 0x13198a2e03707344, 0xa4093822299f31d0, 0x082efa98ec4e6c89}

// next is the next member to be asked, with a place reserved unless the choice only looks; nil when there is none, and then
// why says the reason.
func (c *choice) next() *member {
	for {
		for ; c.group < len(c.pool.groups); c.group++ {
			if c.pool == c.want.pool && c.group == c.want.group {
				if m, end := c.tryWanted(); end {
					return m
				}
			}
			g := &c.pool.groups[c.group]
			if !c.entered && !c.enter(g) {
				continue
			}
			if m := c.among(g); m != nil {
				return m
			}
			c.entered = false
		}
		switch {
		case c.least > 1:
			c.least, c.group = 1, 0 // no group has enough: the best that has any
		case !c.fallBack():
			return nil
		}
	}
}

// fallBack goes on after a pool without a usable member as the pool says, and reports whether there is anything to go on to.
// It ends: configurations have no circles of pools.
func (c *choice) fallBack() bool {
	for i := range c.pools[c.pool.index].groups {
		if c.pools[c.pool.index].groups[i].count > 0 {
			return false // what it has is full, or was tried
		}
	}
	switch {
	case c.pool.allDown == AllDownFailOpen && !c.open:
		c.open, c.group, c.least = true, 0, 1
	case c.pool.allDown == AllDownPool:
		c.enterPool(c.pool.fallback)
	default:
		return false
	}
	return true
}

// enter prepares the choice within a group and reports whether the group takes connections.
func (c *choice) enter(g *group) bool {
	s := &c.pools[c.pool.index].groups[c.group]
	n := s.count
	copy(c.mask, s.available)
	if c.open {
		copy(c.mask, s.standing)
		n = s.standing.Count()
	}
	if g.limited {
		for i := range g.members {
			if m := &g.members[i]; m.Limit > 0 && c.mask.Has(i) && c.active(m.shared) >= int64(m.Limit) {
				c.mask.Clear(i)
				c.why = MemberLimit
				n--
			}
		}
	}
	if n < c.least {
		if s.count == 0 && c.why == NoMember && g.unreachable() {
			c.why = NoNeighbour
		}
		if c.pool.returnAfter > 0 && !c.peek {
			s.passedUntil = c.now + c.pool.returnAfter
		}
		if c.peek {
			c.note(g, n, groupTooFew)
		}
		return false
	}
	if c.now < s.passedUntil && c.group+1 < len(c.pool.groups) && c.least == max(1, c.pool.minimum) && c.lower() {
		if c.peek {
			c.note(g, n, groupPassed)
		}
		return false
	}
	c.entered = true
	c.in.Available = c.mask[:len(s.available)]
	if g.needs&(sched.NeedsTurn|sched.NeedsRandom) != 0 || len(s.rising) > 0 {
		// What a choice has of chance comes from the turn, so that it can be repeated.
		if c.peek {
			c.in.Turn = g.turn.Load() + c.turnsTaken(g)
		} else {
			c.in.Turn = g.turn.Add(1) - 1
		}
		c.in.Random = sched.Mix(c.in.Turn)
	}
	if len(s.rising) > 0 {
		c.hold(s, n)
	}
	c.fill(g)
	if c.peek {
		c.note(g, n, groupEntered)
	}
	return true
}

// lower reports whether a group below has members that can serve while this one is passed over.
func (c *choice) lower() bool {
	for i := c.group + 1; i < len(c.pool.groups); i++ {
		if c.pools[c.pool.index].groups[i].count >= c.least {
			return true
		}
	}
	return false
}

// unreachable reports whether a member is up but has no next hop.
func (g *group) unreachable() bool {
	for i := range g.members {
		if m := &g.members[i]; m.state().Kind == MemberUp && m.Weight > 0 && !m.Hop.OK {
			return true
		}
	}
	return false
}

// hold leaves members that have just come up out of a part of the choices, less of them as time passes, unless nobody else
// is there. n is how many there are.
func (c *choice) hold(s *groupState, n int) {
	kept := s.rising[:0]
	for _, r := range s.rising {
		age := c.now - min(c.now, r.since) // control may have read the clock after this step's beginning
		if age >= c.pool.slowStart {
			if !c.peek {
				continue
			}
		} else if chance := sched.Mix(c.in.Turn ^ uint64(r.index)<<32); n > 1 && c.mask.Has(r.index) && chance>>32*c.pool.slowStart >= age<<32 {
			c.mask.Clear(r.index)
			n--
		}
		kept = append(kept, r)
	}
	s.rising = kept
}

// fill gives the scheduler what it needs to know about the candidates.
func (c *choice) fill(g *group) {
	const counts = sched.NeedsActive | sched.NeedsLatency
	c.in.Candidates = g.weights
	if g.needs&counts == 0 {
		return
	}
	n := len(g.members)
	c.in.Candidates = c.candidates[:n]
	if d, ok := g.scheduler.(sched.Drawer); ok {
		a, b := d.Draw(&c.in)
		if a != sched.None {
			c.describe(g, a)
			c.describe(g, b)
		}
		return
	}
	for i := range n {
		c.describe(g, i)
	}
}

func (c *choice) describe(g *group, i int) {
	m := &g.members[i]
	x := sched.Candidate{Weight: m.Weight, Active: uint32(max(0, c.active(m.shared)))}
	if g.needs&sched.NeedsLatency != 0 {
		l := m.shared.latency.Load()
		x.Latency, x.Age = uint32(l), elapsed(uint32(l>>32), uint32(c.now))
	}
	c.candidates[i] = x
}

// among asks the scheduler until a member has a place.
func (c *choice) among(g *group) *member {
	for {
		i := g.scheduler.Pick(&c.in)
		if i == sched.None {
			return nil
		}
		c.mask.Clear(i) // it is not asked again
		m := &g.members[i]
		if c.reserve(m.shared, int64(m.Limit), uint32(m.Rate), c.now) {
			return m
		}
		c.why = MemberLimit
		c.tried(m, MemberLimit)
		c.fill(g)
	}
}

// again goes on after a member that could not take the connection: it is passed over.
func (c *choice) again(m *member) *member {
	c.cancel(m.shared, uint32(m.Rate))
	if c.want.strict {
		c.why = PersistenceRefused
		return nil
	}
	if g := &c.pool.groups[c.group]; c.entered {
		c.fill(g)
	}
	return c.next()
}

// only is for a packet that opens no connection: no place is taken.
func (c *choice) only(p *pool, k *flow.Key, now uint64, peek bool) *member {
	c.begin(p, k, now, peek)
	m := c.next()
	if m != nil && !peek {
		m.shared.active.Add(-1)
	}
	return m
}
