package main

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"sluice/perf/lab"
)

// paced holds a connection's reader and writer to a rate, and so, by flow control, the other end too.
type paced struct {
	meter
	rate        float64      // bytes per second each way
	hurry       *atomic.Bool // when set, the rest goes as fast as it can; may be nil
	begin       time.Time
	read, wrote int64
}

func (p *paced) wait(moved int64) {
	if p.hurry != nil && p.hurry.Load() {
		return
	}
	time.Sleep(time.Until(p.begin.Add(time.Duration(float64(moved) / p.rate * 1e9))))
}

// pacedChunk bounds what moves at once, so that the rate is even.
const pacedChunk = 16 << 10

func (p *paced) Read(b []byte) (int, error) {
	p.wait(p.read)
	n, err := p.meter.Read(b[:min(len(b), pacedChunk)])
	p.read += int64(n)
	return n, err
}

func (p *paced) Write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		p.wait(p.wrote)
		var k int
		k, err = p.meter.Write(b[n:min(n+pacedChunk, len(b))])
		n, p.wrote = n+k, p.wrote+int64(k)
	}
	return n, err
}

// transfers keeps n transfers running until the result is called, each at a rate, or as fast as it goes if that is 0.
func (f *flood) transfers(n int, rate float64) (stop func()) {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.t.Context())
	var wg sync.WaitGroup
	for i := range n {
		conn := must(f.Client.Dial(ctx, "tcp", netip.AddrPortFrom(f.VIP4, bulkPort).String()))(f.t)
		wg.Go(func() {
			defer conn.Close()
			var c net.Conn = meter{conn, &f.moved}
			if rate > 0 {
				c = &paced{meter: meter{conn, &f.moved}, rate: rate, begin: time.Now()}
			}
			if _, err := lab.Transfer(ctx, c, 1<<50, uint64(i)); ctx.Err() == nil {
				f.t.Errorf("transfer %d: %v", i, err)
			}
		})
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

// visits are new clients: a connection each, one after the other, while the given load is on.
type visits struct {
	on   atomic.Bool
	mu   sync.Mutex
	took []time.Duration // of those that connected
	lost int
}

// visit lets clients come until the result is called.
func (f *flood) visit(v *visits) (stop func()) {
	ctx, cancel := context.WithCancel(f.t.Context())
	to := netip.AddrPortFrom(f.VIP4, webPort).String()
	var wg sync.WaitGroup
	wg.Go(func() {
		for tick := time.NewTicker(floodVisits); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
			}
			counts := v.on.Load()
			wg.Go(func() {
				begin := time.Now()
				limit, cancel := context.WithTimeout(context.Background(), visitLimit)
				defer cancel()
				conn, err := f.Client.Dial(limit, "tcp", to)
				took := time.Since(begin)
				if err == nil {
					conn.Close()
				}
				v.mu.Lock()
				defer v.mu.Unlock()
				switch {
				case !counts:
				case err != nil:
					v.lost++
				default:
					v.took = append(v.took, took)
				}
			})
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// quantile is that of the sorted durations.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))].Round(10 * time.Microsecond)
}
