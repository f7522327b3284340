package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"
)

// Pause is a moment at which every worker rests between two bursts, with nothing in its hands and nothing on the way to
// another. It ends with Resume, or, when a successor has gone on, with Leave.
type Pause struct {
	e       *Engine
	workers []*worker
	began   time.Time
	drain   bool
	arrived atomic.Int32
	over    atomic.Bool
	parked  chan struct{} // a value per worker that rests
	release chan struct{} // closed at the end
	leave   bool          // set before that: the workers end
	// changing says that the pause holds the engine's mutex of that name.
	changing bool
}

func (e *Engine) newPause(drain bool) *Pause {
	workers := e.seated()
	return &Pause{e: e, workers: workers, began: time.Now(), drain: drain, parked: make(chan struct{}, len(workers)), release: make(chan struct{})}
}

// Pause brings all workers to rest. Packets go on arriving on the rings meanwhile, as many as there are frames with the
// kernel. If a worker does not come before ctx ends, the others go on. Until the pause is over nothing else changes the
// engine: Apply, Scale and Stop wait.
func (e *Engine) Pause(ctx context.Context) (*Pause, error) {
	e.changing.Lock()
	p := e.newPause(true)
	p.changing = true
	if e.running.Load() {
		for _, w := range p.workers {
			if _, err := e.tell(ctx, w, p.park); err != nil {
				p.Resume()
				return nil, err
			}
		}
		for range p.workers {
			select {
			case <-p.parked:
			case <-ctx.Done():
				p.Resume()
				return nil, fmt.Errorf("%d of %d workers do not come to rest: %w", len(p.workers)-int(p.arrived.Load()), len(p.workers), ctx.Err())
			}
		}
	}
	e.drain()
	return p, nil
}

// park is the pause as a worker lives it, in its own goroutine. Until the last one has come, those that rest finish what the
// others hand over, so that no ring runs full.
func (p *Pause) park(w *worker) {
	p.arrived.Add(1)
	for p.drain && int(p.arrived.Load()) < len(p.workers) && !p.over.Load() {
		busy := len(w.peers) > 1 && w.receiveHandoffs()
		w.transmit()
		w.reclaim()
		if !busy {
			time.Sleep(restStep) // not a spin: the last one may need this core
		}
	}
	p.parked <- struct{}{}
	<-p.release
	if p.leave {
		runtime.Goexit() // not one more step: queues and tables are another's
	}
}

// restStep is how often a worker that rests looks whether another has handed something over.
const restStep = 20 * time.Microsecond

// drain has the workers, which rest, finish what they have handed to each other. This ends: nothing new is received, and a
// frame is handed on twice at most, to the worker of its egress port and, when it is free, back to where it came from.
func (e *Engine) drain() {
	for again := true; again; again = e.handoffs() > 0 {
		for _, w := range e.workers {
			if len(w.peers) > 1 {
				w.receiveHandoffs()
			}
			w.transmit()
		}
	}
}

// Began is when the pause began.
func (p *Pause) Began() time.Time { return p.began }

// Resume lets the workers go on. A second call does nothing.
func (p *Pause) Resume() { p.end(false) }

func (p *Pause) end(leave bool) {
	if !p.over.Swap(true) {
		p.leave = leave
		close(p.release)
		if p.changing {
			p.e.changing.Unlock()
		}
	}
}

// Leave ends the workers where they rest, without another look at queues and tables, and lets go of the sockets. From then on
// the engine answers every call with ErrStopped. Region and tables' memory are the caller's to unmap.
func (p *Pause) Leave() error {
	e := p.e
	if p.over.Load() {
		return errors.New("the pause is over already")
	}
	e.left.Store(true)
	p.end(true)
	var errs []error
	for _, w := range p.workers {
		if e.running.Load() {
			<-w.runtime.gone
		}
		for i := range w.rx {
			if q, ok := w.rx[i].Queue.(interface{ Leave() error }); ok {
				errs = append(errs, q.Leave())
			}
		}
		errs = append(errs, w.runtime.waker.close())
	}
	return errors.Join(errs...)
}

// StartPaused runs the workers, each of which rests before its first step. It is for an engine that imports a state.
func (e *Engine) StartPaused() (*Pause, error) {
	p := e.newPause(false)
	for _, w := range p.workers {
		w.runtime.inbox <- message{apply: p.park}
	}
	if err := e.start(p); err != nil {
		return nil, err
	}
	for range p.workers {
		<-p.parked
	}
	return p, nil
}
