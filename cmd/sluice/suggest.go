package main

import (
	"strings"

	"github.com/urfave/cli/v2"
	"github.com/xrash/smetrics"
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
	rest, unknown := strings.CutPrefix(err.Error(), "flag provided but not defined: -")
	if !unknown || c.Command == nil {
		return usageError{err}
	}
	var names []string
	for _, f := range c.Command.Flags {
		names = append(names, f.Names()[0])
	}
	if best := nearest(strings.TrimLeft(rest, "-"), names); best != "" {
		return usagef("%w; did you mean --%s?", err, best)
	}
	return usageError{err}
}
