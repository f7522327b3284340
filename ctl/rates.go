package ctl

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sluice/engine"
)

// sampleInterval is how often workers are asked what they did, and passive monitoring what handshakes they have seen. It is a message
// each, a fraction of a microsecond; one that has slept since the last time gets none.
const sampleInterval = time.Second

// pauseMemory is how long the largest pause is remembered, in samples: it is that of the last minute.
const pauseMemory = 60

// rates are what workers did in the last interval. One goroutine adds, others read.
type rates struct {
	mu sync.Mutex
	of map[int]*workerRate // by the worker's number
}

type workerRate struct {
	last    engine.Activity
	packets float64 // a second
	busy    float64 // share of the time
	pauses  [pauseMemory]pause
	next    int
}

// pause is a gap between two steps of a worker that was not asleep.
type pause struct {
	length time.Duration
	end    time.Duration // since boot
}

// add takes in what workers did since the last time. A worker that was not there before has no rates yet, but keeps the
// pauses of one of the same number.
func (r *rates) add(activities []engine.Activity) {
	r.mu.Lock()
	defer r.mu.Unlock()
	of := map[int]*workerRate{}
	for _, a := range activities {
		w := r.of[a.Worker]
		if w == nil {
			w = &workerRate{}
		}
		of[a.Worker] = w
		w.packets, w.busy = 0, 0
		if dt := (a.At - w.last.At).Seconds(); a.Began == w.last.Began && dt > 0 {
			w.packets = float64(a.RxPackets-w.last.RxPackets) / dt
			w.busy = (a.Busy - w.last.Busy).Seconds() / dt
		}
		w.last = a
		w.pauses[w.next%pauseMemory] = pause{a.LargestPause, a.PauseEnd}
		w.next++
	}
	r.of = of
}

// worker is what the worker of that number did: packets a second, the share of time in steps that found work, and its
// largest pause of the last minute.
func (r *rates) worker(n int) (packets, busy float64, largest pause) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.of[n]
	if w == nil {
		return 0, 0, pause{}
	}
	for _, p := range w.pauses {
		if p.length > largest.length || p.length > 0 && p.length == largest.length && p.end > largest.end {
			largest = p
		}
	}
	return w.packets, w.busy, largest
}

// observe samples until ctx ends.
func (s *Server) observe(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(untilMultiple(s.began, time.Now(), sampleInterval))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		ask, cancel := context.WithTimeout(ctx, askTimeout)
		if activities, err := s.engine.Activities(ask); err == nil { // a worker that does not answer is beat's to tell
			s.rates.add(activities)
		}
		cancel()
		s.watchTraffic(ctx)
	}
}

// wallTime is the time of day of a time since boot.
func wallTime(boot time.Duration) time.Time {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return time.Time{}
	}
	return time.Now().Add(boot - time.Duration(ts.Nano()))
}
