package rings

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// Chains on the queues of the drivers; see chain.go.

// MultiBuffer is a queue that may take and send chains. One that does not is to be given none.
type MultiBuffer interface {
	MultiBuffer() bool
}

// MultiBuffer implements the interface of that name.
func (q *XSK) MultiBuffer() bool { return q.cfg.MultiBuffer }

// receiveChains is Receive for packets of several frames.
func (q *XSK) receiveChains(burst []Desc) int {
	out, n, foreign := q.region.takeChains(&q.rx, burst, q.held)
	q.rx.release()
	q.heldFill -= n
	q.foreign += uint64(foreign)
	q.stats.RxPackets += uint64(out)
	return out
}

// transmitChains is Transmit for packets of several frames.
func (q *XSK) transmitChains(burst []Desc) int {
	packets, n := q.region.putChains(&q.tx, burst, q.held)
	q.heldTx += n
	q.stats.TxPackets += uint64(packets)
	return packets
}

// ErrNoMultiBuffer is returned where the kernel has no packets of several frames on AF_XDP sockets.
var ErrNoMultiBuffer = errors.New("this kernel has no packets of several frames on AF_XDP sockets (XDP_USE_SG): Linux 6.6 or newer is needed")

// ProbeMultiBuffer asks the kernel, once, whether it knows XDP_USE_SG: unknown flags are refused with EINVAL before the interface, which
// there is none of with index 0, is looked for (xsk_bind in net/xdp/xsk.c).
func ProbeMultiBuffer() error { return probed() }

var probed = sync.OnceValue(func() error {
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return explainSocket(err)
	}
	defer unix.Close(fd)
	switch err := unix.Bind(fd, &unix.SockaddrXDP{Flags: unix.XDP_USE_SG | unix.XDP_COPY}); {
	case errors.Is(err, unix.ENODEV):
		return nil
	case errors.Is(err, unix.EINVAL):
		return ErrNoMultiBuffer
	default:
		return fmt.Errorf("ask the kernel for XDP_USE_SG: %w", err)
	}
})

// NewMemChains is NewMem for a queue that takes and sends chains. The region must have room for them.
func NewMemChains(region *Region, ringSize int) (*Mem, *Wire) {
	if !region.Chains() {
		panic("rings: chains in a region without room for them")
	}
	m, w := NewMem(region, ringSize)
	m.multi, w.multi = true, true
	return m, w
}

// MultiBuffer implements the interface of that name.
func (m *Mem) MultiBuffer() bool { return m.multi }

func (m *Mem) receiveChains(burst []Desc) int {
	out, n, _ := m.region.takeChains(&m.rx, burst, nil)
	if n > 0 {
		m.rx.release()
		m.heldFill -= n
		m.stats.RxPackets += uint64(out)
	}
	return out
}

func (m *Mem) transmitChains(burst []Desc) int {
	packets, n := m.region.putChains(&m.tx, burst, nil)
	m.heldTx += n
	m.stats.TxPackets += uint64(packets)
	return packets
}

// SendChain is Send for a packet that goes into several frames: sizes[i] bytes into the i-th, and what is left into the next ones,
// as much as they take. It is published at once.
func (w *Wire) SendChain(packet []byte, sizes []int) bool {
	room := w.region.frameSize - Headroom
	n := len(sizes)
	left := len(packet)
	for _, size := range sizes {
		if size < 1 || size > min(room, left) {
			w.full.Add(1)
			return false
		}
		left -= size
	}
	n += (left + room - 1) / room
	if n < 1 || w.fill.filled(uint32(n)) < uint32(n) || w.rx.room(uint32(n)) < uint32(n) || n > 1 && !w.multi {
		w.full.Add(1)
		return false
	}
	for i := range n {
		size := min(room, len(packet))
		if i < len(sizes) {
			size = sizes[i]
		}
		addr := w.fill.get() + Headroom
		d := Desc{Addr: addr, Len: uint32(copy(w.region.mem[addr:], packet[:size]))}
		if packet = packet[size:]; i < n-1 {
			d.Options = unix.XDP_PKT_CONTD
		}
		w.rx.put(d)
	}
	w.fill.release()
	w.rx.publish()
	return true
}

// recvChains is Recv where packets may have several frames. A packet that the Mem has not published to its end is a fault of
// the Mem, which the kernel would wait for as well.
func (w *Wire) recvChains(f func(packet []byte)) (packets int) {
	for {
		n := uint32(1)
		for ; w.tx.filled(n) >= n && w.tx.slots[(w.tx.local+n-1)&w.tx.mask].Options&unix.XDP_PKT_CONTD != 0; n++ {
		}
		if w.tx.filled(n) < n || w.completion.room(n) < n {
			break
		}
		w.whole = w.whole[:0]
		for range n {
			d := w.tx.get()
			w.whole = append(w.whole, w.region.Packet(d)...)
			w.completion.put(d.Addr)
		}
		if f != nil {
			f(w.whole)
		}
		packets++
	}
	if packets > 0 {
		w.tx.release()
		w.completion.publish()
	}
	return packets
}
