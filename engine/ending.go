package engine

import "sluice/flow"

// When a member goes down its connections may have to end. A worker that is told so walks once through its table, a bounded
// number of records at each step, beside the traffic. What it looks for is an order per member: to end what began until
// then. So an order need not be taken back when the member returns, and several orders share one walk.

// EndPolicy is what becomes of the connections of a member that stops serving.
type EndPolicy uint8

// The policies.
const (
	EndNone  EndPolicy = iota // they go on
	EndReset                  // they are removed; both ends of a TCP connection get a RST
	EndMove                   // those of protocols without a handshake are removed, so that the next packet is scheduled anew; the others go on, but those of routers and firewalls, which move to another at once unless their source is translated
)

// endChunk is how many connections a step looks at: with resets, each costs two frames.
const endChunk = 32

// ending is a worker's walk.
type ending struct {
	orders  []endOrder // by node id
	walking bool
	wrapped bool
	cursor  uint32
	stop    uint32 // where the walk has come round to
	visit   func(uint32, *flow.Record)
}

type endOrder struct {
	until  uint64 // ms: connections that began until then
	policy EndPolicy
}

// endConnections orders the connections that a member has now to end, and begins the walk or has it go round once more.
func (w *worker) endConnections(id uint32, policy EndPolicy) {
	if policy == EndNone {
		return
	}
	e := &w.runtime.ending
	for len(e.orders) <= int(id) {
		e.orders = append(e.orders, endOrder{})
	}
	e.orders[id] = endOrder{until: w.now, policy: policy}
	if e.visit == nil {
		e.visit = func(i uint32, r *flow.Record) { w.endIfOrdered(i, r) }
	}
	if !e.walking {
		e.walking, e.cursor = true, 1
	}
	e.stop, e.wrapped = e.cursor, false
}

// endSome takes the walk a step further and reports whether there is more to do.
func (w *worker) endSome() bool {
	e := &w.runtime.ending
	if !e.walking {
		return false
	}
	e.cursor = w.table.Each(e.cursor, endChunk, e.visit)
	switch {
	case e.cursor == 0 && !e.wrapped && e.stop > 1:
		e.cursor, e.wrapped = 1, true
	case e.cursor == 0 || e.wrapped && e.cursor >= e.stop:
		e.walking = false
	}
	return e.walking
}

// ordered says whether a connection is to end, and whether with resets.
func (w *worker) ordered(r *flow.Record) (end, reset bool) {
	o := w.endOrderOf(r)
	if o == nil {
		return false, false
	}
	began := w.now - uint64(uint32(w.now)-r.Start)
	if o.policy == EndNone || began > o.until {
		return false, false
	}
	if o.policy == EndMove && w.reroute(r) {
		return false, false
	}
	handshake := r.Proto() == flow.TCP || r.Proto() == flow.SCTP
	return o.policy == EndReset || !handshake, o.policy == EndReset && r.Proto() == flow.TCP
}

// endIfOrdered ends connection i if it is to, and reports whether it has.
func (w *worker) endIfOrdered(i uint32, r *flow.Record) bool {
	end, reset := w.ordered(r)
	if !end {
		return false
	}
	if reset {
		w.sendResets(r)
	}
	w.stats.Ended++
	w.remove(i)
	return true
}
