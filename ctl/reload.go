package ctl

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// A reload is a difference: what the new file says as the old one did keeps its connections, counters and turns. What is
// new is known to the workers before traffic for it reaches them, and what is gone keeps reaching them until its last
// connection has ended.

// ReloadView is the answer to a reload.
type ReloadView struct {
	File       string   `json:"file"`
	Generation uint64   `json:"generation"`
	Changes    []Change `json:"changes"`
	AppliedUS  int64    `json:"applied_us"` // until the last worker had it
	Draining   int      `json:"draining"`   // members that are gone from the file and still have connections

	Scaled *ScaledView `json:"scaled,omitempty"` // if workers were

	Warnings []string `json:"warnings,omitempty"` // about the file, and what it means on this host
}

// ScaledView is what changed with the workers.
type ScaledView struct {
	Workers int   `json:"workers"`
	Moved   int   `json:"moved"` // connections
	Lost    int   `json:"lost"`  // connections that found no room
	TookUS  int64 `json:"took_us"`
}

// live are the keys below fixed sections that a reload may change.
var live = map[string]bool{
	"engine.out-of-window": true, "engine.steering": true, "engine.half-open-per-source": true, "engine.icmp-rate": true,
	// These put other workers in the place of those that run (scale.go).
	"engine.workers": true, "engine.cores": true, "engine.polling": true, "engine.connections": true,
}

// ErrNeedsRestart is returned by a reload that would change what an engine is built from.
var ErrNeedsRestart = errors.New("cannot be changed while the engine runs")

// NeedsRestart reports whether a reload refuses the change, because it is of what an engine is built from: memory, sockets,
// ports.
func (c Change) NeedsRestart() bool {
	section, key, _ := strings.Cut(c.Path, ".")
	port := strings.HasPrefix(section, "ports[")
	liveKey := port && (key == "mac" || key == "addresses" || key == "checksum" || strings.HasPrefix(key, "vlans[") && (strings.HasSuffix(key, "].mac") || strings.HasSuffix(key, "].addresses")))
	return !live[c.Path] && !liveKey && (section == "engine" || section == "control" || section == "log" || port)
}

// KeyNeedsRestart is NeedsRestart of a key of the file, such as ports[].queues, in whichever entry of a list.
func KeyNeedsRestart(path string) bool {
	return Change{Path: strings.ReplaceAll(path, "[]", "[x]")}.NeedsRestart()
}

// Key is a key of the file that holds a value.
type Key struct {
	Path    string // with [] for the entries of lists, such as ports[].queues
	Example string // a value of it, as YAML
}

// Keys are all keys of the file that hold values, as docs/CONFIG.md has them.
func Keys() (out []Key) {
	fileKeys.walk(func(path string, section describer) {
		_, docs := section.describe()
		for _, k := range docs {
			if k.kind != "mapping" && k.kind != "list" {
				out = append(out, Key{joinKey(path, k.name), k.example})
			}
		}
	}, "")
	return out
}

// fixed refuses changes of what an engine is built from: memory, sockets, ports. Nothing of the file is applied then.
func fixed(f *File, changes []Change) error {
	var errs []error
	for _, c := range changes {
		if !c.NeedsRestart() {
			continue
		}
		what := c.Kind
		if c.Kind == "changed" {
			what = c.Old + " > " + c.New
		}
		errs = append(errs, f.problem(c.Path, fmt.Errorf("%s: %w; restart it with this file, or take the change back", what, ErrNeedsRestart)))
	}
	return errors.Join(errs...)
}

// Reload reads the file again and applies what differs. On an error nothing has changed, but for a PartlyInForceError, and one that
// says that the former file could not be put back.
func (s *Server) Reload(ctx context.Context) (v *ReloadView, err error) {
	s.mu.RLock()
	name := s.file.Name
	s.mu.RUnlock()
	defer func() {
		if err != nil { // who sent a SIGHUP learns it here alone
			s.log.Error("reload failed", "file", name, "error", err)
		}
	}()
	f, err := Load(name)
	if err != nil {
		return nil, err
	}
	finished := make(chan scaled, 1)
	doErr := s.do(ctx, func(ctx context.Context) { v, err = s.change(ctx, f, finished) })
	if doErr != nil {
		return nil, doErr
	}
	if err == nil {
		if outcome := <-finished; outcome.err != nil {
			err = &PartlyInForceError{outcome.generation, outcome.err}
		} else {
			v.Scaled = outcome.view
		}
	}
	warnings := s.warn(f.Warnings(), f)
	if err != nil {
		return nil, err
	}
	v.Warnings = warnings
	s.log.Info("reloaded", "file", name, "generation", v.Generation, "changes", len(v.Changes), "applied_in", time.Duration(v.AppliedUS)*time.Microsecond)
	for _, c := range v.Changes {
		s.log.Debug("changed", "what", c.String())
	}
	return v, nil
}

