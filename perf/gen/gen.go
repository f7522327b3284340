// Package gen sends packets at a chosen rate, or as fast as it goes, over an AF_XDP socket that only transmits.
//
// Packets are made by a Stream into the frames that have just come back from the kernel, so that few frames are in use
// and all are warm. What the Result calls sent was taken and completed by the kernel: with a veth in copy mode the
// frame was then offered to the other end, which may have had no room for it and says so in its own counters.
//
// In copy mode the system call of the generator also does the work of the receiving end up to its socket, on the
// generator's core. Give it a core of its own.
package gen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"sluice/rings"
)

// Stream makes packets.
type Stream interface {
	// Next writes a whole frame into b, which is large enough for any, and returns its length.
	Next(b []byte) int
}

// Generator is an open socket with its frames. Run and Close may be called by one goroutine at a time.
type Generator struct {
	region *rings.Region
	pool   *rings.Pool
	queue  *rings.XSK
	burst  [burstSize]rings.Desc
}

// Result is what one Run did.
type Result struct {
	Sent    uint64 // packets that the kernel has taken and completed
	Bytes   uint64 // of those, by the live generator only
	Skipped uint64 // packets that were due while the generator had no core, and were left out rather than sent in a lump
	Elapsed time.Duration
	CPU     time.Duration // that the live generator's thread ran, with what the kernel did in its context
}

// Rate is the packets sent per second.
func (r Result) Rate() float64 { return float64(r.Sent) / r.Elapsed.Seconds() }

const (
	burstSize = 32
	ringSize  = 64 // few frames, all of them in the cache
	// maxDebt bounds how many packets leave in a lump after a pause: less than any ring on the way holds.
	maxDebt = 2 * burstSize
	// drainTime bounds the wait for the kernel at the end of a run.
	drainTime = time.Second
)

// Open makes a generator on queue 0 of an interface of the calling thread's network namespace. It may be used from
// any.
func Open(ifname string) (*Generator, error) {
	link, err := net.InterfaceByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("generator on %s: %w", ifname, err)
	}
	region, err := rings.NewRegion(ringSize, 2048, false)
	if err != nil {
		return nil, fmt.Errorf("generator on %s: %w", ifname, err)
	}
	g := &Generator{region: region, pool: rings.NewPool(ringSize)}
	for i := range ringSize {
		g.pool.Put(uint64(i * region.FrameSize()))
	}
	g.queue, err = rings.OpenXSK(region, rings.XSKConfig{
		Interface: ifname, Ifindex: link.Index, Mode: rings.BindCopy, RingSize: ringSize, TxBudget: ringSize, TxOnly: true,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("generator: %w", err), region.Close())
	}
	return g, nil
}

// Close gives the socket and the frames back.
func (g *Generator) Close() error {
	err := g.queue.Close(g.pool)
	return errors.Join(err, g.region.Audit(g.pool), g.region.Close())
}

// Run sends packets of s until ctx ends: rate per second, or as many as the kernel takes if rate is 0. It runs on a
// thread of its own, pinned to core, or to none if core is negative.
func (g *Generator) Run(ctx context.Context, s Stream, rate, core int) (Result, error) {
	type outcome struct {
		r   Result
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with its affinity
		if err := settle(core); err != nil {
			done <- outcome{err: err}
			return
		}
		r, err := g.run(ctx, s, rate)
		done <- outcome{r, err}
	}()
	o := <-done
	return o.r, o.err
}

// nice goes before ordinary programs: it stands for a network, which waits for none of them.
const nice = -15

// settle prepares the thread: its priority, its core, and sleeps that end when they should.
func settle(core int) error {
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, nice) // of this thread; without the right to it the rate is less even
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set the timer slack: %w", err)
	}
	if core < 0 {
		return nil
	}
	var set unix.CPUSet
	set.Set(core)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pin the generator to core %d: %w", core, err)
	}
	return nil
}

func (g *Generator) run(ctx context.Context, s Stream, rate int) (r Result, err error) {
	start := time.Now()
	for ctx.Err() == nil {
		n := burstSize
		if rate > 0 {
			due := int64(time.Since(start).Seconds()*float64(rate)) - int64(r.Sent+r.Skipped)
			if due > maxDebt {
				r.Skipped += uint64(due - maxDebt)
				due = maxDebt
			}
			if n = int(min(due, burstSize)); n <= 0 {
				// Half a burst ahead, but often enough for low rates to be even.
				pause := min(time.Millisecond, time.Second*(burstSize/2)/time.Duration(rate))
				_ = unix.Nanosleep(&unix.Timespec{Nsec: int64(pause)}, nil)
				continue
			}
		}
		r.Sent += uint64(g.send(s, n))
	}
	r.Elapsed = time.Since(start)
	for deadline := time.Now().Add(drainTime); ; {
		g.queue.Reclaim(g.pool)
		held := g.queue.Held().Tx
		if held == 0 {
			break
		}
		if time.Now().After(deadline) {
			return r, fmt.Errorf("the kernel keeps %d frames", held)
		}
		g.queue.Flush()
	}
	if st := g.queue.Stats(); st.TxInvalid != 0 {
		return r, fmt.Errorf("the kernel found %d descriptors invalid", st.TxInvalid)
	}
	return r, nil
}

// send makes up to n packets and gives them to the kernel.
func (g *Generator) send(s Stream, n int) int {
	g.queue.Reclaim(g.pool)
	n = min(n, g.pool.Len())
	for i := range n {
		addr, _ := g.pool.Get()
		g.burst[i] = rings.Desc{Addr: addr, Len: uint32(s.Next(g.region.Frame(addr)))}
	}
	sent := g.queue.Transmit(g.burst[:n])
	for _, d := range g.burst[sent:n] {
		g.pool.Put(d.Addr)
	}
	g.queue.Flush()
	return sent
}
