package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"sluice/flow"
	"sluice/rings"
)

// Options is what an engine is made of. It does not change while the engine lives.
type Options struct {
	Region *rings.Region
	// Workers has the queues of each worker.
	Workers [][]PortQueue
	// Tables has the memory of each worker's connection table, flow.Size(Capacity) bytes.
	Tables   [][]byte
	Capacity int // connections per worker
	Secret   flow.Secret
	Cores    []int // by worker; nil or -1: not pinned
	Polling  Polling
	// Clock gives milliseconds; nil is the monotonic clock.
	Clock func() uint64
}

// Engine runs workers over one configuration at a time. Its methods are for the control side and safe for
// concurrent use, except Step and Close.
type Engine struct {
	opt     Options
	dict    *Dictionary
	cfg     atomic.Pointer[Config]
	workers []*worker
	running atomic.Bool
	exited  chan struct{} // one value per worker that has ended
}

// New makes an engine with cfg; dict is the one that cfg was compiled with. The frames of the region are shared out
// among the workers.
func New(opt Options, cfg *Config, dict *Dictionary) (*Engine, error) {
	n := len(opt.Workers)
	if n == 0 || n > Bins || n != len(opt.Tables) || n != cfg.owners.workers {
		return nil, fmt.Errorf("an engine needs 1 to %d workers, a table for each, and a configuration for as many", Bins)
	}
	if opt.Clock == nil {
		opt.Clock = MonotonicClock()
	}
	e := &Engine{opt: opt, dict: dict, exited: make(chan struct{}, n)}
	e.cfg.Store(cfg)
	for id := range n {
		w, err := e.newWorker(id, cfg)
		if err != nil {
			return nil, err
		}
		e.workers = append(e.workers, w)
	}
	e.connect(cfg)
	frames := opt.Region.Frames()
	for f := range frames {
		e.workers[f*n/frames].pool.Put(uint64(f) * uint64(opt.Region.FrameSize()))
	}
	return e, nil
}

// MonotonicClock is milliseconds since boot, through the vDSO.
func MonotonicClock() func() uint64 {
	start := time.Now()
	var base uint64
	if ns, err := monotonicNow(); err == nil {
		base = ns
	}
	return func() uint64 { return (base + uint64(time.Since(start))) / 1e6 }
}

func (e *Engine) newWorker(id int, cfg *Config) (*worker, error) {
	w := &worker{id: id, region: e.opt.Region, pool: rings.NewPool(e.opt.Region.Frames()), rx: e.opt.Workers[id]}
	var err error
	w.table, err = flow.New(e.opt.Tables[id], flow.Config{Capacity: e.opt.Capacity, Secret: e.opt.Secret, Nodes: cfg.addrs}, e.opt.Clock())
	if err != nil {
		return nil, fmt.Errorf("connection table of worker %d: %w", id, err)
	}
	if w.runtime.waker, err = newWaker(); err != nil {
		return nil, err
	}
	w.runtime.inbox = make(chan message, inboxSize)
	w.runtime.secret = e.opt.Secret
	w.runtime.sourceBits4, w.runtime.sourceBits6 = cfg.sources.Bits4, cfg.sources.Bits6
	w.runtime.polling, w.runtime.core = e.opt.Polling, -1
	if id < len(e.opt.Cores) {
		w.runtime.core = e.opt.Cores[id]
	}
	w.timeoutOf = func(r *flow.Record) uint64 { return r.End(w.now, w.shrunk(w.cfg.timeouts(r).of(r))) }
	w.expired = w.expire
	w.evicted = func(r *flow.Record) {
		w.stats.Evicted++
		w.release(r)
	}
	w.now = e.opt.Clock()
	w.applyConfig(cfg, e.dict.actives)
	return w, nil
}

// handoffSize is the number of descriptors between two workers: what a worker may miss while it is not on its core.
const handoffSize = 1024

// connect gives each worker its ways out and its rings to the others.
func (e *Engine) connect(cfg *Config) {
	server := make([]int, len(cfg.Ports)) // a worker with a queue on the port
	for id, w := range e.workers {
		for _, q := range w.rx {
			server[q.Port] = id
		}
	}
	for id, w := range e.workers {
		w.tx = make([]egress, len(cfg.Ports))
		for p := range w.tx {
			w.tx[p].via = server[p]
		}
		for _, q := range w.rx {
			if w.tx[q.Port].queue == nil {
				w.tx[q.Port].queue = q.Queue
			}
		}
		w.peers = make([]peer, len(e.workers))
		for o := range w.peers {
			if o == id {
				continue
			}
			w.peers[o].wake = e.workers[o].runtime.waker
			w.peers[o].out = rings.NewHandoff(handoffSize)
			if o < id {
				w.peers[o].in = e.workers[o].peers[id].out
				e.workers[o].peers[id].in = w.peers[o].out
			}
		}
	}
}

// Start runs the workers. It makes sure that Go has threads for them and for everything else.
func (e *Engine) Start() error {
	if need := len(e.workers) + 2; runtime.GOMAXPROCS(0) < need {
		runtime.GOMAXPROCS(need)
	}
	e.running.Store(true)
	for i, w := range e.workers {
		ready := make(chan error, 1)
		go func() {
			w.run(e.opt.Clock, ready)
			e.exited <- struct{}{}
		}()
		if err := <-ready; err != nil {
			for _, started := range e.workers[:i] {
				started.runtime.inbox <- message{apply: func(w *worker) { w.runtime.stopped = true }}
				started.runtime.waker.wake()
			}
			for range i + 1 {
				<-e.exited
			}
			e.running.Store(false)
			return err
		}
	}
	return nil
}

