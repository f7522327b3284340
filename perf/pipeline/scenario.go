// Package pipeline measures the whole packet path on memory rings: no kernel, no network, no root. A case is an engine
// with connections in it and packets on them; beside every figure stands what the generator costs by itself, what the
// same rings cost with nothing but forwarding, and what a hit in a Go map of as many keys costs, all of the same minute.
//
//	scenario.go   which cases, in which order
//	scale.go      curves: workers, connections, members, virtual servers, rules
//	bed.go        an engine on memory rings, started and stopped
//	establish.go  its connections, opened by real handshakes
//	frames.go     packets, with right checksums
//	sequence.go   packets in the order of their arrival; the Go map
//	feed.go       the generator: the far end of a ring, driven by the worker's thread
//	measure.go    one figure
//	stages.go     where the time goes
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/google/pprof/profile"

	"sluice/engine"
	"sluice/flow"
	"sluice/perf/result"
)

// Options say what is measured.
type Options struct {
	Modes       []string
	Connections []int // Each: every packet is the first of a connection
	Patterns    []string
	Sizes       []string
	Workers     []int
	Families    []string // none: 4 alone
	// Variations adds the other patterns, sizes and families at one number of connections, instead of the product of all.
	Variations bool
	Runs       int
	Duration   time.Duration // of each measurement of an engine; the others take a third of it
	Stages     time.Duration // of the profiled run; 0: none
	// Profile, if set, gets the CPU profile of all profiled runs, of the workers alone.
	Profile  io.Writer
	Progress func(steps int) *result.Progress
}

// Each stands for a number of connections in Options: every packet is the first of one.
const Each = 0

// The most that can be asked for.
const (
	MostConnections = 100_000_000
	MostMembers     = 60_000
	MostVirtuals    = 30_000
	MostRules       = 30_000
)

// variationsAt is the number of connections at which patterns and sizes are varied.
const variationsAt = 1_000_000

// Default is what is measured when nothing is asked for: within 60 seconds if quick.
func Default(quick bool) Options {
	if quick {
		return Options{Modes: []string{baseline}, Connections: []int{1000, variationsAt, Each}, Patterns: Patterns[:1], Sizes: Sizes[:1], Workers: []int{1},
			Duration: 200 * time.Millisecond, Stages: 3 * time.Second}
	}
	return Options{Modes: []string{baseline}, Connections: []int{1, 1000, 100_000, 1_000_000, 10_000_000, Each}, Patterns: Patterns[:1], Sizes: Sizes[:1],
		Workers: []int{1}, Variations: true, Duration: time.Second, Stages: 4 * time.Second}
}

// EveryMode is what compares all modes with nat: one case each, whose repetitions take turns.
func EveryMode(quick bool) Options {
	o := Default(quick)
	o.Modes, o.Connections, o.Variations = Modes(), []int{100_000}, false
	if quick {
		o.Stages = time.Second // of so many cases, within the 60 seconds
	}
	return o
}

// point is a case.
type point struct {
	shape
	pattern, size string
	extra         string // further key=value of the name
}

// name leaves out what is usual: 64-byte packets, uniform.
func (p *point) name() string {
	flows := strconv.Itoa(p.connections)
	if p.connections == Each {
		flows = "new"
	}
	n := fmt.Sprintf("%s/flows=%s/workers=%d", p.mode.name, flows, p.workers)
	if p.pattern != Patterns[0] {
		n += "/pattern=" + p.pattern
	}
	if p.size != Sizes[0] {
		n += "/size=" + p.size
	}
	if p.family != "" {
		n += "/family=" + p.family
	}
	return n + p.extra
}

// key is the same for points that can share an engine.
func (p *point) key() string {
	return fmt.Sprint(p.mode.name, p.connections, p.members, p.virtuals, p.workers, p.connections == Each, p.family)
}

