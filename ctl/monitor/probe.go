package monitor

import (
	"context"
	"fmt"
	"net/netip"
	"time"
)

// Outcome is what a probe tells.
type Outcome uint8

// The outcomes of a probe.
const (
	// Inconclusive: the probe could not be made, for a reason on this host (no descriptors left, the source address is
	// gone, the program is missing). It says nothing about the member and so changes no verdict.
	Inconclusive Outcome = iota
	Success
	Failure
)

// String is "inconclusive", "success" or "failure".
func (o Outcome) String() string {
	switch o {
	case Success:
		return "success"
	case Failure:
		return "failure"
	}
	return "inconclusive"
}

// Result is the result of one probe.
type Result struct {
	Outcome Outcome
	Cause   string        // one printable line of at most 200 bytes: what was wrong or, on success, what was seen
	At      time.Time     // when it was known
	Latency time.Duration // of the whole probe
}

// Target is what is probed.
type Target struct {
	Member  string         // the member's name, for exec
	Address netip.AddrPort // the port may be 0 where the type has none or the monitor sets it
}

// Prober makes the probes of one monitor. It has no state that changes and may be used by many goroutines at once.
type Prober struct {
	monitor Monitor
	method  method
}

// method is a type of monitors. run does one probe: it returns what was seen or what went wrong, keeps a.stage up to
// date, and ends soon after ctx.
type method interface {
	run(ctx context.Context, a *attempt) (seen string, err error)
}

// attempt is one probe under way.
type attempt struct {
	monitor *Monitor
	target  Target
	addr    netip.AddrPort // with the monitor's port; IPv4 never in IPv6 form
	stage   string         // what is waited for, for the cause of a timeout
}

// NewProber validates a monitor and reads the files that it names.
func NewProber(m Monitor) (*Prober, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	p := &Prober{monitor: m}
	var err error
	switch m.Type {
	case ICMP:
		p.method = icmpMethod{size: m.ICMP.Size}
	case TCP:
		p.method = tcpMethod{newExpectation(m.TCP)}
	case UDP:
		p.method = udpMethod{newExpectation(m.UDP)}
	case HTTP, HTTPS:
		p.method, err = newHTTPMethod(&m)
	case DNS:
		p.method = newDNSMethod(m.DNS)
	case Exec:
		p.method, err = newExecMethod(&m)
	}
	if err != nil {
		return nil, fmt.Errorf("monitor %q: %w", m.Name, err)
	}
	return p, nil
}

// Probe probes once. It ends with the monitor's timeout or, soon, with ctx; a probe that ctx ended is inconclusive.
func (p *Prober) Probe(ctx context.Context, t Target) Result {
	a := &attempt{monitor: &p.monitor, target: t, addr: netip.AddrPortFrom(t.Address.Addr().Unmap(), t.Address.Port())}
	if p.monitor.Port != 0 {
		a.addr = portOf(a.addr, p.monitor.Port)
	}
	start := time.Now()
	limited, cancel := context.WithTimeout(ctx, p.monitor.Timeout)
	defer cancel()
	seen, err := p.method.run(limited, a)
	r := Result{At: time.Now()}
	r.Latency = r.At.Sub(start)
	switch {
	case err == nil:
		r.Outcome, r.Cause = Success, oneLine(seen)
	case ctx.Err() != nil:
		r.Outcome, r.Cause = Inconclusive, "the probe was cancelled"
	default:
		r.Outcome, r.Cause = a.judge(err, limited.Err() != nil)
	}
	return r
}
