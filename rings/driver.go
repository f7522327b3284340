// Package rings moves frames between the network and memory.
//
// All frames of an engine live in one Region, a single mapping that every socket of every port and queue
// registers as its own UMEM. A frame received on one port is therefore transmitted on another without a copy:
// only its descriptor moves.
//
//	          fill ring            rx ring
//	Pool ───────────────▶ kernel ───────────▶ worker ──┐
//	 ▲                                                 │ rewrite in place
//	 └─────────────── kernel ◀─────────────────────────┘
//	 completion ring           tx ring
//
// Every frame is in exactly one place: in a Pool (free), held by a queue (fill, rx, tx or completion ring, or
// inside the kernel), in a handoff ring between two workers, or in the hands of the worker. Held reports what a
// queue holds, so the sum over all places can be checked against the number of frames at any time.
//
// The drivers behind Queue are xsk (AF_XDP, ours), asavie (github.com/asavie/xdp, the baseline), mem (rings in
// ordinary memory, for tests, benchmarks and replay) and pcap (capture files).
package rings

// Desc names one packet: its bytes are Region memory [Addr, Addr+Len). It has the layout of struct xdp_desc
// (include/uapi/linux/if_xdp.h), so that rx and tx rings are slices of it.
type Desc struct {
	Addr    uint64 // byte offset of the first byte of the packet in the Region
	Len     uint32 // bytes
	Options uint32 // XDP_PKT_CONTD and the like on the rings; free for the owner elsewhere
}

// Held counts the frames that a queue holds, by place.
type Held struct {
	Fill int // given to the driver to receive into, including those that the driver took from the ring
	Rx   int // received, not yet taken by the worker
	Tx   int // given to the driver to send, not yet reclaimed
}

// Sum is the number of frames that a queue holds in all places.
func (h Held) Sum() int { return h.Fill + h.Rx + h.Tx }

// QueueStats are the counters of one queue since it was opened. Kernel counters are those of XDP_STATISTICS.
type QueueStats struct {
	RxPackets, TxPackets uint64
	RxDropped            uint64 // XDP_STATISTICS rx_dropped: for other reasons than the following
	RxRingFull           uint64
	FillEmpty            uint64 // the driver wanted a frame and the fill ring had none
	RxInvalid, TxInvalid uint64 // invalid descriptors: must be 0
	TxEmpty              uint64
	TxLost               uint64 // taken by Transmit and not sent when the queue was closed
	Wakeups              uint64 // system calls made to make the kernel look at tx
	WakeupErrors         uint64
}

// Add adds the counters of another queue.
func (s *QueueStats) Add(o *QueueStats) {
	s.RxPackets += o.RxPackets
	s.TxPackets += o.TxPackets
	s.RxDropped += o.RxDropped
	s.RxRingFull += o.RxRingFull
	s.FillEmpty += o.FillEmpty
	s.RxInvalid += o.RxInvalid
	s.TxInvalid += o.TxInvalid
	s.TxEmpty += o.TxEmpty
	s.TxLost += o.TxLost
	s.Wakeups += o.Wakeups
	s.WakeupErrors += o.WakeupErrors
}

// Queue is one receive and transmit queue pair of a port. One worker owns it; no method may be called by
// another goroutine. Every method is non-blocking and works on bursts: an interface call is paid per burst,
// never per packet.
type Queue interface {
	// Refill gives free frames to the driver until it has as many to receive into as it wants, and returns how
	// many it took. Call it before Receive, so that a slow burst never leaves the driver without frames.
	Refill(p *Pool) int

	// Receive fills burst with received packets and returns how many. The frames are the caller's from then on.
	Receive(burst []Desc) int

	// Transmit takes the first n packets of burst for sending and returns n; n < len(burst) when the ring is
	// full. The first n frames are the queue's from then on, the others stay the caller's. Nothing needs to be
	// sent before Flush.
	Transmit(burst []Desc) int

	// Flush makes what Transmit took visible to the driver and wakes it if it asks for that.
	Flush()

	// Reclaim puts frames whose transmission has completed back into p and returns how many.
	Reclaim(p *Pool) int

	// Pending reports whether transmitted packets still wait for the driver to look at them, so that Flush
	// should be called again.
	Pending() bool

	// FD is a descriptor that polls readable when Receive has something to return, or -1.
	FD() int

	Held() Held
	Stats() QueueStats

	// Close stops the queue and returns every frame that it held to p. It is idempotent.
	Close(p *Pool) error
}