// points are the cases of o.
func (o *Options) points() (all []point, err error) {
	for _, name := range o.Modes {
		m, err := modeOf(name)
		if err != nil {
			return nil, err
		}
		for _, workers := range o.Workers {
			for _, n := range o.Connections {
				if n == Each && workers > 1 {
					continue // the clock of that case is one worker's packets
				}
				s := shape{mode: m, connections: n, members: 4, virtuals: 1, workers: workers}
				for i, pattern := range o.Patterns {
					for j, size := range o.Sizes {
						if n != Each || i+j == 0 && m.frame == nil {
							all = append(all, o.ofFamilies(point{shape: s, pattern: pattern, size: size})...)
						}
					}
				}
				if o.Variations && n == variationsAt {
					for _, family := range Families[1:] {
						p := point{shape: s, pattern: Patterns[0], size: Sizes[0]}
						p.family = family
						all = append(all, p)
					}
					for _, pattern := range Patterns[1:] {
						all = append(all, point{shape: s, pattern: pattern, size: Sizes[0]})
					}
					for _, size := range Sizes[1:] {
						all = append(all, point{shape: s, pattern: Patterns[0], size: size})
					}
				}
			}
		}
	}
	return all, o.valid(all)
}

// ofFamilies is a point for each of the families that were asked for.
func (o *Options) ofFamilies(p point) []point {
	if len(o.Families) == 0 {
		return []point{p}
	}
	var out []point
	for _, family := range o.Families {
		if p.family = family; family == Families[0] {
			p.family = "" // the usual one, which the name leaves out
		}
		out = append(out, p)
	}
	return out
}

// Check says what is wrong with o.
func (o *Options) Check() error {
	_, err := o.points()
	return err
}

func (o *Options) valid(all []point) error {
	for _, p := range all {
		switch {
		case p.connections < 0 || p.connections > MostConnections:
			return fmt.Errorf("%d connections: there can be 1 to %d", p.connections, MostConnections)
		case p.workers < 1 || p.workers > runtime.NumCPU():
			return fmt.Errorf("%d workers: this machine has cores for 1 to %d", p.workers, runtime.NumCPU())
		case p.connections != Each && p.connections < p.workers*burst && p.workers > 1:
			return fmt.Errorf("%d connections are too few to keep %d workers busy", p.connections, p.workers)
		case !has(Patterns, p.pattern):
			return fmt.Errorf("no pattern %q; there are %s", p.pattern, strings.Join(Patterns, ", "))
		case p.family != "" && !has(Families, p.family):
			return fmt.Errorf("no family %q; there are %s", p.family, strings.Join(Families, ", "))
		case !has(Sizes, p.size):
			return fmt.Errorf("no size %q; there are %s", p.size, strings.Join(Sizes, ", "))
		}
	}
	if len(all) == 0 {
		return errors.New("nothing to measure")
	}
	return nil
}

// The case of first packets: connections live for newTimeout and come at newPerMillisecond, so that after a while as many
// expire as are opened. A tuple comes again when its connection has long expired.
const (
	newTimeout        = 4000
	newPerMillisecond = 100
	newLive           = newTimeout * newPerMillisecond
	newCapacity       = 2 * newLive
	newSequence       = 4 * newLive
)

// Run measures the cases of o, each o.Runs times, interleaved.
func Run(ctx context.Context, o Options, host result.Host) (*result.File, error) {
	all, err := o.points()
	if err != nil {
		return nil, err
	}
	host.Driver = "memory rings"
	rec := result.NewRecorder("pipeline", host)
	s := newSession(ctx, &o, rec, all, nil)
	nat := map[string]float64{} // of the repetition in hand, by the rest of the name
	err = s.measureAll(all, func(p *point, _ cost, m result.Metrics) {
		_, rest, _ := strings.Cut(p.name(), "/")
		if p.mode.name == baseline {
			nat[rest] = m["ns_per_packet"]
		} else if nat[rest] > 0 {
			m["to_nat"] = m["ns_per_packet"] / nat[rest]
		}
	})
	return s.end(err)
}

// end closes a session. What was measured is handed over also where an error, or the end of the context, left others out; not where
// nothing did, and packets or connections then turn out not to be what the figures say.
func (s *session) end(err error) (*result.File, error) {
	s.progress.Done()
	wrong := s.close()
	switch {
	case err == nil && wrong != nil:
		return nil, wrong
	case err == nil:
	case s.ctx.Err() != nil:
		s.rec.Interrupt(s.progress.Now())
	default:
		s.rec.Fail(s.progress.Now(), errors.Join(err, wrong))
	}
	return s.rec.File(), errors.Join(err, wrong)
}

