package engine

import (
	"context"
	"sync/atomic"
	"time"
)

// A member's state is one word that all workers share. Control stores it and tells every worker to look at it again, between
// two bursts; what a worker goes by is its own bitmap. A note says which member, not what: notes may come late, twice, or
// cross a configuration, and the last word is always the one in force. Nothing is compiled for it.

// MemberChange is a new state of a member.
type MemberChange struct {
	ID    uint32 // MemberInfo.ID
	State MemberState
	End   EndPolicy // what becomes of the connections that it has
}

// Now is the engine's clock in milliseconds, for MemberState.Since.
func (e *Engine) Now() uint64 { return e.opt.Clock() }

// SetMembers changes the states of members and returns how long it took until the last worker went by them. An id that no
// configuration has had is ignored. It may be called at any time, also while workers are scaled.
func (e *Engine) SetMembers(ctx context.Context, changes []MemberChange) (time.Duration, error) {
	p, err := e.PostMembers(ctx, changes)
	if err != nil {
		return 0, err
	}
	last, err := p.Wait(ctx)
	return last.Sub(p.start), err
}

// PostedMembers are changes of members that have been given to the workers.
type PostedMembers struct {
	engine  *Engine
	start   time.Time
	changes []MemberChange
	workers []*worker
	done    []chan struct{}
	took    []atomic.Int64 // by worker: nanoseconds from start to its acknowledgement, which it writes; 0: it has not come to it
}

// PostMembers is SetMembers without the wait. Whoever calls it again from one goroutine after another has the workers go by the
// changes in that order. It waits itself, at most until ctx ends, only while a worker has as many messages as it may.
func (e *Engine) PostMembers(ctx context.Context, changes []MemberChange) (*PostedMembers, error) {
	workers := e.seated()
	p := &PostedMembers{engine: e, start: time.Now(), workers: workers, done: make([]chan struct{}, len(workers)), took: make([]atomic.Int64, len(workers))}
	for _, c := range changes {
		if s := e.dict.member(c.ID); s != nil {
			s.state.Store(c.State.pack())
			p.changes = append(p.changes, c)
		}
	}
	// All have the message before the first is woken: it may take the core from us.
	for i := range workers {
		p.done[i] = make(chan struct{})
	}
	for i, w := range workers {
		if len(w.runtime.inbox) == inboxSize {
			p.wake() // it may take a while until there is room
		}
		if err := e.give(ctx, w, message{brief: func(w *worker) { p.apply(w, i) }, done: p.done[i]}); err != nil {
			p.wake()
			return nil, err
		}
	}
	p.wake()
	return p, nil
}

// wake wakes the workers that sleep and have not come to it yet.
func (p *PostedMembers) wake() {
	for i, w := range p.workers {
		if p.took[i].Load() == 0 {
			w.runtime.waker.wake()
		}
	}
}

// apply is what worker i does. It wakes the others first: that which was to do so may have lost its core to this worker, and
// would come to the next one only when this one sleeps.
func (p *PostedMembers) apply(w *worker, i int) {
	p.wake()
	for _, c := range p.changes {
		w.refresh(c.ID)
		w.endConnections(c.ID, c.End)
	}
	p.took[i].Store(max(1, int64(time.Since(p.start))))
}

// Wait waits until every worker goes by the changes, and returns when the last of them said so.
func (p *PostedMembers) Wait(ctx context.Context) (last time.Time, err error) {
	last = p.start
	for i, w := range p.workers {
		if err := p.engine.await(ctx, w, p.done[i]); err != nil {
			return time.Now(), err
		}
		if at := p.start.Add(time.Duration(p.took[i].Load())); at.After(last) {
			last = at
		}
	}
	return last, nil
}

// The word of a state: the kind in the upper byte, then the time.
const kindShift = 56

func (s MemberState) pack() uint64 { return uint64(s.Kind)<<kindShift | s.Since&(1<<kindShift-1) }

func unpackState(word uint64) MemberState {
	return MemberState{Kind: MemberKind(word >> kindShift), Since: word & (1<<kindShift - 1)}
}

// state is the member's state now.
func (m *member) state() MemberState { return unpackState(m.shared.state.Load()) }

// place is where a member is in a configuration, so that its id finds it.
type place struct {
	pool, group, member int32
	exists              bool
}

// placeMembers fills in the places by node id.
func (c *Config) placeMembers() {
	c.places = make([]place, len(c.nodes))
	for i := range c.pools {
		p := &c.pools[i]
		for j := range p.groups {
			for k := range p.groups[j].members {
				c.places[p.groups[j].members[k].id] = place{int32(i), int32(j), int32(k), true}
			}
		}
	}
}

// refresh looks at the state of a member again.
func (w *worker) refresh(id uint32) {
	if int(id) >= len(w.cfg.places) || !w.cfg.places[id].exists {
		return // its configuration will come with the state
	}
	at := w.cfg.places[id]
	p := &w.cfg.pools[at.pool]
	g := &p.groups[at.group]
	w.runtime.choice.pools[at.pool].groups[at.group].set(p, g, int(at.member), g.members[at.member].state())
}
