package rings

import "sync/atomic"

// Headroom is how many bytes the kernel leaves free in front of a received packet (XDP_PACKET_HEADROOM); the
// memory driver does the same, so that code which prepends headers meets the same frames.
const Headroom = 256

// Mem is a queue whose other end is a Wire in the same process instead of a kernel. It has the same four rings
// and the same ownership of frames, so that the engine cannot tell it from an AF_XDP socket. One goroutine may
// use the Mem while another uses its Wire.
type Mem struct {
	region           *Region
	fill, completion ring[uint64]
	rx, tx           ring[Desc]
	wire             *Wire
	heldFill, heldTx int
	stats            QueueStats
	closed           bool
	multi            bool // takes and sends chains
}

// Wire is the far end of a Mem: what it sends, the Mem receives, and the reverse.
type Wire struct {
	region           *Region
	fill, completion ring[uint64]
	rx, tx           ring[Desc]
	full             atomic.Uint64
	multi            bool   // the Mem takes and sends chains
	whole            []byte // room for the packet that Recv shows
}

// NewMem makes a queue and its wire. ringSize is a power of two.
func NewMem(region *Region, ringSize int) (*Mem, *Wire) {
	m := &Mem{region: region}
	w := &Wire{region: region}
	m.fill, w.fill = newRing[uint64](ringSize)
	w.completion, m.completion = newRing[uint64](ringSize)
	w.rx, m.rx = newRing[Desc](ringSize)
	m.tx, w.tx = newRing[Desc](ringSize)
	m.wire = w
	return m, w
}

// Refill keeps the fill ring full.
func (m *Mem) Refill(p *Pool) int {
	want := len(m.fill.slots) - m.heldFill
	if want <= 0 || m.closed {
		return 0
	}
	n := min(want, p.Len(), int(m.fill.room(uint32(want))))
	if n == 0 {
		return 0
	}
	frames := p.free[len(p.free)-n:]
	m.fill.putBackwards(frames)
	p.free = p.free[:len(p.free)-n]
	m.heldFill += n
	m.fill.publish()
	return n
}

// Receive takes what the wire has sent.
func (m *Mem) Receive(burst []Desc) int {
	if m.multi {
		return m.receiveChains(burst)
	}
	n := min(m.rx.filled(uint32(len(burst))), uint32(len(burst)))
	if n == 0 {
		return 0
	}
	m.rx.getAll(burst[:n])
	m.rx.release()
	m.heldFill -= int(n)
	m.stats.RxPackets += uint64(n)
	return int(n)
}

// Transmit puts packets on the tx ring.
func (m *Mem) Transmit(burst []Desc) int {
	if m.closed {
		return 0
	}
	if m.multi {
		return m.transmitChains(burst)
	}
	n := min(len(burst), int(m.tx.room(uint32(len(burst)))))
	m.tx.putAll(burst[:n])
	m.heldTx += n
	m.stats.TxPackets += uint64(n)
	return n
}

// Flush shows the tx ring to the wire.
func (m *Mem) Flush() { m.tx.publish() }

// Pending is always false: a wire needs no waking.
func (m *Mem) Pending() bool { return false }

// Reclaim takes back the frames that the wire has delivered.
func (m *Mem) Reclaim(p *Pool) int {
	if m.heldTx == 0 {
		return 0
	}
	n := int(m.completion.filled(uint32(m.heldTx)))
	if n > 0 {
		at := len(p.free)
		p.free = p.free[:at+n]
		addrs := p.free[at:]
		m.completion.getAll(addrs)
		frame := ^uint64(m.region.frameSize - 1)
		for ; len(addrs) >= 8; addrs = addrs[8:] {
			a := (*[8]uint64)(addrs)
			a[0], a[1], a[2], a[3] = a[0]&frame, a[1]&frame, a[2]&frame, a[3]&frame
			a[4], a[5], a[6], a[7] = a[4]&frame, a[5]&frame, a[6]&frame, a[7]&frame
		}
		for i := range addrs {
			addrs[i] &= frame
		}
		m.completion.release()
		m.heldTx -= n
	}
	return n
}