// session is the beds and maps of a run.
type session struct {
	ctx      context.Context
	opt      *Options
	rec      *result.Recorder
	progress *result.Progress
	bare     *bare
	beds     map[string]*bed
	maps     map[string]*goMap
	traffic  []*traffic
	profiles []*profile.Profile
}

func newSession(ctx context.Context, o *Options, rec *result.Recorder, all []point, rules []int) *session {
	s := &session{ctx: ctx, opt: o, rec: rec, beds: map[string]*bed{}, maps: map[string]*goMap{}}
	if o.Progress != nil {
		steps := len(all)*s.stepsOfPoint() + len(rules)*o.Runs
		s.progress = o.Progress(steps)
		expected, what := o.expected(all, rules)
		s.progress.Begin(steps, expected, what)
	}
	return s
}

// stepsOfPoint are those that prepare a point, measure it, and find its stages.
func (s *session) stepsOfPoint() int {
	n := 1 + s.opt.Runs
	if s.opt.Stages > 0 {
		n++
	}
	return n
}

// measureAll prepares every point, then measures each in turn as often as asked for, then profiles each. more adds to what
// one repetition of a point says.
func (s *session) measureAll(all []point, more func(*point, cost, result.Metrics)) (err error) {
	if s.bare, err = newBare(); err != nil {
		return err
	}
	var ready []point
	loads := map[string]*traffic{}
	for _, p := range all {
		s.progress.Step("prepare %s", p.name())
		why, err := s.prepare(&p, loads)
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", p.name(), err)
		case why != "":
			s.rec.Skip(p.name(), why)
			s.progress.Leave(s.stepsOfPoint() - 1)
		default:
			ready = append(ready, p)
		}
	}
	for run := range s.opt.Runs {
		for i := range ready {
			p := &ready[i]
			s.progress.Step("run %d of %d: %s", run+1, s.opt.Runs, p.name())
			if err := s.ctx.Err(); err != nil {
				return err
			}
			if err := s.repetition(p, loads[p.name()], more); err != nil {
				return fmt.Errorf("%s: %w", p.name(), err)
			}
		}
	}
	for i := range ready {
		p := &ready[i]
		if s.opt.Stages == 0 || s.ctx.Err() != nil {
			break
		}
		s.progress.Step("stages of %s", p.name())
		m, off, prof, err := s.beds[p.key()].stages(s.ctx, loads[p.name()], s.opt.Stages)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name(), err)
		}
		s.profiles = append(s.profiles, prof)
		if len(m) == 0 {
			s.rec.Skip(p.name()+" by stage", "the worker got too little of a core to be profiled")
			continue
		}
		s.rec.Add(p.name(), m)
		for stage, part := range off {
			s.rec.Uncertain(p.name(), stage, part)
		}
	}
	return errors.Join(s.ctx.Err(), s.writeProfile())
}

// writeProfile writes what was profiled as one profile.
func (s *session) writeProfile() error {
	if s.opt.Profile == nil || len(s.profiles) == 0 {
		return nil
	}
	all, err := profile.Merge(s.profiles)
	if err != nil {
		return fmt.Errorf("merge the profiles: %w", err)
	}
	if err := all.Write(s.opt.Profile); err != nil {
		return fmt.Errorf("write the profile: %w", err)
	}
	return nil
}