// do has f run by the goroutine that configurations belong to, and waits.
func (s *Server) do(ctx context.Context, f func(context.Context)) error {
	done := make(chan struct{})
	select {
	case s.requests <- func(ctx context.Context) { defer close(done); f(ctx) }:
		<-done
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the engine's control is busy or ending: %w", ctx.Err())
	}
}

// applyTime bounds what a reload waits for the workers.
const applyTime = 2 * time.Second

// change puts f in force. What takes longer, a change of the workers, is told to finished.
func (s *Server) change(ctx context.Context, f *File, finished chan<- scaled) (*ReloadView, error) {
	ctx, cancel := context.WithTimeout(ctx, applyTime)
	defer cancel()
	changes := append([]Change{}, diff(s.file, f)...) // in JSON an empty list, not nothing
	if err := fixed(f, changes); err != nil {
		return nil, err
	}
	if err := f.checkLocalPorts(); err != nil {
		return nil, err
	}
	ways, err := f.newWays(s.ways, s.reach())
	if err != nil {
		return nil, err
	}
	plan, err := s.replan(f)
	if err != nil {
		return nil, err
	}
	if err := f.prepareMonitors(); err != nil {
		return nil, err
	}
	_, certs, err := f.prepareControl()
	if err != nil {
		return nil, err
	}
	mem, err := s.reserve(f, plan)
	if err != nil {
		return nil, err
	}
	file, oldWays, drain := s.file, s.ways, s.drain
	s.mu.Lock()
	s.file, s.ways = f, ways
	s.drainRemoved(file, &s.spec)
	s.mu.Unlock()
	took, err := s.put(ctx)
	if err != nil {
		s.mu.Lock()
		s.file, s.ways, s.drain = file, oldWays, drain
		s.mu.Unlock()
		_, again := s.put(context.WithoutCancel(ctx))
		s.health.revert()
		if again != nil {
			again = fmt.Errorf("and what was in force before could not be put back whole, so that some of either may be: %w; reload again, or restart", again)
		}
		return nil, errors.Join(err, again, freeAll(mem))
	}
	if err := s.health.follow(f); err != nil { // what could be wrong was looked at before
		s.log.Error("the monitors could not be changed", "error", err)
	}
	s.api.renew(certs)
	s.steer(s.engine.Config())
	v := &ReloadView{File: f.Name, Generation: s.generation, Changes: changes, AppliedUS: took.Microseconds(), Draining: len(s.drain.nodes)}
	s.scale(plan, mem, file.Engine, finished)
	return v, nil
}

// put gives the file to the workers, then to the XDP programs, then to the kernel.
func (s *Server) put(ctx context.Context) (time.Duration, error) {
	if err := s.resolveHops(); err != nil {
		return 0, err
	}
	cfg, rules, err := s.compile(s.plan.workers)
	if err != nil {
		return 0, err
	}
	took, err := s.engine.Apply(ctx, cfg)
	if err != nil {
		return 0, err
	}
	for i, p := range s.programs {
		if err := p.SetRules(rules[i]); err != nil {
			return 0, fmt.Errorf("port %s: %w", s.file.Ports[i].Name, err)
		}
	}
	return took, s.placeAddresses()
}

// newWays finds the routes to members that were not there before; the others keep theirs, even one that is gone for now.
func (f *File) newWays(old map[netip.Addr]way, ifaces []iface) (map[netip.Addr]way, error) {
	out := map[netip.Addr]way{}
	var errs []error
	onLink := f.onLinkMembers()
	for _, a := range f.memberAddrs() {
		if _, ok := f.staticHop(a); ok {
			continue
		}
		w, known := old[a]
		if !known {
			var err error
			if w, err = route(a, ifaces); err != nil {
				errs = append(errs, f.problem(f.memberKey(a), err))
				continue
			}
		}
		errs = append(errs, f.checkOnLink(a, w.via, onLink))
		out[a] = w
	}
	errs = append(errs, f.checkLiveSources(out, ifaces))
	return out, errors.Join(errs...)
}
