package engine

import (
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Polling is how a worker waits for packets.
type Polling uint8

// The polling modes.
const (
	PollAdaptive  Polling = iota // spin for a while, then sleep until a packet or message comes
	PollBusy                     // never sleep
	PollInterrupt                // sleep as soon as there is nothing to do
)

// waker is how others end a worker's sleep: an eventfd in its poll set and a flag that says it sleeps. The worker
// sets the flag, then looks once more at its rings and its channel, then polls; whoever gives it something writes
// the eventfd only if the flag is set. Both sides use sequentially consistent atomics, so that either the worker
// sees what was given or the giver sees the flag.
type waker struct {
	fd       int
	sleeping atomic.Bool
}

func newWaker() (*waker, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an eventfd: %w", err)
	}
	return &waker{fd: fd}, nil
}

var one = [8]byte{0: 1} // eventfd takes a counter in host byte order; both orders of a lone byte wake

// wake ends the worker's sleep, if it sleeps.
func (k *waker) wake() {
	if k != nil && k.sleeping.Load() {
		writeEvent(k.fd, &one)
	}
}

func (k *waker) close() error { return unix.Close(k.fd) }

const (
	// spinTime is how long an adaptive worker looks for packets before it sleeps: about what it costs to be woken.
	spinTime = 30 * time.Microsecond
	// sleepTime bounds a sleep while there is something that has an end and does not say when.
	sleepTime = 100 * time.Millisecond
	// longSleep bounds it at all times, should a driver have a reason to be looked at that it does not tell. Each waking has Go's monitor
	// awake some 25 times (docs/design/005-runtime.md).
	longSleep = 2 * time.Second
	// memorySleepTime bounds it where a queue cannot be polled.
	memorySleepTime = time.Millisecond
)

// sleep waits until a queue has packets, a message or a handoff comes, or something has its time. It reports false if one of
// them was there before.
func (w *worker) sleep() bool {
	k := w.runtime.waker
	w.runtime.rested.Store(w.done())
	k.sleeping.Store(true)
	defer k.sleeping.Store(false)
	if len(w.runtime.inbox) > 0 {
		return false
	}
	for i := range w.peers {
		if in := w.peers[i].in; in != nil && !in.Empty() {
			return false
		}
	}
	limit := w.sleepLimit()
	fds := append(w.runtime.fds[:0], unix.PollFd{Fd: int32(k.fd), Events: unix.POLLIN})
	for i := range w.rx {
		q := w.rx[i].Queue
		if q.Held().Tx > 0 {
			limit = memorySleepTime // frames are on their way back: nothing wakes us for them
		}
		if fd := q.FD(); fd < 0 {
			limit = memorySleepTime
		} else if !w.rx[i].TxOnly {
			fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		}
	}
	w.runtime.fds = fds
	w.stats.Sleeps++
	ts := unix.NsecToTimespec(int64(limit))
	w.runtime.stay.end()
	n, err := unix.Ppoll(fds, &ts, nil)
	w.runtime.stay.again()
	if err == nil && n > 0 && fds[0].Revents != 0 {
		readEvent(k.fd, &w.runtime.event)
	}
	return true
}

// sleepLimit is the time until a step has something to do although nothing comes.
func (w *worker) sleepLimit() time.Duration {
	switch p := w.persist; {
	case w.runtime.givenClock, w.leaving != nil, w.fragments.table.Len() > 0, w.table.Shrink() < wholeTimeouts, w.owes(),
		p != nil && p.table != nil && p.table.Len() > 0:
		return sleepTime
	}
	limit := longSleep
	if at, ok := w.table.Next(); ok && at < w.now+uint64(longSleep/time.Millisecond) {
		limit = max(time.Millisecond, time.Duration(at-w.now)*time.Millisecond)
	}
	return limit
}

// owes reports whether frames wait to go back to other workers: for room in a ring, or for sent ones to come back. Nothing wakes
// us for either, while the others may wait for them with empty fill rings, or with a change of the workers that cannot end.
func (w *worker) owes() bool {
	if len(w.unreturned) > 0 {
		return true
	}
	for i := range w.peers {
		if p := &w.peers[i]; p.owed >= burstSize && !p.retired {
			return true
		}
	}
	return false
}
