package engine

import "sluice/flow"

// The bucket of a new connection's server-side tuple is known only when its member is chosen, and then comes from memory,
// which costs more than all the rest of the packet. So where a burst has several new connections their members are chosen
// first, one after the other, while the buckets come. What is chosen here is a proposal: a place with the member is taken, and
// a port if the source is translated, but nothing else has changed, and connect does with it what it does with its own choice.
// A proposal that comes to nothing, because the packet is refused or the tuple is taken, gives both back.

// proposal is a connection to be; member is nil where there is none.
type proposal struct {
	member  *member
	virtual *virtual
	proto   uint8
	rec     flow.Record
}

// proposals are those of the packets in hand.
type proposals struct {
	of [burstSize]proposal
	n  int // those before are used or empty
	// seen has a bit for tuples: two packets of one new connection must not take two turns of the pool.
	seen [16]uint64
}

// propose chooses members for the packets in hand that will open connections.
func (w *worker) propose() {
	a := &w.ahead
	if w.table.Len()+burstSize > w.table.Cap() {
		return // some will not find room
	}
	a.seen = [16]uint64{}
	a.n = w.n
	for i := range w.n {
		k, p := &w.keys[i], &w.pkts[i]
		if w.refs[i] != 0 || !begins(p) || !hasPorts(k.Proto) || p.TTL <= 1 || noSource(k.Src) {
			continue
		}
		id := w.cfg.find(k, w.ports[i])
		if id == 0 {
			continue
		}
		v := &w.cfg.virtuals[id]
		if v.OnePacket || v.persistence != nil || v.Hairpin == HairpinRefuse || v.Limit > 0 || v.Rate > 0 || v.SourceRate > 0 { // limits are met in the order of arrival
			continue
		}
		if _, ok := w.mayOpen(v, id, k.Src); !ok || a.has(k) {
			continue
		}
		v.shared.reserve(0, 0, w.now)
		c := &w.runtime.choice
		c.begin(v.pool, k, w.now, false)
		m := c.next()
		if m == nil {
			v.shared.cancel(0, w.now)
			continue
		}
		rec, _, ok := w.track(i, id, v, m, false)
		if !ok {
			m.shared.cancel(uint32(m.Rate), w.now)
			v.shared.cancel(0, w.now)
			continue
		}
		a.of[i] = proposal{member: m, virtual: v, proto: k.Proto, rec: rec}
		w.table.Expect(&a.of[i].rec, k.Proto)
	}
}

// has reports whether a tuple, or one that looks like it, was met before in this burst.
func (a *proposals) has(k *flow.Key) bool {
	h := (k.Src.Lo ^ k.Src.Hi ^ uint64(k.Ports)<<16) * 0x9e3779b97f4a7c15 >> 54
	word, bit := &a.seen[h>>6&15], uint64(1)<<(h&63)
	met := *word&bit != 0
	*word |= bit
	return met
}

// retract ends the proposals that came to nothing.
func (w *worker) retract() {
	for i := range w.ahead.of[:w.ahead.n] {
		w.cancel(&w.ahead.of[i])
	}
	w.ahead.n = 0
}

// cancel gives back what a proposal has taken, if it is one.
func (w *worker) cancel(a *proposal) {
	if a.member != nil {
		w.giveBackPort(&a.rec, a.member, a.proto)
		a.member.shared.cancel(uint32(a.member.Rate), w.now)
		a.virtual.shared.cancel(0, w.now)
		a.member = nil
	}
}

// connectProposed makes the connection that was proposed for packet i, if that is possible.
func (w *worker) connectProposed(i int, id uint32) flow.Ref {
	a := &w.ahead.of[i]
	if a.member == nil {
		return 0
	}
	r, res := w.table.Insert(&a.rec, a.proto, w.now, w.now+uint64(a.virtual.Timeouts.at(a.proto, &a.rec)))
	if res != flow.Inserted {
		w.cancel(a)
		return 0
	}
	w.opened(r, id, a.member)
	a.member = nil
	return r
}
