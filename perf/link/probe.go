package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"

	"sluice/perf/result"
)

// probe measures round trips of real sockets: a client's, whose sends are scheduled, and an echo server's. Both have the
// generator's core, and go before it.
type probe struct {
	hist *hdrhistogram.Histogram // nanoseconds
	sent int
	lost int
}

const (
	probeSize = 32 // bytes of payload
	// probeLimit is how long an answer may take. What does not come counts with it.
	probeLimit = 200 * time.Millisecond
	probePrio  = 10 // SCHED_FIFO
	nanosecond = int64(1)
)

// ownThread puts the goroutine on a thread that goes before the generator, on its core.
func (b *bed) ownThread() error {
	runtime.LockOSThread() // for good
	var set unix.CPUSet
	set.Set(b.opt.GeneratorCore)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pin the probe to core %d: %w", b.opt.GeneratorCore, err)
	}
	err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: probePrio}, 0)
	if err != nil {
		return fmt.Errorf("give the probe its priority: %w", err)
	}
	return nil
}

// socket is what net's connections have in common that stand for one.
type socket interface {
	io.Closer
	SyscallConn() (syscall.RawConn, error)
}

// plainSocket is the socket of a connection, blocking, and no longer known to Go's poller, whose thread would be woken on
// the same core by every packet that comes or has left. The connection is closed.
func plainSocket(c socket) (fd int, err error) {
	defer c.Close() // takes it out of the poller's set, which knows it by its number
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	errControl := raw.Control(func(s uintptr) {
		if fd, err = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			err = unix.SetNonblock(fd, false)
		}
	})
	return fd, errors.Join(errControl, err)
}

// roundTrips sends at scheduled times, rate per second on average, for so long, and notes how long each answer took from when it
// was due: a send that has to wait for the answer before it is late for a reason that counts (coordinated omission).
func (b *bed) roundTrips(ctx context.Context, to netip.AddrPort, k latencyCase, rate int, long time.Duration) (*probe, error) {
	limit, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c, err := b.Client.Dial(limit, k.proto, to.String())
	if err != nil {
		return nil, err
	}
	fd, err := plainSocket(c.(socket))
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	tv := unix.NsecToTimeval(int64(probeLimit))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return nil, err
	}
	if k.proto == "tcp" {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return nil, err
		}
	}
	t := newTrips(fd, rate, long)
	t.first() // the server has taken the connection before it has to share its core
	if err := unix.SetNonblock(fd, k.polls); err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	stop := context.AfterFunc(ctx, t.stop)
	defer stop()
	go func() { done <- t.run(b) }()
	if err := errors.Join(<-done, ctx.Err()); err != nil {
		return nil, err
	}
	return t.probe()
}

// percentiles are in microseconds.
func (p *probe) percentiles() result.Metrics {
	us := func(q float64) float64 { return float64(p.hist.ValueAtQuantile(q)) / 1e3 }
	return result.Metrics{"p50_us": us(50), "p99_us": us(99), "p999_us": us(99.9), "max_us": float64(p.hist.Max()) / 1e3}
}

// occupy keeps a core busy, at a carrier's priority, until the result is called.
func (b *bed) occupy(core int) (release func(), err error) {
	end, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	ready, gone := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(gone)
		runtime.LockOSThread() // for good
		err := setup{core: core}.raise(unix.Gettid())
		ready <- err
		if err == nil {
			spin(end, make([]byte, 8))
		}
	}()
	release = func() {
		_, _ = unix.Write(end, []byte{7: 1}) // a number in the machine's byte order that is not 0
		<-gone
		unix.Close(end)
	}
	if err := <-ready; err != nil {
		release()
		return nil, err
	}
	return release, nil
}
