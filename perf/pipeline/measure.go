package pipeline

import (
	"fmt"
	"runtime"
	"time"

	"sluice/rings"
)

// cost is what a packet costs, in nanoseconds of a core.
type cost struct {
	ns          float64 // of all workers together, per packet of all
	wallRate    float64 // packets per second of wall time, all workers
	core        float64 // share of a core that a worker got while it ran
	packets     int
	allocations float64 // per packet
}

// measure runs traffic through the engine for about d.
func (b *bed) measure(t *traffic, d time.Duration) (cost, error) {
	b.play(t)
	steps := 64 // to know the speed, and to warm up
	for {
		out := b.run(steps)
		took := max(slowest(out), time.Microsecond)
		if took > d/8 {
			steps = max(1, int(float64(steps)*float64(d)/float64(took)))
			break
		}
		steps *= int(min(8, 1+d/4/took))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	out := b.run(steps)
	runtime.ReadMemStats(&after)
	var c cost
	var cpu, wall time.Duration
	for _, o := range out {
		if o.packets <= 0 || o.cpu <= 0 {
			return c, fmt.Errorf("a worker moved no packets in %v", o.wall)
		}
		c.packets += o.packets
		cpu, wall = cpu+o.cpu, wall+o.wall
		c.wallRate += float64(o.packets) / o.wall.Seconds()
	}
	c.ns = float64(cpu.Nanoseconds()) / float64(c.packets)
	c.core = float64(cpu) / float64(wall)
	c.allocations = allocationsPerPacket(after.Mallocs-before.Mallocs, c.packets)
	return c, nil
}

// ownAllocations is what the runtime and we may allocate in a run, whatever the packets do: channels, timers, the clock.
const ownAllocations = 100

// allocationsPerPacket is in thousandths.
func allocationsPerPacket(n uint64, packets int) float64 {
	if n <= ownAllocations {
		return 0
	}
	return float64((n-ownAllocations)*1000/uint64(packets)) / 1000
}

func slowest(out []outcome) (d time.Duration) {
	for _, o := range out {
		d = max(d, o.wall)
	}
	return d
}

// play makes t what the feeds send; they go on where they were if it is the same.
func (b *bed) play(t *traffic) {
	for w, fs := range b.feeds {
		for p, f := range fs {
			if s := t.seqs[w][p]; f.seq != s {
				f.seq, f.at = s, 0
			}
		}
	}
}

// bare is the same rings and the same generator without an engine.
type bare struct {
	region *rings.Region
	pool   *rings.Pool
	feeds  [ports]*feed
	in     [burst]rings.Desc
}

func newBare() (*bare, error) {
	region, err := rings.NewRegion(framesPerWorker, 2048, true)
	if err != nil {
		return nil, err
	}
	b := &bare{region: region, pool: rings.NewPool(framesPerWorker)}
	for f := range framesPerWorker {
		b.pool.Put(uint64(f) * uint64(region.FrameSize()))
	}
	for p := range ports {
		m, w := rings.NewMem(region, ringSize)
		b.feeds[p] = &feed{Mem: m, wire: w, lane: newLane()}
		b.feeds[p].lane.sending = true
	}
	return b, nil
}

func (b *bare) close() error {
	for _, f := range b.feeds {
		if err := f.Close(b.pool); err != nil {
			return err
		}
	}
	if err := b.region.Audit(b.pool); err != nil {
		return err
	}
	return b.region.Close()
}

func (b *bare) play(t *traffic) {
	for p, f := range b.feeds {
		if s := t.seqs[0][p]; f.seq != s {
			f.seq, f.at = s, 0
		}
	}
}

// floor is the cost of a packet that is forwarded and not looked at, with the generator.
func (b *bare) floor(t *traffic, d time.Duration) (cost, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b.play(t)
	forward := func(steps int) (packets int) {
		for range steps {
			for p, f := range b.feeds {
				f.Refill(b.pool)
				if n := f.Receive(b.in[:]); n > 0 {
					to := b.feeds[1-p]
					packets += to.Transmit(b.in[:n])
					to.Flush()
				}
			}
			for _, f := range b.feeds {
				f.Reclaim(b.pool)
			}
		}
		return packets
	}
	forward(256)
	began := thisMoment()
	packets := forward(256) // at least: the thread may be off its core for all of d
	for time.Since(began.wall) < d {
		packets += forward(256)
	}
	end := thisMoment()
	if packets == 0 {
		return cost{}, fmt.Errorf("the rings moved no packets")
	}
	return cost{ns: float64((end.cpu - began.cpu).Nanoseconds()) / float64(packets), packets: packets}, nil
}

// interrupted is how long a few hundred packets never take: the thread was off its core meanwhile.
const interrupted = 50 * time.Microsecond

// generator is the cost of making and taking away a packet: what the feeds do, timed by itself, with the frames passed
// on in between.
func (b *bare) generator(t *traffic, d time.Duration) (cost, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b.play(t)
	clock := clockCost()
	var spent time.Duration
	packets := 0
	for began := time.Now(); time.Since(began) < d; {
		for range 64 {
			for _, f := range b.feeds {
				f.Mem.Refill(b.pool)
			}
			t0 := time.Now()
			for _, f := range b.feeds {
				f.send()
			}
			send := time.Since(t0)
			n := 0
			for p, f := range b.feeds {
				got := f.Receive(b.in[:])
				to := b.feeds[1-p].Mem
				n += to.Transmit(b.in[:got])
				to.Flush()
			}
			t0 = time.Now()
			for _, f := range b.feeds {
				f.wire.Recv(nil)
			}
			receive := time.Since(t0)
			if send < interrupted && receive < interrupted {
				spent += send + receive - 2*clock
				packets += n
			}
			for _, f := range b.feeds {
				f.Reclaim(b.pool)
			}
		}
	}
	if packets == 0 {
		return cost{}, fmt.Errorf("the generator made no packets")
	}
	return cost{ns: float64(spent.Nanoseconds()) / float64(packets), packets: packets}, nil
}

// clockCost is what two readings of the clock measure of themselves.
func clockCost() time.Duration {
	least := time.Hour
	for range 16 {
		var sum time.Duration
		for range 64 {
			t := time.Now()
			sum += time.Since(t)
		}
		least = min(least, sum/64)
	}
	return least
}

// measure is the cost of a look-up in the map.
func (g *goMap) measure(d time.Duration) (float64, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const chunk = 1 << 12
	g.lookUp(chunk)
	began := thisMoment()
	n, found := 0, 0
	for time.Since(began.wall) < d {
		found += g.lookUp(chunk)
		n += chunk
	}
	if found != n {
		return 0, fmt.Errorf("%d of %d keys were not in the map", n-found, n)
	}
	return float64((thisMoment().cpu - began.cpu).Nanoseconds()) / float64(n), nil
}
