package monitor

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Apply makes the members those of the list. It is a diff, and all or nothing: on an error nothing has changed.
//
// A pair is known by the names of member and monitor. One that is as before keeps verdict, counters and schedule, even a
// probe under way; files that its monitor names are read anew. One whose monitor changed keeps its verdict and
// counters, begins its rows of results anew, and gets a new schedule. One whose member's address changed is new. A member
// keeps its verdict until its monitors decide otherwise: a monitor that is added to a member that is up does not
// take it out of service.
//
// Verdicts that follow from the change itself come as events. After Apply has returned, none begins about what was
// removed; a callback may still be under way.
func (c *Checker) Apply(members []Member) error { return c.change(members, true) }

// Set adds or changes members, by name, in the manner of Apply, and leaves all others as they are.
func (c *Checker) Set(members ...Member) error { return c.change(members, false) }

// Remove forgets members, by name; names that are not known are ignored.
func (c *Checker) Remove(names ...string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over() {
		return ErrClosed
	}
	for _, name := range names {
		if m := c.members[name]; m != nil {
			c.drop(m)
		}
	}
	return nil
}

func (c *Checker) change(members []Member, whole bool) error {
	probers, err := c.prepare(members)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.notify()
	if c.over() {
		return ErrClosed
	}
	named := make(map[string]bool, len(members))
	for i := range members {
		named[members[i].Name] = true
		c.put(&members[i], probers)
	}
	for name, m := range c.members {
		if whole && !named[name] {
			c.drop(m)
		}
	}
	return nil
}

func (c *Checker) over() bool { return c.closed || c.ctx.Err() != nil }

// prepare validates members and makes one prober for each monitor. It reads files, so it runs without the lock.
func (c *Checker) prepare(members []Member) (map[*Monitor]prober, error) {
	var errs []error
	named := make(map[string]bool, len(members))
	probers := map[*Monitor]prober{}
	for i := range members {
		m := &members[i]
		if named[m.Name] {
			errs = append(errs, fmt.Errorf("two members are named %q", shorten(m.Name)))
		}
		named[m.Name] = true
		if err := m.Validate(); err != nil {
			errs = append(errs, err)
			continue
		}
		for _, mon := range m.Monitors {
			if _, ok := probers[mon]; ok {
				continue
			}
			p, err := c.newProber(*mon)
			if err != nil {
				errs = append(errs, err)
			}
			probers[mon] = p
		}
	}
	return probers, errors.Join(errs...)
}

// put adds a member, or changes the one of that name.
func (c *Checker) put(config *Member, probers map[*Monitor]prober) {
	now := time.Now()
	m := c.members[config.Name]
	if m != nil && m.config.Address != config.Address {
		c.drop(m)
		m = nil
	}
	if m == nil {
		m = &member{passive: NewPassive(config.Passive), since: now, cause: "starts checking"}
		if config.StartUp {
			m.verdict, m.active, m.cause = Up, Up, "starts up"
		}
		c.members[config.Name] = m
	}
	m.config = *config
	m.config.Monitors = slices.Clone(config.Monitors)
	m.passive.Configure(config.Passive)
	if m.passive.State() != PassiveHeld {
		c.timetable.remove(m)
	}

	old := m.pairs
	m.pairs = make([]*pair, len(config.Monitors))
	for i, mon := range config.Monitors {
		var same *pair
		if j := slices.IndexFunc(old, func(p *pair) bool { return p.monitor.Name == mon.Name }); j >= 0 {
			same = old[j]
			old = slices.Delete(old, j, j+1)
		}
		m.pairs[i] = c.pair(m, mon, probers[mon], same, now)
	}
	for _, p := range old {
		c.dropPair(p)
	}
	why := "the configuration changed"
	if len(m.pairs) == 0 {
		why = "it has no monitors"
	}
	c.judge(m, now, why, 0)
}

// pair returns the pair for a member and a monitor: the same one if nothing changed, else a new one in its place.
func (c *Checker) pair(m *member, mon *Monitor, by prober, same *pair, now time.Time) *pair {
	if same != nil && same.monitor.Equal(mon) {
		same.monitor, same.prober = mon, by
		return same
	}
	p := &pair{member: m, monitor: mon, address: m.config.Address, prober: by}
	if mon.Port != 0 {
		p.address = portOf(p.address, mon.Port)
	}
	p.status.Since, p.status.Cause = now, "starts checking"
	if same != nil {
		p.verdict, p.status = same.verdict, same.status
		c.dropPair(same)
	}
	c.schedule(p, c.first(p, now))
	return p
}

func (c *Checker) drop(m *member) {
	m.removed = true
	c.timetable.remove(m)
	for _, p := range m.pairs {
		c.dropPair(p)
	}
	delete(c.members, m.config.Name)
}

func (c *Checker) dropPair(p *pair) {
	p.removed = true
	c.timetable.remove(p)
	if p.cancel != nil {
		p.cancel()
	}
}
