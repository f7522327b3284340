package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
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
	// Persistence is the entries of persistence per worker; their table follows that of connections, so that the memory has
	// flow.TableSize bytes.
	Persistence int
	Secret      flow.Secret
	Cores       []int // by worker; nil or -1: not pinned
	Nice        int   // priority of pinned workers (nice(2)), as far as the process may raise it
	Polling     Polling
	// Handoff is the number of descriptors between two workers, a power of two: what a worker may miss while it is not on its
	// core. 0 is defaultHandoff.
	Handoff int
	// Clock gives milliseconds; nil is the monotonic clock. Micros gives microseconds on the same clock; nil is Clock's
	// milliseconds, or the monotonic clock with it.
	Clock, Micros func() uint64
	// Successor makes an engine that goes on with the tables and frames of another: the tables' memory is left as it is, and
	// workers have neither connections nor frames until a state is imported (takeover.go).
	Successor bool
}

// Engine runs workers over one configuration at a time. Its methods are for the control side and safe for
// concurrent use, except Step and Close.
type Engine struct {
	opt     Options
	clock   clock
	dict    *Dictionary
	cfg     atomic.Pointer[Config]
	running atomic.Bool
	left    atomic.Bool // a successor has gone on
	scans   scanPace
	// capturing says that there is a capture.
	capturing atomic.Bool
	// mu guards the list of workers, which Scale changes. While it does it also holds changing, as Apply and Stop do.
	mu       sync.RWMutex
	workers  []*worker
	slots    []uint8 // of the configuration's workers
	changing sync.Mutex
	told     lastActivities
}

// New makes an engine with cfg; dict is the one that cfg was compiled with. The frames of the region are shared out
// among the workers.
func New(opt Options, cfg *Config, dict *Dictionary) (*Engine, error) {
	n := len(opt.Workers)
	if n == 0 || n > Bins || n != len(opt.Tables) || n != cfg.owners.workers {
		return nil, fmt.Errorf("an engine needs 1 to %d workers, a table for each, and a configuration for as many", Bins)
	}
	if opt.Handoff == 0 {
		opt.Handoff = defaultHandoff
	}
	e := &Engine{dict: dict, clock: newClock(opt.Clock)}
	if opt.Clock == nil || opt.Micros == nil {
		opt.Micros = e.clock.micros
	}
	opt.Clock = func() uint64 { return e.clock.millis(e.clock.nanos()) }
	e.opt = opt
	e.cfg.Store(cfg)
	for id := range n {
		e.slots = append(e.slots, uint8(id))
	}
	for id := range n {
		w, err := e.newWorker(id, id, &opt, cfg, e.slots)
		if err != nil {
			return nil, err
		}
		e.workers = append(e.workers, w)
	}
	e.connect(nil, e.workers)
	vias := viasOf(e.workers, len(cfg.Ports))
	for _, w := range e.workers {
		w.route(vias)
	}
	if opt.Successor {
		return e, nil
	}
	frames := opt.Region.Frames()
	for f := range frames {
		e.workers[f*n/frames].pool.Put(uint64(f) * uint64(opt.Region.FrameSize()))
	}
	return e, nil
}

// newWorker makes a worker with its number, its slot, and what opt has for it.
func (e *Engine) newWorker(id, slot int, opt *Options, cfg *Config, slots []uint8) (*worker, error) {
	w := &worker{id: id, slot: slot, region: e.opt.Region, pool: rings.NewPool(e.opt.Region.Frames())}
	var err error
	frames := e.opt.Region.Frames() / max(1, len(opt.Workers))
	if e.opt.Region.Chains() {
		frames /= usualBuffers
	}
	if w.fragments, err = newFragments(frames, e.opt.Secret); err != nil {
		return nil, err
	}
	w.jumbo = newJumbo(w.region)
	table := flow.Config{Capacity: opt.Capacity, Secret: e.opt.Secret, Nodes: cfg.addrs}
	if opt.Successor {
		w.table, err = flow.Attach(opt.Tables[id], table)
	} else {
		w.table, err = flow.New(opt.Tables[id], table, e.opt.Clock())
	}
	if err != nil {
		return nil, fmt.Errorf("connection table of worker %d: %w", id, err)
	}
	if err := w.openPersistence(opt.Tables[id], opt.Capacity, opt.Persistence, e.opt.Secret, opt.Successor); err != nil {
		return nil, fmt.Errorf("persistence table of worker %d: %w", id, err)
	}
	if w.runtime.waker, err = newWaker(); err != nil {
		return nil, err
	}
	w.runtime.inbox, w.runtime.gone = make(chan message, inboxSize), make(chan struct{})
	w.runtime.secret, w.runtime.micros = e.opt.Secret, e.opt.Micros
	w.runtime.sourceBits4, w.runtime.sourceBits6 = cfg.sources.Bits4, cfg.sources.Bits6
	w.runtime.polling, w.runtime.core = opt.Polling, -1
	if id < len(opt.Cores) {
		w.runtime.core, w.runtime.nice = opt.Cores[id], opt.Nice
	}
	w.timeoutOf = func(r *flow.Record) uint64 { return r.End(w.now, w.shrunk(w.cfg.timeouts(r).of(r))) }
	w.expired = w.expire
	w.evicted = func(r *flow.Record) {
		w.stats.Evicted++
		w.release(r)
	}
	w.now = e.opt.Clock()
	w.tx = make([]egress, len(cfg.Ports))
	for _, q := range opt.Workers[id] {
		w.addQueue(q)
	}
	w.applyConfig(cfg, slots, e.dict.counts())
	return w, nil
}

