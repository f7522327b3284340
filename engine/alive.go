package engine

import (
	"context"
	"sync"
	"time"
)

// Pulse sees that workers live: each makes steps, or sleeps until something comes for it. It remembers what it has seen, and is for
// any goroutine. The zero value has seen nothing.
type Pulse struct {
	mu   sync.Mutex
	seen map[*worker]sign
}

// sign is a worker's last sign of life.
type sign struct {
	beat uint64
	at   time.Time
}

// sleepBelieved is how long a worker is taken for one that sleeps without a step in between.
const sleepBelieved = longSleep + time.Second

// Lives reports whether every worker has made a step since the last call, or sleeps. Nobody is woken for it. A worker is taken to live
// at the first call that sees it.
func (p *Pulse) Lives(e *Engine, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	workers := e.seated()
	seen, lives := make(map[*worker]sign, len(workers)), true
	for _, w := range workers {
		was, known := p.seen[w]
		s := sign{w.runtime.beat.Load(), now}
		if known && s.beat == was.beat {
			s.at = was.at
			lives = lives && w.runtime.waker.sleeping.Load() && now.Sub(s.at) < sleepBelieved
		}
		seen[w] = s
	}
	p.seen = seen
	return lives
}

// lastActivities are what workers said when they were asked last.
type lastActivities struct {
	mu sync.Mutex
	of map[*worker]lastActivity
}

type lastActivity struct {
	Activity
	done uint64 // of then
}

// Activities asks every worker what it did, and begins a new period for the largest pause: it is for one caller, at regular
// intervals. A worker that sleeps and has not found work since the last time is not woken for it.
func (e *Engine) Activities(ctx context.Context) ([]Activity, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	e.told.mu.Lock()
	defer e.told.mu.Unlock()
	now := time.Duration(e.clock.nanos()) // before any is looked at: what comes meanwhile is of the next time
	told := make([]lastActivity, len(e.workers))
	at := map[*worker]*lastActivity{}
	var awake []*worker
	for i, w := range e.workers {
		if was, ok := e.told.of[w]; ok && w.runtime.waker.sleeping.Load() && w.runtime.rested.Load() == was.done {
			told[i] = was
			told[i].At, told[i].LargestPause, told[i].PauseEnd = now, 0, 0
			continue
		}
		at[w] = &told[i]
		awake = append(awake, w)
	}
	waits := make([]chan struct{}, len(awake))
	for i, w := range awake {
		one := at[w]
		waits[i] = make(chan struct{})
		if err := e.give(ctx, w, message{brief: func(w *worker) { one.done = w.active(&one.Activity) }, done: waits[i]}); err != nil {
			return nil, err
		}
		w.runtime.waker.wake()
	}
	for i, w := range awake {
		if err := e.await(ctx, w, waits[i]); err != nil {
			return nil, err
		}
	}
	out := make([]Activity, len(told))
	of := make(map[*worker]lastActivity, len(told))
	for i, w := range e.workers {
		out[i], of[w] = told[i].Activity, told[i]
	}
	e.told.of = of
	return out, nil
}
