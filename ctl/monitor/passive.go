package monitor

import (
	"errors"
	"fmt"
	"time"
)

// PassiveConfig is when live traffic takes a member out of service, and for how long. The zero value never does; start
// from DefaultPassive. It is comparable.
type PassiveConfig struct {
	// Consecutive is how many handshakes in a row may fail; 0: off, else 1 to 1,000,000; default 5. What is fed are
	// counts of a period, in which the order is not known: a period with a completed handshake ends the row.
	Consecutive int
	// Rate is the fraction of handshakes within Window that may fail, if there were at least MinHandshakes; 0: off,
	// else up to 1; default off. Window is 1 s to 1 h, default 10 s; MinHandshakes 1 to 1,000,000, default 20.
	Rate          float64
	Window        time.Duration
	MinHandshakes int
	// IgnoreResets counts only unanswered handshakes as failed. A reset is a failure otherwise: nothing listens.
	IgnoreResets bool
	// HoldMin is the first hold-off, 1 s to 24 h, default 5 s. Each further one that no passed probation separates is
	// twice as long, up to HoldMax, at most 24 h, default 1 h.
	HoldMin, HoldMax time.Duration
	// Probation follows a hold-off: 0 to 24 h, default 30 s. In it ProbationFailures in a row, 1 to 1,000,000, default
	// 1, bring the next hold-off. It is passed at its end, once a handshake was completed in it; with 0 that is all.
	Probation         time.Duration
	ProbationFailures int
	// EndEarly lets the monitors end a hold-off: when they make the member up by successes that are all newer.
	EndEarly bool
}

// DefaultPassive is a PassiveConfig with every default.
func DefaultPassive() PassiveConfig {
	return PassiveConfig{
		Consecutive: 5, Window: 10 * time.Second, MinHandshakes: 20, HoldMin: 5 * time.Second, HoldMax: time.Hour,
		Probation: 30 * time.Second, ProbationFailures: 1,
	}
}

// Enabled says whether any threshold is set.
func (c PassiveConfig) Enabled() bool { return c.Consecutive > 0 || c.Rate > 0 }

// Validate returns all that is wrong, joined, or nil. What is not Enabled is not looked at further.
func (c PassiveConfig) Validate() error {
	const most = 1_000_000
	var p problems
	if c.Consecutive < 0 || c.Consecutive > most {
		p.at("consecutive", "passive: consecutive %d is out of range: 0 (off) to %d", c.Consecutive, most)
	}
	if !(c.Rate >= 0 && c.Rate <= 1) { // a NaN is neither
		p.at("rate", "passive: rate %v is out of range: 0 (off) to 1", c.Rate)
	}
	if !c.Enabled() {
		return errors.Join(p...)
	}
	if c.Rate > 0 && (c.Window < time.Second || c.Window > time.Hour) {
		p.at("window", "passive: window %v is out of range: 1s to 1h", c.Window)
	}
	if c.Rate > 0 && (c.MinHandshakes < 1 || c.MinHandshakes > most) {
		p.at("min-handshakes", "passive: minimum of handshakes %d is out of range: 1 to %d", c.MinHandshakes, most)
	}
	if c.HoldMin < time.Second || c.HoldMin > 24*time.Hour {
		p.at("hold-min", "passive: shortest hold-off %v is out of range: 1s to 24h", c.HoldMin)
	}
	if c.HoldMax < c.HoldMin || c.HoldMax > 24*time.Hour {
		p.at("hold-max hold-min", "passive: longest hold-off %v is out of range: the shortest, %v, to 24h", c.HoldMax, c.HoldMin)
	}
	if c.Probation < 0 || c.Probation > 24*time.Hour {
		p.at("probation", "passive: probation %v is out of range: 0 to 24h", c.Probation)
	}
	if c.ProbationFailures < 1 || c.ProbationFailures > most {
		p.at("probation-failures", "passive: failures in probation %d is out of range: 1 to %d", c.ProbationFailures, most)
	}
	return errors.Join(p...)
}

// Handshakes are what workers counted for one member in one period: TCP and SCTP connections that the member
// completed, left unanswered until the handshake's timeout, or reset.
type Handshakes struct{ Completed, Unanswered, Reset int }

// PassiveState is what live traffic makes of a member.
type PassiveState uint8

// The states of Passive.
const (
	PassiveOK        PassiveState = iota
	PassiveHeld                   // down until the hold-off ends
	PassiveProbation              // up again, and judged more strictly
)

// String is "ok", "held" or "probation".
func (s PassiveState) String() string { return [...]string{"ok", "held", "probation"}[s] }

// Passive judges one member by its live traffic. It is a value without clock or lock: its owner gives the time, which
// must not go backwards. The zero value with a configuration that is not Enabled is always OK.
//
//	        threshold               hold-off over, or ended early
//	OK ───────────────────▶ held ─────────────────────────────────▶ probation ──▶ OK, hold-off back to HoldMin
//	                          ▲                                        │ passed
//	                          └────────── failures, twice as long ─────┘
type Passive struct {
	config PassiveConfig
	state  PassiveState
	until  time.Time     // held: end of the hold-off; probation: its earliest end
	hold   time.Duration // the last hold-off; 0: none since the last passed probation
	cause  string        // of the last hold-off
	seenOK bool          // probation: a handshake was completed

	row     Handshakes // failed in a row, by kind
	buckets [passiveBuckets]Handshakes
	latest  int64 // number of the bucket that is filled, since the epoch of the clock
}

// passiveBuckets cut the window: what leaves it does so a tenth at a time.
const passiveBuckets = 10

