package monitor

import (
	"context"
	"net/netip"
	"time"
)

// Verdict is what is thought of a member, by one monitor or by all.
type Verdict uint8

// The verdicts.
const (
	Checking Verdict = iota // not known yet: no new connections
	Up
	Down
)

// String is "checking", "up" or "down".
func (v Verdict) String() string { return [...]string{"checking", "up", "down"}[v] }

// Event is a change of a verdict.
type Event struct {
	Member   string
	Monitor  string // empty for the verdict of the member
	Address  netip.AddrPort
	From, To Verdict
	Cause    string // one line, named: "connection refused", "status 503, expected 200-399"
	At       time.Time
	Latency  time.Duration // of the probe that decided, 0 if none did
}

// streak is the rule of rise and fall: only results in a row count.
type streak struct {
	outcome Outcome // Success or Failure; Inconclusive before the first
	length  int
}

// add takes a result and gives the new verdict. An inconclusive one neither counts nor ends a row.
func (s *streak) add(o Outcome, v Verdict, rise, fall int) Verdict {
	switch {
	case o == Inconclusive:
		return v
	case o == s.outcome:
		s.length++
	default:
		s.outcome, s.length = o, 1
	}
	switch {
	case o == Success && s.length >= rise:
		return Up
	case o == Failure && s.length >= fall:
		return Down
	}
	return v
}

// pair is one member with one monitor. The Checker's lock guards it; probe and target never change.
type pair struct {
	entry
	member  *member
	monitor *Monitor
	address netip.AddrPort
	prober  prober

	verdict Verdict
	streak  streak
	fresh   int // successes in a row since the member was held off

	cancel  context.CancelFunc // of the probe under way, or nil
	removed bool

	status PairStatus // the part that only lists show
}

// prober is what the Checker needs of a Prober; tests give their own.
type prober interface {
	Probe(ctx context.Context, t Target) Result
}

// take takes a result and says whether the verdict changed, and from which.
func (p *pair) take(r Result) (from Verdict, changed bool) {
	s := &p.status
	s.Last = r
	switch r.Outcome {
	case Success:
		s.Probes++
		p.fresh++
	case Failure:
		s.Probes++
		s.Failures++
		p.fresh = 0
	default:
		s.Inconclusive++
	}
	from = p.verdict
	p.verdict = p.streak.add(r.Outcome, from, p.monitor.Rise, p.monitor.Fall)
	if p.verdict == from {
		return from, false
	}
	s.Changes++
	s.Since, s.Cause = r.At, r.Cause
	return from, true
}

// interval is the time to the next probe, without jitter.
func (p *pair) interval() time.Duration {
	if p.verdict == Down && p.monitor.DownInterval != 0 {
		return p.monitor.DownInterval
	}
	return p.monitor.Interval
}
