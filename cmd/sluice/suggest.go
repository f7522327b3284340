package main

import (
	"strings"

	"github.com/urfave/cli/v2"
	"github.com/xrash/smetrics"

	"sluice/ctl"
)

// noCommand refuses the first word of c as a command, of a noun or of the program, and names the one that was meant.
func noCommand(c *cli.Context, noun string) error {
	word, commands := c.Args().First(), c.App.Commands
	subject, list := "no command %q", "`sluice help` lists the commands"
	if noun != "" {
		subject, list = noun+" has no command %q", "`sluice "+noun+" --help` lists what there is"
		commands = c.Command.Subcommands
	}
	var names []string
	for _, k := range commands {
		if !k.Hidden {
			names = append(names, k.Names()...)
		}
	}
	if best := nearest(word, names); best != "" {
		return usagef(subject+"; did you mean %q? "+list, word, best)
	}
	return usagef(subject+"; "+list, word)
}

// nearest is the name that is most like a word, or nothing if none is.
func nearest(word string, names []string) (best string) {
	least := 0.75 // below it are words that only share letters
	for _, n := range names {
		if s := smetrics.JaroWinkler(n, word, 0.7, 4); s > least {
			best, least = n, s
		}
	}
	return best
}

// wrongFlag makes a usage error of what the library found wrong with the flags, and names the flag that was meant.
func wrongFlag(c *cli.Context, err error, _ bool) error {
	if name, is := strings.CutPrefix(err.Error(), "flag needs an argument: -"); is {
		return usagef("%s needs a value", dashed(strings.TrimLeft(name, "-")))
	}
	if value, name, is := cutValue(err.Error()); is && c.Command != nil {
		switch flagNamed(c.Command.Flags, name).(type) {
		case *cli.DurationFlag:
			return usagef("%s %q is no time: write it with its unit, such as 10s, 5m or 1h30m", dashed(name), value)
		case *cli.IntFlag, *cli.Int64Flag, *cli.UintFlag:
			return usagef("%s %q is no whole number", dashed(name), value)
		case *cli.Float64Flag:
			return usagef("%s %q is no number", dashed(name), value)
		case *cli.BoolFlag:
			return usagef("%s is given or not, or is true or false; it cannot be %q", dashed(name), value)
		}
	}
	if c.Command != nil && c.Command.Name == "weight" {
		if n, is := strings.CutPrefix(err.Error(), "flag provided but not defined: -"); is && n != "" && n[0] >= '0' && n[0] <= '9' {
			return usagef("weight -%s is none: a weight is a number from 0 to 65535, or the word %s", n, ctl.WeightOfFile)
		}
	}
	rest, unknown := strings.CutPrefix(err.Error(), "flag provided but not defined: -")
	if !unknown {
		return usageError{err}
	}
	return noFlag(c, strings.TrimLeft(rest, "-"))
}

// noFlag refuses a flag that the command of c, or the program, does not have, and names the one that was meant.
func noFlag(c *cli.Context, name string) error {
	subject, help, flags := "no flag %s", "sluice help", c.App.Flags
	if c.Command != nil && c.Command.Name != c.App.Name {
		path := strings.TrimPrefix(c.Command.HelpName, c.App.Name+" ")
		if c.Command.Name == "help" { // the library has one of them for all levels
			path = "help"
		}
		subject, help, flags = path+" has no flag %s", c.App.Name+" "+path+" --help", c.Command.Flags
	}
	var names []string
	for _, f := range flags {
		names = append(names, f.Names()[0])
	}
	list := "`" + help + "` lists what there is"
	if best := nearest(name, names); best != "" {
		return usagef(subject+"; did you mean --%s? %s", dashed(name), best, list)
	}
	return usagef(subject+"; %s", dashed(name), list)
}

// cutValue takes value and flag out of what the library says about a value that it cannot read.
func cutValue(text string) (value, name string, is bool) {
	rest, is := strings.CutPrefix(text, `invalid value "`)
	if !is {
		rest, is = strings.CutPrefix(text, `invalid boolean value "`)
	}
	value, rest, found := strings.Cut(rest, `" for flag -`)
	if !found {
		value, rest, found = strings.Cut(value, `" for -`) // of booleans
	}
	name, _, _ = strings.Cut(rest, ":")
	return value, name, is && found
}

// dashed is the name of a flag as it is written.
func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}