// NewPassive returns a judge in state OK.
func NewPassive(c PassiveConfig) Passive { return Passive{config: c} }

// Configure changes the configuration. A hold-off under way goes on, unless passive judging is turned off.
func (p *Passive) Configure(c PassiveConfig) {
	if !c.Enabled() || c.Window != p.config.Window {
		p.forget()
	}
	p.config = c
	if !c.Enabled() {
		*p = Passive{config: c}
	}
	p.hold = min(p.hold, c.HoldMax)
}

// State is the state; Tick brings it up to date.
func (p *Passive) State() PassiveState { return p.state }

// Cause says why the member was held off last.
func (p *Passive) Cause() string { return p.cause }

// Until is the end of the hold-off if held, the earliest end of probation in probation, and else zero.
func (p *Passive) Until() time.Time { return p.until }

// Hold is the length of the last hold-off, 0 if none counts any more.
func (p *Passive) Hold() time.Duration { return p.hold }

// Observe takes the counts of the period that ends now and says whether the state changed. What is fed while held is
// ignored: it began before. For the same reason, counts in probation should be of connections begun in it.
func (p *Passive) Observe(h Handshakes, now time.Time) (changed bool) {
	if !p.config.Enabled() {
		return false
	}
	before, until := p.state, p.until
	p.Tick(now)
	if p.config.IgnoreResets {
		h.Reset = 0
	}
	if p.state == PassiveHeld || h == (Handshakes{}) {
		return p.state != before
	}
	if h.Completed > 0 {
		p.row = Handshakes{}
	} else {
		p.row.Unanswered += h.Unanswered
		p.row.Reset += h.Reset
	}
	failed := p.row.Unanswered + p.row.Reset
	p.fill(h, now)
	switch sum := p.window(); {
	case p.state == PassiveProbation && failed >= p.config.ProbationFailures:
		p.holdOff(now, fmt.Sprintf("%s in a row in probation", p.row.failures()))
	case p.config.Consecutive > 0 && failed >= p.config.Consecutive:
		p.holdOff(now, fmt.Sprintf("%s in a row", p.row.failures()))
	case p.config.Rate > 0 && sum.all() >= p.config.MinHandshakes && float64(sum.Unanswered+sum.Reset) >= p.config.Rate*float64(sum.all()):
		p.holdOff(now, fmt.Sprintf("%s of %d within %v", sum.failures(), sum.all(), p.config.Window))
	case p.state == PassiveProbation && h.Completed > 0:
		p.seenOK = true
		p.Tick(now)
	}
	return p.state != before || p.until != until // a hold-off may follow on one that was over
}

// Tick ends a hold-off or a probation whose time is over, and says whether the state changed.
func (p *Passive) Tick(now time.Time) (changed bool) {
	switch {
	case p.state == PassiveHeld && !now.Before(p.until):
		// Probation runs from the end that was due, however late we look.
		p.probation(p.until)
		p.Tick(now)
	case p.state == PassiveProbation && p.seenOK && !now.Before(p.until):
		p.state, p.until, p.hold = PassiveOK, time.Time{}, 0
	default:
		return false
	}
	return true
}

// EndHold ends a hold-off before its time, and says whether there was one.
func (p *Passive) EndHold(now time.Time) (changed bool) {
	if p.state != PassiveHeld {
		return false
	}
	p.probation(now)
	return true
}

func (p *Passive) probation(now time.Time) {
	p.state, p.until, p.seenOK = PassiveProbation, now.Add(p.config.Probation), false
	p.forget()
}

func (p *Passive) holdOff(now time.Time, why string) {
	p.hold = min(max(2*p.hold, p.config.HoldMin), p.config.HoldMax)
	p.state, p.until = PassiveHeld, now.Add(p.hold)
	p.cause = fmt.Sprintf("%s, held off for %v", why, p.hold)
	p.forget()
}

// forget drops all counts.
func (p *Passive) forget() {
	p.row, p.buckets = Handshakes{}, [passiveBuckets]Handshakes{}
}

// fill adds to the bucket of now, after emptying those whose time has passed.
func (p *Passive) fill(h Handshakes, now time.Time) {
	if p.config.Rate <= 0 {
		return
	}
	number := now.UnixNano() / int64(p.config.Window/passiveBuckets)
	if number-p.latest >= passiveBuckets || number < p.latest {
		p.buckets, p.latest = [passiveBuckets]Handshakes{}, number
	}
	for p.latest < number {
		p.latest++
		p.buckets[p.latest%passiveBuckets] = Handshakes{}
	}
	b := &p.buckets[number%passiveBuckets]
	b.Completed += h.Completed
	b.Unanswered += h.Unanswered
	b.Reset += h.Reset
}

func (p *Passive) window() (sum Handshakes) {
	for _, b := range p.buckets {
		sum.Completed += b.Completed
		sum.Unanswered += b.Unanswered
		sum.Reset += b.Reset
	}
	return sum
}

func (h Handshakes) all() int { return h.Completed + h.Unanswered + h.Reset }

// failures is such as "3 handshakes unanswered, 2 reset".
func (h Handshakes) failures() string {
	switch {
	case h.Reset == 0:
		return fmt.Sprintf("%s unanswered", handshakes(h.Unanswered))
	case h.Unanswered == 0:
		return fmt.Sprintf("%s reset", handshakes(h.Reset))
	}
	return fmt.Sprintf("%s unanswered, %d reset", handshakes(h.Unanswered), h.Reset)
}

func handshakes(n int) string {
	if n == 1 {
		return "1 handshake"
	}
	return fmt.Sprintf("%d handshakes", n)
}
