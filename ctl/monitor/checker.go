package monitor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// closeTimeout bounds Close. Probes end within milliseconds of being cancelled; what could last is a callback, or a
// program that the kernel cannot kill because it waits for a disk.
const closeTimeout = 5 * time.Second

// ErrClosed is the error of every use of a Checker after Close, or after the end of its context.
var ErrClosed = errors.New("the checker is closed")

// Options are the settings of a Checker.
type Options struct {
	// Limit is how many probes may be under way at once; 1 to 10,000, 0: 64.
	Limit int
	// Seed makes jitter and spread repeatable.
	Seed uint64
	// OnMonitor is called for each change of the verdict of one monitor about one member, OnMember for each change of
	// a member's verdict; nil: not called. Calls come one at a time, in the order of the decisions, from a goroutine
	// of the Checker that holds no lock: a callback may use the Checker, except for Close. That goroutine is most often the one
	// whose probe decided, so that nothing has to be woken in between. As long as a callback does not return, the pairs with
	// events behind it are not probed again, and a probe's place is taken.
	OnMonitor func(Event)
	OnMember  func(Event)
}

// Checker probes members and tells how their verdicts change. Its methods may be called from any goroutine.
type Checker struct {
	options Options
	ctx     context.Context
	cancel  context.CancelFunc
	workers sync.WaitGroup // all goroutines
	earlier chan struct{}  // the heap has a new first item; capacity 1
	notices chan struct{}  // the queue is not empty; capacity 1

	newProber func(Monitor) (prober, error) // replaced by tests

	delivering sync.Mutex // whoever has it makes the callbacks

	mu        sync.Mutex // guards all below, and pairs and members
	closed    bool
	members   map[string]*member
	timetable timetable // pairs that wait for their time; members that are held off
	ready     []*pair   // due, waiting for a place
	queue     []notice
	running   int // probes under way
	peak      int // the most of them ever
	started   uint64
	latest    time.Duration // longest delay of a probe
	random    *rand.Rand
	phase     float64
}

// notice is an event to deliver and, if it is about a monitor, the pair to schedule afterwards.
type notice struct {
	event Event
	pair  *pair
	about *member // of a member's event
}

// New starts a Checker without members. It ends with ctx or Close; Close also waits.
func New(ctx context.Context, o Options) (*Checker, error) {
	if o.Limit == 0 {
		o.Limit = 64
	}
	if o.Limit < 1 || o.Limit > 10_000 {
		return nil, fmt.Errorf("limit of probes at once %d is out of range: 1 to 10000", o.Limit)
	}
	c := &Checker{
		options: o, earlier: make(chan struct{}, 1), notices: make(chan struct{}, 1), members: map[string]*member{},
		random:    rand.New(rand.NewPCG(o.Seed, 0)),
		newProber: func(m Monitor) (prober, error) { return NewProber(m) },
	}
	c.phase = c.random.Float64()
	c.ctx, c.cancel = context.WithCancel(ctx)
	c.workers.Go(func() { c.run(c.ctx) })
	c.workers.Go(func() { c.deliverNoticed(c.ctx) })
	return c, nil
}

// Close ends all probes and waits until nothing of the Checker runs any more: no goroutine, no callback, no program.
// It is bounded: after 5 s it gives up with an error. It must not be called from a callback. It may be called again.
func (c *Checker) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	// From here on nothing starts a goroutine: run does, and it has seen ctx before it ends.
	c.cancel()
	done := make(chan struct{})
	go func() {
		c.workers.Wait()
		close(done)
	}()
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
		c.mu.Lock()
		defer c.mu.Unlock()
		return fmt.Errorf("close checker: after %v %d probes or a callback have not ended", closeTimeout, c.running)
	}
}

// Observe gives the handshakes of a member that ended in the period up to now, for PassiveConfig. Members that are not
// known are ignored: counts may come later than a removal. now is for the thresholds, and is normally time.Now().
func (c *Checker) Observe(name string, h Handshakes, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.notify()
	m := c.members[name]
	if m == nil || !m.passive.Observe(h, now) {
		return
	}
	if m.passive.State() != PassiveHeld {
		c.judge(m, now, "passive: "+m.passive.State().String(), 0)
		return
	}
	for _, p := range m.pairs {
		p.fresh = 0
	}
	c.schedule(m, m.passive.Until())
	c.judge(m, now, "passive: "+m.passive.Cause(), 0)
}

// judge brings a member's verdict up to date and tells if it changed.
func (c *Checker) judge(m *member, now time.Time, why string, latency time.Duration) {
	if from, changed := m.judge(now, why); changed {
		c.tell(notice{
			event: Event{Member: m.config.Name, Address: m.config.Address, From: from, To: m.verdict, Cause: why, At: now, Latency: latency},
			about: m,
		})
	}
}

// tell puts an event into the queue. The caller has the lock; after it, it calls deliver or notify.
func (c *Checker) tell(n notice) { c.queue = append(c.queue, n) }

// notify has the goroutine for that make the callbacks that there are.
func (c *Checker) notify() {
	if len(c.queue) == 0 {
		return
	}
	select {
	case c.notices <- struct{}{}:
	default: // it has not yet seen the last one
	}
}

// deliverNoticed makes the callbacks of events that come about elsewhere than by a probe, until ctx ends.
func (c *Checker) deliverNoticed(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.notices:
			c.deliver()
		}
	}
}

// deliver makes the callbacks that there are, unless another goroutine is at it, which then makes these as well.
func (c *Checker) deliver() {
	for c.queued() && c.ctx.Err() == nil && c.delivering.TryLock() {
		for n, ok := c.nextNotice(); ok && c.ctx.Err() == nil; n, ok = c.nextNotice() {
			callback := c.options.OnMember
			if n.pair != nil {
				callback = c.options.OnMonitor
			}
			if callback != nil {
				callback(n.event)
			}
			if n.pair != nil {
				c.delivered(n.pair)
			}
		}
		c.delivering.Unlock() // what has come since the last look is seen by the next
	}
}

func (c *Checker) queued() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.queue) > 0
}

// nextNotice takes the oldest event whose pair or member is still there.
func (c *Checker) nextNotice() (notice, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) > 0 {
		n := c.queue[0]
		c.queue[0] = notice{}
		if c.queue = c.queue[1:]; len(c.queue) == 0 {
			c.queue = nil
		}
		if n.pair != nil && !n.pair.removed || n.about != nil && !n.about.removed {
			return n, true
		}
	}
	return notice{}, false
}

func (c *Checker) delivered(p *pair) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !p.removed {
		c.again(p)
	}
}
