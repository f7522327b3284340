package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"sluice/flow"
	"sluice/rings"
)

// A takeover moves a running engine into another process:
//
//	predecessor                     successor
//	  Pause                           New with Options.Successor: tables attached, queues imported, no frames
//	  Pause.Export ── state ────────▶ StartPaused: threads are there, nothing is touched
//	                                  Import
//	  Leave, or Resume                Resume, or Leave
//
// The memory of frames and tables is shared, so the state is what a worker has besides: the scalars of its table, its free
// frames, the ledgers of its queues, counters, half-open counts, the way back to clients of one-packet servers. Its size
// does not depend on the number of connections. Turns of pools and connections of members go along, so that schedulers go on.

// stateVersion changes whenever the meaning of a state does, but not when counters come and go (countercode.go).
const stateVersion = 5

// Layout describes all that predecessor and successor must agree on to share memory and state. Processes with different
// layouts cannot take over from each other.
func Layout() string {
	return fmt.Sprintf("%s, engine state %d, %d bins", flow.Layout(), stateVersion, Bins)
}

// References are the ids that the configuration names or a connection uses: what a successor whose configuration does not
// name them has to drain. The ends of connections are not among them: who compiled the configurations knows which there can be.
func (e *Engine) References(ctx context.Context) (*InUse, error) {
	u := NewInUse()
	snaps, err := e.Snapshots(ctx)
	if err != nil {
		return u, err
	}
	cfg := e.Config()
	for id := range cfg.virtuals {
		if cfg.virtuals[id].exists {
			u.Virtuals[uint32(id)] = true
		}
	}
	for id := range cfg.nodes {
		if cfg.nodes[id].exists {
			u.Nodes[uint32(id)] = true
		}
	}
	for i := range snaps {
		for id, v := range snaps[i].Virtual {
			if v.Active > 0 {
				u.Virtuals[uint32(id)] = true
			}
		}
		for id, n := range snaps[i].Node {
			if n.Active > 0 {
				u.Nodes[uint32(id)] = true
			}
		}
	}
	return u, nil
}

// ErrState is returned for a state that does not fit the engine that imports it.
var ErrState = errors.New("the state of the predecessor does not fit")

// Export appends the state of the engine, which rests, to b. The engine may go on only if no other has begun to.
func (p *Pause) Export(b []byte) ([]byte, error) {
	e := p.e
	cfg := e.Config()
	out := encoder{b: b}
	out.text(Layout())
	out.counterNames()
	for _, v := range []int{len(e.workers), e.opt.Region.Frames(), e.opt.Region.FrameSize(), len(cfg.Ports), int(cfg.owners.end), cfg.sources.Bits4, cfg.sources.Bits6} {
		out.count(v)
	}
	out.bytes(cfg.owners.worker[:])
	for _, list := range [][]*shared{e.dict.shared, e.dict.services} {
		out.count(len(list))
		for _, s := range list {
			out.u64(uint64(s.active.Load()))
			out.u64(s.rate.Load())
			out.u64(s.latency.Load())
		}
	}
	out.count(len(e.dict.turns))
	for k, turn := range e.dict.turns {
		out.text(k.pool)
		out.u64(uint64(int64(k.priority)))
		out.u64(turn.Load())
	}
	for _, w := range e.workers {
		if err := w.export(&out); err != nil {
			return b, fmt.Errorf("worker %d: %w", w.id, err)
		}
	}
	return out.b, nil
}

func (w *worker) export(out *encoder) error {
	w.abandonFragments() // their datagrams are sent again
	out.b = w.table.AppendState(out.b)
	out.count(w.pool.Len())
	w.pool.Each(out.u64)
	out.count(len(w.rx))
	for i := range w.rx {
		q, ok := w.rx[i].Queue.(rings.Transferable)
		if !ok {
			return fmt.Errorf("a queue of driver %T cannot be handed over", w.rx[i].Queue)
		}
		s := q.Export()
		out.count(w.rx[i].Port)
		out.count(w.rx[i].Number)
		out.count(s.HeldFill)
		out.count(s.HeldTx)
		out.u64(s.Foreign)
		out.counters(&s.Stats)
		out.bytes(s.Held)
	}
	out.counters(&w.stats)
	for _, c := range []*counters{&w.virtual, &w.node} {
		out.count(c.len())
		out.counters(c.appendTo(nil))
	}
	out.count(len(w.half.virtual))
	out.fixed(w.half.virtual)
	snat := 0 // whether there are SNAT ports in use
	if w.sources != nil && w.sources.Sets() > 0 {
		snat = 1
	}
	out.count(snat)
	exportSparse(out, w.half.source[:], func(n *uint16) { out.u64(uint64(*n)) })
	exportSparse(out, w.clients.entries[:], func(c *clientEntry) {
		out.u64(c.addr.Hi)
		out.u64(c.addr.Lo)
		out.bytes(c.mac[:])
		out.count(int(c.port))
	})
	w.exportPersistence(out)
	return nil
}

// exportSparse writes the entries that are not zero, each behind its index plus one, and a 0 at the end.
func exportSparse[T comparable](out *encoder, list []T, put func(*T)) {
	var zero T
	for i := range list {
		if list[i] != zero {
			out.count(i + 1)
			put(&list[i])
		}
	}
	out.count(0)
}

