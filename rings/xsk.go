package rings

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// BindMode is how an AF_XDP socket shares packets with the network driver.
type BindMode uint8

// The modes, best first. BindAuto asks for zero-copy and takes copy where the driver has no zero-copy.
const (
	BindAuto BindMode = iota
	BindZeroCopy
	BindCopy
)

func (m BindMode) String() string {
	return [...]string{"auto", "zero-copy", "copy"}[m]
}

// BusyPoll makes the kernel run the driver's receive loop inside our system calls (SO_PREFER_BUSY_POLL).
type BusyPoll struct {
	Enabled bool
	Timeout time.Duration // how long a call may poll; SO_BUSY_POLL has microseconds
	Budget  int           // packets per call
}

// XSKConfig describes one AF_XDP socket.
type XSKConfig struct {
	Interface string // for messages
	Ifindex   int
	Queue     int
	Mode      BindMode
	RingSize  int // slots of each of the four rings, a power of two
	FillLevel int // frames kept on the fill ring; 0 means RingSize
	TxBudget  int // packets that one wake-up sends in copy mode (XDP_MAX_TX_SKB_BUDGET); 0 keeps the kernel's
	TxOnly    bool
	// MultiBuffer takes and sends packets of several frames (XDP_USE_SG, Linux 6.6). The region must have room for chains, and the
	// XDP program, or the driver, as many buffers (ProgramConfig.MultiBuffer).
	MultiBuffer bool
	BusyPoll    BusyPoll
	// BindTimeout bounds the retries of a bind that meets EBUSY: the kernel tears the previous socket of a queue
	// down asynchronously. 0 means 5 s.
	BindTimeout time.Duration
}

// XSK is our AF_XDP driver: one socket bound to one queue. Its four rings are mapped from the kernel, its frames
// are the Region's, registered as an own UMEM. See Documentation/networking/af_xdp.rst.
type XSK struct {
	cfg    XSKConfig
	region *Region
	fd     int
	maps   [][]byte // the rings' mappings

	fill, completion ring[uint64]
	rx, tx           ring[Desc]

	fillLevel int
	heldFill  int // given on fill, not yet received
	heldTx    int // given on tx, not yet completed
	// held has a byte per frame, 1 while the kernel holds it through this socket. It is how frames are found
	// again after an unbind, and how a driver that returns a frame twice is noticed.
	held []uint8

	zeroCopy bool
	pollRx   bool // busy polling: receive must enter the kernel
	note     string
	// budgetNote is part of note in copy mode
	budgetNote string
	stats      QueueStats
	refusal    unix.Errno // of the last wake-up to send
	foreign    uint64     // descriptors from the kernel that it did not hold
	closed     bool
}

// OpenXSK makes and binds a socket. The caller puts it into the XDP program's socket map afterwards.
func OpenXSK(region *Region, cfg XSKConfig) (*XSK, error) {
	// The kernel sets no limit to a ring and takes its memory without asking back.
	if cfg.RingSize < 64 || cfg.RingSize > 1<<16 || cfg.RingSize&(cfg.RingSize-1) != 0 {
		return nil, fmt.Errorf("%s queue %d: ring size %d is not a power of two from 64 to 65536", cfg.Interface, cfg.Queue, cfg.RingSize)
	}
	if cfg.MultiBuffer && !region.Chains() {
		return nil, fmt.Errorf("%s queue %d: packets of several frames in a region without room for chains", cfg.Interface, cfg.Queue)
	}
	q := &XSK{cfg: cfg, region: region, fd: -1, held: make([]uint8, region.Frames()), fillLevel: cfg.RingSize}
	if cfg.FillLevel > 0 && cfg.FillLevel < cfg.RingSize {
		q.fillLevel = cfg.FillLevel
	}
	if cfg.TxOnly {
		q.fillLevel = 0
	}
	if err := q.open(); err != nil {
		q.release()
		return nil, fmt.Errorf("AF_XDP socket on %s queue %d: %w", cfg.Interface, cfg.Queue, err)
	}
	return q, nil
}

