package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"sluice/perf/pipeline"
	"sluice/perf/result"
)

func perfPipelineCommand() *cli.Command {
	return &cli.Command{
		Name: "pipeline", Usage: "the whole packet path on memory rings; needs no root and no network",
		UsageText: "sluice perf pipeline [--quick] [--connections LIST] [--pattern LIST] [--size LIST] [--family LIST] [--workers LIST] [--modes] [--json FILE]",
		Description: "Half of the packets are UDP, half established TCP, half go each way. ns/packet is time of a core, the generator's taken\n" +
			"off. Lists are separated by commas; with any of them given, the product of all is measured.",
		Flags: perfFlags(5,
			&cli.StringFlag{Name: "mode", Usage: "`LIST` of " + strings.Join(pipeline.Modes(), ", ")},
			&cli.BoolFlag{Name: "modes", Usage: "every mode beside nat, each with 100k connections"},
			&cli.StringFlag{Name: "connections", Usage: "`LIST` of numbers: 1, 1k, 100k, 1M, 10M, and new for every packet the first of one"},
			&cli.StringFlag{Name: "pattern", Usage: "`LIST` of " + strings.Join(pipeline.Patterns, ", ")},
			&cli.StringFlag{Name: "size", Usage: "`LIST` of " + strings.Join(pipeline.Sizes, ", ")},
			&cli.StringFlag{Name: "family", Usage: "`LIST` of " + strings.Join(pipeline.Families, ", ") + ": IP versions of the connections"},
			&cli.StringFlag{Name: "workers", Usage: "`LIST` of numbers"},
			&cli.DurationFlag{Name: "duration", Usage: "`TIME` that each measurement takes", DefaultText: "200ms with --quick, else 1s"},
			&cli.StringFlag{Name: "cpuprofile", Usage: "write the CPU profile that the stages are from to `FILE`, for builds (go build -pgo) and pprof"},
		),
		Action: func(c *cli.Context) (err error) {
			if err := noArguments(c); err != nil {
				return err
			}
			o := pipeline.Default(c.Bool("quick"))
			if c.Bool("modes") {
				o = pipeline.EveryMode(c.Bool("quick"))
			}
			if err := perfPipelineOptions(c, &o); err != nil {
				return err
			}
			if err := o.Check(); err != nil {
				return usageError{err}
			}
			if name := c.String("cpuprofile"); name != "" {
				file, e := os.Create(name)
				if e != nil {
					return e
				}
				defer func() { err = errors.Join(err, file.Close()) }()
				o.Profile = file
			}
			ctx, end := heedMore(c.Context)
			defer end()
			f, err := pipeline.Run(ctx, o, perfHost())
			return perfEnd(c, f, err, "", otherErrors(err))
		},
	}
}

// perfPipelineOptions are what the flags say.
func perfPipelineOptions(c *cli.Context, o *pipeline.Options) (err error) {
	for _, list := range []struct {
		name  string
		into  *[]string
		known []string
	}{{"mode", &o.Modes, pipeline.Modes()}, {"pattern", &o.Patterns, pipeline.Patterns}, {"size", &o.Sizes, pipeline.Sizes}, {"family", &o.Families, pipeline.Families}} {
		if c.IsSet(list.name) {
			*list.into, o.Variations = words(c.String(list.name)), false
			if err := oneOf(list.name, *list.into, list.known); err != nil {
				return err
			}
		}
	}
	for _, list := range []struct {
		name, also string
		into       *[]int
		most       int
	}{{"connections", ", or new", &o.Connections, mostConnections}, {"workers", "", &o.Workers, runtime.NumCPU()}} {
		if *list.into, err = perfNumbers(c, list.name, *list.into, list.most, list.also != ""); err != nil {
			return err
		}
		if len(*list.into) == 0 {
			return usagef("--%s takes one or more numbers%s", list.name, list.also)
		}
		if c.IsSet(list.name) {
			o.Variations = false
		}
	}
	return perfRepetitions(c, o)
}

// perfRepetitions are the flags of both scenarios on memory rings.
func perfRepetitions(c *cli.Context, o *pipeline.Options) (err error) {
	if o.Runs, err = perfRuns(c); err != nil {
		return err
	}
	if c.IsSet("duration") {
		if o.Duration = c.Duration("duration"); o.Duration < 1e6 {
			return usagef("--duration %v is less than a millisecond", o.Duration)
		}
	}
	o.Progress = func(steps int) *result.Progress { return perfProgress(c, steps) }
	return nil
}

