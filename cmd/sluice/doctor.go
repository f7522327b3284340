package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"sluice/ctl"
)

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name: "doctor", Usage: "look for what on this host would slow sluice down or break it, and say what mends it",
		UsageText: "sluice doctor [-c FILE] [-o table|json]",
		Description: "It changes nothing. With -c it looks at the ports of the file and at what its engine would need, without at every Ethernet " +
			"interface that is up. Each finding is ok, a note (costs something, or could be better), warn (traffic suffers in some cases) or fail " +
			"(sluice does not start, or traffic breaks); the exit code is 1 if there is a fail.",
		Flags: []cli.Flag{configFlag(), &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FORMAT`: table or json", Value: "table"}},
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			format := c.String("output")
			if format != "table" && format != "json" {
				return usagef("no output format %q; there are table and json", format)
			}
			var f *ctl.File
			if c.String("config") != "" {
				var err error
				if f, err = loadConfig(c); err != nil {
					return err
				}
			}
			facts, err := ctl.GatherFacts(f)
			if err != nil {
				return err
			}
			r := ctl.Examine(facts)
			if format == "json" {
				err = printJSON(c.App.Writer, r)
			} else {
				err = printDoctor(c.App.Writer, r)
			}
			if err == nil && r.Failures > 0 {
				err = fmt.Errorf("%d of %d findings are failures; mend them before sluice run", r.Failures, len(r.Findings))
			}
			return err
		},
	}
}

// printDoctor prints a line for each finding, and under those that are not ok what they mean and what mends them.
func printDoctor(w io.Writer, r *ctl.DoctorReport) error {
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, x := range r.Findings {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", x.Level, x.Subject, x.Check, x.Text)
		if x.Meaning != "" {
			fmt.Fprintf(tw, "\t\t\t  %s\n", x.Meaning)
		}
		if x.Mend != "" {
			fmt.Fprintf(tw, "\t\t\t  mend: %s\n", x.Mend)
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%d ok, %d notes, %d warnings, %d failures\n", r.OK, r.Notes, r.Warnings, r.Failures)
	return err
}
