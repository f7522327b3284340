package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"

	"sluice/perf/gen"
	"sluice/perf/lab"
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

// kernelAnswers answers the client's datagrams at the servers' end of the wire.
func (b *bed) kernelAnswers() (stop func(), err error) {
	s, err := gen.NewSink(gen.SinkConfig{Clients: netip.PrefixFrom(b.Client4, 32), Servers: lab.ServerNet, Answer: true})
	if err != nil {
		return nil, err
	}
	if err := b.atServers(func() error { return s.AttachServers(b.serverIf) }); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return func() { s.Close() }, nil
}

// echo answers on all addresses of the servers until the result is called.
func (b *bed) echo(proto string) (stop func(), err error) {
	if proto == kernelEcho {
		return b.kernelAnswers()
	}
	tcp := proto == "tcp"
	var closers []func()
	stop = func() {
		for _, c := range closers {
			c()
		}
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	for _, a := range b.ServerAddr4 {
		if tcp {
			ln, err := b.Servers.Listen("tcp", netip.AddrPortFrom(a, tcpPort).String())
			if err != nil {
				return nil, err
			}
			open := &answered{open: map[int]bool{}}
			open.Add(1)
			go func() {
				defer open.Done()
				for {
					c, err := ln.Accept()
					if err != nil {
						return
					}
					if fd, err := plainSocket(c.(*net.TCPConn)); err == nil && open.add(fd) {
						go func() {
							defer open.done(fd)
							b.answer(fd)
						}()
					}
				}
			}()
			closers = append(closers, func() {
				ln.Close()
				open.end()
			})
			continue
		}
		pc, err := b.Servers.ListenPacket("udp", netip.AddrPortFrom(a, udpPort).String())
		if err != nil {
			return nil, err
		}
		fd, err := plainSocket(pc.(*net.UDPConn))
		if err != nil {
			return nil, err
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			b.answerDatagrams(fd)
		}()
		closers = append(closers, func() {
			_ = unix.Shutdown(fd, unix.SHUT_RDWR) // ENOTCONN, and the wait ends
			<-done
			unix.Close(fd)
		})
	}
	return stop, nil
}

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
	return quiet()
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

func (b *bed) answerDatagrams(fd int) {
	if b.ownThread() != nil {
		return
	}
	d := datagram{payload: make([]byte, 2048)}
	procPin()
	defer procUnpin()
	for {
		if err := rawEcho(fd, &d); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// answered are the connections of an echo server. All must have ended before the runtime may stop the world again: it is not
// told that their threads wait.
type answered struct {
	sync.WaitGroup
	mu    sync.Mutex
	open  map[int]bool
	ended bool
}

// add reports whether the connection is to be answered; else it is closed.
func (a *answered) add(fd int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		unix.Close(fd)
		return false
	}
	a.open[fd] = true
	a.Add(1)
	return true
}

func (a *answered) done(fd int) {
	a.mu.Lock()
	delete(a.open, fd)
	unix.Close(fd)
	a.mu.Unlock()
	a.Done()
}

func (a *answered) end() {
	a.mu.Lock()
	a.ended = true
	for fd := range a.open {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR) // and its wait ends
	}
	a.mu.Unlock()
	a.Wait()
}

func (b *bed) answer(fd int) {
	if b.ownThread() != nil {
		return
	}
	buf := make([]byte, 2048)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	procPin()
	defer procUnpin()
	for {
		n, err := rawRead(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			return
		}
		if _, err := rawWrite(fd, buf[:n]); err != nil {
			return
		}
	}
}

// roundTrips sends at scheduled times, rate per second, for so long, and notes how long each answer took from when it
// was due: a send that has to wait for the answer before it is late for a reason that counts (coordinated omission).
func (b *bed) roundTrips(ctx context.Context, to netip.AddrPort, proto string, rate int, long time.Duration) (*probe, error) {
	tcp, network := proto == "tcp", "udp"
	if tcp {
		network = "tcp"
	}
	limit, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c, err := b.Client.Dial(limit, network, to.String())
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
	if tcp {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return nil, err
		}
	}
	if err := unix.SetNonblock(fd, proto == kernelEcho); err != nil {
		return nil, err
	}
	p := &probe{hist: hdrhistogram.New(nanosecond, int64(10*time.Second), 3)}
	done := make(chan error, 1)
	go func() { done <- p.run(ctx, b, fd, rate, long) }()
	return p, <-done
}

func (p *probe) run(ctx context.Context, b *bed, fd int, rate int, long time.Duration) error {
	if err := b.ownThread(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return err
	}
	interval := time.Second / time.Duration(rate)
	out, in := make([]byte, probeSize), make([]byte, 2048)
	procPin()
	defer procUnpin()
	begin, answered := time.Now(), time.Time{}
	for i := 0; ctx.Err() == nil; i++ {
		due := begin.Add(time.Duration(i) * interval)
		if due.Sub(begin) >= long {
			return nil
		}
		for wait := time.Until(due); wait > 0; wait = time.Until(due) {
			rawSleep(wait)
		}
		// The client's own oversleep is none of the carrier's; a wait for its answer is.
		from := due
		if answered.Before(due) {
			from = time.Now()
		}
		out[0], out[1], out[2], out[3] = byte(i), byte(i>>8), byte(i>>16), byte(i>>24)
		if _, err := rawWrite(fd, out); err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("probe: %w", err)
		}
		p.sent++
		ok := p.receive(fd, in, out[:4])
		answered = time.Now()
		if !ok {
			p.lost++
		}
		if err := p.hist.RecordValue(answered.Sub(from).Nanoseconds()); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// receive waits for the answer to a probe, and passes over late ones of others. It reports whether it came in time.
func (p *probe) receive(fd int, in, want []byte) bool {
	began := time.Now()
	for got := 0; ; {
		n, err := rawRead(fd, in[got:])
		switch {
		case errors.Is(err, unix.EAGAIN) && time.Since(began) < probeLimit: // at once without sleep, or the end of the limit
			continue
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNREFUSED):
			continue
		case err != nil || n <= 0:
			return false
		}
		if got += n; got < probeSize {
			continue // a part of a stream
		}
		if [4]byte(in[:4]) == [4]byte(want) {
			return true
		}
		copy(in, in[probeSize:got])
		got -= probeSize
	}
}

// percentiles are in microseconds.
func (p *probe) percentiles() map[string]float64 {
	us := func(q float64) float64 { return float64(p.hist.ValueAtQuantile(q)) / 1e3 }
	return map[string]float64{"p50_us": us(50), "p99_us": us(99), "p999_us": us(99.9), "max_us": float64(p.hist.Max()) / 1e3}
}

// occupy keeps a core busy, at a carrier's priority, until the result is called.
func (b *bed) occupy(core int) (release func(), err error) {
	var end atomic.Bool
	ready, gone := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(gone)
		runtime.LockOSThread() // for good
		err := errors.Join(setup{core: core}.raise(unix.Gettid()), quiet())
		ready <- err
		if err != nil {
			return
		}
		procPin()
		defer procUnpin()
		for !end.Load() {
		}
	}()
	if err := <-ready; err != nil {
		<-gone
		return nil, err
	}
	return func() { end.Store(true); <-gone }, nil
}
