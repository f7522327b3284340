package pipeline

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"sluice/perf/result"
)

// Names of metrics that are not written where figures are handed over: the stages, and the ratios of curves.
func TestMetricsAreKnown(t *testing.T) {
	known := func(name string) {
		if result.MetricOf(name).About == "" {
			t.Errorf("%s is not in the list of perf/result/metric.go", name)
		}
	}
	for _, stage := range stages {
		if stage != generatorStage {
			known(stage)
		}
	}
	c, o := DefaultCurves(false)
	all, err := c.curves(&o)
	if err != nil || len(all) != 4 {
		t.Fatal(len(all), err)
	}
	for _, cv := range all {
		known(cv.ratio)
	}
}

// Every word of every case is explained.
func TestWordsAreKnown(t *testing.T) {
	told := map[string]bool{}
	add := func(scenario, name string) {
		for at, part := range strings.Split(name, "/") {
			if _, ok := result.WordOf(scenario, part, at); !ok && !told[part] {
				told[part] = true
				t.Errorf("%s: %s of %s is not in the list of perf/result/words.go", scenario, part, name)
			}
		}
	}
	o := Options{Modes: Modes(), Connections: []int{1000, Each}, Patterns: Patterns, Sizes: Sizes, Workers: []int{1}, Families: Families}
	points, err := o.points()
	if want := len(Modes()) * (len(Patterns)*len(Sizes)*len(Families) + 1); err != nil || len(points) < want {
		t.Fatalf("%d cases, less than %d, %v", len(points), want, err)
	}
	for _, p := range points {
		add("pipeline", p.name())
	}
	c, o := DefaultCurves(false)
	all, err := c.curves(&o)
	if err != nil {
		t.Fatal(err)
	}
	for _, cv := range all {
		for _, p := range cv.points {
			add("scale", p.name())
		}
	}
	add("scale", "program/rules=10")
}

// steps ends a run when its progress comes to a step.
type steps struct {
	at  string
	end func()
}

func (s *steps) Write(line []byte) (int, error) {
	if strings.Contains(string(line), s.at) {
		s.end()
	}
	return len(line), nil
}

// A run that is interrupted hands over what it had measured, and says where it was.
func TestInterrupted(t *testing.T) {
	for _, c := range []struct {
		at    string
		scale bool
		runs  int // of the first case
	}{
		{"prepare nat/flows=5000", false, 0}, {"run 1 of 3: nat/flows=100", false, 0}, {"run 3 of 3: nat/flows=5000", false, 3},
		{"stages of nat/flows=100", false, 3}, {"run 2 of 3: nat/flows=5000", true, 2},
	} {
		t.Run(strings.ReplaceAll(c.at, "/", " "), func(t *testing.T) {
			ctx, end := context.WithCancel(t.Context())
			defer end()
			o := tiny()
			o.Connections, o.Patterns, o.Sizes, o.Runs, o.Duration = []int{100, 5000}, Patterns[:1], Sizes[:1], 3, 5*time.Millisecond
			o.Stages = time.Minute
			var w io.Writer = &steps{c.at, end}
			o.Progress = func(n int) *result.Progress { return result.NewProgress(w, false, n) }
			var f *result.File
			var err error
			if c.scale {
				o.Stages = 0
				f, err = Scale(ctx, Curves{Connections: o.Connections, Base: 100}, o, result.Host{})
			} else {
				f, err = Run(ctx, o, result.Host{})
			}
			if !errors.Is(err, context.Canceled) || f == nil || !strings.Contains(f.Interrupted, c.at) {
				t.Fatalf("%v, %+v", err, f)
			}
			r := f.Find("nat/flows=100/workers=1")
			if (r != nil) != (c.runs > 0) || f.Measured() != (c.runs > 0) {
				t.Fatalf("results: %+v", f.Results)
			}
			for name := range f.Results {
				for _, metric := range f.Results[name].Names() {
					if v, n := f.Results[name].Metrics[metric], len(f.Results[name].Samples[metric]); n == 0 || metric == "ns_per_packet" && !(v > 0) {
						t.Errorf("%s: %s is %v of %d samples", f.Results[name].Case, metric, v, n)
					}
				}
			}
			if r != nil && len(r.Samples["ns_per_packet"]) != c.runs {
				t.Errorf("%d repetitions, not %d", len(r.Samples["ns_per_packet"]), c.runs)
			}
			if c.scale && (len(r.Samples["to_first"]) != 2 || len(f.Find("nat/flows=5000/workers=1").Samples["to_first"]) != 1) {
				t.Errorf("ratios: %+v", f.Results)
			}
		})
	}
}