func (q *XSK) open() error {
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return explainSocket(err)
	}
	q.fd = fd
	if err := registerUMEM(fd, q.region); err != nil {
		return explainUMEM(err, len(q.region.mem))
	}
	for _, opt := range []int{unix.XDP_UMEM_FILL_RING, unix.XDP_UMEM_COMPLETION_RING, unix.XDP_RX_RING, unix.XDP_TX_RING} {
		if q.cfg.TxOnly && opt == unix.XDP_RX_RING {
			continue
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_XDP, opt, q.cfg.RingSize); err != nil {
			return fmt.Errorf("set the size of ring %d to %d: %w", opt, q.cfg.RingSize, err)
		}
	}
	if b := min(q.cfg.TxBudget, q.cfg.RingSize); b > 32 {
		// Without it the budget is 32 and Flush makes more calls.
		if unix.SetsockoptInt(fd, unix.SOL_XDP, unix.XDP_MAX_TX_SKB_BUDGET, b) != nil {
			q.budgetNote = "a wake-up sends 32 packets: the kernel has no XDP_MAX_TX_SKB_BUDGET (Linux 6.17)"
		}
	}
	if err := q.mapRings(); err != nil {
		return err
	}
	if err := q.setBusyPoll(); err != nil {
		return err
	}
	return q.bind()
}

func (q *XSK) mapRings() error {
	off, err := mmapOffsets(q.fd)
	if err != nil {
		return fmt.Errorf("read the ring offsets: %w", err)
	}
	if q.fill, err = mapRing[uint64](q, unix.XDP_UMEM_PGOFF_FILL_RING, off.fill, true); err != nil {
		return err
	}
	if q.completion, err = mapRing[uint64](q, unix.XDP_UMEM_PGOFF_COMPLETION_RING, off.completion, false); err != nil {
		return err
	}
	if q.tx, err = mapRing[Desc](q, unix.XDP_PGOFF_TX_RING, off.tx, true); err != nil {
		return err
	}
	if q.cfg.TxOnly {
		return nil
	}
	q.rx, err = mapRing[Desc](q, unix.XDP_PGOFF_RX_RING, off.rx, false)
	return err
}

func mapRing[T any](q *XSK, pgoff int64, off offsets, producer bool) (ring[T], error) {
	slot := uint64(8)
	if _, ok := any(*new(T)).(Desc); ok {
		slot = 16
	}
	size := int(off.desc + uint64(q.cfg.RingSize)*slot)
	b, err := unix.Mmap(q.fd, pgoff, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return ring[T]{}, fmt.Errorf("map the ring at %#x: %w", pgoff, err)
	}
	q.maps = append(q.maps, b)
	return ringOver[T](b, off, q.cfg.RingSize, producer)
}

func (q *XSK) setBusyPoll() error {
	bp := q.cfg.BusyPoll
	if !bp.Enabled {
		return nil
	}
	for _, o := range []struct{ name, value int }{
		{unix.SO_PREFER_BUSY_POLL, 1},
		{unix.SO_BUSY_POLL, int(bp.Timeout.Microseconds())},
		{unix.SO_BUSY_POLL_BUDGET, bp.Budget},
	} {
		if err := unix.SetsockoptInt(q.fd, unix.SOL_SOCKET, o.name, o.value); err != nil {
			return fmt.Errorf("busy polling (needs Linux 5.11 and CAP_NET_ADMIN): %w", err)
		}
	}
	q.pollRx = true
	return nil
}

