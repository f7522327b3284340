package rings

import "fmt"

// Successor is a queue over the same rings, as another process would map them: its state is to be imported. The wire stays.
func (m *Mem) Successor() *Mem {
	return &Mem{region: m.region, fill: m.fill.again(), completion: m.completion.again(), rx: m.rx.again(), tx: m.tx.again(), wire: m.wire, closed: true, multi: m.multi}
}

// again is the ring as it is mapped for a second time: what is shared, without the indices of whoever uses it now.
func (r *ring[T]) again() ring[T] {
	return ring[T]{slots: r.slots, mask: r.mask, producer: r.producer, consumer: r.consumer, flags: r.flags}
}

// Export implements Transferable. The memory driver keeps no ledger by frame.
func (m *Mem) Export() QueueState {
	m.Flush()
	return QueueState{Stats: m.stats, HeldFill: m.heldFill, HeldTx: m.heldTx}
}

// Import implements Transferable.
func (m *Mem) Import(s *QueueState) error {
	m.rx.resync(false) // the order is that of XSK.Import
	m.fill.resync(true)
	m.completion.resync(false)
	m.tx.resync(true)
	given, sent := int(m.fill.local-m.fill.cached)+int(m.rx.cached-m.rx.local), int(m.tx.local-m.tx.cached)+int(m.completion.cached-m.completion.local)
	if given > s.HeldFill || sent > s.HeldTx || s.HeldFill > m.region.Frames() {
		return fmt.Errorf("take over memory rings: %d and %d frames are counted, %d and %d on the rings", s.HeldFill, s.HeldTx, given, sent)
	}
	m.heldFill, m.heldTx, m.stats, m.closed = s.HeldFill, s.HeldTx, s.Stats, false
	return nil
}
