package engine

import (
	"context"
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
	start := time.Now()
	known := make([]MemberChange, 0, len(changes))
	for _, c := range changes {
		if s := e.dict.member(c.ID); s != nil {
			s.state.Store(c.State.pack())
			known = append(known, c)
		}
	}
	err := e.ask(ctx, e.seated(), func(w *worker) {
		for i := range known {
			w.refresh(known[i].ID)
			w.endConnections(known[i].ID, known[i].End)
		}
	})
	return time.Since(start), err
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
