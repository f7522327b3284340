package pipeline

import (
	"testing"

	"sluice/perf/result"
)

// Every mode forwards every packet that it sends, and stands beside nat.
func TestModes(t *testing.T) {
	o := tiny()
	o.Modes, o.Connections, o.Patterns, o.Sizes = Modes(), []int{500}, Patterns[:1], Sizes[:1]
	f, err := Run(t.Context(), o, result.Host{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range Modes() {
		r := f.Find(name + "/flows=500/workers=1")
		if r == nil {
			t.Fatalf("no %s in %+v", name, f.Results)
		}
		checkSane(t, r, o.Runs)
		if got := len(r.Samples["to_nat"]); name != baseline && got != o.Runs {
			t.Errorf("%s: %d ratios to nat", name, got)
		}
	}
}
