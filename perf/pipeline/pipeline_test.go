package pipeline

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"

	"sluice/perf/result"
)

func newRandom(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, seed)) }

// tiny is a run that takes moments. What is forwarded, dropped and opened is checked when the engines are closed: Run
// fails if a packet is missing.
func tiny() Options {
	return Options{Modes: []string{"nat"}, Connections: []int{1, 100, 5000}, Patterns: Patterns, Sizes: Sizes, Workers: []int{1}, Runs: 2, Duration: 20 * time.Millisecond}
}

func TestRun(t *testing.T) {
	f, err := Run(t.Context(), tiny(), result.Host{})
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Results) != 3*3*3 || len(f.Skipped) != 0 {
		t.Fatalf("%d results, %v skipped", len(f.Results), f.Skipped)
	}
	if f.Find("nat/flows=5000/workers=1") == nil || f.Find("nat/flows=100/workers=1/pattern=zipf/size=imix") == nil {
		t.Errorf("names: %+v", f.Results)
	}
	for _, r := range f.Results {
		checkSane(t, &r, 2)
		for _, name := range []string{"gomap_ns", "to_gomap"} {
			if r.Metrics[name] <= 0 {
				t.Errorf("%s: %s is %v", r.Case, name, r.Metrics[name])
			}
		}
	}
}

// checkSane knows no speed, only what must hold at any.
func checkSane(t *testing.T, r *result.Result, runs int) {
	t.Helper()
	m := r.Metrics
	for _, name := range []string{"ns_per_packet", "raw_ns_per_packet", "generator_ns_per_packet", "floor_ns_per_packet", "to_floor", "mpps", "raw_mpps", "core_percent"} {
		if !(m[name] > 0) || len(r.Samples[name]) != runs {
			t.Errorf("%s: %s is %v, samples %v", r.Case, name, m[name], r.Samples[name])
		}
	}
	for i, raw := range r.Samples["raw_ns_per_packet"] {
		if net := r.Samples["ns_per_packet"][i]; net >= raw {
			t.Errorf("%s: net %v is not less than raw %v", r.Case, net, raw)
		}
	}
	if m["core_percent"] > 101 {
		t.Errorf("%s: a worker had %v%% of a core", r.Case, m["core_percent"])
	}
	if m["allocations_per_packet"] != 0 {
		t.Errorf("%s: %v allocations a packet", r.Case, m["allocations_per_packet"])
	}
}

// Every family with every pattern and size, and first packets of it.
func TestRunFamilies(t *testing.T) {
	o := tiny()
	o.Families, o.Connections, o.Runs, o.Duration = Families, []int{500}, 1, 10*time.Millisecond
	if !testing.Short() {
		o.Connections = append(o.Connections, Each)
	}
	f, err := Run(t.Context(), o, result.Host{})
	if err != nil {
		t.Fatal(err)
	}
	if want := 3*3*3 + 3*(len(o.Connections)-1); len(f.Results) != want || len(f.Skipped) != 0 {
		t.Fatalf("%d results, not %d, %v skipped", len(f.Results), want, f.Skipped)
	}
	if f.Find("nat/flows=500/workers=1/family=6") == nil || f.Find("nat/flows=500/workers=1/pattern=zipf/size=imix/family=both") == nil || f.Find("nat/flows=500/workers=1") == nil {
		t.Errorf("names: %+v", f.Results)
	}
	for _, r := range f.Results {
		checkSane(t, &r, 1)
	}
}

