package rings

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// The order of a burst on one socket: Refill, Receive, (rewrite), Transmit, Flush, Reclaim.

// Refill keeps fillLevel frames with the kernel.
func (q *XSK) Refill(p *Pool) int {
	if q.closed {
		return 0
	}
	// Nothing to give is no reason not to look at the flag: after its link was down, a driver may wait for a wake-up with
	// all frames on the ring.
	want := max(0, q.fillLevel-q.heldFill)
	n := min(want, p.Len(), int(q.fill.room(uint32(want))))
	if n > 0 {
		frames := p.free[len(p.free)-n:]
		for _, addr := range frames {
			q.held[addr>>q.region.shift] = 1
		}
		q.fill.putBackwards(frames) // the hottest first
		p.free = p.free[:len(p.free)-n]
		q.heldFill += n
		q.fill.publish()
	}
	if q.fill.flags.Load()&unix.XDP_RING_NEED_WAKEUP != 0 {
		q.stats.Wakeups++
		wakeRx(q.fd)
	}
	return n
}

// Receive takes what the kernel has received.
func (q *XSK) Receive(burst []Desc) int {
	if q.heldFill == 0 {
		return 0
	}
	n := min(q.rx.filled(uint32(len(burst))), uint32(len(burst)))
	if n == 0 {
		if !q.pollRx {
			return 0
		}
		wakeRx(q.fd)
		if n = min(q.rx.filled(uint32(len(burst))), uint32(len(burst))); n == 0 {
			return 0
		}
	}
	if q.cfg.MultiBuffer {
		return q.receiveChains(burst)
	}
	burst = burst[:n]
	q.rx.getAll(burst)
	q.rx.release()
	out := q.taken(burst)
	q.heldFill -= out
	q.stats.RxPackets += uint64(out)
	return out
}

// taken notes that the frames of burst are ours again. It leaves out those that the kernel did not have, and returns how many remain.
func (q *XSK) taken(burst []Desc) int {
	held, shift, out := q.held, q.region.shift&63, 0
	for _, d := range burst {
		i := d.Addr >> shift
		if i >= uint64(len(held)) || held[i] == 0 {
			q.foreign++
			continue
		}
		held[i] = 0
		burst[out] = d
		out++
	}
	return out
}

// Transmit puts packets on the tx ring; Flush shows them to the kernel.
func (q *XSK) Transmit(burst []Desc) int {
	if q.closed {
		return 0
	}
	if q.cfg.MultiBuffer {
		return q.transmitChains(burst)
	}
	n := min(len(burst), int(q.tx.room(uint32(len(burst)))))
	held, shift := q.held, q.region.shift&63
	for i := range burst[:n] {
		d := burst[i]
		d.Options = 0
		held[d.Addr>>shift] = 1
		q.tx.put(d)
	}
	q.heldTx += n
	q.stats.TxPackets += uint64(n)
	return n
}

// flushCalls bounds the wake-ups of one Flush: a full ring of the largest size at the kernel's default budget
// would need more, and goes on in the next Flush. lostCalls bounds it where each call only drops one packet.
const flushCalls, lostCalls = 8, 64

// Flush publishes the tx ring and wakes the kernel while it makes progress. In copy mode sending happens inside
// the call, at most the tx budget at a time, and EAGAIN says that there is more. Without a carrier each call drops one
// packet and says EBUSY: what is on the ring then goes away at that rate, and is not sent late when the carrier is back.
func (q *XSK) Flush() {
	if q.closed {
		return
	}
	if q.tx.producer.Load() != q.tx.local {
		q.tx.publish()
	}
	for calls, limit := 0, flushCalls; calls < limit; calls++ {
		left := q.tx.unseen()
		if left == 0 || q.tx.flags.Load()&unix.XDP_RING_NEED_WAKEUP == 0 {
			return
		}
		q.stats.Wakeups++
		q.refusal = wakeTx(q.fd)
		switch q.refusal {
		case 0, unix.EAGAIN:
		case unix.EBUSY:
			q.stats.WakeupErrors++
			limit = lostCalls
		default:
			// ENOBUFS: the driver is full; ENETDOWN: the link is down; ENXIO: the interface is gone. The packets stay on
			// the ring and the next Flush tries again.
			q.stats.WakeupErrors++
			return
		}
		if q.tx.unseen() == left {
			return
		}
	}
}

