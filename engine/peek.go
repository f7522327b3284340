package engine

import (
	"sluice/flow"
	"sluice/sched"
)

// A peek is a walk of the packet path that takes nothing. Between two bursts a worker puts a packet that nobody has sent into the
// burst in hand and asks the functions that packets are handled by: look-up, judge, connect. Where these would change what
// other packets meet (a turn, a place, a port, a record), they look instead: each such place is named in this file.
//
//	a turn of a group            choice.enter        loads it, and adds what this walk would have taken before
//	a place, a rate              choice.reserve      would there be one
//	a port at a SNAT address     worker.takePort     flow.SourcePorts.Peek
//	room in the table            worker.insert       peek.insert; flow.Table.Victim for what would give way
//	a source's rate              worker.takeSource   sourceRates.allows
//	an answer to a ping          explainJudged       answers.left
//	return-after of a group      choice.enter        not noted
//
// TestExplainAgrees holds that what is foretold happens.
type peek struct {
	frame []byte
	mac   [6]byte // where the packet comes from on its link
	// going is the index of the record that goes before the new one comes, or 0; freed is its port at a SNAT address.
	going  uint32
	freed  *flow.Freed
	member *member // that the connection goes to
	node   uint32  // of the client's persistence entry
	// handedOn says that another worker chose the first member to be tried, by the client's entry.
	handedOn    bool
	persistence *PersistenceExplanation
	rec         flow.Record // what would be entered into the table
}

// found ends connect: there would be a connection.
func (p *peek) found(m *member, rec *flow.Record) { p.member, p.rec = m, *rec }

// insert says how worker.insert would end.
func (p *peek) insert(t *flow.Table, rec *flow.Record, proto uint8) flow.InsertResult {
	k := t.ServerKey(rec)
	k.Proto = proto
	room := t.Len() < t.Cap() || p.going != 0
	if r := t.Lookup(&k); r != 0 && r.Index() != p.going {
		if !t.Record(r.Index()).Closed() {
			return flow.Collision
		}
		room = true // it gives way
	}
	if !room {
		return flow.Full
	}
	return flow.Inserted
}

// reserve takes a place of s, or only says whether there is one.
func (c *choice) reserve(s *shared, limit int64, rate uint32, now uint64) bool {
	if !c.peek {
		return s.reserve(limit, rate, now)
	}
	if limit > 0 && c.active(s)+1 > limit {
		return false
	}
	return rate == 0 || s.opened(now) < rate
}

// opened is how many connections were opened in the second of now, where there is a limit of them.
func (s *shared) opened(now uint64) uint32 {
	old := s.rate.Load()
	if ahead := (old>>32 - now/1000) & 0xffffffff; ahead > clocksApart/1000 {
		return 0
	}
	return uint32(old)
}

// cancel gives back what reserve took.
func (c *choice) cancel(s *shared, rate uint32) {
	if !c.peek {
		s.cancel(rate, c.now)
	}
}

// active is how many connections s has, without one that is about to go.
func (c *choice) active(s *shared) int64 {
	n := s.active.Load()
	if c.peek && (s == c.going[0] || s == c.going[1]) {
		n--
	}
	return n
}

// trail is what a choice that only looks has met on its way.
type trail struct {
	steps []groupStep
	tried []attempt
}

// attempt is a member that was asked and could not take the connection.
type attempt struct {
	member *member
	why    Reason
}

// groupVerdict is what became of a group.
type groupVerdict uint8

const (
	groupEntered groupVerdict = iota // its members were asked
	groupTooFew                      // too few of them are usable
	groupPassed                      // usable again, but not for long enough
)

// groupStep is a group that was looked at. The rest is of those that were entered.
type groupStep struct {
	pool    *pool
	group   *group
	verdict groupVerdict
	usable  int
	least   int
	until   uint64 // ms, for groupPassed
	open    bool   // members that are down were asked as well
	asked   sched.Bitmap
	in      sched.Input
	members []memberInput // what the scheduler could see of each
}

// memberInput is a member as a scheduler sees it, whether it looks or not.
type memberInput struct {
	sched.Candidate
	state  MemberState
	opened uint32 // in this second
}

// note remembers what became of a group.
func (c *choice) note(g *group, usable int, verdict groupVerdict) {
	s := groupStep{pool: c.pool, group: g, verdict: verdict, usable: usable, least: c.least, open: c.open, members: make([]memberInput, len(g.members))}
	s.until = c.pools[c.pool.index].groups[c.group].passedUntil
	if verdict == groupEntered {
		s.in = c.in
		s.asked = append(s.asked, c.in.Available...)
	}
	for i := range g.members {
		m := &g.members[i]
		l := m.shared.latency.Load()
		s.members[i] = memberInput{state: m.state(), opened: m.shared.opened(c.now)}
		s.members[i].Candidate = sched.Candidate{Weight: m.Weight, Active: uint32(max(0, c.active(m.shared)))}
		if l != 0 {
			s.members[i].Latency, s.members[i].Age = uint32(l), elapsed(uint32(l>>32), uint32(c.now))
		}
	}
	c.trail.steps = append(c.trail.steps, s)
}

// tried remembers a member that could not take the connection.
func (c *choice) tried(m *member, why Reason) {
	if c.peek {
		c.trail.tried = append(c.trail.tried, attempt{m, why})
	}
}

// turnsTaken is how many turns of a group this walk would have taken by now.
func (c *choice) turnsTaken(g *group) (n uint64) {
	for i := range c.trail.steps {
		if c.trail.steps[i].group == g && c.trail.steps[i].verdict == groupEntered {
			n++
		}
	}
	return n
}

// handOn has the choice go on as the owner of the connection does when the member that another worker chose cannot take it: from the
// beginning, with a turn of its own.
func (p *peek) handOn(c *choice, v *virtual) {
	if !p.handedOn {
		return
	}
	p.handedOn = false
	c.why = NoMember
	c.want.pool, c.want.strict = nil, v.persistence.OnFull == PersistenceStay
	c.enterPool(v.pool)
}
