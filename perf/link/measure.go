package link

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sluice/perf/gen"
)

// sample is what one measurement saw.
type sample struct {
	rate     float64 // packets, or round trips or whole connections, per second at the far end
	bits     float64 // per second, of frames with their check sequence
	offered  float64 // packets per second
	loss     float64 // of what was sent, 0 to 1
	cpu      float64 // of one core, by the carrier's threads; where it has none, by the generator's, whose core carries
	share    float64 // of its core that the least of generator and carrier got
	counts   gen.SinkCounts
	sent     uint64
	skipped  uint64
	elapsed  time.Duration
	mismatch error // what a carrier's own counters say differs from what arrived
}

// what is counted as delivered.
type delivery uint8

const (
	requests  delivery = iota // packets at the servers' end
	answers                   // packets back at the clients' end
	lifetimes                 // TCP connections that were opened and closed
)

func (d delivery) of(c gen.SinkCounts, reflects bool) uint64 {
	switch {
	case d == lifetimes:
		return c.Requests.Ends
	case d == answers || reflects:
		return c.Answers.Packets
	}
	return c.Requests.Packets
}

const fcs = 4 // bytes of a frame's check sequence, which no counter has

// undisturbed is the share of its core that generator and carrier must have had: flat out both are always busy, so what is
// missing was another program's.
const (
	undisturbed = 0.93
	attempts    = 4
)

// flatOut sends as fast as the generator can and counts what arrives in a window. A sample that another program of the
// machine has disturbed is taken again, a few times, and the least disturbed is kept.
func (b *bed) flatOut(ctx context.Context, c carrier, r running, load gen.Load, d delivery) (best sample, err error) {
	tries := attempts
	if b.opt.Quick {
		tries = 1
	}
	for i := range tries {
		if i > 0 && load.Flows == 0 {
			load.FirstFlow += newFlows
		}
		s, err := b.flatOutOnce(ctx, c, r, load, d)
		if err != nil || s.mismatch != nil {
			return s, err
		}
		if s.share > best.share {
			best = s
		}
		if best.share >= undisturbed {
			break
		}
	}
	return best, nil
}

// newFlows is more than one sample sends of flows that are all new.
const newFlows = 1 << 28

// flatOutOnce takes one sample.
func (b *bed) flatOutOnce(ctx context.Context, c carrier, r running, load gen.Load, d delivery) (s sample, err error) {
	sink, err := b.sink(d != requests)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, sink.Close()) }()
	load.Length = endless
	sending, stop := context.WithCancel(ctx)
	defer stop()
	type outcome struct {
		r   gen.Result
		err error
	}
	done := make(chan outcome, 1)
	before, err := totalsOf(ctx, r)
	if err != nil {
		return s, err
	}
	go func() {
		res, err := b.live.Run(sending, load, b.opt.GeneratorCore)
		done <- outcome{res, err}
	}()
	// The harness has no core of its own, so it looks at the clock rather than rely on its sleep, and ends the load after
	// the window instead of before.
	sleep(ctx, liveSetup+settling)
	from, err := look(sink, r)
	sleep(ctx, b.opt.Window)
	to, errTo := look(sink, r)
	stop()
	o := <-done
	if err := errors.Join(err, errTo, o.err, ctx.Err()); err != nil {
		return s, err
	}
	long, cpu := to.at.Sub(from.at), to.cpu-from.cpu
	if s.counts, s.mismatch, err = b.compare(ctx, r, before, sink); err != nil {
		return s, err
	}
	n := d.of(to.counts, c.reflects) - d.of(from.counts, c.reflects)
	bytes := to.counts.Requests.Bytes - from.counts.Requests.Bytes + to.counts.Answers.Bytes - from.counts.Answers.Bytes
	packets := to.counts.Requests.Packets - from.counts.Requests.Packets + to.counts.Answers.Packets - from.counts.Answers.Packets
	s.rate = float64(n) / long.Seconds()
	s.bits = 8 * float64(bytes+fcs*packets) / long.Seconds()
	s.cpu = cpu.Seconds() / long.Seconds()
	s.sent, s.skipped, s.elapsed, s.offered = o.r.Sent, o.r.Skipped, o.r.Elapsed, o.r.Rate()
	s.share = min(1, o.r.CPU.Seconds()/o.r.Elapsed.Seconds())
	if len(r.tasks()) == 0 {
		s.cpu = s.share
	}
	s.share = min(s.share, s.cpu)
	s.loss = lossOf(o.r.Sent, d.of(s.counts, c.reflects))
	return s, nil
}

// endless is longer than any sample: the load ends when it is told to.
const endless = time.Hour

// glance is what is seen at one moment.
type glance struct {
	at     time.Time
	cpu    time.Duration
	counts gen.SinkCounts
}

// look reads the clock and the counters together: one that was interrupted in between is no use.
func look(sink *gen.Sink, r running) (g glance, err error) {
	for range 100 {
		g.at, g.cpu = time.Now(), cpuTime(r.tasks())
		if g.counts, err = sink.Counts(); err != nil || time.Since(g.at) < time.Millisecond {
			return g, err
		}
	}
	return g, errors.New("the harness gets no core: something goes before it all the time")
}

