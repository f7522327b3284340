package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"sluice/rings"
)

// Scaling puts other workers in the place of those that run: another number of them, on other cores, with tables of another
// size. Both generations run side by side for as long as it takes to move the connections, and not a packet is lost for it:
//
//	1 new workers start, with empty tables, no queues and handoff rings to everybody
//	2 the old ones leave (leave.go): connections move, packets follow them
//	3 when the old own nothing, everybody gets the configuration whose owners are the new
//	4 queues move, one by one; what arrives in between waits in the kernel's ring
//	5 nothing is given to the old any more; they finish what is in their rings and end
//	6 their free frames and counters go to the new

// nobody is the via of a port that no worker has a queue of.
const nobody = -1

// viasOf says for every port which worker, by slot, sends for those that have no queue there.
func viasOf(workers []*worker, ports int) []int {
	vias := make([]int, ports)
	for p := range vias {
		vias[p] = nobody
	}
	for _, w := range workers {
		for i := range w.rx {
			vias[w.rx[i].Port] = w.slot
		}
	}
	return vias
}

// route sets who sends for the worker where it has no queue.
func (w *worker) route(vias []int) {
	for p := range w.tx {
		w.tx[p].via = vias[p]
	}
}

func (w *worker) addQueue(q PortQueue) {
	w.rx = append(w.rx, q)
	if w.tx[q.Port].queue == nil {
		w.tx[q.Port].queue = q.Queue
	}
}

// removeQueue gives a queue up; what was to be sent on it is sent first.
func (w *worker) removeQueue(q rings.Queue, vias []int) {
	w.transmit()
	w.reclaim()
	w.rx = slices.DeleteFunc(w.rx, func(have PortQueue) bool { return have.Queue == q })
	for p := range w.tx {
		if w.tx[p].queue != q {
			continue
		}
		w.tx[p].queue, w.tx[p].via = nil, vias[p]
		for i := range w.rx {
			if w.rx[i].Port == p {
				w.tx[p].queue = w.rx[i].Queue
			}
		}
	}
}

// connect gives the workers of fresh a handoff ring each way to one another and to those of old, whose part is done when
// the returned functions have been applied by them.
func (e *Engine) connect(old, fresh []*worker) []func(*worker) {
	slots := 0
	for _, w := range append(slices.Clone(old), fresh...) {
		slots = max(slots, w.slot+1)
	}
	for i, w := range fresh {
		w.peers = make([]peer, slots)
		for _, o := range fresh[:i] {
			e.join(w, o)
		}
	}
	var greetings []func(*worker)
	for _, o := range old {
		table := make([]peer, slots)
		for _, w := range fresh {
			in, out := rings.NewHandoff(e.opt.Handoff), rings.NewHandoff(e.opt.Handoff)
			w.peers[o.slot] = peer{in: in, out: out, wake: o.runtime.waker}
			table[w.slot] = peer{in: out, out: in, wake: w.runtime.waker}
		}
		greetings = append(greetings, func(o *worker) {
			for i := range o.peers {
				if o.peers[i].in != nil {
					table[i] = o.peers[i]
				}
			}
			o.peers = table
		})
	}
	return greetings
}

func (e *Engine) join(a, b *worker) {
	there, back := rings.NewHandoff(e.opt.Handoff), rings.NewHandoff(e.opt.Handoff)
	a.peers[b.slot] = peer{in: back, out: there, wake: b.runtime.waker}
	b.peers[a.slot] = peer{in: there, out: back, wake: a.runtime.waker}
}

// Scaled is what a scaling did.
type Scaled struct {
	Moved int           // connections
	Lost  int           // connections that found no room
	Took  time.Duration // in all
	// LostEntries are entries of persistence that found no room.
	LostEntries int
}

