package rings

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// A takeover hands the sockets, the region and the XDP link of a running engine to another process. Descriptors go over a
// unix socket; both processes then have the same sockets and the same memory, and one of them at a time touches the
// rings:
//
//	predecessor                            successor
//	  serves                                 maps region and rings (ImportRegion, ImportXSK), loads its program (SucceedProgram)
//	  rests, Export                          rests
//	  rests                                  Import
//	     Decision: whoever is first, the successor to go on or the predecessor to carry on
//	                                         serves, Replace
//
// The predecessor's program sends to the same sockets, so there is no haste to replace it, which takes the kernel long. The
// kernel knows nothing of all that: its indices of the rings are in the memory that both have mapped. What it does not know,
// which frames it was given and has not returned, is our ledger, and goes over in a QueueState.

// ErrBoundRing is returned where the kernel does not map the rings of a socket that is bound.
var ErrBoundRing = errors.New("this kernel does not map the rings of a socket in use again: Linux 6.4 or newer is needed")

// QueueState is what a queue knows about itself that is not in memory which it shares with the kernel.
type QueueState struct {
	Stats            QueueStats
	Foreign          uint64
	HeldFill, HeldTx int
	// Held has a byte per frame of the region, 1 while the kernel holds it. It is the queue's own: to be read while that rests.
	Held []uint8
}

// Transferable is a queue that another process, or another engine, can go on with.
type Transferable interface {
	Queue
	// Export shows the kernel all that was given to the queue, and returns the rest of its state. The queue may go on being used
	// only if nobody imports the state.
	Export() QueueState
	// Import takes the state over, on a queue that was made for the purpose and has not been used.
	Import(s *QueueState) error
}

// FD is the memory's descriptor, -1 for ordinary memory.
func (r *Region) FD() int { return r.fd }

// ImportRegion maps the frames of another process, whose descriptor, received, becomes the region's.
func ImportRegion(fd, frames, frameSize int, pages Pages) (*Region, error) {
	if frames < 1 || (frameSize != 2048 && frameSize != 4096) {
		return nil, errors.Join(fmt.Errorf("a region of %d frames of %d bytes cannot be", frames, frameSize), unix.Close(fd))
	}
	m, err := ImportMapping(fd, frames*frameSize)
	if err != nil {
		return nil, fmt.Errorf("frames: %w", err)
	}
	return &Region{mem: m.Bytes[:frames*frameSize], fd: fd, frameSize: frameSize, shift: shiftOf(frameSize), pages: pages}, nil
}

// ImportMapping maps all of the memory that another process made with MapShared or MapFile, at least size bytes, and has
// the page tables filled. It takes fd over, also when it fails. The contents stay as they are.
func ImportMapping(fd, size int) (Mapping, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	if err == nil && (st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size < int64(size)) {
		err = fmt.Errorf("a file of %d bytes where %d are needed", st.Size, size)
	}
	var b []byte
	if err == nil {
		b, err = unix.Mmap(fd, 0, int(st.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err != nil {
		return Mapping{}, errors.Join(fmt.Errorf("map shared memory of the predecessor: %w", err), unix.Close(fd))
	}
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE) // only faster, as is the next: what is not mapped now is so when it is touched
	_ = unix.Madvise(b, unix.MADV_POPULATE_WRITE)
	return Mapping{Bytes: b, FD: fd, Pages: PagesSmall}, nil
}

// resync takes the indices as they stand in the shared memory.
func (r *ring[T]) resync(producer bool) {
	if producer {
		r.local, r.cached = r.producer.Load(), r.consumer.Load()
	} else {
		r.local, r.cached = r.consumer.Load(), r.producer.Load()
	}
}

// ImportXSK makes a queue of a socket that another process opened with the same region and configuration, and has bound. It
// takes fd over, also when it fails. It touches nothing: the other process may go on with the socket. To use the queue, Import
// its state.
func ImportXSK(region *Region, cfg XSKConfig, fd int, note string) (*XSK, error) {
	q := &XSK{cfg: cfg, region: region, fd: fd, held: make([]uint8, region.Frames()), fillLevel: cfg.RingSize, note: note, closed: true}
	if cfg.FillLevel > 0 && cfg.FillLevel < cfg.RingSize {
		q.fillLevel = cfg.FillLevel
	}
	if cfg.TxOnly {
		q.fillLevel = 0
	}
	q.pollRx = cfg.BusyPoll.Enabled
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	switch {
	case err != nil:
	case domain != unix.AF_XDP:
		err = fmt.Errorf("a socket of family %d, not AF_XDP", domain)
	default:
		err = explainImport(q.mapRings())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("take over the AF_XDP socket of %s queue %d: %w", cfg.Interface, cfg.Queue, err), q.release())
	}
	q.zeroCopy = isZeroCopy(fd)
	return q, nil
}

// explainImport: mapping a ring is EBUSY in every state but "not bound yet" before 6.4, and "bound" or "not bound yet" from
// there on (net/xdp/xsk.c, xsk_mmap).
func explainImport(err error) error {
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%w, and an interface that is still there (%v)", ErrBoundRing, err)
	}
	return err
}

// Export implements Transferable.
func (q *XSK) Export() QueueState {
	q.Flush()
	return QueueState{Stats: q.stats, Foreign: q.foreign, HeldFill: q.heldFill, HeldTx: q.heldTx, Held: q.held}
}

// Import implements Transferable. It compares the ledger with what is on the rings now.
func (q *XSK) Import(s *QueueState) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("take over %s queue %d: %w", q.cfg.Interface, q.cfg.Queue, fmt.Errorf(format, args...))
	}
	if len(s.Held) != len(q.held) {
		return fail("a ledger of %d frames, the region has %d", len(s.Held), len(q.held))
	}
	n := 0
	for _, h := range s.Held {
		if h > 1 {
			return fail("a ledger with a %d in it", h)
		}
		n += int(h)
	}
	if s.HeldFill < 0 || s.HeldTx < 0 || n != s.HeldFill+s.HeldTx {
		return fail("%d frames in the ledger, %d and %d are counted", n, s.HeldFill, s.HeldTx)
	}
	// The kernel goes on meanwhile. What moves from one ring to the next is counted once or not at all, if the next is read first.
	received := 0
	if !q.cfg.TxOnly {
		q.rx.resync(false)
		received = int(q.rx.cached - q.rx.local)
	}
	q.fill.resync(true)
	q.completion.resync(false)
	q.tx.resync(true)
	given := int(q.fill.local - q.fill.cached)
	sent, done := int(q.tx.local-q.tx.cached), int(q.completion.cached-q.completion.local)
	if given+received > s.HeldFill || sent+done > s.HeldTx {
		return fail("%d frames to receive into and %d to send are in the ledger, %d and %d on the rings", s.HeldFill, s.HeldTx, given+received, sent+done)
	}
	copy(q.held, s.Held)
	q.heldFill, q.heldTx, q.stats, q.foreign, q.closed = s.HeldFill, s.HeldTx, s.Stats, s.Foreign, false
	return nil
}

// Leave lets go of the socket without a look at its rings: another process goes on with it. No frame comes back.
func (q *XSK) Leave() error {
	q.closed = true
	return q.release()
}
