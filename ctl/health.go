package ctl

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"sluice/ctl/monitor"
	"sluice/engine"
)

// health is what is known about the members: what the monitors say and what the operator has ordered. It turns both into the
// members' states and tells the workers, at once:
//
//	monitors ─▶ Checker ─▶ verdict ─┐
//	handshakes, each second ─▶      ├─▶ state ─▶ engine.PostMembers ─▶ every worker acknowledges
//	API ─▶ order, kept in a file ───┘
//
// Verdicts do not go through the goroutine of watch: that may be at something that takes longer. The lock makes one sequence of
// verdicts, orders, and the configurations that are compiled with them. Workers are told without it: what they hear last is
// the latest, and a configuration that is put in force meanwhile has it too.
type health struct {
	log     *slog.Logger
	checker *monitor.Checker

	moved   chan struct{} // the workers go by changes; capacity 1
	telling telling

	mu       sync.Mutex // guards all below
	engine   *engine.Engine
	members  map[memberKey]*memberHealth
	orders   *orderFile
	changes  []engine.MemberChange // that the workers have not been told
	events   []monitor.Event       // that led to them
	took     latencies
	inherits map[memberKey]verdictNote // of a predecessor
	observed map[memberKey]engine.ServiceStats
}

type memberKey struct{ pool, member string }

// checked is the name by which the Checker knows a member; names have no slash.
func (k memberKey) checked() string { return k.pool + "/" + k.member }

// memberHealth is one member.
type memberHealth struct {
	address netip.AddrPort
	id      uint32 // in the engine; 0: not compiled yet
	onDown  engine.EndPolicy

	verdict monitor.Verdict
	cause   string
	since   time.Time
	changes uint64 // of the verdict
	order   *memberOrder
	enabled time.Time // when the last order was taken back
	upSince uint64    // on the engine's clock; 0: from the beginning
	kind    engine.MemberKind
}

// verdictNote is a verdict that a successor goes on with.
type verdictNote struct {
	Pool, Member string
	Address      netip.AddrPort
	Verdict      monitor.Verdict
	Cause        string
	Since        time.Time
}

func newHealth(log *slog.Logger) *health {
	return &health{log: log, members: map[memberKey]*memberHealth{}, observed: map[memberKey]engine.ServiceStats{}, moved: make(chan struct{}, 1), telling: newTelling()}
}

// state is the kind that follows from order and verdict.
func (m *memberHealth) state() engine.MemberKind {
	switch {
	case m.order != nil && m.order.Action == OrderDrain:
		return engine.MemberDraining
	case m.order != nil:
		return engine.MemberDisabled
	case m.verdict != monitor.Up:
		return engine.MemberDown
	}
	return engine.MemberUp
}

// compile makes a configuration with the states that hold, and notes the members' ids.
func (h *health) compile(f *File, spec *engine.Spec, dict *engine.Dictionary) (*engine.Config, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range f.Pools {
		p := &f.Pools[i]
		for j := range p.Members {
			m := h.member(p, &p.Members[j])
			h.orders.applyWeight(memberKey{p.Name, p.Members[j].Name}, p.Members[j].Weight, &spec.Pools[i].Members[j])
			spec.Pools[i].Members[j].State = engine.MemberState{Kind: m.kind, Since: m.upSince}
		}
	}
	h.compileVirtuals(spec)
	cfg, err := engine.NewConfig(*spec, dict)
	if err != nil {
		return nil, err
	}
	for _, p := range cfg.Pools() {
		for i := range p.Members {
			h.members[memberKey{p.Name, p.Members[i].Name}].id = p.Members[i].ID
		}
	}
	return cfg, nil
}

// member is what is known of a member of the file; one that is new, or elsewhere now, begins as its pool says.
func (h *health) member(p *Pool, c *Member) *memberHealth {
	k := memberKey{p.Name, c.Name}
	m := h.members[k]
	if m == nil || m.address != c.Address {
		m = &memberHealth{address: c.Address, verdict: monitor.Up, cause: "starts up", since: time.Now()}
		if p.StartUp == StartUpChecking && len(p.Monitors) > 0 {
			m.verdict, m.cause = monitor.Checking, "starts checking"
		}
		if n, ok := h.inherits[k]; ok && n.Address == c.Address {
			m.verdict, m.cause, m.since = n.Verdict, n.Cause, n.Since
		}
		delete(h.inherits, k)
		m.order = h.orders.of(k)
		m.kind = m.state()
		if h.engine != nil {
			m.upSince = h.engine.Now() // new in an engine that serves
		}
		h.members[k] = m
	}
	m.onDown = p.OnDown.compile()
	return m
}