// Scale puts the workers that opt describes (Workers, Tables, Capacity, Cores, Polling; the rest stays) in the place of
// those that run, with cfg, which must be compiled for as many. Every queue of the engine must be in opt.Workers. When it
// returns, the old tables' memory is the caller's to unmap. On an error before connections have moved nothing has changed.
func (e *Engine) Scale(ctx context.Context, opt Options, cfg *Config) (s Scaled, err error) {
	e.changing.Lock()
	defer e.changing.Unlock()
	start := time.Now()
	old := e.seated()
	if err := e.scalable(&opt, cfg, old); err != nil {
		return s, err
	}
	before, err := e.count(ctx)
	if err != nil {
		return s, err
	}
	fresh, err := e.hire(ctx, &opt, old)
	if err != nil {
		return s, err
	}
	e.mu.Lock()
	e.workers = append(slices.Clone(old), fresh...)
	e.mu.Unlock()
	// From here on there is no way back, and no reason to take one: workers live as long as the process does.
	ctx = context.WithoutCancel(ctx)
	slots := make([]uint8, len(fresh))
	for i, w := range fresh {
		slots[i] = uint8(w.slot)
	}
	if s.LostEntries, err = e.move(ctx, old, fresh, cfg, slots); err != nil {
		return s, err
	}
	counts := e.dict.counts()
	if err := e.ask(ctx, e.workers, func(w *worker) { w.applyConfig(cfg, slots, counts) }); err != nil {
		return s, err
	}
	if err := e.moveQueues(ctx, opt.Workers, old, fresh, len(cfg.Ports)); err != nil {
		return s, err
	}
	e.mu.Lock() // counters pass from the old to the new
	defer e.mu.Unlock()
	if err := e.dismiss(ctx, old, fresh); err != nil {
		return s, err
	}
	e.workers, e.slots = fresh, slots
	e.cfg.Store(cfg)
	e.opt.Persistence = opt.Persistence
	e.opt.Workers, e.opt.Tables, e.opt.Capacity, e.opt.Cores, e.opt.Polling = opt.Workers, opt.Tables, opt.Capacity, opt.Cores, opt.Polling
	for _, w := range fresh {
		if err := e.wait(ctx, w, func(w *worker) { s.Lost += w.runtime.unplaced }); err != nil {
			return s, err
		}
	}
	s.Moved, s.Took = before, time.Since(start)
	return s, nil
}

// scalable checks what Scale is given.
func (e *Engine) scalable(opt *Options, cfg *Config, old []*worker) error {
	n := len(opt.Workers)
	if n == 0 || n+len(old) > Bins || n != len(opt.Tables) || n != cfg.owners.workers {
		return fmt.Errorf("an engine needs 1 to %d workers, a table for each, and a configuration for as many", Bins/2)
	}
	have, want := 0, 0
	for _, w := range old {
		have += len(w.rx)
	}
	for _, queues := range opt.Workers {
		for _, q := range queues {
			if !slices.ContainsFunc(old, func(w *worker) bool {
				return slices.ContainsFunc(w.rx, func(h PortQueue) bool { return h.Queue == q.Queue })
			}) {
				return fmt.Errorf("a queue of port %d is not the engine's", q.Port)
			}
			want++
		}
	}
	if have != want {
		return fmt.Errorf("%d of %d queues would have no worker", have-want, have)
	}
	return nil
}