// FD is -1: memory rings are polled.
func (m *Mem) FD() int { return -1 }

// Held is what the wire holds.
func (m *Mem) Held() Held {
	rx := int(m.rx.producer.Load() - m.rx.local)
	if m.closed {
		rx = 0
	}
	return Held{Fill: m.heldFill - rx, Rx: rx, Tx: m.heldTx}
}

// Stats are the packets through the rings.
func (m *Mem) Stats() QueueStats {
	s := m.stats
	s.FillEmpty = m.wire.full.Load()
	return s
}

// Close takes every frame back from all four rings. The wire must be at rest.
func (m *Mem) Close(p *Pool) error {
	if m.closed {
		return nil
	}
	m.closed = true
	m.tx.publish()
	for n := m.wire.fill.filled(^uint32(0)); n > 0; n-- {
		p.Put(m.wire.fill.get())
	}
	m.wire.fill.release()
	for n := m.rx.filled(^uint32(0)); n > 0; n-- {
		p.Put(m.region.Base(m.rx.get().Addr))
	}
	m.rx.release()
	for n := m.wire.tx.filled(^uint32(0)); n > 0; n-- {
		p.Put(m.region.Base(m.wire.tx.get().Addr))
	}
	m.wire.tx.release()
	m.heldTx -= int(m.completion.filled(^uint32(0)))
	for n := m.completion.filled(^uint32(0)); n > 0; n-- {
		p.Put(m.region.Base(m.completion.get()))
	}
	m.completion.release()
	m.heldFill, m.heldTx = 0, 0
	return nil
}

// Send delivers a copy of packet to the Mem. It returns false, and counts, when the Mem has no frame to receive
// into or the packet does not fit one.
func (w *Wire) Send(packet []byte) bool {
	if w.multi && len(packet) > w.region.frameSize-Headroom {
		return w.SendChain(packet, nil)
	}
	if w.fill.filled(1) == 0 || w.rx.room(1) == 0 || len(packet) > w.region.frameSize-Headroom {
		w.full.Add(1)
		return false
	}
	addr := w.fill.get() + Headroom
	d := Desc{Addr: addr, Len: uint32(len(packet))}
	copy(w.region.mem[addr:], packet)
	w.fill.release()
	w.rx.put(d)
	w.rx.publish()
	return true
}

// SendBurst delivers copies of packets, as many as there are frames for, up to the first that does not fit a frame,
// and returns how many. It publishes once.
func (w *Wire) SendBurst(packets [][]byte) int {
	n := min(uint32(len(packets)), w.fill.filled(uint32(len(packets))), w.rx.room(uint32(len(packets))))
	sent := 0
	for _, p := range packets[:n] {
		if len(p) > w.region.frameSize-Headroom {
			break
		}
		addr := w.fill.get() + Headroom
		w.rx.put(Desc{Addr: addr, Len: uint32(copy(w.region.mem[addr:], p))})
		sent++
	}
	if sent > 0 {
		w.fill.release()
		w.rx.publish()
	}
	return sent
}

// Recv calls f with each packet that the Mem has transmitted and completes it. f must not keep the bytes. Like the
// kernel, it sends nothing while the completion ring is full.
func (w *Wire) Recv(f func(packet []byte)) int {
	if w.multi {
		return w.recvChains(f)
	}
	n := w.tx.filled(1)
	n = min(n, w.completion.room(n))
	if f == nil {
		w.complete(n)
	} else {
		for range n {
			d := w.tx.get()
			f(w.region.Packet(d))
			w.completion.put(d.Addr)
		}
	}
	if n > 0 {
		w.tx.release()
		w.completion.publish()
	}
	return int(n)
}