// Step serves every worker once in the caller's goroutine, at the given time, and reports whether any had
// something to do. It is for engines that are not started: tests and replay.
func (e *Engine) Step(now uint64) bool {
	busy := false
	for _, w := range e.workers {
		w.control()
		if w.step(now) {
			busy = true
		}
	}
	return busy
}

// ErrStopped is returned for calls to an engine that is not running.
var ErrStopped = errors.New("the engine is stopped")

// tell sends a message to a worker and returns a channel that is closed when it has been applied.
func (e *Engine) tell(ctx context.Context, w *worker, apply func(*worker)) (<-chan struct{}, error) {
	done := make(chan struct{})
	if !e.running.Load() { // the caller's goroutine is the worker's
		apply(w)
		close(done)
		return done, nil
	}
	select {
	case w.runtime.inbox <- message{apply, done}:
		w.runtime.waker.wake()
		return done, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("worker %d does not take messages: %w", w.id, ctx.Err())
	}
}

// ask has every worker apply f, at the same time, and waits for all.
func (e *Engine) ask(ctx context.Context, f func(*worker)) error {
	var waits []<-chan struct{}
	for _, w := range e.workers {
		done, err := e.tell(ctx, w, f)
		if err != nil {
			return err
		}
		waits = append(waits, done)
	}
	for i, done := range waits {
		select {
		case <-done:
		case <-ctx.Done():
			return fmt.Errorf("worker %d does not answer: %w", i, ctx.Err())
		}
	}
	return nil
}

// Apply makes cfg the configuration of all workers and returns how long it took until the last had it.
func (e *Engine) Apply(ctx context.Context, cfg *Config) (time.Duration, error) {
	if cfg.owners.workers != len(e.workers) || len(cfg.Ports) != len(e.workers[0].tx) {
		return 0, errors.New("the number of workers and ports cannot change while the engine runs")
	}
	start := time.Now()
	actives := e.dict.actives
	err := e.ask(ctx, func(w *worker) { w.applyConfig(cfg, actives) })
	if err == nil {
		e.cfg.Store(cfg)
	}
	return time.Since(start), err
}

// Config is the configuration that all workers have.
func (e *Engine) Config() *Config { return e.cfg.Load() }

// Beats is the number of steps of the slowest worker: as long as it grows, all of them live.
func (e *Engine) Beats() []uint64 {
	b := make([]uint64, len(e.workers))
	for i, w := range e.workers {
		b[i] = w.runtime.beat.Load()
	}
	return b
}

// Snapshots asks every worker for its counters.
func (e *Engine) Snapshots(ctx context.Context) ([]Snapshot, error) {
	s := make([]Snapshot, len(e.workers))
	err := e.ask(ctx, func(w *worker) { w.snapshot(&s[w.id]) })
	return s, err
}

// Stop ends the workers' loops. Frames stay where they are; Close takes them back.
func (e *Engine) Stop(ctx context.Context) error {
	if !e.running.Load() {
		return nil
	}
	if err := e.ask(ctx, func(w *worker) { w.runtime.stopped = true }); err != nil {
		return err
	}
	for range e.workers {
		select {
		case <-e.exited:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	e.running.Store(false)
	return nil
}

// Close ends a stopped engine: what is in hand leaves, queues are closed, and every frame must be back; an error
// says if one is not. The region and the tables' memory are the caller's to unmap.
func (e *Engine) Close() error {
	if e.running.Load() {
		return errors.New("close of a running engine")
	}
	var errs []error
	// What workers have handed to each other is finished by the receivers. This ends: nothing new is received, and a
	// frame is handed on twice at most, to the worker of its egress port and, when it is free, back to where it came from.
	for again := true; again; again = e.handoffs() > 0 {
		for _, w := range e.workers {
			if len(w.peers) > 1 {
				w.receiveHandoffs()
			}
			w.transmit()
		}
	}
	pools := make([]*rings.Pool, 0, len(e.workers))
	for _, w := range e.workers {
		for i := range w.rx {
			errs = append(errs, w.rx[i].Queue.Close(w.pool))
		}
		errs = append(errs, w.runtime.waker.close())
		pools = append(pools, w.pool)
	}
	errs = append(errs, e.opt.Region.Audit(pools...))
	return errors.Join(errs...)
}

// handoffs is the number of descriptors between workers that are at rest.
func (e *Engine) handoffs() (n int) {
	for _, w := range e.workers {
		for i := range w.peers {
			if w.peers[i].in != nil {
				n += w.peers[i].in.Len()
			}
		}
	}
	return n
}

// Audit checks, on an engine that is not running, that every frame is in a place: the sum over pools, queues and
// handoff rings is the number of frames.
func (e *Engine) Audit() error {
	sum := e.handoffs()
	for _, w := range e.workers {
		sum += w.pool.Len()
		for i := range w.rx {
			sum += w.rx[i].Queue.Held().Sum()
		}
		for i := range w.tx {
			sum += w.tx[i].n
		}
	}
	if total := e.opt.Region.Frames(); sum != total {
		return fmt.Errorf("%d frames are accounted for, there are %d", sum, total)
	}
	return nil
}
