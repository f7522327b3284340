package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"sluice/perf/result"
)

func perfCompareCommand() *cli.Command {
	return &cli.Command{
		Name: "compare", Usage: "compare two files of results",
		UsageText: "sluice perf compare OLD.json NEW.json [--fail-above PCT]",
		Description: "Medians over the repetitions, their ratio, and whether the difference is one: by the Mann-Whitney U test at 95%; ~ says\n" +
			"that it cannot be told from noise. Four repetitions of each are the least that can show a difference\n" +
			"(or three of one and five of the other).",
		Flags: []cli.Flag{
			&cli.Float64Flag{Name: "fail-above", Usage: "exit with 1 if something is worse by more than `PCT` percent and that is not noise"},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() != 2 {
				return usagef("compare takes two files: sluice perf compare OLD.json NEW.json")
			}
			if c.Float64("fail-above") < 0 {
				return usagef("--fail-above %v is negative", c.Float64("fail-above"))
			}
			return perfCompare(c, c.Args().Get(0), c.Args().Get(1))
		},
	}
}

func perfCompare(c *cli.Context, oldName, newName string) error {
	before, err := result.ReadFile(oldName)
	if err != nil {
		return err
	}
	after, err := result.ReadFile(newName)
	if err != nil {
		return err
	}
	w := c.App.Writer
	if before.Scenario != after.Scenario {
		return fmt.Errorf("%s is of %s and %s of %s: only results of one scenario can be compared", oldName, before.Scenario, newName, after.Scenario)
	}
	for _, d := range result.Differences(&before.Host, &after.Host) {
		fmt.Fprintln(w, "note:", d)
	}
	for i, f := range []*result.File{before, after} {
		for _, note := range f.Notes() {
			fmt.Fprintf(w, "note: %s: %s\n", []string{oldName, newName}[i], note)
		}
	}
	both, onlyOld, onlyNew := result.Compare(before, after)
	for _, n := range compareNotes(both) {
		fmt.Fprintln(w, "note:", n)
	}
	var worse []string
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tw, "CASE\tMETRIC\tOLD\tNEW\tRATIO\tCHANGE\tP")
	for i := range both {
		x, title := &both[i], result.MetricOf(both[i].Metric).Title
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%.3f\t%s\t%.3f n=%d+%d\n", x.Case, title, value(x.OldMedian, x.Old), value(x.NewMedian, x.New), x.Ratio, x.Change(), x.P, len(x.Old), len(x.New))
		if x.Differs && c.IsSet("fail-above") && x.Worse > c.Float64("fail-above") {
			worse = append(worse, fmt.Sprintf("%s: %s is worse by %.1f%%, more than %v%%", x.Case, title, x.Worse, c.Float64("fail-above")))
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, name := range onlyOld {
		fmt.Fprintln(w, "only in", oldName+":", name)
	}
	for _, name := range onlyNew {
		fmt.Fprintln(w, "only in", newName+":", name)
	}
	if len(worse) > 0 {
		return fmt.Errorf("%s", strings.Join(worse, "\n"))
	}
	if len(both) == 0 {
		return fmt.Errorf("%s and %s have no case in common", oldName, newName)
	}
	return nil
}

// compareNotes say what stands between the figures and a verdict about sluice: a machine that is another by what does not hang on
// sluice, and too few repetitions.
func compareNotes(both []result.Comparison) (notes []string) {
	var moved []string
	enough := len(both) == 0
	for i := range both {
		x := &both[i]
		n, m := len(x.Old), len(x.New)
		enough = enough || n >= 3 && m >= 3 && n+m >= 8
		if x.Differs && (x.Metric == "floor_ns_per_packet" || x.Metric == "gomap_ns" || strings.HasPrefix(x.Case, "anchor/")) {
			moved = append(moved, fmt.Sprintf("%s %s %s", x.Case, result.MetricOf(x.Metric).Title, x.Change()))
		}
	}
	if len(moved) > 0 {
		notes = append(notes, "the machine was not the same: what does not hang on sluice has changed too ("+strings.Join(moved, ", ")+"). Judge by the ratios (x ...)")
	}
	if !enough {
		notes = append(notes, "too few repetitions to tell anything from noise: give both runs --runs 5")
	}
	return notes
}

// value is a median with the spread of its samples.
func value(median float64, samples []float64) string {
	return strings.TrimSpace(result.FormatValue(median) + " " + result.FormatSpread(samples))
}
