package result

import (
	"fmt"
	"slices"

	"golang.org/x/perf/benchmath"
)

// Median of at least one value; the mean of the middle two of an even number.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// Spread is the smallest and the largest value.
func Spread(values []float64) (low, high float64) {
	if len(values) == 0 {
		return 0, 0
	}
	return slices.Min(values), slices.Max(values)
}

// FormatSpread is the distance of the farthest value from the median, as a share of it: "±3%".
func FormatSpread(values []float64) string {
	m := Median(values)
	low, high := Spread(values)
	if m == 0 || len(values) < 2 {
		return ""
	}
	return fmt.Sprintf("±%.0f%%", 100*max(high-m, m-low)/abs(m))
}

func abs(x float64) float64 { return max(x, -x) }

// Comparison is one metric of one case in two files.
type Comparison struct {
	Case, Metric string
	Old, New     []float64 // samples
	OldMedian    float64
	NewMedian    float64
	// Ratio is the new median divided by the old; 0 when the old is 0 and the new is not.
	Ratio float64
	// P is the probability of a difference like this between samples of the same distribution (Mann-Whitney U test).
	P float64
	// Differs: P is below 0.05, so that it is a difference and not noise.
	Differs bool
	// Worse is by how much of the old value the new one is worse, in percent; negative if it is better, 0 for metrics that
	// are not about the engine.
	Worse float64
	Note  string // why the statistics say little, from benchmath
}

// Compare compares the cases and metrics that both files have, in the order of the old one. It returns the names of cases
// that only one of them has as well.
func Compare(old, new *File) (both []Comparison, onlyOld, onlyNew []string) {
	for i := range old.Results {
		o := &old.Results[i]
		n := new.Find(o.Case)
		if n == nil {
			onlyOld = append(onlyOld, o.Case)
			continue
		}
		for _, name := range o.Names() {
			if _, ok := n.Value(name); ok {
				both = append(both, compare(o, n, name))
			}
		}
	}
	for i := range new.Results {
		if old.Find(new.Results[i].Case) == nil {
			onlyNew = append(onlyNew, new.Results[i].Case)
		}
	}
	return both, onlyOld, onlyNew
}

func compare(o, n *Result, name string) Comparison {
	c := Comparison{Case: o.Case, Metric: name, Old: o.Values(name), New: n.Values(name)}
	c.OldMedian, _ = o.Value(name)
	c.NewMedian, _ = n.Value(name)
	t := benchmath.DefaultThresholds
	sample := func(v []float64) *benchmath.Sample { return benchmath.NewSample(slices.Clone(v), &t) }
	got := benchmath.AssumeNothing.Compare(sample(c.Old), sample(c.New))
	c.P = got.P
	c.Differs = got.P < got.Alpha
	for _, w := range got.Warnings {
		c.Note = w.Error()
	}
	switch {
	case c.OldMedian != 0:
		c.Ratio = c.NewMedian / c.OldMedian
	case c.NewMedian == 0:
		c.Ratio = 1
	}
	m := MetricOf(name)
	switch {
	case m.Info:
	case c.OldMedian == 0:
		if c.NewMedian > 0 && !m.Higher {
			c.Worse = 100 // from nothing to something
		}
	case m.Higher:
		c.Worse = 100 * (1 - c.Ratio)
	default:
		c.Worse = 100 * (c.Ratio - 1)
	}
	return c
}

// Change is the difference in percent with its sign, or "~" when there is none that can be told from noise.
func (c *Comparison) Change() string {
	switch {
	case !c.Differs:
		return "~"
	case c.OldMedian == 0:
		return "from 0"
	}
	return fmt.Sprintf("%+.1f%%", 100*(c.Ratio-1))
}
