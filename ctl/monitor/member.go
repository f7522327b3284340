package monitor

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// The most common values of Member.Need.
const (
	All = 0
	Any = 1
)

// Member is what the Checker judges. It is a value: whoever hands it over does not change it any more.
type Member struct {
	Name     string         // unique; in events, lists and SLUICE_MEMBER, such as "web/192.0.2.1:80"
	Address  netip.AddrPort // port 0 where the monitors need none or set it
	Monitors []*Monitor     // names are unique; none: only Passive judges
	// Need is how many monitors must be up: All (0), Any (1), or at least that many.
	Need int
	// StartUp makes a new member up until its monitors say otherwise. Else it starts as Checking, which takes no new
	// connections, until enough monitors are up.
	StartUp bool
	Passive PassiveConfig
}

// Validate returns all that is wrong with a member and its monitors, joined, or nil.
func (m *Member) Validate() error {
	var p problems
	if m.Name == "" {
		p.add("the name is empty")
	}
	if !m.Address.Addr().IsValid() {
		p.add("the address is missing")
	}
	if m.Need < 0 || m.Need > len(m.Monitors) && m.Need > Any {
		p.add("%d monitors must be up, but it has %d: want 0 (all) to %d", m.Need, len(m.Monitors), len(m.Monitors))
	}
	seen := map[string]bool{}
	for i, mon := range m.Monitors {
		if mon == nil {
			p.add("monitor %d is nil", i)
			continue
		}
		if seen[mon.Name] {
			p.add("two monitors are named %q", shorten(mon.Name))
		}
		seen[mon.Name] = true
		if mon.needsPort() && mon.Port == 0 && m.Address.Port() == 0 {
			p.add("monitor %q: %s needs a port, and neither the member nor the monitor has one", shorten(mon.Name), mon.Type)
		}
		if err := mon.Validate(); err != nil {
			p = append(p, err)
		}
	}
	if err := m.Passive.Validate(); err != nil {
		p = append(p, err)
	}
	for i, err := range p {
		p[i] = fmt.Errorf("member %q: %w", shorten(m.Name), err)
	}
	return errors.Join(p...)
}

// Combine is the verdict of monitors together. Those that are Checking may still turn out either way, so the result is
// Checking as long as they could change it. No monitors at all are up.
func Combine(need int, verdicts []Verdict) Verdict {
	var count [3]int
	for _, v := range verdicts {
		count[v]++
	}
	if need == All {
		need = len(verdicts)
	}
	need = min(need, len(verdicts))
	switch {
	case count[Up] >= need:
		return Up
	case count[Up]+count[Checking] < need:
		return Down
	}
	return Checking
}

// member is a Member with what is known about it. The Checker's lock guards it.
type member struct {
	entry   // due at the end of a hold-off
	config  Member
	pairs   []*pair // in the order of config.Monitors
	passive Passive
	active  Verdict // of the monitors, when they last were of one mind; before, what the member started with

	verdict Verdict
	since   time.Time
	cause   string
	changes int
	removed bool
}

// recovered says whether the monitors may end a hold-off, and would make the member up by newer successes alone.
func (m *member) recovered() bool {
	if !m.config.Passive.EndEarly || m.passive.State() != PassiveHeld || len(m.pairs) == 0 {
		return false
	}
	verdicts := make([]Verdict, len(m.pairs))
	for i, p := range m.pairs {
		verdicts[i] = Down
		if p.verdict == Up && p.fresh >= p.monitor.Rise {
			verdicts[i] = Up
		}
	}
	return Combine(m.config.Need, verdicts) == Up
}

// judge brings the verdict up to date and says whether it changed, and from which. why is what led to it.
func (m *member) judge(now time.Time, why string) (from Verdict, changed bool) {
	verdicts := make([]Verdict, len(m.pairs))
	for i, p := range m.pairs {
		verdicts[i] = p.verdict
	}
	if v := Combine(m.config.Need, verdicts); v != Checking { // else what was decided before still holds
		m.active = v
	}
	from = m.verdict
	to := m.active
	if m.passive.State() == PassiveHeld {
		to = Down
	}
	if to == from {
		return from, false
	}
	m.verdict, m.since, m.cause = to, now, why
	m.changes++
	return from, true
}