func (q *XSK) bind() error {
	attempts := []uint16{unix.XDP_ZEROCOPY, unix.XDP_COPY}
	switch q.cfg.Mode {
	case BindZeroCopy:
		attempts = attempts[:1]
	case BindCopy:
		attempts = attempts[1:]
	}
	if q.cfg.TxOnly && q.cfg.Mode == BindAuto {
		attempts = attempts[1:]
	}
	timeout := q.cfg.BindTimeout
	if timeout == 0 {
		timeout = 5 * time.Second
	}
	deadline := time.Now().Add(timeout) // for all attempts: a queue in use is so for each
	var refused error
	for _, mode := range attempts {
		sa := &unix.SockaddrXDP{
			Flags:   mode | unix.XDP_USE_NEED_WAKEUP,
			Ifindex: uint32(q.cfg.Ifindex),
			QueueID: uint32(q.cfg.Queue),
		}
		if q.cfg.MultiBuffer {
			sa.Flags |= unix.XDP_USE_SG
		}
		var err error
		if mode == unix.XDP_ZEROCOPY && !q.cfg.TxOnly && !q.cfg.MultiBuffer {
			err = refusedRoom(q.cfg, q.region.frameSize)
		}
		if err == nil {
			err = retryBusy(deadline, func() error { return unix.Bind(q.fd, sa) })
		}
		if err == nil {
			q.zeroCopy = isZeroCopy(q.fd)
			q.note = q.explainMode(refused)
			return nil
		}
		refused = err
	}
	return explainBind(refused, q.cfg)
}

// explainMode says why the mode is not the best one and what the kernel lacks for it.
func (q *XSK) explainMode(refused error) string {
	var notes []string
	switch {
	case errors.Is(refused, unix.EOPNOTSUPP) && q.cfg.MultiBuffer:
		notes = append(notes, fmt.Sprintf("zero-copy refused: the driver has none in this kernel, or none for packets of several frames (%v)", refused))
	case errors.Is(refused, unix.EOPNOTSUPP):
		notes = append(notes, fmt.Sprintf("zero-copy refused: the driver has none in this kernel (%v)", refused))
	case errors.Is(refused, unix.EINVAL):
		notes = append(notes, fmt.Sprintf("zero-copy refused: %v (a virtual NIC needs the DMA API: iommu_platform=on)", refused))
	case refused != nil:
		notes = append(notes, "zero-copy refused: "+refused.Error())
	}
	if !q.zeroCopy && q.budgetNote != "" { // zero-copy does not know a budget
		notes = append(notes, q.budgetNote)
	}
	return strings.Join(notes, "; ")
}

func isZeroCopy(fd int) bool {
	opts, err := unix.GetsockoptInt(fd, unix.SOL_XDP, unix.XDP_OPTIONS)
	return err == nil && opts&unix.XDP_OPTIONS_ZEROCOPY != 0
}

// retryBusy repeats f while it returns EBUSY, until the deadline.
func retryBusy(deadline time.Time, f func() error) error {
	for {
		err := f()
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func explainSocket(err error) error {
	switch {
	case errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("this kernel has no AF_XDP (it needs CONFIG_XDP_SOCKETS, Linux 5.4 or newer): %w", err)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("no permission: it needs CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF (run as root): %w", err)
	}
	return err
}

func explainUMEM(err error, size int) error {
	if errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM) {
		return fmt.Errorf("register %d bytes of frames: beyond the limit of locked memory; give CAP_IPC_LOCK, raise the limit (ulimit -l) or lower engine.frames: %w", size, err)
	}
	return fmt.Errorf("register %d bytes of frames: %w", size, err)
}

func explainBind(err error, cfg XSKConfig) error {
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("bind: the queue has another AF_XDP socket; end the program that holds it: %w", err)
	case errors.Is(err, unix.EOPNOTSUPP) && cfg.Mode == BindZeroCopy:
		return fmt.Errorf("bind: the driver has no zero-copy; use mode copy or auto: %w", err)
	case errors.Is(err, unix.ENETDOWN):
		return fmt.Errorf("bind: the interface is down; set it up (ip link set %s up): %w", cfg.Interface, err)
	case errors.Is(err, unix.EINVAL) && cfg.MultiBuffer && ProbeMultiBuffer() != nil:
		return fmt.Errorf("bind: %w", ProbeMultiBuffer())
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("bind: refused; does the interface have a queue %d (ethtool -l %s)?: %w", cfg.Queue, cfg.Interface, err)
	}
	return fmt.Errorf("bind: %w", err)
}

// ZeroCopy reports whether the kernel says that the socket is in zero-copy mode.
func (q *XSK) ZeroCopy() bool { return q.zeroCopy }

// Note says why the mode is not the best one, or is empty.
func (q *XSK) Note() string { return q.note }

// FD is the socket, for the XDP program's socket map and for polling.
func (q *XSK) FD() int { return q.fd }