// begin starts the monitors. The engine runs.
func (h *health) begin(f *File, e *engine.Engine) error {
	c, err := monitor.New(context.Background(), monitor.Options{OnMember: h.changed, OnMonitor: h.noted, Seed: uint64(time.Now().UnixNano())})
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.engine, h.checker = e, c
	for _, m := range h.members {
		if m.order != nil && m.order.Action == OrderForceOff { // connections that were adopted
			h.change(m, engine.EndReset)
		}
	}
	h.mu.Unlock()
	go h.acknowledge()
	return errors.Join(h.flush(), h.follow(f))
}

// prepareMonitors looks at what monitors and hooks need beside the file, such as certificates.
func (f *File) prepareMonitors() error {
	var errs []error
	for i := range f.Monitors {
		if _, err := monitor.NewProber(f.Monitors[i]); err != nil {
			errs = append(errs, f.problem(f.problemKey(fmt.Sprintf("monitors[%d]", i), err), err))
		}
	}
	return errors.Join(append(errs, f.prepareHooks())...)
}

// follow gives the Checker the members of a file that is in force, and forgets those that it does not have.
func (h *health) follow(f *File) error {
	ports := f.servicePorts()
	var list []monitor.Member
	have := map[memberKey]bool{}
	h.mu.Lock()
	for i := range f.Pools {
		p := &f.Pools[i]
		var monitors []*monitor.Monitor
		for _, name := range p.Monitors {
			monitors = append(monitors, f.Monitor(name))
		}
		for j := range p.Members {
			k := memberKey{p.Name, p.Members[j].Name}
			have[k] = true
			list = append(list, monitor.Member{
				Name: k.checked(), Address: p.Members[j].Target(ports[p.Name]), Monitors: monitors, Need: int(p.MonitorsNeeded),
				StartUp: h.member(p, &p.Members[j]).verdict == monitor.Up, Passive: p.Passive,
			})
		}
	}
	for k := range h.members {
		if !have[k] {
			delete(h.members, k)
			delete(h.observed, k)
		}
	}
	err := errors.Join(h.orders.keep(func(k memberKey) bool { return have[k] }), h.orders.keepVirtuals(f))
	h.mu.Unlock()
	if err != nil {
		h.log.Warn("orders for what is gone are still in the file", "error", err)
	}
	return h.checker.Apply(list)
}

// revert takes the verdicts from the monitors again, after a configuration that was not put in force.
func (h *health) revert() {
	list := h.checker.Members()
	h.mu.Lock()
	for _, s := range list {
		if m := h.members[keyOfChecked(s.Member)]; m != nil && m.verdict != s.Verdict {
			m.verdict, m.cause, m.since = s.Verdict, s.Cause, s.Since
			h.change(m, engine.EndNone)
		}
	}
	h.mu.Unlock()
	if err := h.flush(); err != nil {
		h.log.Error("the members' states could not be told to the workers", "error", err)
	}
}

// end ends the monitors.
func (h *health) end() error {
	if h == nil || h.checker == nil {
		return nil
	}
	err := h.checker.Close()
	if err == nil { // no callback comes any more
		close(h.telling.ended)
	}
	return err
}

// changed is called by the Checker for each change of a member's verdict.
func (h *health) changed(e monitor.Event) {
	h.mu.Lock()
	k := keyOfChecked(e.Member)
	if m := h.members[k]; m != nil {
		m.verdict, m.cause, m.since = e.To, e.Cause, e.At
		m.changes++
		end := engine.EndNone
		if e.To == monitor.Down {
			end = m.onDown
		}
		h.change(m, end)
		h.events = append(h.events, e)
	}
	h.mu.Unlock()
	h.post()
}

