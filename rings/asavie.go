package rings

import (
	"fmt"
	"math/bits"
	"strings"

	"github.com/asavie/xdp"
	"golang.org/x/sys/unix"
)

// Asavie drives a queue through github.com/asavie/xdp v0.3.3, the public Go library for AF_XDP. It is the
// baseline that our own driver is measured against.
//
// The library maps a UMEM of its own per socket, so a packet is copied into the Region when it is received and
// out of it when it is sent; the Region's frames are therefore free again as soon as Transmit returns. It has no
// need-wakeup and no memory barriers (harmless on amd64, whose stores are ordered).
type Asavie struct {
	region *Region
	sock   *xdp.Socket
	name   string
	stash  []uint64 // frames of the Region kept to receive into
	level  int
	done   []uint64 // frames whose packets have been copied out
	stats  QueueStats
	failed bool
	closed bool
}

// OpenAsavie opens a queue. Of cfg it heeds Interface, Ifindex, Queue, Mode and RingSize, a power of two. The library
// takes the bind flags from a variable of the process, so sockets are opened one after the other.
func OpenAsavie(region *Region, cfg XSKConfig) (*Asavie, error) {
	name, size := fmt.Sprintf("%s queue %d", cfg.Interface, cfg.Queue), cfg.RingSize
	if bits.OnesCount(uint(size)) != 1 {
		return nil, fmt.Errorf("%s: ring size %d is not a power of two", name, size)
	}
	xdp.DefaultSocketFlags = map[BindMode]uint16{BindZeroCopy: unix.XDP_ZEROCOPY, BindCopy: unix.XDP_COPY}[cfg.Mode]
	sock, err := xdp.NewSocket(cfg.Ifindex, cfg.Queue, &xdp.SocketOptions{
		NumFrames: 2 * size, FrameSize: 2048,
		FillRingNumDescs: size, CompletionRingNumDescs: size,
		RxRingNumDescs: size, TxRingNumDescs: size,
	})
	if err != nil {
		hint := ""
		if cfg.Mode == BindZeroCopy && strings.Contains(err.Error(), unix.EOPNOTSUPP.Error()) { // it does not wrap
			hint = ": the driver has no zero-copy; use mode copy or auto"
		}
		return nil, fmt.Errorf("AF_XDP socket (driver asavie) on %s: %w%s", name, err, hint)
	}
	return &Asavie{
		region: region, sock: sock, level: size, name: name,
		stash: make([]uint64, 0, size), done: make([]uint64, 0, size),
	}, nil
}

// ZeroCopy reports whether the kernel says that the socket is in zero-copy mode.
func (a *Asavie) ZeroCopy() bool { return isZeroCopy(a.sock.FD()) }

// FD is the library's socket.
func (a *Asavie) FD() int { return a.sock.FD() }

// Refill keeps the library's fill ring full, leaving half of its frames for sending, and a stash of our frames
// to copy into.
func (a *Asavie) Refill(p *Pool) int {
	if a.closed {
		return 0
	}
	if n := min(a.sock.NumFreeFillSlots(), a.level-a.sock.NumFilled()); n > 0 {
		// GetDescs may name a frame twice unless what it returned is used at once.
		a.sock.Fill(a.sock.GetDescs(n))
	}
	taken := 0
	for len(a.stash) < a.level {
		addr, ok := p.Get()
		if !ok {
			break
		}
		a.stash = append(a.stash, addr)
		taken++
	}
	return taken
}

// Receive copies what the library has received into frames of the Region.
func (a *Asavie) Receive(burst []Desc) int {
	n := min(len(burst), len(a.stash), a.sock.NumReceived())
	if a.closed || n == 0 {
		return 0
	}
	out := 0
	for _, d := range a.sock.Receive(n) {
		addr := a.stash[len(a.stash)-1] + Headroom
		a.stash = a.stash[:len(a.stash)-1]
		size := copy(a.region.mem[addr:addr+uint64(a.region.frameSize)-Headroom], a.sock.GetFrame(d))
		burst[out] = Desc{Addr: addr, Len: uint32(size)}
		out++
	}
	a.stats.RxPackets += uint64(out)
	return out
}

// Transmit copies packets into the library's frames and hands them over; the library wakes the kernel at once.
// Our frames are free again, and wait for Reclaim.
func (a *Asavie) Transmit(burst []Desc) int {
	if a.closed || a.failed {
		return 0
	}
	a.complete()
	n := min(len(burst), a.sock.NumFreeTxSlots(), cap(a.done)-len(a.done))
	if n == 0 {
		return 0
	}
	frames := a.sock.GetDescs(n)
	for i := range frames {
		frames[i].Len = uint32(copy(a.sock.GetFrame(frames[i]), a.region.Packet(burst[i])))
		a.done = append(a.done, a.region.Base(burst[i].Addr))
	}
	a.stats.TxPackets += uint64(len(frames))
	a.send(frames)
	return len(frames)
}

// send survives the library's panic on a link that went down: by then the packets are on the ring and noted, so that nothing
// is wrong but that the kernel did not want them. The queue stops sending until it does.
func (a *Asavie) send(frames []xdp.Desc) {
	defer func() {
		if recover() != nil {
			a.failed = true
			a.stats.WakeupErrors++
		}
	}()
	a.stats.Wakeups++
	a.sock.Transmit(frames)
}

func (a *Asavie) complete() {
	if n := a.sock.NumCompleted(); n > 0 {
		a.sock.Complete(n)
	}
}

// Pending reports whether the kernel has left packets on the tx ring.
func (a *Asavie) Pending() bool {
	return !a.closed && (a.failed || a.sock.NumFreeTxSlots() < a.level)
}

// Flush wakes the kernel again for packets that it left on the ring, and finds out whether a link that went down is back.
func (a *Asavie) Flush() {
	if a.failed && !a.closed {
		switch wakeTx(a.sock.FD()) {
		case 0, unix.EAGAIN, unix.EBUSY:
			a.failed = false
		default:
			return
		}
	}
	if a.Pending() {
		a.send(nil)
	}
}

// Reclaim gives back the frames whose packets have been copied out.
func (a *Asavie) Reclaim(p *Pool) int {
	if !a.closed {
		a.complete()
	}
	n := len(a.done)
	p.PutAll(a.done)
	a.done = a.done[:0]
	return n
}

// Held counts frames of the Region, not the library's own.
func (a *Asavie) Held() Held { return Held{Fill: len(a.stash), Tx: len(a.done)} }

// Stats are the library's counters.
func (a *Asavie) Stats() QueueStats {
	s := a.stats
	if a.closed {
		return s
	}
	if k, err := statistics(a.sock.FD()); err == nil {
		s.RxDropped, s.RxInvalid, s.TxInvalid = k.Rx_dropped, k.Rx_invalid_descs, k.Tx_invalid_descs
		s.RxRingFull, s.FillEmpty, s.TxEmpty = k.Rx_ring_full, k.Rx_fill_ring_empty_descs, k.Tx_ring_empty_descs
	}
	return s
}

// Close closes the socket. The library never unmaps its rings, and a mapped ring keeps the queue bound, so the
// queue is free again only when the process has ended, or when its interface is gone.
func (a *Asavie) Close(p *Pool) error {
	if a.closed {
		return nil
	}
	a.stats = a.Stats()
	a.stats.TxLost = uint64(a.level - a.sock.NumFreeTxSlots())
	a.Reclaim(p)
	p.PutAll(a.stash)
	a.stash = a.stash[:0]
	a.closed = true
	if err := a.sock.Close(); err != nil {
		return fmt.Errorf("close %s: %w", a.name, err)
	}
	return nil
}