// Import makes the state of a predecessor that of the engine, which was made with Options.Successor and rests. The
// dictionary must have the predecessor's entries. Everything is checked that can be without reading connections; every frame
// must be in exactly one place. After an error the engine must not go on.
func (p *Pause) Import(state []byte) error {
	e := p.e
	cfg := e.Config()
	in := decoder{b: state}
	if l := in.text(); l != Layout() {
		return fmt.Errorf("%w: it has %s, this version %s", ErrState, l, Layout())
	}
	in.counterNames()
	for _, v := range []struct {
		what string
		n    int
	}{
		{"workers", len(e.workers)}, {"frames", e.opt.Region.Frames()}, {"bytes of a frame", e.opt.Region.FrameSize()}, {"ports", len(cfg.Ports)},
		{"client end", int(cfg.owners.end)}, {"bits of IPv4 sources", cfg.sources.Bits4}, {"bits of IPv6 sources", cfg.sources.Bits6},
	} {
		if n := in.count(); n != v.n {
			return fmt.Errorf("%w: %s %d, here %d", ErrState, v.what, n, v.n)
		}
	}
	if string(in.bytes()) != string(cfg.owners.worker[:]) {
		return fmt.Errorf("%w: its workers own other bins", ErrState)
	}
	for _, list := range [][]*shared{e.dict.shared, e.dict.services} {
		n := in.limited(in.count(), 24)
		if n > len(list) {
			return fmt.Errorf("%w: %d ids, the dictionary has %d", ErrState, n, len(list))
		}
		for _, s := range list[:n] {
			s.active.Store(int64(in.u64()))
			s.rate.Store(in.u64())
			s.latency.Store(in.u64())
		}
	}
	for range in.limited(in.count(), 24) {
		pool, priority := in.text(), int(int64(in.u64()))
		e.dict.turn(pool, priority).Store(in.u64())
	}
	frames := ledger{seen: make([]uint8, e.opt.Region.Frames()), size: uint64(e.opt.Region.FrameSize())}
	for _, w := range e.workers {
		if err := w.restore(&in, &frames); err != nil {
			return fmt.Errorf("%w: worker %d: %w", ErrState, w.id, err)
		}
	}
	if in.err == nil && len(in.b) > 0 {
		in.err = fmt.Errorf("%d bytes too many", len(in.b))
	}
	if err := errors.Join(in.err, e.Audit()); err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	e.opt.Successor = false
	return nil
}

func (w *worker) restore(in *decoder, frames *ledger) (err error) {
	if in.err == nil {
		in.b, err = w.table.Resume(in.b)
		if err != nil {
			return err
		}
	}
	for range in.limited(in.count(), 8) {
		addr := in.u64()
		if err := frames.put(addr); err != nil {
			return err
		}
		w.pool.Put(addr)
	}
	if n := in.count(); in.err == nil && n != len(w.rx) {
		return fmt.Errorf("%d queues, here %d", n, len(w.rx))
	}
	for range w.rx {
		var s rings.QueueState
		port, number := in.count(), in.count()
		s.HeldFill, s.HeldTx, s.Foreign = in.count(), in.count(), in.u64()
		in.counters(&s.Stats)
		s.Held = in.bytes()
		// A worker that was scaled has them in another order.
		i := slices.IndexFunc(w.rx, func(q PortQueue) bool { return q.Port == port && q.Number == number })
		if in.err != nil || i < 0 {
			return errors.Join(in.err, fmt.Errorf("queue %d of port %d is another worker's here", number, port))
		}
		q, ok := w.rx[i].Queue.(rings.Transferable)
		if !ok {
			return fmt.Errorf("a queue of driver %T cannot be taken over", w.rx[i].Queue)
		}
		for f, held := range s.Held {
			if held != 0 {
				if err := frames.put(uint64(f) * frames.size); err != nil {
					return err
				}
			}
		}
		if err := q.Import(&s); err != nil {
			return err
		}
	}
	in.counters(&w.stats)
	for _, c := range []*counters{&w.virtual, &w.node} {
		list := make([]ServiceStats, in.limited(in.count(), 8))
		in.counters(list)
		c.grow(len(list))
		c.set(list)
	}
	n := in.limited(in.count(), 4)
	w.half.virtual = append(w.half.virtual, make([]int32, max(0, n-len(w.half.virtual)))...)
	in.fixed(w.half.virtual[:n])
	if in.count() != 0 && in.err == nil { // only then connections are read: what is in use is made anew from them
		w.table.Each(1, w.table.Cap(), func(_ uint32, r *flow.Record) { w.keepPort(r) })
	}
	importSparse(in, w.half.source[:], func(n *uint16) { *n = uint16(in.u64()) })
	importSparse(in, w.clients.entries[:], func(c *clientEntry) {
		c.addr = flow.Addr{Hi: in.u64(), Lo: in.u64()}
		copy(c.mac[:], in.bytes())
		c.port = uint16(in.count())
		if int(c.port) >= len(w.tx) {
			in.fail("a client behind port %d", c.port)
		}
	})
	if in.err != nil {
		return in.err
	}
	return w.restorePersistence(in)
}

func importSparse[T any](in *decoder, list []T, get func(*T)) {
	for i := in.count(); i > 0; i = in.count() {
		if i > len(list) {
			in.fail("entry %d of %d", i, len(list))
			return
		}
		get(&list[i-1])
	}
}

// ledger notes in how many places each frame is.
type ledger struct {
	seen []uint8
	size uint64
}

func (l *ledger) put(addr uint64) error {
	i := addr / l.size
	if addr%l.size != 0 || i >= uint64(len(l.seen)) {
		return fmt.Errorf("%#x is not the start of a frame", addr)
	}
	if l.seen[i] != 0 {
		return fmt.Errorf("frame %d is in two places", i)
	}
	l.seen[i] = 1
	return nil
}
