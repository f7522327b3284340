package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"sluice/rings"
)

// A port's queues can be others while everything else goes on: its interface is removed and made anew, or gets more queues.
//
//	1 new queues go to their workers;
//	2 the others are given up between two bursts: what is in hand is sent first, and from then on the worker sends through
//	  one that has a queue; if none has, what is to leave on the port is dropped by the name port_down;
//	3 they are closed, outside of the workers, and their frames go back to the worker that had them.

// SetQueues makes queues, by worker, those of a port. A queue that the port has already stays with its worker and must be
// listed there. No queue at all is a port that is not served. The queues that the port had and that are not listed are
// closed; they are returned in any case, for their last counters. The error may be theirs: the new queues serve then.
func (e *Engine) SetQueues(ctx context.Context, port int, queues [][]PortQueue) (closed []rings.Queue, err error) {
	e.changing.Lock()
	defer e.changing.Unlock()
	workers := e.seated()
	have, err := e.queuesOf(ctx, workers, port)
	if err != nil {
		return nil, err
	}
	if err := placeable(port, queues, have); err != nil {
		return nil, err
	}
	vias := viasOf(nil, len(e.Config().Ports))
	for i, w := range workers {
		if len(queues) > i && len(queues[i]) > 0 {
			vias[port] = w.slot
		}
	}
	err = e.ask(ctx, workers, func(w *worker) {
		for _, q := range listed(queues, w.id) {
			if !slices.ContainsFunc(w.rx, func(h PortQueue) bool { return h.Queue == q.Queue }) {
				w.addQueue(q)
			}
		}
	})
	if err != nil {
		return nil, err // a worker that does not answer: nothing can be said about the queues
	}
	ctx = context.WithoutCancel(ctx)
	err = e.ask(ctx, workers, func(w *worker) {
		for _, h := range have[w.id] {
			if !slices.ContainsFunc(listed(queues, w.id), func(q PortQueue) bool { return h.Queue == q.Queue }) {
				w.removeQueue(h.Queue, vias)
			}
		}
		w.tx[port].via = vias[port]
	})
	if err != nil {
		return nil, err
	}
	var errs []error
	for i, w := range workers {
		pool := rings.NewPool(e.opt.Region.Frames())
		for _, h := range have[i] {
			if slices.ContainsFunc(listed(queues, i), func(q PortQueue) bool { return h.Queue == q.Queue }) {
				continue
			}
			errs = append(errs, h.Queue.Close(pool))
			closed = append(closed, h.Queue)
		}
		errs = append(errs, e.wait(ctx, w, func(w *worker) {
			for addr, ok := pool.Get(); ok; addr, ok = pool.Get() {
				w.pool.Put(addr)
			}
		}))
	}
	return closed, errors.Join(errs...)
}

// listed are the queues for a worker.
func listed(queues [][]PortQueue, id int) []PortQueue {
	if id >= len(queues) {
		return nil
	}
	return queues[id]
}

// queuesOf are the queues of a port that the workers have.
func (e *Engine) queuesOf(ctx context.Context, workers []*worker, port int) ([][]PortQueue, error) {
	if port < 0 || port >= len(e.Config().Ports) {
		return nil, fmt.Errorf("the engine has no port %d", port)
	}
	have := make([][]PortQueue, len(workers))
	err := e.ask(ctx, workers, func(w *worker) {
		for _, q := range w.rx {
			if q.Port == port {
				have[w.id] = append(have[w.id], q)
			}
		}
	})
	return have, err
}

// placeable checks what SetQueues is given.
func placeable(port int, queues, have [][]PortQueue) error {
	if len(queues) > len(have) {
		return fmt.Errorf("queues for %d workers, there are %d", len(queues), len(have))
	}
	seen := map[rings.Queue]bool{}
	for id, list := range queues {
		for _, q := range list {
			if q.Port != port || q.Queue == nil || seen[q.Queue] {
				return fmt.Errorf("the queues of port %d are each listed once, and those of other ports not", port)
			}
			seen[q.Queue] = true
			for other := range have {
				if other != id && slices.ContainsFunc(have[other], func(h PortQueue) bool { return h.Queue == q.Queue }) {
					return fmt.Errorf("a queue of port %d would move from worker %d to %d", port, other, id)
				}
			}
		}
	}
	return nil
}
