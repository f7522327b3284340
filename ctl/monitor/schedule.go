package monitor

import (
	"container/heap"
	"context"
	"math"
	"time"
)

// entry is what has a time in the heap: a pair that waits for its next probe, a member that is held off.
type entry struct {
	at    time.Time
	index int // in the heap, from 1; 0: not in it
}

func (e *entry) timer() *entry { return e }

// timed is a *pair or a *member.
type timed interface{ timer() *entry }

// timetable is a heap (container/heap), the earliest first.
type timetable []timed

func (t timetable) Len() int           { return len(t) }
func (t timetable) Less(i, j int) bool { return t[i].timer().at.Before(t[j].timer().at) }
func (t timetable) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].timer().index, t[j].timer().index = i+1, j+1
}
func (t *timetable) Push(x any) {
	item := x.(timed)
	*t = append(*t, item)
	item.timer().index = len(*t)
}
func (t *timetable) Pop() any {
	last := len(*t) - 1
	item := (*t)[last]
	(*t)[last] = nil
	*t = (*t)[:last]
	item.timer().index = 0
	return item
}

// set puts item into the heap at a time, or moves it there.
func (t *timetable) set(item timed, at time.Time) {
	e := item.timer()
	e.at = at
	if e.index == 0 {
		heap.Push(t, item)
	} else {
		heap.Fix(t, e.index-1)
	}
}

func (t *timetable) remove(item timed) {
	if e := item.timer(); e.index != 0 {
		heap.Remove(t, e.index-1)
	}
}

// run waits for what is due, until ctx ends.
func (c *Checker) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(c.startDue(ctx))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-c.earlier:
		}
	}
}

// startDue starts what is due and returns the time until something is.
func (c *Checker) startDue(ctx context.Context) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.notify()
	now := time.Now()
	for len(c.timetable) > 0 {
		if wait := c.timetable[0].timer().at.Sub(now); wait > 0 {
			return wait
		}
		switch item := heap.Pop(&c.timetable).(type) {
		case *pair:
			c.start(ctx, item)
		case *member:
			c.holdOver(item, now)
		}
	}
	return time.Hour
}

// start probes a pair at once, or as soon as one of the places is free.
func (c *Checker) start(ctx context.Context, p *pair) {
	if c.running >= c.options.Limit {
		c.ready = append(c.ready, p)
		return
	}
	c.running++
	c.peak = max(c.peak, c.running)
	c.workers.Go(func() { c.work(ctx, p) })
}

// work probes p and then, in its place, those that wait for one.
func (c *Checker) work(ctx context.Context, p *pair) {
	for p != nil {
		c.probe(ctx, p)
		p = c.nextReady(ctx)
	}
}

// probe makes one probe.
func (c *Checker) probe(ctx context.Context, p *pair) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.mu.Lock()
	if p.removed {
		c.mu.Unlock()
		return
	}
	p.cancel = cancel
	// Copied, because an unchanged pair may be given a new prober, with new files, meanwhile.
	prober, target := p.prober, Target{Member: p.member.config.Name, Address: p.address}
	c.started++
	if late := time.Since(p.at); late > c.latest {
		c.latest = late
	}
	c.mu.Unlock()

	r := prober.Probe(ctx, target)

	c.mu.Lock()
	p.cancel = nil
	if !p.removed && ctx.Err() == nil {
		c.finish(p, r)
	}
	c.mu.Unlock()
	c.deliver()
}

// nextReady returns the pair that has waited longest for a place, or gives the place back. Both under one lock: else a
// pair could begin to wait between the two, and wait for ever.
func (c *Checker) nextReady(ctx context.Context) *pair {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.ready) > 0 && ctx.Err() == nil {
		p := c.ready[0]
		c.ready[0] = nil
		if c.ready = c.ready[1:]; len(c.ready) == 0 {
			c.ready = nil // else the array would keep its largest size
		}
		if !p.removed {
			return p
		}
	}
	c.running--
	return nil
}

// finish takes a result, tells of what changed, and schedules the pair again. After a change that is done by deliver:
// so a slow callback slows the pairs that change, and the queue of events is bounded by their number.
func (c *Checker) finish(p *pair, r Result) {
	m := p.member
	from, changed := p.take(r)
	why := "monitor " + p.monitor.Name + ": " + r.Cause
	if changed {
		c.tell(notice{
			event: Event{
				Member: m.config.Name, Monitor: p.monitor.Name, Address: p.address,
				From: from, To: p.verdict, Cause: r.Cause, At: r.At, Latency: r.Latency,
			},
			pair: p,
		})
	}
	ended := m.recovered() && m.passive.EndHold(r.At)
	if ended {
		c.timetable.remove(m)
		why = "hold-off ended early by " + why
	}
	if changed || ended {
		c.judge(m, r.At, why, r.Latency)
	}
	if !changed {
		c.again(p)
	}
}

// again schedules the next probe. It counts from when the last one was due, so that the time of probes does not add up;
// what could not be done in time is not made up for.
func (c *Checker) again(p *pair) {
	gap := float64(p.interval()) * (1 + p.monitor.Jitter*(2*c.random.Float64()-1))
	at := p.at.Add(time.Duration(gap))
	if now := time.Now(); at.Before(now) {
		at = now
	}
	c.schedule(p, at)
}

// first is the time of a new pair's first probe. Multiples of the golden ratio, modulo 1, are spread evenly however
// many there are, so neither a start with thousands of pairs nor one by one makes a herd.
func (c *Checker) first(p *pair, now time.Time) time.Time {
	c.phase = math.Mod(c.phase+math.Phi, 1)
	return now.Add(time.Duration(c.phase * float64(p.monitor.Interval)))
}

// schedule puts an item into the heap and wakes run if it has become the first.
func (c *Checker) schedule(item timed, at time.Time) {
	c.timetable.set(item, at)
	if item.timer().index == 1 {
		select {
		case c.earlier <- struct{}{}:
		default: // it has not yet seen the last one
		}
	}
}

// holdOver ends the hold-off of a member whose time is over.
func (c *Checker) holdOver(m *member, now time.Time) {
	hold := m.passive.Hold()
	if m.passive.Tick(now) {
		c.judge(m, now, "hold-off of "+hold.String()+" is over, in probation", 0)
	} else if m.passive.State() == PassiveHeld {
		c.schedule(m, m.passive.Until())
	}
}
