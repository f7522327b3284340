package ctl

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"

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

// scale begins to put the workers of p in place, if p is not nil.
func (s *Server) scale(p *plan, finished chan<- scaled) {
	if p == nil {
		finished <- scaled{}
		return
	}
	outcome := make(chan scaled, 1)
	cfg, mem, err := s.prepareScale(p)
	if err != nil {
		finished <- scaled{err: err}
		return
	}
	s.scaling = outcome
	opt := s.seats(p, mem)
	go func() {
		done, err := s.engine.Scale(context.Background(), opt, cfg)
		o := scaled{err: err, plan: p, mem: mem}
		if err == nil {
			o.view = &ScaledView{Workers: p.workers, Moved: done.Moved, Lost: done.Lost, TookUS: done.Took.Microseconds()}
		}
		outcome <- o
		finished <- o
	}()
}

func (s *Server) prepareScale(p *plan) (*engine.Config, []tableMemory, error) {
	cfg, _, err := s.compile(p.workers)
	if err != nil {
		return nil, nil, err
	}
	mem, err := s.newTables(p.workers, freshTable)
	if err != nil {
		return nil, nil, err
	}
	for i := range mem {
		if mem[i].path == "" {
			continue
		}
		flow.SetReady(mem[i].Bytes)
		if err := mem[i].publish(); err != nil { // a successor reads it beside the old ones
			for j := range mem {
				err = errors.Join(err, mem[j].free())
			}
			return nil, nil, err
		}
	}
	return cfg, mem, nil
}

// seat notes the outcome of a scaling.
func (s *Server) seat(o scaled) {
	s.scaling = nil
	gone := o.mem
	s.mu.Lock()
	if o.err == nil {
		gone, s.memory, s.plan = s.memory, o.mem, o.plan
	}
	s.mu.Unlock()
	var errs []error
	for i := range gone {
		errs = append(errs, gone[i].free())
	}
	if err := errors.Join(errs...); err != nil {
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