const defaultHandoff = 1024

// Start runs the workers. It makes sure that Go has threads for them and for everything else.
func (e *Engine) Start() error { return e.start(nil) }

// start runs the workers; with p they rest in that pause at once.
func (e *Engine) start(p *Pause) error {
	if need := len(e.workers) + 2; runtime.GOMAXPROCS(0) < need {
		runtime.GOMAXPROCS(need)
	}
	e.running.Store(true)
	for i, w := range e.workers {
		if err := e.launch(w); err != nil {
			if p != nil {
				p.end(true)
			}
			for _, started := range e.workers[:i] {
				started.runtime.inbox <- message{apply: func(w *worker) { w.runtime.stopped = true }}
				started.runtime.waker.wake()
				<-started.runtime.gone
			}
			e.running.Store(false)
			return err
		}
	}
	return nil
}

// launch runs a worker; an error says that it does not.
func (e *Engine) launch(w *worker) error {
	ready := make(chan error, 1)
	go w.run(&e.clock, ready)
	return <-ready
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
	if err := e.give(ctx, w, message{apply: apply, done: done}); err != nil {
		return nil, err
	}
	w.runtime.waker.wake()
	return done, nil
}

// give puts a message into a worker's channel and leaves a worker that sleeps asleep, unless the channel is full.
func (e *Engine) give(ctx context.Context, w *worker, m message) error {
	if e.left.Load() {
		return ErrStopped
	}
	if !e.running.Load() { // the caller's goroutine is the worker's
		m.do(w)
		return nil
	}
	select {
	case w.runtime.inbox <- m:
		return nil
	default:
	}
	w.runtime.waker.wake()
	select {
	case w.runtime.inbox <- m:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("worker %d does not take messages: %w", w.id, ctx.Err())
	}
}

// await waits until a worker has applied a message. One that has ended will not, and need not, unless a successor has its work.
func (e *Engine) await(ctx context.Context, w *worker, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-w.runtime.gone:
		if e.left.Load() {
			return ErrStopped
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("worker %d does not answer: %w", w.id, ctx.Err())
	}
}

// wait has one worker apply f and waits for it.
func (e *Engine) wait(ctx context.Context, w *worker, f func(*worker)) error {
	done, err := e.tell(ctx, w, f)
	if err != nil {
		return err
	}
	return e.await(ctx, w, done)
}

// ask has workers apply f, at the same time, and waits for all.
func (e *Engine) ask(ctx context.Context, workers []*worker, f func(*worker)) error {
	waits := make([]<-chan struct{}, len(workers))
	for i, w := range workers {
		var err error
		if waits[i], err = e.tell(ctx, w, f); err != nil {
			return err
		}
	}
	for i, w := range workers {
		if err := e.await(ctx, w, waits[i]); err != nil {
			return err
		}
	}
	return nil
}

// seated are the workers now.
func (e *Engine) seated() []*worker {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return slices.Clone(e.workers)
}

// Apply makes cfg the configuration of all workers and returns how long it took until the last had it.
func (e *Engine) Apply(ctx context.Context, cfg *Config) (time.Duration, error) {
	e.changing.Lock()
	defer e.changing.Unlock()
	workers := e.seated()
	if cfg.owners.workers != len(workers) || len(cfg.Ports) != len(workers[0].tx) {
		return 0, errors.New("the number of ports cannot change while the engine runs, and that of workers only by Scale")
	}
	start := time.Now()
	counts, slots := e.dict.counts(), e.slots
	if cfg.persists { // what the first decides by it the last must understand
		if err := e.ask(ctx, workers, func(w *worker) { w.runtime.coming = coming{cfg, slots, counts} }); err != nil {
			return 0, err
		}
	}
	err := e.ask(ctx, workers, func(w *worker) { w.applyConfig(cfg, slots, counts) })
	if err == nil {
		e.cfg.Store(cfg)
	}
	return time.Since(start), err
}

// Config is the configuration that all workers have.
func (e *Engine) Config() *Config { return e.cfg.Load() }

// Beats is the number of steps of the slowest worker: as long as it grows, all of them live.
func (e *Engine) Beats() []uint64 {
	workers := e.seated()
	b := make([]uint64, len(workers))
	for i, w := range workers {
		b[i] = w.runtime.beat.Load()
	}
	return b
}

// Snapshots asks every worker for its counters.
func (e *Engine) Snapshots(ctx context.Context) ([]Snapshot, error) {
	e.mu.RLock() // a worker that ends gives its counters to another
	defer e.mu.RUnlock()
	s := make([]Snapshot, len(e.workers))
	at := map[*worker]*Snapshot{}
	for i, w := range e.workers {
		at[w] = &s[i]
	}
	err := e.ask(ctx, e.workers, func(w *worker) { w.snapshot(at[w]) })
	return s, err
}

// Stop ends the workers' loops. Frames stay where they are; Close takes them back.
func (e *Engine) Stop(ctx context.Context) error {
	e.changing.Lock()
	defer e.changing.Unlock()
	if !e.running.Load() {
		return nil
	}
	workers := e.seated()
	if err := e.ask(ctx, workers, func(w *worker) { w.runtime.stopped = true }); err != nil {
		return err
	}
	for _, w := range workers {
		select {
		case <-w.runtime.gone:
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
	e.drain()
	pools := make([]*rings.Pool, 0, len(e.workers))
	for _, w := range e.workers {
		w.abandonFragments()
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
	sum := e.handoffs() + e.opt.Region.Links()
	for _, w := range e.workers {
		sum += w.pool.Len() + w.fragments.table.Held()
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
