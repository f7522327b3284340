package engine

import (
	"sluice/rings"
)

// egress is a worker's way out of one port: its own queue there, or the worker that has one.
type egress struct {
	queue rings.Queue // nil: this worker has none
	via   int         // then: the slot of the worker to hand finished frames to, or nobody
	n     int
	batch [burstSize]rings.Desc
}

// send puts a finished frame on its egress port; it leaves with the batch.
func (w *worker) send(port int, d rings.Desc) {
	e := &w.tx[port]
	if e.n == burstSize {
		w.flush(e, port)
	}
	e.batch[e.n&(burstSize-1)] = d
	e.n++
}

// transmit flushes every egress port.
func (w *worker) transmit() {
	for port := range w.tx {
		e := &w.tx[port]
		if e.n > 0 {
			w.flush(e, port)
		} else if e.queue != nil && e.queue.Pending() {
			e.queue.Flush()
		}
	}
}

// flush sends the batch. What a full ring does not take after one reclaim is dropped: nothing waits.
func (w *worker) flush(e *egress, port int) {
	if w.capture != nil && w.capture.flush(w, e, port) {
		return
	}
	batch := e.batch[:e.n]
	e.n = 0
	logical := port
	if w.cfg.lanes != nil {
		port = int(w.cfg.lanes[port].parent)
		e = &w.tx[port]
	}
	if w.cfg.Ports[port].Down || w.cfg.Ports[logical].Down || e.queue == nil && e.via == nobody {
		// Not to the ring: it would keep them for as long as the link is down, and send what nobody waits for any more.
		for _, d := range batch {
			w.lose(d, PortDown)
		}
		return
	}
	if e.queue == nil {
		w.handOver(e.via, transmitKind, uint16(logical), batch)
		return
	}
	if w.cfg.lanes != nil {
		batch = w.leaveVLAN(batch, logical)
		if w.capture != nil {
			w.capture.tagged(w, batch)
		}
	}
	if w.jumbo != nil {
		batch = w.sendable(e.queue, batch)
	}
	sent := e.queue.Transmit(batch)
	e.queue.Flush()
	if sent < len(batch) {
		e.queue.Reclaim(w.pool)
		sent += e.queue.Transmit(batch[sent:])
		e.queue.Flush()
	}
	w.stats.TxPackets += uint64(sent)
	for _, d := range batch[sent:] {
		w.lose(d, TxFull)
	}
}

// lose drops a frame on its way out, of a packet that has been counted as going on.
func (w *worker) lose(d rings.Desc, why Reason) {
	w.stats.Unsent++
	w.drop(d, why)
}

// toHost hands a frame to the kernel, unchanged but for its Ethernet destination, which becomes the kernel's end of
// the host port: a frame taken by XDP cannot go back by itself.
func (w *worker) toHost(d rings.Desc) {
	h := w.cfg.Host
	if h == nil {
		w.drop(d, HostOff)
		return
	}
	b := w.region.Packet(d)
	copy(b[:6], h.MAC[:])
	w.stats.ToHost++
	w.send(h.Port, d)
}