// logEvent writes a change of verdict into the log. took is the time until the last worker went by it.
func (h *health) logEvent(e *monitor.Event, took time.Duration, err error) {
	level, k := slog.LevelInfo, keyOfChecked(e.Member)
	if e.To == monitor.Down {
		level = slog.LevelWarn
	}
	args := []any{"pool", k.pool, "member", k.member, "was", e.From.String(), "cause", e.Cause, "acknowledged_in", took}
	if err != nil {
		level = slog.LevelError
		args = append(args, "error", err)
	}
	h.log.Log(context.Background(), level, "member "+e.To.String(), args...)
}

// noted is called for each change of one monitor's verdict about one member.
func (h *health) noted(e monitor.Event) {
	k := keyOfChecked(e.Member)
	h.log.Debug("monitor", "monitor", e.Monitor, "pool", k.pool, "member", k.member, "was", e.From.String(), "is", e.To.String(), "cause", e.Cause)
}

func keyOfChecked(name string) memberKey {
	for i := range len(name) {
		if name[i] == '/' {
			return memberKey{name[:i], name[i+1:]}
		}
	}
	return memberKey{member: name}
}

// change notes for flush that the workers are to go by the state of a member, if it is another than before or connections are
// to end. The caller has the lock.
func (h *health) change(m *memberHealth, end engine.EndPolicy) {
	kind := m.state()
	if kind == m.kind && end == engine.EndNone {
		return
	}
	if kind == engine.MemberUp && m.kind != kind && h.engine != nil {
		m.upSince = h.engine.Now()
	}
	m.kind = kind
	if m.id != 0 { // else the configuration will have it
		h.changes = append(h.changes, engine.MemberChange{ID: m.id, State: engine.MemberState{Kind: kind, Since: m.upSince}, End: end})
	}
}

// watchTraffic feeds passive monitoring, where there is any.
func (s *Server) watchTraffic(ctx context.Context) {
	s.mu.RLock()
	f := s.file
	s.mu.RUnlock()
	if slices.ContainsFunc(f.Pools, func(p Pool) bool { return p.Passive.Enabled() }) {
		s.observeHandshakes(ctx, f, time.Now())
	}
}

// observeHandshakes gives the Checker the handshakes since the last time.
func (s *Server) observeHandshakes(ctx context.Context, f *File, now time.Time) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	snaps, err := s.engine.Snapshots(ctx)
	if err != nil {
		return // the next time
	}
	h := s.health
	seen := map[memberKey]monitor.Handshakes{}
	h.mu.Lock()
	for i := range f.Pools {
		p := &f.Pools[i]
		for j := range p.Members {
			k := memberKey{p.Name, p.Members[j].Name}
			m := h.members[k]
			if m == nil || m.id == 0 || !p.Passive.Enabled() {
				continue
			}
			sum := sumService(snaps, nodesOf, m.id)
			if was, ok := h.observed[k]; ok && sum.Answered >= was.Answered && sum.Refused >= was.Refused && sum.Unanswered >= was.Unanswered {
				seen[k] = monitor.Handshakes{
					Completed: int(sum.Answered - was.Answered), Reset: int(sum.Refused - was.Refused), Unanswered: int(sum.Unanswered - was.Unanswered),
				}
			}
			h.observed[k] = sum
		}
	}
	h.mu.Unlock()
	for k, n := range seen {
		h.checker.Observe(k.checked(), n, now)
	}
}

// verdicts are what a successor goes on with.
func (h *health) verdicts() (out []verdictNote) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for k, m := range h.members {
		out = append(out, verdictNote{k.pool, k.member, m.address, m.verdict, m.cause, m.since})
	}
	return out
}

// inherit takes what a predecessor knew.
func (h *health) inherit(list []verdictNote) {
	h.inherits = map[memberKey]verdictNote{}
	for _, n := range list {
		h.inherits[memberKey{n.Pool, n.Member}] = n
	}
}

// latencies are the last times from a verdict to the last worker's acknowledgement.
type latencies struct {
	list []time.Duration
	n    uint64
}

const latenciesKept = 4096

func (l *latencies) add(d time.Duration) {
	if len(l.list) < latenciesKept {
		l.list = append(l.list, d)
	} else {
		l.list[l.n%latenciesKept] = d
	}
	l.n++
}

// quantile is 0 if there are none.
func (l *latencies) quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
