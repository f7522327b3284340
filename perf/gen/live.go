package gen

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Live is a generator of several million packets per second on one core: a BPF program (bpf/live.c) makes packets in
// pages of the kernel and redirects them out of an interface, which never sees an skb (BPF_PROG_TEST_RUN with live frames,
// Documentation/bpf/bpf_prog_run.rst, Linux 5.18). The driver must take redirected frames (ndo_xdp_xmit). A veth does if
// its peer has an XDP program or generic receive offload; else it drops them all.
//
// A call takes about 20 ms to set up and to take down, so a Run is one long call. The receiving end's work up to its XDP
// program, or up to where receive packet steering takes over, is done by the generator's core.
type Live struct {
	ifindex int
	netns   *os.File
}

// Load says which packets a Live sends.
type Load struct {
	Target
	TCP     bool         // SYNs, else datagrams
	Sources netip.Prefix // IPv4 with 15 bits: source addresses, with the ports from 32768 on
	// Flows are so many different sources; with 0 every packet comes from a new one, 2^32 of them.
	Flows int
	// FirstFlow is the number of the first, so that a second run can go on where the first has ended.
	FirstFlow uint32
	InTurn    bool  // flows one after the other, else at random
	Sizes     []int // bytes of frames without their check sequence, in turn; 1, 2, 4, 8 or 16 of them
	Rate      int   // packets per second, evenly; 0 as fast as it goes
	Packets   int   // in all; 0 as many as the time allows
	Length    time.Duration
}

// IMIX is the simple mixture of 64, 594 and 1518 bytes in the relation 7 to 4 to 1, as near as 16 packets come to it. The
// lengths here are without the four bytes of the check sequence.
var IMIX = []int{60, 60, 590, 60, 590, 60, 60, 590, 60, 1514, 590, 60, 590, 60, 590, 60}

const (
	sizeSlots   = 16   // of live.c
	maxFrame    = 1514 // what fits into a page beside what the kernel keeps there, and more than any size here
	liveDebt    = 256  // packets: less than the rings on the way hold
	liveFrames  = 1 << 1
	sourceBits  = 15
	tcpHeader   = ethLen + ipLen + 20
	settleRetry = time.Millisecond
	liveNice    = -20 // it stands for a network, and nothing it meets shall go before it
)

// OpenLive makes a generator that sends out of an interface of the calling thread's network namespace.
func OpenLive(ifname string) (*Live, error) {
	link, err := net.InterfaceByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("live generator on %s: %w", ifname, err)
	}
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("live generator on %s: %w", ifname, err)
	}
	return &Live{link.Index, ns}, nil
}

// Close lets go of the namespace.
func (g *Live) Close() error { return g.netns.Close() }

// Run sends until the load's length is over, or ctx ends, on a thread of its own pinned to core.
func (g *Live) Run(ctx context.Context, load Load, core int) (Result, error) {
	spec, err := load.program(g.ifindex)
	if err != nil {
		return Result{}, err
	}
	var objs liveObjects
	if err := spec.LoadAndAssign(&objs, nil); err != nil {
		return Result{}, fmt.Errorf("load the live generator: %w", err)
	}
	defer objs.Close()
	var tid atomic.Int64
	var used time.Duration
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with its affinity and its namespace
		err := unix.Setns(int(g.netns.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			err = settle(core)
			_ = unix.Setpriority(unix.PRIO_PROCESS, 0, liveNice)
		}
		if err != nil {
			done <- fmt.Errorf("live generator: %w", err)
			return
		}
		tid.Store(int64(unix.Gettid()))
		frame := make([]byte, maxFrame)
		for err == nil && !isSet(objs.Ended) {
			err = runLive(objs.SluiceLive.FD(), frame)
		}
		var usage unix.Rusage
		if unix.Getrusage(unix.RUSAGE_THREAD, &usage) == nil {
			used = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
		}
		done <- err
	}()
	err = await(ctx, &objs, &tid, done)
	r := Result{Sent: number(objs.Sent), Skipped: number(objs.Skipped), Bytes: number(objs.Bytes)}
	r.CPU = used
	r.Elapsed = time.Duration(number(objs.Last) - number(objs.Begun))
	return r, err
}

