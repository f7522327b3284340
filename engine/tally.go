package engine

import "sluice/flow"

// What workers share about members and virtual servers costs an atomic operation for each connection that comes and one for each
// that goes, and each waits until all stores before it are done. So what nobody asks for within a step is counted here first, and
// added to the shared numbers when the step is over: once for a member or virtual server, however many connections it was. Not
// counted here are the places of virtual servers and members that have a limit, or whose scheduler compares numbers of
// connections: each is taken before the next connection is looked at.

// tally is what a worker has yet to add to the shared numbers of connections.
type tally struct {
	nodes, virtuals due
}

// due is by id.
type due struct {
	of   []dueCount
	list []uint32 // those that have been counted
}

type dueCount struct {
	n      int32
	listed bool
}

// grow makes room for ids below n, so that counting allocates nothing.
func (d *due) grow(n int) {
	if n > len(d.of) {
		d.of = append(d.of, make([]dueCount, n-len(d.of))...)
		d.list = append(make([]uint32, 0, n), d.list...)
	}
}

func (d *due) add(id uint32, n int32) {
	c := &d.of[id]
	c.n += n
	if !c.listed {
		c.listed = true
		d.list = append(d.list, id)
	}
}

// settle adds what is due to the shared numbers.
func (d *due) settle(to []*shared) {
	for _, id := range d.list {
		c := &d.of[id]
		if c.n != 0 {
			to[id].active.Add(int64(c.n))
		}
		*c = dueCount{}
	}
	d.list = d.list[:0]
}

func (t *tally) add(r *flow.Record, n int32) {
	t.nodes.add(r.Node, n)
	t.virtuals.add(r.VS, n)
}

// settleCounts ends a step: what it has counted is shared.
func (w *worker) settleCounts() {
	if len(w.tally.nodes.list)+len(w.tally.virtuals.list) > 0 {
		w.tally.nodes.settle(w.runtime.counts.nodes)
		w.tally.virtuals.settle(w.runtime.counts.virtuals)
	}
}
