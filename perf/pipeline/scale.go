package pipeline

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"sluice/perf/result"
)

// Curves says what scale varies; everything else stays.
type Curves struct {
	Workers     []int
	Connections []int
	Members     []int
	Virtuals    []int
	Rules       []int
	// Base is the number of connections where it is not what varies.
	Base int
}

// DefaultCurves are measured when nothing is asked for: within 60 seconds if quick.
func DefaultCurves(quick bool) (Curves, Options) {
	o := Options{Modes: []string{baseline}, Patterns: Patterns[:1], Sizes: Sizes[:1], Duration: time.Second}
	c := Curves{
		Connections: []int{1000, 10_000, 100_000, 1_000_000, 10_000_000},
		Members:     []int{4, 40, 400, 4000}, Virtuals: []int{1, 10, 100, 1000, 10_000}, Rules: []int{1, 10, 100, 1000, 10_000}, Base: 100_000,
	}
	for n := 1; n <= runtime.NumCPU(); n++ {
		c.Workers = append(c.Workers, n)
	}
	if quick {
		o.Duration = 150 * time.Millisecond
		c.Connections, c.Members, c.Virtuals, c.Rules = []int{1000, 1_000_000}, []int{4, 4000}, []int{1, 10_000}, []int{1, 10_000}
		c.Workers = []int{1, min(2, runtime.NumCPU())}[:min(2, runtime.NumCPU())]
	}
	return c, o
}

// curve is points of which the first is what the others are compared with.
type curve struct {
	points []point
	ratio  string // name of the metric
	// of makes the ratio from the first point's repetition and this one's.
	of func(first, now reading) float64
}

// reading is what one repetition of a point said.
type reading struct {
	net, raw float64 // nanoseconds of a core per packet
	workers  int
}

func perPacket(first, now reading) float64 { return now.net / first.net }

// together compares what all workers carry in a second of their cores. A worker under test never waits, so on a machine
// without other work that is a second of the clock as well.
func together(first, now reading) float64 {
	return float64(now.workers) / now.raw / (float64(first.workers) / first.raw)
}

// curves builds the points. A point may stand in more than one curve; it is measured once.
func (c *Curves) curves(o *Options) (all []curve, err error) {
	for _, name := range o.Modes {
		m, err := modeOf(name)
		if err != nil {
			return nil, err
		}
		make := func(list []int, ratio string, of func(first, now reading) float64, key string, set func(*shape, int)) {
			if len(list) == 0 {
				return
			}
			cv := curve{ratio: ratio, of: of}
			for _, n := range list {
				p := point{shape: shape{mode: m, connections: c.Base, members: 4, virtuals: 1, workers: 1}, pattern: o.Patterns[0], size: o.Sizes[0]}
				set(&p.shape, n)
				if key != "" {
					p.extra = fmt.Sprintf("/%s=%d", key, n)
				}
				cv.points = append(cv.points, p)
			}
			all = append(all, cv)
		}
		make(c.Workers, "speedup", together, "", func(s *shape, n int) { s.workers = n })
		make(c.Connections, "to_first", perPacket, "", func(s *shape, n int) { s.connections = n })
		make(c.Members, "to_first", perPacket, "members", func(s *shape, n int) { s.members = n })
		make(c.Virtuals, "to_first", perPacket, "virtuals", func(s *shape, n int) { s.virtuals = n })
	}
	for _, cv := range all {
		if err := o.valid(cv.points); err != nil {
			return nil, err
		}
		for _, p := range cv.points {
			if p.connections == Each || p.members < 1 || p.members > MostMembers || p.virtuals < 1 || p.virtuals > MostVirtuals {
				return nil, fmt.Errorf("%s: curves go over 1 or more connections, 1 to %d members and 1 to %d virtual servers", p.name(), MostMembers, MostVirtuals)
			}
		}
	}
	return all, nil
}

// Check says what is wrong with c and o.
func (c *Curves) Check(o *Options) error {
	_, err := c.curves(o)
	return err
}

// Scale measures the curves, each point o.Runs times, interleaved. Ratios are made within a repetition.
func Scale(ctx context.Context, c Curves, o Options, host result.Host) (*result.File, error) {
	all, err := c.curves(&o)
	if err != nil {
		return nil, err
	}
	var points []point
	seen := map[string]bool{}
	for _, cv := range all {
		for _, p := range cv.points {
			if !seen[p.name()] {
				seen[p.name()] = true
				points = append(points, p)
			}
		}
	}
	host.Driver = "memory rings"
	rec := result.NewRecorder("scale", host)
	s := newSession(ctx, &o, rec, points, c.Rules)
	readings := map[string][]reading{}
	err = s.measureAll(points, func(p *point, cost cost, m result.Metrics) {
		readings[p.name()] = append(readings[p.name()], reading{m["ns_per_packet"], cost.ns, p.workers})
	})
	for _, cv := range all {
		first := readings[cv.points[0].name()]
		for _, p := range cv.points {
			for i, now := range readings[p.name()] {
				if i < len(first) {
					rec.Add(p.name(), result.Metrics{cv.ratio: cv.of(first[i], now)})
				}
			}
		}
	}
	if err == nil {
		err = s.rules(c.Rules)
	}
	return s.end(err)
}