func perfScaleCommand() *cli.Command {
	return &cli.Command{
		Name: "scale", Usage: "how the cost grows with workers, connections, members, virtual servers and rules",
		UsageText: "sluice perf scale [--quick] [--json FILE]",
		Description: "On memory rings, without root; only the rules of the XDP program need it. Each point is compared with the first of its\n" +
			"list; an empty list leaves a curve out.",
		Flags: perfFlags(5,
			&cli.StringFlag{Name: "mode", Usage: "`LIST` of " + strings.Join(pipeline.Modes(), ", ")},
			&cli.StringFlag{Name: "workers", Usage: "`LIST` of numbers"},
			&cli.StringFlag{Name: "connections", Usage: "`LIST` of numbers"},
			&cli.StringFlag{Name: "members", Usage: "`LIST` of numbers of members of a pool"},
			&cli.StringFlag{Name: "virtuals", Usage: "`LIST` of numbers of virtual addresses, each with a TCP and a UDP virtual server"},
			&cli.StringFlag{Name: "rules", Usage: "`LIST` of numbers of rules of the XDP program"},
			&cli.IntFlag{Name: "base", Usage: "connections `N` where they are not what varies", Value: 100_000},
			&cli.DurationFlag{Name: "duration", Usage: "`TIME` that each measurement takes", DefaultText: "200ms with --quick, else 1s"},
		),
		Action: func(c *cli.Context) (err error) {
			if err := noArguments(c); err != nil {
				return err
			}
			curves, o := pipeline.DefaultCurves(c.Bool("quick"))
			points := 0
			for _, list := range []struct {
				name string
				into *[]int
				most int
			}{{"workers", &curves.Workers, runtime.NumCPU()}, {"connections", &curves.Connections, mostConnections}, {"members", &curves.Members, pipeline.MostMembers},
				{"virtuals", &curves.Virtuals, pipeline.MostVirtuals}, {"rules", &curves.Rules, pipeline.MostRules}} {
				if *list.into, err = perfNumbers(c, list.name, *list.into, list.most, false); err != nil {
					return err
				}
				points += len(*list.into)
			}
			if points == 0 {
				return usagef("nothing to measure: --workers, --connections, --members, --virtuals and --rules are all empty")
			}
			if c.IsSet("mode") {
				o.Modes = words(c.String("mode"))
				if err := oneOf("mode", o.Modes, pipeline.Modes()); err != nil {
					return err
				}
			}
			if curves.Base = c.Int("base"); curves.Base < 1 || curves.Base > mostConnections {
				return usagef("--base %d is not between 1 and %d connections", curves.Base, mostConnections)
			}
			if err := perfRepetitions(c, &o); err != nil {
				return err
			}
			if err := curves.Check(&o); err != nil {
				return usageError{err}
			}
			ctx, end := heedMore(c.Context)
			defer end()
			f, err := pipeline.Scale(ctx, curves, o, perfHost())
			return perfEnd(c, f, err, "", otherErrors(err))
		},
	}
}

func noArguments(c *cli.Context) error {
	if c.Args().Present() {
		return usagef("%s takes no argument %q", c.Command.FullName(), c.Args().First())
	}
	return nil
}

// mostConnections are the most that a scenario on memory rings takes.
const mostConnections = pipeline.MostConnections

// perfNumbers is a list of numbers with k and M, up to a most; new, where it may be, is 0. An empty list is none.
func perfNumbers(c *cli.Context, name string, otherwise []int, most int, withNew bool) ([]int, error) {
	if !c.IsSet(name) {
		return otherwise, nil
	}
	list := []int{}
	for word := range strings.SplitSeq(c.String(name), ",") {
		n, err := perfNumber(strings.TrimSpace(word))
		if err != nil {
			return nil, usagef("--%s: %w", name, err)
		}
		switch {
		case n == pipeline.Each && !withNew:
			return nil, usagef("--%s takes numbers, and not new", name)
		case n > most:
			return nil, usagef("--%s: %s is not between 1 and %d", name, strings.TrimSpace(word), most)
		case n >= 0 && !slices.Contains(list, n):
			list = append(list, n)
		}
	}
	return list, nil
}

// perfNumber reads one number of a list; -1 stands for an empty word.
func perfNumber(word string) (int, error) {
	digits, factor := word, 1
	switch {
	case word == "":
		return -1, nil
	case word == "new":
		return pipeline.Each, nil
	case strings.HasSuffix(word, "k"):
		digits, factor = word[:len(word)-1], 1000
	case strings.HasSuffix(word, "M"):
		digits, factor = word[:len(word)-1], 1_000_000
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 1 || n > 1_000_000_000/factor {
		return 0, fmt.Errorf("%q is not a number such as 1, 1k or 10M", word)
	}
	return n * factor, nil
}
