package engine

import "time"

// pauseBounds are the upper bounds of the classes of pauses, in nanoseconds; the last class has none. Gaps up to the first
// are not pauses: a step with a full burst takes some of that.
var pauseBounds = [...]uint64{100e3, 300e3, 1e6, 3e6, 10e6, 30e6, 100e6}

// PauseBounds are the upper bounds of Pauses.Classes but the last.
func PauseBounds() (out []time.Duration) {
	for _, b := range pauseBounds[1:] {
		out = append(out, time.Duration(b))
	}
	return out
}

// activity is where a worker's time goes. The clock is read once a step, and around a sleep: what passed between two
// readings belongs to the step before and what came after it, and is busy if that step found work. A long gap is a pause,
// whatever it came from: the scheduler, an interrupt, the collector, a message of control, a fault. Only the worker writes.
type activity struct {
	began uint64 // nanoseconds since boot, as all times here
	last  uint64 // of the step before, or the end of a sleep
	found bool   // it found work
	busy  uint64 // sum
	Pauses
	largest   uint64 // since it was asked for last
	largestAt uint64 // its end
}

// Pauses are gaps of more than 100 µs between two steps of a worker that was not asleep.
type Pauses struct {
	Classes [len(pauseBounds)]uint64 // counts, by the bounds of PauseBounds; the last has none
	Sum     uint64                   // nanoseconds
}

// next accounts for the time since the step before.
func (a *activity) next(now uint64) {
	gap := now - a.last
	a.last = now
	if a.found {
		a.busy += gap
	}
	if gap > a.largest || gap > pauseBounds[0] {
		a.gap(gap, now)
	}
}

// gap notes a gap that is the largest of late or long.
func (a *activity) gap(gap, now uint64) {
	if gap > a.largest {
		a.largest, a.largestAt = gap, now
	}
	if gap <= pauseBounds[0] {
		return
	}
	class := 0
	for class < len(pauseBounds)-1 && gap > pauseBounds[class+1] {
		class++
	}
	a.Classes[class]++
	a.Sum += gap
}

// add takes over what a worker that has ended counted.
func (p *Pauses) add(o *Pauses) {
	for i := range p.Classes {
		p.Classes[i] += o.Classes[i]
	}
	p.Sum += o.Sum
}

// Activity is what a worker did until its last step. Times are since boot (CLOCK_MONOTONIC).
type Activity struct {
	Worker    int
	Began     time.Duration // when its thread started: another value is another worker
	At        time.Duration // of the last step
	Busy      time.Duration // in steps that found work, those of former workers that it inherited from included
	RxPackets uint64
	HandedOut uint64
	HandedIn  uint64
	// LargestPause is the largest gap between two steps without a sleep since the Activities before, and PauseEnd when
	// it ended.
	LargestPause time.Duration
	PauseEnd     time.Duration
}

// done grows with every step that finds work and with every pause: as long as it is the same, a worker has nothing new to tell of.
func (w *worker) done() uint64 {
	n := w.stats.Bursts
	for _, pauses := range w.runtime.activity.Classes {
		n += pauses
	}
	return n
}

// active also returns what done was.
func (w *worker) active(out *Activity) (done uint64) {
	a := &w.runtime.activity
	*out = Activity{
		Worker: w.id, Began: time.Duration(a.began), At: time.Duration(a.last), Busy: time.Duration(a.busy),
		RxPackets: w.stats.RxPackets, HandedOut: w.stats.HandedOut, HandedIn: w.stats.HandedIn,
		LargestPause: time.Duration(a.largest), PauseEnd: time.Duration(a.largestAt),
	}
	a.largest, a.largestAt = 0, 0
	return w.done()
}
