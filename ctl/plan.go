package ctl

import (
	"fmt"
	"slices"

	"sluice/engine"
)

// plan is how an engine for this file is laid out on this machine: workers, cores and memory.
type plan struct {
	workers int
	cores   []int
	why     string // these cores
	frames  int
	polling engine.Polling
	// persistence is the entries of persistence per worker.
	persistence int
}

// plan decides what the file leaves open. Worker w serves queue q of every port if q mod workers is w, so there are
// no more workers than the port with the most queues has, and by default no more than cores.
func (f *File) plan(ifaces []iface) (*plan, error) {
	most := 1
	for i := range ifaces {
		most = max(most, ifaces[i].queues)
	}
	p := &plan{workers: f.Engine.Workers}
	m, err := thisMachine(ifaces)
	if err != nil {
		return nil, err
	}
	allowed := m.cores
	if p.workers == 0 {
		p.workers = min(most, len(allowed))
		if len(f.Engine.Cores) > 0 {
			p.workers = min(most, len(f.Engine.Cores))
		}
	}
	if p.workers > most {
		return nil, f.problem("engine.workers", fmt.Errorf("%d workers, but no port has more than %d queues", p.workers, most))
	}
	if p.cores, p.why, err = f.chooseCores(p.workers, m); err != nil {
		return nil, err
	}
	p.persistence = f.persistenceCapacity(p.workers)
	switch f.Engine.Polling {
	case PollingBusy:
		p.polling = engine.PollBusy
	case PollingInterrupt:
		p.polling = engine.PollInterrupt
	}
	if p.polling == engine.PollBusy && p.workers > len(allowed) {
		return nil, f.problem("engine.polling", fmt.Errorf("%d busy workers on %d cores would take turns; use fewer workers or polling: adaptive", p.workers, len(allowed)))
	}
	// As many workers as a reload may ask for, in whose hands frames may be.
	need := max(p.workers, min(most, len(allowed))) * framesPerWorker
	for i := range ifaces {
		need += ifaces[i].queues * 2 * f.Engine.RingSize
	}
	if f.Engine.HostPort {
		need += p.workers * f.Engine.RingSize
	}
	switch p.frames = f.Engine.Frames; {
	case p.frames == 0:
		p.frames = need
	case p.frames < need/2:
		return nil, f.problem("engine.frames", fmt.Errorf("%d frames starve %d rings of %d; give at least %d, or auto (%d), or a smaller engine.ring-size", p.frames, need/f.Engine.RingSize, f.Engine.RingSize, need/2, need))
	}
	return p, nil
}

// framesPerWorker are in the worker's hands and on their way between workers.
const framesPerWorker = 1024

// chooseCores takes the listed cores, else those that the machine is best used with, and says why.
func (f *File) chooseCores(workers int, m *machine) ([]int, string, error) {
	if n := len(f.Engine.Cores); n > 0 {
		if n < workers {
			return nil, "", f.problem("engine.cores", fmt.Errorf("%d cores for %d workers", n, workers))
		}
		for _, c := range f.Engine.Cores {
			if !slices.ContainsFunc(m.cores, func(a core) bool { return a.id == c }) {
				return nil, "", f.problem("engine.cores", fmt.Errorf("core %d is not one that this process may use: %v", c, m.ids()))
			}
		}
		return f.Engine.Cores[:workers], "as engine.cores lists them", nil
	}
	cores, why := m.choose(workers)
	return cores, why, nil
}
