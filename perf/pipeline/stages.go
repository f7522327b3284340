package pipeline

import (
	"bytes"
	"fmt"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/google/pprof/profile"
)

// The breakdown by stage comes from a CPU profile of a run of its own, beside the measured ones: the engine is the same,
// with nothing added to it, and what a stage costs while the others fill and empty the caches between its turns is
// what is wanted. A sample counts for the innermost function on its stack that is a stage. At 100 samples a second the
// figures are good to a few percent of the whole.

// stages maps functions, by the end of their names, to metrics.
var stages = map[string]string{
	"engine.(*worker).take":            "parse_ns",
	"engine.(*worker).parse":           "parse_ns",
	"engine.(*worker).steer":           "steer_ns",
	"flow.(*Table).LookupBurst":        "lookup_ns",
	"flow.(*Table).Load":               "lookup_ns",
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

// stages profiles a run and returns the nanoseconds per packet of each stage, the generator left out; what belongs to none is
// under the empty name.
func (b *bed) stages(t *traffic, d time.Duration) (map[string]float64, error) {
	var buf bytes.Buffer
	if err := pprof.StartCPUProfile(&buf); err != nil {
		return nil, fmt.Errorf("profile the stages: %w", err)
	}
	c, err := b.measure(t, d)
	pprof.StopCPUProfile()
	if err != nil {
		return nil, err
	}
	p, err := profile.Parse(&buf)
	if err != nil {
		return nil, fmt.Errorf("profile the stages: %w", err)
	}
	counts, total := attribute(p)
	if total == 0 {
		return nil, nil // too short for a sample
	}
	ns := map[string]float64{}
	for stage, n := range counts {
		if stage != generatorStage {
			ns[stage] = c.ns * float64(n) / float64(total)
		}
	}
	return ns, nil
}

// attribute counts the samples of workers by stage.
func attribute(p *profile.Profile) (counts map[string]int64, total int64) {
	counts = map[string]int64{}
	for _, s := range p.Sample {
		stage, worker := "", false
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
		if worker {
			counts[stage] += s.Value[0]
			total += s.Value[0]
		}
	}
	return counts, total
}
