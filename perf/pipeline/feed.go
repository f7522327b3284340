package pipeline

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"sluice/rings"
)

// feed is a port of a worker: a memory ring whose far end is driven by the worker's own thread, from within the calls
// that every driver gets once per burst. So the generator needs no core of its own, any number of workers can be measured
// on as many cores, and what the generator costs can be told by measuring it alone.
//
// It delivers a sequence of packets that were built before, 64 at a time, over and over. The frames that the
// packets are written to are the engine's, few and warm; the sequence is larger than the cache and read in order, as
// a NIC would have it.
type feed struct {
	*rings.Mem
	wire *rings.Wire
	lane *lane
	seq  *sequence
	at   int  // packet of the sequence that is next
	lead bool // the first port of its worker: counts the steps
	hold bool // what is sent stays on the wire
}

const burst = 64

// ringSize is the number of descriptors of each ring: two bursts. More frames in flight are colder frames.
const ringSize = 2 * burst

// sequence is packets in the order of their arrival, a multiple of burst of them, at least one burst.
type sequence struct {
	heads   []byte // headLen each
	headLen int
	lengths []uint16
}

// Refill is the first call of a step for a port: here the packets arrive.
func (f *feed) Refill(p *rings.Pool) int {
	n := f.Mem.Refill(p)
	if f.lead {
		f.lane.step()
	}
	if f.lane.sending {
		f.send()
	}
	return n
}

// send delivers the next burst.
func (f *feed) send() {
	s := f.seq
	if s == nil {
		return
	}
	f.lane.sent += f.wire.SendHeads(s.heads[f.at*s.headLen:(f.at+burst)*s.headLen], s.headLen, s.lengths[f.at:f.at+burst])
	if f.at += burst; f.at == len(s.lengths) {
		f.at = 0
	}
}

// Flush takes what the worker has sent off the wire at once.
func (f *feed) Flush() {
	f.Mem.Flush()
	if f.hold {
		return
	}
	f.lane.received += f.wire.Recv(nil)
}

// lane is what the ports of a worker share. Between an order and its outcome it belongs to the worker.
type lane struct {
	orders   chan int // steps to make; the worker waits here between runs
	outcomes chan outcome
	free     atomic.Bool // the worker is no longer held up
	sparse   bool        // packets come every other step only

	left           int
	sending        bool
	sent, received int
	began          moment
	packets        int // delivered before the run
}

func newLane() *lane { return &lane{orders: make(chan int), outcomes: make(chan outcome)} }

// outcome is a run of one worker.
type outcome struct {
	packets int
	cpu     time.Duration // of the worker's thread
	wall    time.Duration
}

// step is called by the first port at the beginning of every step: when a run is over it ends it, and waits for the next.
func (l *lane) step() {
	if l.sending = l.left > 0; l.sending {
		l.left--
		l.sending = !l.sparse || l.left&1 == 0
		return
	}
	if l.free.Load() {
		return
	}
	if l.began != (moment{}) {
		now := thisMoment()
		l.outcomes <- outcome{l.sent - l.packets, now.cpu - l.began.cpu, now.wall.Sub(l.began.wall)}
	}
	steps, ok := <-l.orders
	if !ok {
		l.free.Store(true)
		l.began = moment{}
		return
	}
	l.left, l.packets, l.began = steps, l.sent, thisMoment()
	if l.sparse {
		l.left *= 2
	}
	l.sending = false
}

// moment is a point of a thread's time and of everybody's.
type moment struct {
	wall time.Time
	cpu  time.Duration
}

// thisMoment reads the clocks; the calling goroutine is locked to its thread.
func thisMoment() moment {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) // cannot fail for the own thread
	return moment{time.Now(), time.Duration(ts.Nano())}
}

// clock is the engine's time: it stands still between runs, so that no connection expires while others are measured.
type clock struct {
	base  atomic.Int64 // milliseconds
	since atomic.Pointer[time.Time]
	// packets, if set, is what drives the clock instead: perMillisecond of them are a millisecond.
	packets        *int
	perMillisecond int
}

func (c *clock) now() uint64 {
	base := c.base.Load()
	if c.packets != nil {
		return uint64(base) + uint64(*c.packets/c.perMillisecond)
	}
	if t := c.since.Load(); t != nil {
		return uint64(base + time.Since(*t).Milliseconds())
	}
	return uint64(base)
}

func (c *clock) start() {
	now := time.Now()
	c.since.Store(&now)
}

func (c *clock) stop() {
	if t := c.since.Swap(nil); t != nil {
		c.base.Add(time.Since(*t).Milliseconds())
	}
}
