package result

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// WriteTable prints the results for people: a row per case, a column per metric, medians with their spread; then the
// stages, where there are any.
func (f *File) WriteTable(w io.Writer) error {
	for _, g := range []Group{Main, Stage} {
		names := f.Columns(g)
		if len(names) == 0 {
			continue
		}
		var table strings.Builder
		tw := tabwriter.NewWriter(&table, 0, 4, 2, ' ', 0)
		cells := []string{"CASE"}
		for _, n := range names {
			cells = append(cells, MetricOf(n).Title)
		}
		// Every row has every cell, and a tab after the last: tabwriter ends a column where a row lacks it.
		fmt.Fprintln(tw, strings.Join(cells, "\t")+"\t")
		for i := range f.Results {
			r := &f.Results[i]
			cells = append(cells[:0], r.Case)
			for _, n := range names {
				cells = append(cells, r.Cell(n))
			}
			fmt.Fprintln(tw, strings.Join(cells, "\t")+"\t")
		}
		if err := tw.Flush(); err != nil {
			return err
		}
		for line := range strings.Lines(table.String()) {
			if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
				return err
			}
		}
		fmt.Fprintln(w)
	}
	for _, s := range f.Skipped {
		if _, err := fmt.Fprintf(w, "skipped %s: %s\n", s.Case, s.Reason); err != nil {
			return err
		}
	}
	if f.Scenario == "latency" && f.Host.Taken != nil { // what its tails are made of
		if _, err := fmt.Fprintln(w, f.Host.Taken); err != nil {
			return err
		}
	}
	for _, note := range f.Notes() {
		if _, err := fmt.Fprintln(w, note); err != nil {
			return err
		}
	}
	return nil
}

// QuickNote is what to say with figures of a run with --quick.
const QuickNote = "--quick: short samples, and those that others on the machine disturbed are not repeated. Do not quote them."

// Quick reports whether any of the commands that a file is of had --quick.
func (h *Host) Quick() bool {
	for _, c := range h.Commands {
		for _, w := range strings.Fields(c) {
			if name, v, _ := strings.Cut(w, "="); (name == "--quick" || name == "-quick") && v != "false" {
				return true
			}
		}
	}
	return false
}

// Notes are what a reader of the figures must know, a line each: that the run was ended before its time, and that the machine drifted.
func (f *File) Notes() (notes []string) {
	const rest = "every figure is of measurements that had ended; cases may have fewer of them than others"
	switch {
	case f.Error != "":
		notes = append(notes, fmt.Sprintf("ended by an error at %q (%s): %s", f.Interrupted, strings.ReplaceAll(f.Error, "\n", "; "), rest))
	case f.Interrupted != "":
		notes = append(notes, fmt.Sprintf("interrupted at %q: %s", f.Interrupted, rest))
	}
	for _, d := range f.Drift {
		notes = append(notes, d.Note)
	}
	return notes
}

// Columns are the metrics of the given groups that any result has, in their order.
func (f *File) Columns(groups ...Group) []string {
	all := map[string]bool{}
	for i := range f.Results {
		for _, n := range f.Results[i].Names() {
			if slices.Contains(groups, MetricOf(n).Group) {
				all[n] = true
			}
		}
	}
	return inOrder(slices.Collect(maps.Keys(all)))
}

// Cell is a metric's median with its spread, or what it may be off, or nothing when the case does not have it.
func (r *Result) Cell(name string) string {
	v, ok := r.Value(name)
	if !ok {
		return ""
	}
	if s := FormatSpread(r.Values(name)); s != "" && s != "±0%" {
		return FormatValue(v) + " " + s
	}
	if off := r.Errors[name]; off > 0 {
		return fmt.Sprintf("%s ±%.0f%%", FormatValue(v), 100*off)
	}
	return FormatValue(v)
}

// FormatValue is a number with three digits that count.
func FormatValue(v float64) string {
	switch a := math.Abs(v); {
	case v == math.Trunc(v) && a < 1e15, a >= 1000:
		return fmt.Sprintf("%.0f", v)
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 0.01:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.2g", v)
}
