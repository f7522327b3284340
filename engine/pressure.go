package engine

import (
	"math/bits"

	"sluice/flow"
)

// halfOpen counts the connections that are neither established nor answered, of this worker: per virtual server, and per
// source prefix in a table of counters without keys. Two prefixes may share a counter; the hash is keyed, so
// that nobody can aim at another's.
type halfOpen struct {
	virtual []int32
	source  [sourceCounters]uint16
}

const sourceCounters = 1 << 14

// wholeTimeouts is flow.Table.Shrink's value for a table that has room.
const wholeTimeouts = 256

// shrunk cuts a timeout in proportion when the table runs full.
func (w *worker) shrunk(timeout uint32) uint32 {
	return uint32(uint64(timeout) * uint64(w.table.Shrink()) / wholeTimeouts)
}

// mayOpen checks who may open connections, and the quotas of half-open ones. What is refused no member sees.
func (w *worker) mayOpen(v *virtual, id uint32, client flow.Addr) (Reason, bool) {
	if why, ok := v.admits(client); !ok {
		return why, false
	}
	if v.halfOpen > 0 && w.half.virtual[id] >= v.halfOpen {
		return HalfOpenVirtual, false
	}
	if limit := w.cfg.sources.HalfOpen; limit > 0 && int(w.half.source[w.sourceCounter(client)]) >= limit {
		return HalfOpenSource, false
	}
	return 0, true
}

// open counts a connection that begins half open.
func (w *worker) open(r *flow.Record) {
	w.half.virtual[r.VS]++
	if c := &w.half.source[w.sourceCounter(r.Client)]; *c < 0xffff {
		*c++
	}
}

// settled counts one that is no longer.
func (w *worker) settled(r *flow.Record) {
	w.half.virtual[r.VS]--
	if c := &w.half.source[w.sourceCounter(r.Client)]; *c > 0 {
		*c--
	}
}

// sourceCounter is the counter of the prefix of an address. The prefix lengths of a running engine do not change: a
// connection must find the counter that it was counted in.
func (w *worker) sourceCounter(a flow.Addr) uint64 {
	a, s := w.sourcePrefix(a), &w.runtime.secret
	hi, lo := bits.Mul64(a.Lo^s[0], a.Hi^s[1])
	return (hi ^ lo) & (sourceCounters - 1)
}

// sourcePrefix is the prefix of an address that sources are counted by.
func (w *worker) sourcePrefix(a flow.Addr) flow.Addr {
	if a.Is4() {
		a.Lo &^= 1<<(32-w.runtime.sourceBits4) - 1
		return a
	}
	return maskAddr(a, w.runtime.sourceBits6)
}

func maskAddr(a flow.Addr, bits int) flow.Addr {
	if bits <= 64 {
		return flow.Addr{Hi: a.Hi &^ (1<<(64-bits) - 1)}
	}
	return flow.Addr{Hi: a.Hi, Lo: a.Lo &^ (1<<(128-bits) - 1)}
}

// evict makes room in a full table and reports whether a connection was removed.
func (w *worker) evict() bool {
	return w.table.Evict(w.now, w.timeoutOf, w.evicted)
}
