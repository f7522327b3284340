package pipeline

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/google/pprof/profile"

	"sluice/perf/result"
)

// The breakdown by stage comes from a CPU profile of a run of its own, beside the measured ones: the engine is the same,
// with nothing added to it, and what a stage costs while the others fill and empty the caches between its turns is
// what is wanted. A sample counts for the innermost function on its stack that is a stage. At 100 samples a second a stage
// that has few of them is off by much: each figure has what it may be off beside it.

// stages maps functions, by the end of their names, to metrics.
var stages = map[string]string{
	"engine.(*worker).take":            "parse_ns",
	"engine.(*worker).parse":           "parse_ns",
	"engine.(*worker).steer":           "steer_ns",
	"flow.(*Table).Hash":               "lookup_ns",
	"flow.(*Table).Find":               "lookup_ns",
	"engine.(*worker).schedule":        "schedule_ns",
	"engine.(*worker).rewrite":         "rewrite_ns",
	"engine.(*worker).transmit":        "rings_ns",
	"engine.(*worker).flush":           "rings_ns",
	"engine.(*worker).send":            "rings_ns",
	"engine.(*worker).reclaim":         "rings_ns",
	"rings.(*Mem).Refill":              "rings_ns",
	"rings.(*Mem).Receive":             "rings_ns",
	"rings.(*Mem).Transmit":            "rings_ns",
	"rings.(*Mem).Reclaim":             "rings_ns",
	"flow.(*Table).Expire":             "timers_ns",
	"flow.(*Table).Sweep":              "timers_ns",
	"engine.(*worker).step":            "other_ns",
	"engine.(*worker).serve":           "other_ns",
	"engine.(*worker).settleCounts":    "schedule_ns",
	"engine.(*worker).run":             "other_ns",
	"perf/pipeline.(*feed).send":       generatorStage,
	"perf/pipeline.(*feed).Refill":     generatorStage,
	"perf/pipeline.(*feed).Flush":      generatorStage,
	"rings.(*Wire).SendHeads":          generatorStage,
	"rings.(*Wire).Recv":               generatorStage,
	"perf/pipeline.(*clock).now":       "other_ns",
	"engine.(*worker).process":         "other_ns",
	"engine.(*worker).control":         "other_ns",
	"perf/pipeline.(*lane).step":       generatorStage,
	"engine.(*worker).receiveHandoffs": "steer_ns",
}

// generatorStage is ours, not the engine's.
const generatorStage = "generator"

// minSamples is the least that says anything: the figures are then good to some 7 percent of the whole.
const minSamples = 50

// stageSamples is the least that a stage is shown with: its standard error is then 20%. One with fewer goes to what is left over.
const stageSamples = 25

// shares are the nanoseconds of each stage, of perPacket for all samples, and for each the part of it that 19 of 20 such counts are
// within: twice the standard error of a binomial count. What belongs to no stage, and stages with too few samples, are "other_ns".
func shares(counts map[string]int64, total int64, perPacket float64) (of result.Metrics, off map[string]float64) {
	kept := map[string]int64{}
	for stage, k := range counts {
		switch {
		case stage == generatorStage:
		case stage == "", k < stageSamples:
			kept["other_ns"] += k
		default:
			kept[stage] += k
		}
	}
	of, off = result.Metrics{"stage_samples": float64(total)}, map[string]float64{}
	for stage, k := range kept {
		of[stage] = perPacket * float64(k) / float64(total)
		off[stage] = 2 * math.Sqrt((1-float64(k)/float64(total))/float64(k))
	}
	return of, off
}

// patience is how many times as long as asked for a profile may take on a machine that gives the worker little of a core.
const patience = 4

// stages profiles runs until the worker has had about d of a core, and returns the nanoseconds per packet of each stage, the
// generator left out, and what each may be off. It returns none of them when the samples are too few. The profile has the samples of
// workers.
func (b *bed) stages(ctx context.Context, t *traffic, d time.Duration) (of result.Metrics, off map[string]float64, p *profile.Profile, err error) {
	p, ns, err := b.profile(ctx, t, d)
	if err != nil {
		return nil, nil, nil, err
	}
	counts, total := attribute(p)
	if total < minSamples {
		return nil, nil, p, nil
	}
	of, off = shares(counts, total, ns)
	return of, off, p, nil
}

// profile profiles runs, and tells the nanoseconds per packet of them.
func (b *bed) profile(ctx context.Context, t *traffic, d time.Duration) (p *profile.Profile, perPacket float64, err error) {
	var buf bytes.Buffer
	if err := pprof.StartCPUProfile(&buf); err != nil {
		return nil, 0, fmt.Errorf("profile the stages: %w", err)
	}
	ns, n := 0.0, 0.0
	var had time.Duration
	for began := time.Now(); had < d && time.Since(began) < patience*d; {
		var c cost
		if err = ctx.Err(); err != nil {
			break
		}
		if c, err = b.measure(t, d/2); err != nil {
			break
		}
		ns, n = ns+c.ns, n+1
		had += time.Duration(c.ns * float64(c.packets) / float64(b.workers))
	}
	pprof.StopCPUProfile()
	if err != nil {
		return nil, 0, err
	}
	if p, err = profile.Parse(&buf); err != nil {
		return nil, 0, fmt.Errorf("profile the stages: %w", err)
	}
	p.Sample = slices.DeleteFunc(p.Sample, func(s *profile.Sample) bool { _, worker := stageOf(s); return !worker })
	return p, ns / n, nil
}

// attribute counts the samples of workers by stage.
func attribute(p *profile.Profile) (counts map[string]int64, total int64) {
	counts = map[string]int64{}
	for _, s := range p.Sample {
		if stage, worker := stageOf(s); worker {
			counts[stage] += s.Value[0]
			total += s.Value[0]
		}
	}
	return counts, total
}

// stageOf is the stage of a sample, and whether it is of a worker.
func stageOf(s *profile.Sample) (stage string, worker bool) {
	for _, loc := range s.Location { // innermost first
		for _, line := range loc.Line {
			if line.Function == nil {
				continue
			}
			name := strings.TrimPrefix(line.Function.Name, "sluice/")
			if stage == "" {
				stage = stages[name]
			}
			worker = worker || name == "engine.(*worker).run"
		}
	}
	return stage, worker
}