func TestRunWorkers(t *testing.T) {
	o := tiny()
	o.Workers, o.Connections, o.Patterns, o.Sizes, o.Families = []int{2}, []int{5000}, Patterns[:1], Sizes[:1], []string{"4", "both"}
	f, err := Run(t.Context(), o, result.Host{})
	if err != nil {
		if strings.Contains(err.Error(), "this machine has cores for 1 to 1") {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	checkSane(t, f.Find("nat/flows=5000/workers=2"), 2)
	checkSane(t, f.Find("nat/flows=5000/workers=2/family=both"), 2)
}

// Every packet opens a connection, none is evicted, and as many expire as come.
func TestRunNew(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds under the race detector")
	}
	o := tiny()
	o.Connections, o.Runs = []int{Each}, 3
	f, err := Run(t.Context(), o, result.Host{})
	if err != nil {
		t.Fatal(err)
	}
	checkSane(t, f.Find("nat/flows=new/workers=1"), 3)
}

func TestScale(t *testing.T) {
	_, o := DefaultCurves(true)
	o.Runs, o.Duration = 2, 10*time.Millisecond
	c := Curves{Workers: []int{1}, Connections: []int{100, 2000}, Members: []int{4, 40}, Virtuals: []int{1, 50}, Base: 1000}
	f, err := Scale(t.Context(), c, o, result.Host{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"nat/flows=100/workers=1", "nat/flows=2000/workers=1", "nat/flows=1000/workers=1/members=40", "nat/flows=1000/workers=1/virtuals=50",
	} {
		r := f.Find(name)
		if r == nil {
			t.Fatalf("no %s in %+v", name, f.Results)
		}
		checkSane(t, r, 2)
		if len(r.Samples["to_first"]) != 2 || !(r.Metrics["to_first"] > 0) {
			t.Errorf("%s: ratios %v", name, r.Samples["to_first"])
		}
	}
	if one := f.Find("nat/flows=100/workers=1").Samples["to_first"]; one[0] != 1 || one[1] != 1 {
		t.Errorf("the smallest compared with itself: %v", one)
	}
	if one := f.Find("nat/flows=1000/workers=1"); one == nil || one.Metrics["speedup"] != 1 {
		t.Errorf("one worker compared with itself: %+v", one)
	}
}

func TestRefusals(t *testing.T) {
	for want, change := range map[string]func(*Options){
		"no mode":            func(o *Options) { o.Modes = []string{"teleport"} },
		"no pattern":         func(o *Options) { o.Patterns = []string{"square"} },
		"no family":          func(o *Options) { o.Families = []string{"5"} },
		"no size":            func(o *Options) { o.Sizes = []string{"9000"} },
		"workers":            func(o *Options) { o.Workers = []int{1 << 20} },
		"connections":        func(o *Options) { o.Connections = []int{-1} },
		"nothing to measure": func(o *Options) { o.Connections = nil },
	} {
		o := tiny()
		change(&o)
		if _, err := Run(t.Context(), o, result.Host{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, tiny(), result.Host{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled run ended with %v", err)
	}
	o := tiny()
	o.Connections, o.Patterns, o.Sizes = []int{100_000_000}, Patterns[:1], Sizes[:1]
	if free := available(); free > 0 && free < 30<<30 {
		if f, err := Run(t.Context(), o, result.Host{}); err != nil || len(f.Skipped) != 1 || !strings.Contains(f.Skipped[0].Reason, "memory") {
			t.Errorf("more than fits: %+v, %v", f, err)
		}
	}
}

// A run whose packets went elsewhere than they should is refused when the bed is closed.
func TestCheck(t *testing.T) {
	for want, spoil := range map[string]func(b *bed){
		"came out":       func(b *bed) { b.lanes[0].sent++ },
		"dropped":        func(b *bed) { b.stats.Drops[0]++ },
		"to the host":    func(b *bed) { b.stats.ToHost++ },
		"another worker": func(b *bed) { b.stats.HandedOut++ },
		"evicted":        func(b *bed) { b.stats.Evicted++ },
		"were opened":    func(b *bed) { b.stats.Opened-- },
	} {
		b := &bed{shape: shape{connections: 5}, lanes: []*lane{newLane()}}
		b.stats.Opened = 5
		if err := b.check(); err != nil {
			t.Fatal(err)
		}
		spoil(b)
		if err := b.check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// The names of the stages are those of functions that exist: nearly every sample of a worker belongs to one, and each
// stage of a packet's way has some.
func TestStages(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	o := tiny()
	o.Connections, o.Patterns, o.Sizes = []int{1000}, Patterns[:1], Sizes[:1]
	s := newSession(t.Context(), &o, result.NewRecorder("x", result.Host{}), nil, nil)
	points, err := o.points()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.measureAll(points, func(*point, cost, result.Metrics) {}); err != nil {
		t.Fatal(err)
	}
	want := []string{"parse_ns", "lookup_ns", "rewrite_ns", "rings_ns"}
	sum, all := map[string]int64{}, int64(0)
	seen := func(stage string) bool { return sum[stage] > 0 }
	enough := func() bool {
		return all >= minSamples && sum[""] < all/5 && !slices.ContainsFunc(want, func(w string) bool { return !seen(w) })
	}
	for deadline := time.Now().Add(2 * time.Minute); !enough(); {
		if time.Now().After(deadline) {
			t.Fatalf("too few samples, or in too few stages: %v", sum)
		}
		p, ns, err := s.beds[points[0].key()].profile(t.Context(), s.traffic[0], time.Second)
		if err != nil || ns <= 0 {
			t.Fatal(ns, err)
		}
		counts, total := attribute(p)
		if total != samples(p) {
			t.Fatalf("the profile has %d samples, %d of them of workers", samples(p), total)
		}
		for stage, k := range counts {
			sum[stage] += k
		}
		all += total
	}
	t.Log(sum)
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
}

func TestAllocationsPerPacket(t *testing.T) {
	for _, c := range []struct {
		n       uint64
		packets int
		want    float64
	}{{0, 1000, 0}, {ownAllocations, 100, 0}, {ownAllocations + 1000, 1_000_000, 0.001}, {ownAllocations + 2_000_000, 1_000_000, 2}, {ownAllocations + 10, 1_000_000, 0}} {
		if got := allocationsPerPacket(c.n, c.packets); got != c.want {
			t.Errorf("%d allocations and %d packets are %v", c.n, c.packets, got)
		}
	}
}

func TestAttribute(t *testing.T) {
	stack := func(worker bool, names ...string) *profile.Sample {
		if worker {
			names = append(names, "sluice/engine.(*worker).run")
		}
		s := &profile.Sample{Value: []int64{1, 10}}
		for _, n := range names {
			s.Location = append(s.Location, &profile.Location{Line: []profile.Line{{Function: &profile.Function{Name: n}}}})
		}
		return s
	}
	counts, total := attribute(&profile.Profile{Sample: []*profile.Sample{
		stack(true, "sluice/flow.(*Table).matches", "sluice/flow.(*Table).Find", "sluice/engine.(*worker).process"),
		stack(true, "sluice/flow.(*Table).Lookup", "sluice/flow.(*Table).Insert", "sluice/engine.(*worker).schedule"),
		stack(true, "sluice/engine.(*worker).rewrite", "sluice/engine.(*worker).schedule"),
		stack(true, "sluice/rings.(*Wire).SendHeads", "sluice/perf/pipeline.(*feed).send"),
		stack(false, "sluice/flow.(*Table).Find"),
	}})
	if total != 4 || counts["lookup_ns"] != 1 || counts["schedule_ns"] != 1 || counts["rewrite_ns"] != 1 || counts[generatorStage] != 1 {
		t.Errorf("%v of %d", counts, total)
	}
}

// Stages with too few samples, and those that are none, are what is left over; the sum stays, and fewer samples are less sure.
func TestShares(t *testing.T) {
	of, off := shares(map[string]int64{"parse_ns": 100, "rings_ns": stageSamples, "timers_ns": stageSamples - 1, "": 10, "other_ns": 5, generatorStage: 36}, 200, 20)
	if of["stage_samples"] != 200 || of["parse_ns"] != 10 || of["rings_ns"] != 2.5 || math.Abs(of["other_ns"]-3.9) > 1e-9 || len(of) != 4 {
		t.Errorf("%v", of)
	}
	if _, ok := off[generatorStage]; ok || len(off) != 3 || math.Abs(off["parse_ns"]-2*math.Sqrt(0.5/100)) > 1e-9 || off["rings_ns"] <= off["parse_ns"] || off["rings_ns"] > 0.4 {
		t.Errorf("%v", off)
	}
}

// What is told beforehand counts the steps that come, also where a case does not fit into memory, and the curve of rules has its own.
func TestExpected(t *testing.T) {
	var text strings.Builder
	o := tiny()
	o.Connections, o.Patterns, o.Sizes, o.Runs, o.Duration = []int{100, 5000}, Patterns[:1], Sizes[:1], 2, 5*time.Millisecond
	o.Progress = func(n int) *result.Progress { return result.NewProgress(&text, false, n) }
	if _, err := Scale(t.Context(), Curves{Connections: []int{100, 5000, MostConnections}, Rules: []int{1, 2}, Base: 100}, o, result.Host{}); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(text.String()), "\n")
	last := lines[len(lines)-1]
	if !regexp.MustCompile(`^about \d+ seconds?: [45] cases, 2 repetitions of each$`).MatchString(lines[0]) {
		t.Errorf("%s", lines[0])
	}
	if free := available(); free > 0 && free < 30<<30 && !strings.Contains(last, "[11/11] run 2 of 2: program/rules=2") {
		t.Errorf("it ends with %s", last)
	}
	long := o
	long.Duration = time.Second
	points, err := o.points()
	if err != nil {
		t.Fatal(err)
	}
	short, _ := o.expected(points, nil)
	slow, what := long.expected(points, []int{10_000})
	if slow < short+time.Duration(2*len(points))*2*time.Second || what != fmt.Sprintf("%d cases, 2 repetitions of each", len(points)+1) {
		t.Errorf("%s, and %s: %s", short, slow, what)
	}
}

// An error in the middle keeps what was measured before, and the file says which it was.
func TestErrorKeepsWhatItHas(t *testing.T) {
	o := tiny()
	o.Connections, o.Patterns, o.Sizes, o.Runs, o.Duration = []int{100}, Patterns[:1], Sizes[:1], 1, 5*time.Millisecond
	f, err := Scale(t.Context(), Curves{Connections: o.Connections, Rules: []int{MostRules + 1}, Base: 100}, o, result.Host{})
	if err == nil || f == nil || !strings.Contains(f.Error, "30001 rules") || f.Interrupted == "" || f.Find("nat/flows=100/workers=1") == nil {
		t.Errorf("%v, %+v", err, f)
	}
	// Packets that went elsewhere than the figures say are no figures.
	points, err := o.points()
	if err != nil {
		t.Fatal(err)
	}
	s := newSession(t.Context(), &o, result.NewRecorder("x", result.Host{}), points, nil)
	if err := s.measureAll(points, func(*point, cost, result.Metrics) {}); err != nil {
		t.Fatal(err)
	}
	s.beds[points[0].key()].lanes[0].sent++
	if f, err := s.end(nil); err == nil || f != nil || !strings.Contains(err.Error(), "the figures are not of what they say") {
		t.Errorf("%v, %v", f, err)
	}
}

func samples(p *profile.Profile) (n int64) {
	for _, s := range p.Sample {
		n += s.Value[0]
	}
	return n
}
