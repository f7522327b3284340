package engine

import "sluice/flow"

// fetchCounts asks memory for what a packet of each of n records counts.
//
//go:noescape
func fetchCounts(records *flow.Record, refs *flow.Ref, n int, virtual, node *TrafficStats)

// fetch asks for the counters of the burst in hand.
func (w *worker) fetch() {
	fetchCounts(w.table.Record(0), &w.refs[0], w.n, &w.virtual.traffic[0], &w.node.traffic[0])
}
