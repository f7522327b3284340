package report

import (
	"slices"
	"strings"
	"testing"

	"sluice/perf/result"
)

// A curve goes from the smallest number to the largest, whatever the order of the cases: the first of scale is none of the ends.
func TestCurveInOrder(t *testing.T) {
	f := &result.File{Scenario: "scale", Results: []result.Result{
		{Case: "nat/flows=100000/workers=1", Metrics: result.Metrics{"ns_per_packet": 24}, Samples: map[string][]float64{"ns_per_packet": {24, 25}}},
		{Case: "nat/flows=1000000/workers=1", Metrics: result.Metrics{"ns_per_packet": 42}, Samples: map[string][]float64{"ns_per_packet": {40, 42}}},
		{Case: "nat/flows=1000/workers=1", Metrics: result.Metrics{"ns_per_packet": 19}, Samples: map[string][]float64{"ns_per_packet": {19}}},
	}}
	all := curves(f, "ns_per_packet")
	if len(all) != 1 || len(all[0].series) != 1 {
		t.Fatalf("curves: %+v", all)
	}
	s := all[0].series[0]
	var xs, ys, lows []float64
	for i, p := range s.XYs {
		xs, ys, lows = append(xs, p.X), append(ys, p.Y), append(lows, s.YErrors[i].Low)
	}
	if !slices.Equal(xs, []float64{1e3, 1e5, 1e6}) || !slices.Equal(ys, []float64{19, 24, 42}) || !slices.Equal(lows, []float64{0, 0, 2}) {
		t.Errorf("points %v, %v, down to %v", xs, ys, lows)
	}
	svg, err := all[0].draw(result.MetricOf("ns_per_packet"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{">1k<", ">1M<"} {
		if !strings.Contains(svg, want) {
			t.Errorf("no tick %s", want)
		}
	}
}

// Every text of a drawing says how wide it is, for browsers that have a wider font alone.
func TestTextsHaveTheirWidth(t *testing.T) {
	f := &result.File{Scenario: "link", Results: []result.Result{{Case: "nftables-inline/flows=1000/direction=both", Metrics: result.Metrics{"mpps": 0.7}}}}
	svg, err := bars(f, result.MetricOf("mpps"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(svg, "<text"); n < 4 || n != strings.Count(svg, ` textLength="`) {
		t.Errorf("%d texts, %d of them with their width", n, strings.Count(svg, ` textLength="`))
	}
}

// Figures that are not to be quoted say so where they go, and the way of each carrier has a row of its own.
func TestReportOfQuickRun(t *testing.T) {
	for _, c := range []struct {
		command string
		quick   bool
	}{{"sluice perf link --quick --json a.json", true}, {"sluice perf link --quick=true", true}, {"sluice perf link --quick=false", false}, {"sluice perf link --json quick", false}} {
		f := &result.File{
			Scenario: "link", Host: result.Host{Commands: []string{c.command}, Mode: "rings: outside: native copy | sluice: outside: xsk native copy"},
			Results: []result.Result{{Case: "sluice/flows=1000", Metrics: result.Metrics{"mpps": 2}}},
		}
		var page, table strings.Builder
		if err := HTML(&page, []*result.File{f}); err != nil {
			t.Fatal(err)
		}
		if err := Markdown(&table, []*result.File{f}); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"page": page.String(), "table": table.String()} {
			if got := strings.Contains(text, "Do not quote them"); got != c.quick {
				t.Errorf("%s: the %s says that figures are not to be quoted: %v", c.command, name, got)
			}
			if !strings.Contains(text, "Mode of sluice") || !strings.Contains(text, "outside: xsk native copy") || strings.Contains(text, "native copy | ") {
				t.Errorf("the %s has not a row for each mode:\n%s", name, text[:min(len(text), 3000)])
			}
		}
	}
}