// paced sends at a rate and counts what arrives of it.
func (b *bed) paced(ctx context.Context, c carrier, r running, load gen.Load, d delivery) (s sample, err error) {
	sink, err := b.sink(d != requests)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, sink.Close()) }()
	before, err := totalsOf(ctx, r)
	if err != nil {
		return s, err
	}
	used := cpuTime(r.tasks())
	res, err := b.live.Run(ctx, load, b.opt.GeneratorCore)
	cpu := cpuTime(r.tasks()) - used
	if err = errors.Join(err, ctx.Err()); err != nil {
		return s, err
	}
	if s.counts, s.mismatch, err = b.compare(ctx, r, before, sink); err != nil {
		return s, err
	}
	s.sent, s.skipped, s.elapsed, s.offered = res.Sent, res.Skipped, res.Elapsed, res.Rate()
	n := d.of(s.counts, c.reflects)
	s.rate = float64(n) / res.Elapsed.Seconds()
	s.loss = lossOf(res.Sent, n)
	s.cpu = cpu.Seconds() / (res.Elapsed + liveSetup).Seconds()
	return s, nil
}

func lossOf(sent, arrived uint64) float64 {
	if sent == 0 || arrived >= sent {
		return 0
	}
	return 1 - float64(arrived)/float64(sent)
}

// rest waits until nothing arrives any more.
func (b *bed) rest(ctx context.Context, sink *gen.Sink) (gen.SinkCounts, error) {
	last, err := sink.Counts()
	for same := 0; same < 3 && err == nil; {
		sleep(ctx, 5*time.Millisecond)
		var next gen.SinkCounts
		next, err = sink.Counts()
		if same++; next != last {
			last, same = next, 0
		}
		if ctx.Err() != nil {
			return last, ctx.Err()
		}
	}
	return last, err
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// totalsOf are a product's counters, and nothing of another carrier.
func totalsOf(ctx context.Context, r running) (totals, error) {
	if p, ok := r.(*product); ok {
		return p.totals(ctx)
	}
	return totals{}, nil
}

// stray is how many packets of others, neighbour discovery and the like, a comparison forgives.
const stray = 16

// agreement is how long the last packets may take, where another program has the carrier's core.
const agreement = 3 * time.Second

// compare holds the product's counters against the sink's, when both have come to rest: what it says it sent must have
// arrived. The asavie driver counts what it gave to the library, which may leave some on its ring, so only our own is held
// to it.
func (b *bed) compare(ctx context.Context, r running, before totals, sink *gen.Sink) (c gen.SinkCounts, mismatch, err error) {
	p, ok := r.(*product)
	for deadline := time.Now().Add(agreement); ; {
		if c, err = b.rest(ctx, sink); err != nil || !ok || p.driver != "xsk" {
			return c, nil, err
		}
		now, err := p.totals(ctx)
		if err != nil {
			return c, nil, err
		}
		if mismatch = differ(before, now, c); mismatch == nil || time.Now().After(deadline) {
			return c, mismatch, nil
		}
	}
}

func differ(before, now totals, c gen.SinkCounts) (mismatch error) {
	sent := now.ToServer - before.ToServer + now.ToClient - before.ToClient
	arrived, dropped := c.Requests.Packets+c.Answers.Packets, now.Dropped-before.Dropped
	switch {
	case arrived > sent+stray, sent > arrived+dropped+stray:
		mismatch = fmt.Errorf("sluice says it carried %d packets and dropped %d, %d arrived", sent, dropped, arrived)
	case c.Requests.Translated+stray < c.Requests.Packets:
		mismatch = fmt.Errorf("%d of %d packets arrived untranslated", c.Requests.Packets-c.Requests.Translated, c.Requests.Packets)
	}
	if wrong := c.Requests.Wrong + c.Answers.Wrong; wrong > 0 {
		mismatch = errors.Join(mismatch, fmt.Errorf("%d packets arrived with wrong checksums", wrong))
	}
	return mismatch
}

// fillPace is how many packets per second every carrier can follow.
const fillPace = 150_000

// fill makes a carrier know all flows of a load, at a rate that each can follow.
func (b *bed) fill(ctx context.Context, c carrier, r running, load gen.Load) error {
	if load.Flows == 0 {
		return nil
	}
	load.InTurn, load.Packets, load.Rate, load.Sizes = true, 2*load.Flows, fillPace, nil
	load.Length = time.Second + 3*time.Second*time.Duration(load.Packets)/time.Duration(load.Rate)
	_, err := b.paced(ctx, c, r, load, requests)
	return err
}

// lossFree searches for the highest rate of which no more than a part is lost: doubling, then halving the interval until
// it is within 4%. A rate that fails is tried once more, since another program may have had the core.
func (b *bed) lossFree(ctx context.Context, c carrier, r running, load gen.Load, d delivery, start, most float64) (best sample, err error) {
	holds := func(rate float64) (bool, error) {
		for range 2 {
			load.Rate, load.Length = int(rate), b.opt.Window
			s, err := b.paced(ctx, c, r, load, d)
			if err != nil {
				return false, err
			}
			due := float64(s.sent + s.skipped)
			if s.loss <= most && float64(s.skipped) <= 0.02*due {
				if s.rate > best.rate {
					best = s
				}
				return true, nil
			}
		}
		return false, nil
	}
	low, high := 0.0, max(start, 1000)
	for range 12 {
		good, err := holds(high)
		if err != nil {
			return best, err
		}
		if !good {
			break
		}
		low, high = high, high*1.5
	}
	for i := 0; i < 8 && high-low > 0.04*high; i++ {
		mid := (low + high) / 2
		good, err := holds(mid)
		if err != nil {
			return best, err
		}
		if good {
			low = mid
		} else {
			high = mid
		}
	}
	return best, nil
}
