package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"sluice/ctl"
	"sluice/perf/result"
)

// perfCommand measures. Each scenario prints a table, and writes the same and more as JSON on demand.
func perfCommand() *cli.Command {
	return &cli.Command{
		Name: "perf", Usage: "measure what sluice carries on this machine",
		Description: "Scenarios print a table of medians with their spread and write JSON with --json FILE. compare and report read\n" +
			"such files. docs/PERFORMANCE.md has the method, and like a report what every heading and every word of a case means. A scenario\n" +
			"says on standard error how long it should take and how far it is. One that is interrupted, or ended by an error, keeps what it\n" +
			"has measured, and exits with 1.",
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return noCommand(c, "perf")
			}
			return cli.ShowSubcommandHelp(c)
		},
		Subcommands: []*cli.Command{
			perfPipelineCommand(), perfLinkCommand(), perfLatencyCommand(), perfConnectionsCommand(), perfScaleCommand(),
			perfCompareCommand(), perfReportCommand(), perfForwarderCommand(),
		},
	}
}

// perfFlags are those of every scenario.
func perfFlags(runs int, more ...cli.Flag) []cli.Flag {
	return append([]cli.Flag{
		&cli.StringFlag{Name: "json", Usage: "write the results to `FILE`"},
		&cli.IntFlag{Name: "runs", Usage: "repeat everything `N` times, interleaved", Value: runs},
		&cli.BoolFlag{Name: "quick", Usage: "fewer and smaller cases, within 60 seconds"},
	}, more...)
}

// perfRuns is --runs, checked, as is --json: what it names must be there to be written to when all is measured.
func perfRuns(c *cli.Context) (int, error) {
	if name := c.String("json"); name != "" {
		if info, err := os.Stat(name); err == nil && info.IsDir() {
			return 0, usagef("--json %s is a directory", name)
		}
		if err := unix.Access(filepath.Dir(name), unix.W_OK); err != nil {
			return 0, usagef("--json %s: %s: %w", name, filepath.Dir(name), err)
		}
	}
	if n := c.Int("runs"); n >= 1 && n <= 1000 {
		return n, nil
	}
	return 0, usagef("--runs %d is not between 1 and 1000", c.Int("runs"))
}

// perfHost describes this machine and the command as it was called.
func perfHost() result.Host {
	command := strings.Join(append([]string{"sluice"}, os.Args[1:]...), " ")
	return result.ThisHost(ctl.Version, command)
}

// perfProgress is the line about long work, on standard error.
func perfProgress(c *cli.Context, steps int) *result.Progress {
	w := c.App.ErrWriter
	if w == nil {
		w = os.Stderr
	}
	_, err := unix.IoctlGetTermios(int(os.Stderr.Fd()), unix.TCGETS)
	return result.NewProgress(w, w == os.Stderr && err == nil, steps)
}

// perfEnd prints and writes what a scenario has measured. Of one that was interrupted, or ended by an error, that is what had come to its
// end before; lab says what became of the network of one that was interrupted, and others are the errors that were not of the interruption.
func perfEnd(c *cli.Context, f *result.File, err error, lab string, others error) error {
	if err == nil {
		return perfOutput(c, f)
	}
	if f == nil {
		return err
	}
	if f.Error != "" || f.Interrupted == "" { // all was measured in the latter case, and then something could not be put back
		if !f.Measured() {
			return err
		}
		kept := perfOutput(c, f)
		if f.Error != "" && kept == nil {
			kept = fmt.Errorf("it ended at %q; what had been measured is above%s", f.Interrupted, perfWritten(c))
		}
		return errors.Join(err, kept)
	}
	measured := "nothing had been measured"
	if f.Measured() {
		err, measured = perfOutput(c, f), "what had been measured is above"
		if err == nil {
			measured += perfWritten(c)
		}
		others = errors.Join(err, others)
	}
	return errors.Join(fmt.Errorf("interrupted at %q: %s%s", f.Interrupted, measured, lab), others)
}

// perfWritten says where else the results are.
func perfWritten(c *cli.Context) string {
	if name := c.String("json"); name != "" {
		return " and in " + name
	}
	return ""
}

// otherErrors are those among joined errors that are not that a context has ended.
func otherErrors(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var rest []error
		for _, e := range joined.Unwrap() {
			rest = append(rest, otherErrors(e))
		}
		return errors.Join(rest...)
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// perfOutput writes a scenario's results where --json says, and prints them; the terminal may be gone. That nothing was measured
// is an error.
func perfOutput(c *cli.Context, f *result.File) (err error) {
	if name := c.String("json"); name != "" {
		err = f.WriteFile(name)
	}
	if err := errors.Join(err, f.WriteTable(c.App.Writer)); err != nil {
		return err
	}
	if c.Bool("quick") && len(f.Results) > 0 {
		fmt.Fprintln(c.App.Writer, result.QuickNote)
	}
	if !f.Measured() {
		return fmt.Errorf("nothing was measured: of what %s measures, all was skipped or is not what the options ask for", c.Command.Name)
	}
	return nil
}
