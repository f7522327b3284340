package ctl

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"slices"

	"sluice/engine"
	"sluice/flow"
)

// A reload that changes workers, their cores, their way of polling or the size of the table puts other workers in the place
// of those that run. It happens beside the goroutine of watch, which goes on telling the XDP programs that workers live.

// scaled is the outcome of a scaling.
type scaled struct {
	view *ScaledView // nil: there was nothing to scale
	err  error
	plan *plan
	mem  []tableMemory
	// Of the file and the one before it, for an error.
	generation uint64
	was        Engine
}

// replan is the plan for f, or nil if it needs no other workers.
func (s *Server) replan(f *File) (*plan, error) {
	p, err := f.plan(s.ifaces[:len(f.Ports)])
	if err != nil {
		return nil, err
	}
	p.frames = s.plan.frames // the memory stays
	if reflect.DeepEqual(p, s.plan) && f.Engine.Connections == s.file.Engine.Connections {
		return nil, nil
	}
	return p, nil
}

// scale begins to put the workers of p in place, with mem for their tables, if p is not nil. The file is in force by then; where
// workers are not changed all the same, was is what it said about them before.
func (s *Server) scale(p *plan, mem []tableMemory, was Engine, finished chan<- scaled) {
	if p == nil {
		finished <- scaled{}
		return
	}
	cfg, err := s.prepareScale(p, mem)
	if err != nil {
		o := scaled{err: err, plan: p, mem: mem, was: was, generation: s.engine.Config().Generation}
		s.seat(o)
		finished <- o
		return
	}
	outcome := make(chan scaled, 1)
	s.scaling = outcome
	s.keepClear(append(slices.Clone(s.plan.cores), p.cores...)) // the new ones come beside the old ones
	opt := s.seats(p, mem)
	generation := s.engine.Config().Generation
	go func() {
		done, err := s.engine.Scale(context.Background(), opt, cfg)
		o := scaled{err: err, plan: p, mem: mem, was: was, generation: generation}
		if err == nil {
			o.view = &ScaledView{Workers: p.workers, Moved: done.Moved, Lost: done.Lost, TookUS: done.Took.Microseconds()}
		}
		outcome <- o
		finished <- o
	}()
}

// reserve takes the memory of the tables that a plan for f wants: what of a change of the workers is likely to fail does so before
// anything of the file is in force.
func (s *Server) reserve(f *File, p *plan) ([]tableMemory, error) {
	if p == nil {
		return nil, nil
	}
	return s.newTables(f, p.workers, freshTable)
}

func freeAll(mem []tableMemory) error {
	var errs []error
	for i := range mem {
		errs = append(errs, mem[i].free())
	}
	return errors.Join(errs...)
}

func (s *Server) prepareScale(p *plan, mem []tableMemory) (*engine.Config, error) {
	cfg, _, err := s.compile(p.workers)
	if err != nil {
		return nil, err
	}
	for i := range mem {
		if mem[i].path == "" {
			continue
		}
		flow.SetReady(mem[i].Bytes)
		if err := mem[i].publish(); err != nil { // a successor reads it beside the old ones
			return nil, err
		}
	}
	return cfg, nil
}

// PartlyInForceError is returned by a reload whose file is in force but for what it says about workers.
type PartlyInForceError struct {
	Generation uint64 // of the configuration that is in force
	Err        error  // why workers were not changed
}

func (e *PartlyInForceError) Error() string {
	return fmt.Sprintf("the file is in force (generation %d), except for workers and the sizes of tables (engine.workers, cores, polling, connections, entries of persistences), which stay as they were: %v; "+
		"mend that and reload again, or restart with this file", e.Generation, e.Err)
}

func (e *PartlyInForceError) Unwrap() error { return e.Err }

// seat notes the outcome of a scaling.
func (s *Server) seat(o scaled) {
	s.scaling = nil
	gone := o.mem
	s.mu.Lock()
	if o.err == nil {
		gone, s.memory, s.plan = s.memory, o.mem, o.plan
	} else { // what is in force is told, and a further reload tries again
		f := *s.file
		e := &f.Engine
		e.Workers, e.Cores, e.Polling, e.Connections = o.was.Workers, o.was.Cores, o.was.Polling, o.was.Connections
		s.file = &f
	}
	s.mu.Unlock()
	s.keepClear(s.plan.cores)
	if err := freeAll(gone); err != nil {
		s.log.Warn("the memory of former workers was not given back", "error", err)
	}
	if o.err != nil {
		s.log.Error("the workers could not be changed; the file is in force with those that run", "error", o.err)
		return
	}
	s.steer(s.engine.Config())
	setProcs(s.plan.workers)
	runtime.GC() // of the former workers
	s.log.Info("workers changed", "workers", o.view.Workers, "cores", fmt.Sprint(o.plan.cores), "why", o.plan.why, "connections_moved", o.view.Moved,
		"connections_lost", o.view.Lost, "took_us", o.view.TookUS)
}