// prepare makes what a point needs, or says why it cannot be measured here.
func (s *session) prepare(p *point, loads map[string]*traffic) (why string, err error) {
	if err := s.ctx.Err(); err != nil {
		return "", err
	}
	if why := tooLarge(p, s.beds[p.key()] == nil); why != "" {
		return why, nil
	}
	b := s.beds[p.key()]
	if b == nil {
		if b, err = s.makeBed(p); err != nil {
			return "", err
		}
		s.beds[p.key()] = b
	}
	var t *traffic
	if p.connections == Each {
		t, err = b.newTrafficOfNew(newSequence)
	} else {
		t, err = b.newTraffic(p.pattern, p.size)
	}
	if err != nil {
		return "", err
	}
	s.traffic = append(s.traffic, t)
	loads[p.name()] = t
	if p.connections == Each { // until connections expire as fast as they come
		b.play(t)
		b.run(3 * newLive / 2 / burst)
	}
	if k := mapKeyOf(p); p.connections != Each && s.maps[k] == nil {
		if s.maps[k], err = newGoMap(p.connections, p.pattern); err != nil {
			return "", err
		}
	}
	return "", nil
}

func mapKeyOf(p *point) string { return fmt.Sprint(p.connections, p.pattern) }

func (s *session) makeBed(p *point) (*bed, error) {
	shape := p.shape
	if p.connections == Each {
		shape.capacity = newCapacity
		shape.mode.timeouts = engine.DefaultTimeouts
		shape.mode.timeouts.Handshake, shape.mode.timeouts.UDPUnanswered = newTimeout, newTimeout
	}
	b, err := newBed(shape)
	if err != nil {
		return nil, err
	}
	if err := b.establish(func(done int) error {
		if done > 0 && done < p.connections && done%(1<<20) == 0 {
			s.progress.Note("prepare %s: %d connections opened", p.name(), done)
		}
		return s.ctx.Err()
	}); err != nil {
		return nil, errors.Join(err, b.close())
	}
	if p.connections == Each {
		l := b.lanes[0]
		l.sparse, b.clock.packets, b.clock.perMillisecond = true, &l.sent, newPerMillisecond
	}
	return b, b.start()
}

// tooLarge says why a point does not fit into memory.
func tooLarge(p *point, bed bool) string {
	need := p.trafficBytes() + 45*p.connections // packets; what a Go map with 17 bytes an entry takes when it grows
	if bed {
		need += flow.Size(p.connections*5/4+1024) + 12*p.connections
	}
	if free := available(); free > 0 && need > free/10*9 {
		return fmt.Sprintf("needs %d MiB of memory, %d are free", need>>20, free>>20)
	}
	return ""
}

// available is the memory that can be taken, in bytes; 0 if the system does not tell.
func available() int {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "MemAvailable:" {
			kib, _ := strconv.Atoi(f[1])
			return kib << 10
		}
	}
	return 0
}

// repetition measures a point once, with everything that stands beside it.
func (s *session) repetition(p *point, t *traffic, more func(*point, cost, result.Metrics)) error {
	d := s.opt.Duration
	c, err := s.beds[p.key()].measure(t, d)
	if err != nil {
		return err
	}
	gen, err := s.bare.generator(t, d/3)
	if err != nil {
		return err
	}
	floor, err := s.bare.floor(t, d/3)
	if err != nil {
		return err
	}
	net := c.ns - gen.ns
	m := result.Metrics{
		"ns_per_packet": net, "raw_ns_per_packet": c.ns, "generator_ns_per_packet": gen.ns, "raw_to_net": c.ns / net,
		"floor_ns_per_packet": floor.ns, "to_floor": c.ns / floor.ns, // both with the generator
		"mpps_per_core": 1e3 / net, "mpps": 1e3 / net * float64(p.workers), "raw_mpps": c.wallRate / 1e6, "core_percent": 100 * c.core,
		"allocations_per_packet": c.allocations,
	}
	if g := s.maps[mapKeyOf(p)]; g != nil {
		ns, err := g.measure(d / 3)
		if err != nil {
			return err
		}
		m["gomap_ns"], m["to_gomap"] = ns, net/ns
	}
	more(p, c, m)
	s.rec.Add(p.name(), m)
	return nil
}

func (s *session) close() (err error) {
	for _, b := range s.beds {
		if e := b.close(); e != nil {
			err = errors.Join(err, fmt.Errorf("%s with %d connections: %w", b.mode.name, b.connections, e))
		}
	}
	for _, t := range s.traffic {
		err = errors.Join(err, t.close())
	}
	if s.bare != nil {
		err = errors.Join(err, s.bare.close())
	}
	return err
}