// Pending reports whether packets wait on the tx ring for a wake-up.
func (q *XSK) Pending() bool {
	return !q.closed && q.heldTx > 0 && q.tx.unseen() > 0 && q.tx.flags.Load()&unix.XDP_RING_NEED_WAKEUP != 0
}

// Reclaim takes back the frames that the kernel has sent.
func (q *XSK) Reclaim(p *Pool) int {
	if q.heldTx == 0 {
		return 0
	}
	n := q.completion.filled(uint32(q.heldTx))
	if n == 0 {
		return 0
	}
	out := 0
	held, shift := q.held, q.region.shift&63
	for range n {
		i := q.completion.get() >> shift
		if i >= uint64(len(held)) || held[i] == 0 {
			q.foreign++
			continue
		}
		held[i] = 0
		p.Put(i << shift)
		out++
	}
	q.completion.release()
	q.heldTx -= out
	return out
}

// Held is what the kernel holds through this socket.
func (q *XSK) Held() Held {
	if q.closed {
		return Held{}
	}
	rx := 0
	if q.heldFill > 0 {
		rx = int(q.rx.producer.Load() - q.rx.local)
	}
	return Held{Fill: q.heldFill - rx, Rx: rx, Tx: q.heldTx}
}

// Stats adds the kernel's counters to ours. It makes a system call.
func (q *XSK) Stats() QueueStats {
	s := q.stats
	if q.closed {
		return s
	}
	if k, err := statistics(q.fd); err == nil {
		s.RxDropped, s.RxInvalid, s.TxInvalid = k.Rx_dropped, k.Rx_invalid_descs, k.Tx_invalid_descs
		s.RxRingFull, s.FillEmpty, s.TxEmpty = k.Rx_ring_full, k.Rx_fill_ring_empty_descs, k.Tx_ring_empty_descs
	}
	s.RxInvalid += q.foreign
	return s
}

// drainTime is how long Close waits for packets that are still being sent.
const drainTime = 100 * time.Millisecond

// Close lets what is on the tx ring leave, unbinds, and takes back every frame that the kernel held. The socket
// must no longer be in the program's socket map, or packets that arrive meanwhile are lost with it.
func (q *XSK) Close(p *Pool) error {
	if q.closed {
		return nil
	}
	for deadline := time.Now().Add(drainTime); q.heldTx > 0 && time.Now().Before(deadline); {
		q.Flush()
		if q.Reclaim(p) > 0 {
			continue
		}
		if q.refusal == unix.ENXIO || q.refusal == unix.ENETDOWN {
			break // there is nowhere to send it
		}
		time.Sleep(time.Millisecond)
	}
	q.stats = q.Stats()
	q.stats.TxLost = uint64(q.tx.unseen())
	q.closed = true
	err := q.release()
	for i, h := range q.held {
		if h != 0 {
			p.Put(uint64(i) * uint64(q.region.frameSize))
			q.held[i] = 0
		}
	}
	q.heldFill, q.heldTx = 0, 0
	if err != nil {
		return fmt.Errorf("close %s queue %d: %w", q.cfg.Interface, q.cfg.Queue, err)
	}
	return nil
}

// release unmaps the rings before it closes the socket: a mapping keeps the socket, and so the queue, bound.
func (q *XSK) release() error {
	var errs []error
	for _, m := range q.maps {
		errs = append(errs, unix.Munmap(m))
	}
	q.maps = nil
	if q.fd >= 0 {
		errs = append(errs, unix.Close(q.fd))
		q.fd = -1
	}
	return errors.Join(errs...)
}
