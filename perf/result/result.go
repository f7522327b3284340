// Package result is what every performance scenario hands over: cases with metrics, measured in repetitions on a
// host that is described with them. A scenario adds a sample per case and repetition; the file keeps the medians
// and the samples behind them, so that two files can be compared by statistics and not by two numbers.
//
//	scenario ──Add(case, metrics)──▶ Recorder ──File──▶ JSON ──▶ table, compare, report
//
// Metrics have names of the form what_unit; see metric.go for what each means and which way is better.
package result

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// Metrics are the values of one case, by name.
type Metrics map[string]float64

// File is what --json writes.
type File struct {
	Scenario string   `json:"scenario"`
	Host     Host     `json:"host"`
	Results  []Result `json:"results"`
	// Skipped are cases that could not be run here.
	Skipped []Skip `json:"skipped,omitempty"`
	// Interrupted is the step at which the run was ended before its time, if it was: from outside, or by an error, which Error then tells.
	// Every sample is of a measurement that had come to its end; cases may have fewer of them than others.
	Interrupted string `json:"interrupted,omitempty"`
	Error       string `json:"error,omitempty"`
	// Drift has the repetitions in which the machine did not stay the same.
	Drift []Drift `json:"drift,omitempty"`
}

// Result is one case. Its name is words and key=value, separated by slashes: "nat/flows=1000000/workers=1",
// "nftables/flows=new".
type Result struct {
	Case string `json:"case"`
	// Metrics are medians over the repetitions.
	Metrics Metrics `json:"metrics"`
	// Samples are the values behind each median, one per repetition, in the order they were taken.
	Samples map[string][]float64 `json:"samples,omitempty"`
	// Errors are of metrics that a single count gave, the stages: the part of the value that 19 of 20 such counts are within.
	Errors map[string]float64 `json:"errors,omitempty"`
}

// Skip is a case that was not run, and why.
type Skip struct {
	Case   string `json:"case"`
	Reason string `json:"reason"`
}

// Recorder gathers samples while a scenario runs. It belongs to one goroutine.
type Recorder struct {
	file  File
	index map[string]int
}

// NewRecorder begins a file.
func NewRecorder(scenario string, host Host) *Recorder {
	return &Recorder{file: File{Scenario: scenario, Host: host, Results: []Result{}}, index: map[string]int{}}
}

// Add adds one repetition of a case. Cases stand in the file in the order in which they first came. A case may be added in
// parts: only the metrics given get a sample.
func (r *Recorder) Add(name string, m Metrics) {
	i, ok := r.index[name]
	if !ok {
		i = len(r.file.Results)
		r.index[name] = i
		r.file.Results = append(r.file.Results, Result{Case: name, Metrics: Metrics{}, Samples: map[string][]float64{}})
	}
	for k, v := range m {
		r.file.Results[i].Samples[k] = append(r.file.Results[i].Samples[k], v)
	}
}

// Skip notes that a case was not run. A second reason for the same case is left out.
func (r *Recorder) Skip(name, reason string) {
	if !slices.ContainsFunc(r.file.Skipped, func(s Skip) bool { return s.Case == name }) {
		r.file.Skipped = append(r.file.Skipped, Skip{name, reason})
	}
}

// Uncertain notes how far off a metric of a case may be that a single count gave, as a part of its value; the case has been added.
func (r *Recorder) Uncertain(name, metric string, part float64) {
	res := &r.file.Results[r.index[name]]
	if res.Errors == nil {
		res.Errors = map[string]float64{}
	}
	res.Errors[metric] = part
}

// Interrupt notes at which step the run was ended from outside.
func (r *Recorder) Interrupt(step string) { r.file.Interrupted = step }

// Fail notes at which step the run was ended by an error.
func (r *Recorder) Fail(step string, err error) {
	r.file.Interrupted, r.file.Error = step, err.Error()
}

// File closes the record: medians of what was added.
func (r *Recorder) File() *File {
	for i := range r.file.Results {
		res := &r.file.Results[i]
		for k, v := range res.Samples {
			res.Metrics[k] = Median(v)
		}
	}
	r.file.Drift = r.file.drifts()
	return &r.file
}

// Find is the result of a case, or nil.
func (f *File) Find(name string) *Result {
	for i := range f.Results {
		if f.Results[i].Case == name {
			return &f.Results[i]
		}
	}
	return nil
}

// Names are the metrics that a result shows: known ones in the order of the list in metric.go, then others by name.
func (r *Result) Names() []string {
	names := slices.Collect(maps.Keys(r.Metrics))
	if _, ok := r.Value(programRun); ok {
		names[slices.Index(names, stored)] = programRun
	}
	return inOrder(names)
}

// inOrder sorts names of metrics.
func inOrder(names []string) []string {
	slices.Sort(names)
	slices.SortStableFunc(names, func(a, b string) int { return MetricOf(a).order - MetricOf(b).order })
	return names
}

// Values are the samples of a metric as it is shown; a file of another maker may have only the median.
func (r *Result) Values(name string) []float64 {
	if s := r.Samples[r.in(name)]; len(s) > 0 {
		return s
	}
	if v, ok := r.Value(name); ok {
		return []float64{v}
	}
	return nil
}

// Measured reports whether there is a figure, other than those of the anchors, which are measured beside.
func (f *File) Measured() bool {
	return slices.ContainsFunc(f.Results, func(r Result) bool { return !strings.HasPrefix(r.Case, "anchor/") })
}

// Write writes the file as indented JSON.
func (f *File) Write(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(f)
}

// WriteFile writes the file to a new or emptied file called name; - is not special.
func (f *File) WriteFile(name string) error {
	out, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	return errors.Join(f.Write(out), out.Close())
}

// ReadFile reads a file that WriteFile or any other maker of this form has written.
func ReadFile(name string) (*File, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	f := &File{}
	if err := json.Unmarshal(b, f); err != nil {
		return nil, fmt.Errorf("%s is not a file of sluice perf --json: %w", name, err)
	}
	if f.Scenario == "" || len(f.Results)+len(f.Skipped) == 0 {
		return nil, fmt.Errorf("%s is not a file of sluice perf --json, or nothing was measured: it needs a scenario and results", name)
	}
	return f, nil
}