// count is the number of connections.
func (e *Engine) count(ctx context.Context) (n int, err error) {
	for _, w := range e.seated() {
		if err := e.wait(ctx, w, func(w *worker) { n += w.table.Len() }); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// hire makes the new workers, with rings to the old, and runs them.
func (e *Engine) hire(ctx context.Context, opt *Options, old []*worker) (fresh []*worker, err error) {
	cfg := e.Config()
	slot := 0
	empty := *opt
	empty.Workers = make([][]PortQueue, len(opt.Workers)) // queues come later
	defer func() {
		if err != nil {
			err = errors.Join(err, e.fire(old, fresh))
			fresh = nil
		}
	}()
	for id := range opt.Workers {
		for slices.ContainsFunc(old, func(w *worker) bool { return w.slot == slot }) {
			slot++
		}
		w, err := e.newWorker(id, slot, &empty, cfg, e.slots)
		if err != nil {
			return fresh, err
		}
		slot++
		w.runtime.generation = old[0].runtime.generation + 1
		fresh = append(fresh, w)
	}
	vias := viasOf(old, len(cfg.Ports))
	greetings := e.connect(old, fresh)
	for i, w := range old {
		if err := e.wait(ctx, w, greetings[i]); err != nil {
			return fresh, err
		}
	}
	if need := len(old) + len(fresh) + 2; e.running.Load() && runtime.GOMAXPROCS(0) < need {
		runtime.GOMAXPROCS(need)
	}
	for _, w := range fresh {
		w.route(vias)
		if !e.running.Load() {
			continue
		}
		if err := e.launch(w); err != nil {
			return fresh, err
		}
		w.launched = true
	}
	return fresh, nil
}

// fire ends new workers that have got nothing yet.
func (e *Engine) fire(old, fresh []*worker) error {
	ctx := context.Background()
	errs := []error{e.ask(ctx, old, func(o *worker) {
		for _, w := range fresh {
			if w.slot < len(o.peers) {
				o.peers[w.slot] = peer{}
			}
		}
	})}
	for _, w := range fresh {
		if w.launched {
			errs = append(errs, e.wait(ctx, w, func(w *worker) { w.runtime.stopped = true }))
			<-w.runtime.gone
		}
		errs = append(errs, w.runtime.waker.close())
	}
	return errors.Join(errs...)
}

// move has the old workers leave and waits until they own nothing.
func (e *Engine) move(ctx context.Context, old, fresh []*worker, cfg *Config, slots []uint8) (lostEntries int, err error) {
	var complete []chan struct{}
	for _, w := range old {
		done := make(chan struct{})
		complete = append(complete, done)
		if err := e.wait(ctx, w, func(w *worker) { w.begin(cfg, slots, done) }); err != nil {
			return 0, err
		}
	}
	if lostEntries, err = e.copyPersistence(ctx, old, fresh, cfg); err != nil {
		return lostEntries, err
	}
	for _, done := range complete {
		for !e.running.Load() && !closed(done) { // the caller steps
			e.Step(e.opt.Clock())
		}
		<-done
	}
	return lostEntries, nil
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// moveQueues gives every queue to its new worker.
func (e *Engine) moveQueues(ctx context.Context, queues [][]PortQueue, old, fresh []*worker, ports int) error {
	vias := viasOf(nil, ports)
	for id, list := range queues {
		for _, q := range list {
			vias[q.Port] = fresh[id].slot
		}
	}
	for _, o := range old { // one worker's at a time, so that each waits for two messages only
		var given []PortQueue
		err := e.wait(ctx, o, func(w *worker) {
			given = slices.Clone(w.rx)
			for _, q := range given {
				w.removeQueue(q.Queue, vias)
			}
		})
		if err != nil {
			return err
		}
		err = e.ask(ctx, fresh, func(w *worker) {
			for _, q := range queues[w.id] {
				if slices.ContainsFunc(given, func(g PortQueue) bool { return g.Queue == q.Queue }) {
					w.addQueue(q)
				}
			}
		})
		if err != nil {
			return err
		}
	}
	return e.ask(ctx, append(slices.Clone(old), fresh...), func(w *worker) { w.route(vias) })
}

// dismiss ends the old workers: nothing is given to them any more, they finish what they have, and leave frames and
// counters to the new.
func (e *Engine) dismiss(ctx context.Context, old, fresh []*worker) error {
	all := append(slices.Clone(old), fresh...)
	err := e.ask(ctx, all, func(w *worker) {
		for _, o := range old {
			if o != w {
				w.peers[o.slot].retired = true
			}
		}
	})
	if err != nil {
		return err
	}
	// What one old worker has for another is finished in as many rounds as it can be handed on: to the owner, and to
	// the worker of its egress port.
	for range 3 {
		err := e.ask(ctx, old, func(w *worker) {
			for w.receiveHandoffs() {
				w.transmit()
			}
			w.transmit()
		})
		if err != nil {
			return err
		}
	}
	if e.running.Load() {
		if err := e.ask(ctx, old, func(w *worker) { w.runtime.stopped = true }); err != nil {
			return err
		}
		for _, o := range old {
			<-o.runtime.gone
		}
	}
	// Everybody gets as many frames: a worker without one could not even leave again.
	shares := make([][]uint64, len(fresh))
	for i, o := range old {
		for n := i; ; n++ {
			addr, ok := o.pool.Get()
			if !ok {
				break
			}
			shares[n%len(fresh)] = append(shares[n%len(fresh)], addr)
		}
	}
	err = e.ask(ctx, fresh, func(w *worker) {
		w.pool.PutAll(shares[w.id])
		for i, o := range old {
			w.forget(o.slot)
			if i%len(fresh) == w.id {
				w.inherit(o)
			}
		}
	})
	for _, o := range old {
		err = errors.Join(err, o.runtime.waker.close())
	}
	return err
}

// forget takes what is left in the ring from a worker that has ended, and then the ring.
func (w *worker) forget(slot int) {
	for w.peers[slot].in != nil && !w.peers[slot].in.Empty() {
		w.receiveHandoffs()
		w.transmit()
	}
	w.peers[slot] = peer{}
}

// inherit takes the counters of a worker that has ended.
func (w *worker) inherit(o *worker) {
	w.stats.Add(&o.stats)
	w.inheritPersistence(o)
	w.runtime.activity.busy += o.runtime.activity.busy
	w.runtime.activity.add(&o.runtime.activity.Pauses)
	// The old one may have counters of ids that no configuration has any more, which the new one never had.
	w.countFor(o.virtual.len(), o.node.len())
	w.virtual.add(&o.virtual)
	w.node.add(&o.node)
}
