package monitor

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// PairStatus is what is known about one member by one monitor, for lists.
type PairStatus struct {
	Member  string
	Monitor string
	Type    Type
	Address netip.AddrPort // that is probed, with the monitor's port

	Verdict Verdict
	Since   time.Time // of the last change, or of the beginning
	Cause   string    // of the last change
	Changes int       // of the verdict

	Last        Result  // of the last probe; At is zero before the first
	LastOutcome Outcome // of the row of results; Inconclusive before the first
	Consecutive int     // results in that row

	Probes       uint64 // that told something
	Failures     uint64 // of them
	Inconclusive uint64 // probes that could not be made

	Running bool      // a probe is under way, or waits for a place
	Next    time.Time // when the next probe is due; zero while Running
}

// MemberStatus is what is known about one member, for lists.
type MemberStatus struct {
	Member  string
	Address netip.AddrPort
	Verdict Verdict
	Since   time.Time
	Cause   string
	Changes int
	Active  Verdict // of the monitors alone, when they last were of one mind

	Passive      PassiveState
	PassiveUntil time.Time // end of the hold-off, or earliest end of probation
	PassiveCause string    // of the last hold-off
}

// Statistics are about a Checker as a whole.
type Statistics struct {
	Members int
	Pairs   int
	Started uint64        // probes
	Running int           // probes under way
	Peak    int           // the most of them at once, ever
	Waiting int           // pairs that are due and have no place: the limit is too low if this stays above 0
	Latest  time.Duration // the longest that a probe began after it was due
	Events  int           // not delivered yet
}

// Pairs lists all pairs, by member and monitor.
func (c *Checker) Pairs() []PairStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []PairStatus
	for _, m := range c.members {
		for _, p := range m.pairs {
			list = append(list, p.view())
		}
	}
	slices.SortFunc(list, func(a, b PairStatus) int {
		return cmp.Or(cmp.Compare(a.Member, b.Member), cmp.Compare(a.Monitor, b.Monitor))
	})
	return list
}

func (p *pair) view() PairStatus {
	s := p.status
	s.Member, s.Monitor, s.Type, s.Address = p.member.config.Name, p.monitor.Name, p.monitor.Type, p.address
	s.Verdict, s.LastOutcome, s.Consecutive = p.verdict, p.streak.outcome, p.streak.length
	if s.Running = p.index == 0; !s.Running {
		s.Next = p.at
	}
	return s
}

// Members lists all members, by name.
func (c *Checker) Members() []MemberStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	list := make([]MemberStatus, 0, len(c.members))
	for _, m := range c.members {
		list = append(list, m.view(now))
	}
	slices.SortFunc(list, func(a, b MemberStatus) int { return cmp.Compare(a.Member, b.Member) })
	return list
}

// Member is the status of one member.
func (c *Checker) Member(name string) (MemberStatus, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.members[name]
	if m == nil {
		return MemberStatus{}, false
	}
	return m.view(time.Now()), true
}

func (m *member) view(now time.Time) MemberStatus {
	passive := m.passive // a copy: a list changes nothing
	if passive.State() != PassiveHeld {
		passive.Tick(now)
	}
	return MemberStatus{
		Member: m.config.Name, Address: m.config.Address, Verdict: m.verdict, Since: m.since, Cause: m.cause, Changes: m.changes,
		Active: m.active, Passive: passive.State(), PassiveUntil: passive.Until(), PassiveCause: passive.Cause(),
	}
}

// Statistics returns the counters.
func (c *Checker) Statistics() Statistics {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Statistics{
		Members: len(c.members), Started: c.started, Running: c.running, Peak: c.peak, Waiting: len(c.ready), Latest: c.latest,
		Events: len(c.queue),
	}
	for _, m := range c.members {
		s.Pairs += len(m.pairs)
	}
	return s
}

// portOf is the address with another port.
func portOf(a netip.AddrPort, port uint16) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), port) }