// await ends the call: a signal does, and SIGURG is one that Go's runtime uses itself and expects at any time.
func await(ctx context.Context, objs *liveObjects, tid *atomic.Int64, done <-chan error) error {
	tick := time.NewTicker(settleRetry)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
		}
		if ctx.Err() != nil {
			if err := objs.Ended.Set(uint64(1)); err != nil {
				return err
			}
		}
		if t := tid.Load(); t != 0 && isSet(objs.Ended) {
			_ = unix.Tgkill(os.Getpid(), int(t), unix.SIGURG) // ESRCH: it has ended
		}
	}
}

func number(v *ebpf.Variable) (n uint64) {
	_ = v.Get(&n) // mapped memory
	return n
}

func isSet(v *ebpf.Variable) bool { return number(v) != 0 }

// program is live.c with its constants.
func (l *Load) program(ifindex int) (*ebpf.CollectionSpec, error) {
	if !l.Sources.Addr().Is4() || l.Sources.Bits() != sourceBits {
		return nil, fmt.Errorf("sources %s: want an IPv4 prefix of %d bits", l.Sources, sourceBits)
	}
	if l.Flows < 0 || l.Flows > math.MaxUint32 || l.Rate < 0 || l.Packets < 0 || l.Length <= 0 {
		return nil, fmt.Errorf("load of %d flows, %d packets, %d per second, %s: numbers cannot be negative, and the length must be positive", l.Flows, l.Packets, l.Rate, l.Length)
	}
	p, headerLen, err := l.header()
	if err != nil {
		return nil, err
	}
	sizes := l.Sizes
	if len(sizes) == 0 {
		sizes = []int{minLen}
	}
	if sizeSlots%len(sizes) != 0 {
		return nil, fmt.Errorf("%d sizes: want 1, 2, 4, 8 or 16", len(sizes))
	}
	var slots [sizeSlots]uint16
	for i := range slots {
		if n := sizes[i%len(sizes)]; n < minLen || n > maxFrame {
			return nil, fmt.Errorf("frames of %d bytes: want %d to %d", n, minLen, maxFrame)
		}
		slots[i] = uint16(sizes[i%len(sizes)])
	}
	spec, err := loadLive()
	if err != nil {
		return nil, err
	}
	a := l.Sources.Masked().Addr().As4()
	inTurn := uint32(0)
	if l.InTurn {
		inTurn = 1
	}
	for name, value := range map[string]any{
		"ifindex": uint32(ifindex), "header": p.frame, "header_len": uint32(headerLen), "ip_sum": p.ip, "l4_sum": p.l4,
		"source": binary.BigEndian.Uint32(a[:]), "flows": uint32(l.Flows), "first_flow": l.FirstFlow, "in_turn": inTurn, "sizes": slots,
		"rate": uint64(l.Rate), "debt": uint64(liveDebt), "limit": uint64(l.Packets), "length": uint64(l.Length),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("live generator: %s: %w", name, err)
		}
	}
	return spec, nil
}

// header builds the packet without its lengths, and the sums that go with it.
func (l *Load) header() (packet, int, error) {
	if l.TCP {
		l4 := make([]byte, 20)
		l4[12], l4[13], l4[14], l4[15] = 5<<4, 2, 0xff, 0xff // header length, SYN, window
		p, err := build(l.Target, protoTCP, l4, 16)
		return p.unsized(len(l4), 1), tcpHeader, err
	}
	l4 := make([]byte, 8)
	p, err := build(l.Target, protoUDP, l4, 6)
	return p.unsized(len(l4), 1), ethLen + ipLen + len(l4), err
}

// unsized takes the lengths out of a packet's sums; times is how often the segment's length is in l4.
func (p packet) unsized(l4Len int, times uint32) packet {
	binary.BigEndian.PutUint16(p.frame[ethLen+2:], 0)
	p.ip -= uint32(ipLen + l4Len)
	p.l4 -= times * uint32(l4Len)
	return p
}

// interrupted takes the usual end of a call, by a signal, for what it is.
func interrupted(err error) error {
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("run the live generator (needs Linux 5.18): %w", err)
	}
	return err
}
