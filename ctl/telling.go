package ctl

import (
	"context"
	"sync"
	"time"

	"sluice/ctl/monitor"
	"sluice/engine"
)

// How the workers are told of changes of members. The time from a verdict to the moment at which the last worker goes by it is to be
// short, so nothing is in between that is not needed for it:
//
//	1 whoever has a change gives it to the workers at once, on the goroutine that it has come on: that of the probe
//	2 the workers wake each other (engine/members.go)
//	3 only then, on a goroutine of its own, comes what can wait: the acknowledgements, the figures, the log, hooks
//
// Changes that come while tellingsAtOnce messages are under way, or while another goroutine gives its own to the workers, wait for
// each other and go together, so that a storm of changes costs no more messages than the workers take.

// tellingsAtOnce is how many messages about members a worker may have that it has not acknowledged: few of those that its channel
// has room for.
const tellingsAtOnce = 8

// telling is the state of that. health's lock guards what has no lock of its own.
type telling struct {
	posting sync.Mutex    // whoever has it takes the changes and gives them to the workers, so that they keep their order
	kick    chan struct{} // there are acknowledgements to come; capacity 1
	ended   chan struct{} // closed at the end
	posted  []told        // without acknowledgement, the oldest first
	last    *engine.PostedMembers
}

func newTelling() telling { return telling{kick: make(chan struct{}, 1), ended: make(chan struct{})} }

// told is what the workers have been given at once.
type told struct {
	members *engine.PostedMembers // nil: there was nothing to tell them
	events  []monitor.Event       // that led to it
	err     error                 // it could not be given to them
}

// post gives the workers the changes that there are, unless another goroutine is at it, which then gives them these as well, or so
// many are under way that these are to wait for them.
func (h *health) post() {
	for h.mayPost() && h.telling.posting.TryLock() {
		h.postAll()
		h.telling.posting.Unlock() // changes that have come since are seen by the next look
	}
}

func (h *health) mayPost() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.changes)+len(h.events) > 0 && len(h.telling.posted) < tellingsAtOnce
}

// postAll gives the workers the changes that there are, and returns the last message that they have got. The caller has posting.
func (h *health) postAll() (*engine.PostedMembers, error) {
	t := &h.telling
	h.mu.Lock()
	changes, e, now := h.changes, h.engine, told{events: h.events}
	h.changes, h.events = nil, nil
	h.mu.Unlock()
	if len(changes) > 0 && e != nil { // without an engine the first configuration will have it
		ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
		now.members, now.err = e.PostMembers(ctx, changes)
		cancel()
	}
	h.mu.Lock()
	if now.members != nil {
		t.last = now.members
	}
	if now.members != nil || now.err != nil || len(now.events) > 0 {
		t.posted = append(t.posted, now)
	}
	last := t.last
	h.mu.Unlock()
	select {
	case t.kick <- struct{}{}:
	default: // it has not yet seen the last one
	}
	return last, now.err
}

// flush gives the workers the changes that there are and waits until all go by these and by what they were given before.
func (h *health) flush() error {
	h.telling.posting.Lock()
	last, err := h.postAll()
	h.telling.posting.Unlock()
	defer h.hasMoved()
	if err != nil || last == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	_, err = last.Wait(ctx)
	return err
}

// acknowledge waits for the acknowledgements, and does what can wait for them, until the end.
func (h *health) acknowledge() {
	for {
		select {
		case <-h.telling.ended:
			return
		case <-h.telling.kick:
		}
		for t, ok := h.oldest(); ok; t, ok = h.oldest() {
			h.acknowledged(&t)
		}
	}
}

func (h *health) oldest() (told, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.telling.posted) == 0 {
		return told{}, false
	}
	return h.telling.posted[0], true
}

// acknowledged deals with the oldest message.
func (h *health) acknowledged(t *told) {
	last, err := time.Now(), t.err
	if t.members != nil {
		ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
		last, err = t.members.Wait(ctx)
		cancel()
	}
	took := make([]time.Duration, len(t.events))
	h.mu.Lock()
	for i := range t.events {
		took[i] = max(0, last.Sub(t.events[i].At))
		h.took.add(took[i])
	}
	h.telling.posted = h.telling.posted[1:]
	h.mu.Unlock()
	h.post() // what has waited for it
	for i := range t.events {
		h.logEvent(&t.events[i], took[i], err)
	}
	if err != nil && len(t.events) == 0 {
		h.log.Error("the members' states could not be told to the workers", "error", err)
	}
	h.hasMoved()
}

// hasMoved tells the goroutine of watch that the workers go by other states.
func (h *health) hasMoved() {
	select {
	case h.moved <- struct{}{}:
	default: // it is told already
	}
}
