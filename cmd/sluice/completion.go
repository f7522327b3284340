package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// Shells ask the program itself what may come next, so that completion never differs from the commands: the scripts pass
// the words before the cursor, with the one at it, to the hidden command complete.

const bashCompletion = `# bash completion for sluice: source it, or put it in /usr/share/bash-completion/completions/sluice
_sluice() {
	local IFS=$'\n'
	COMPREPLY=($("${COMP_WORDS[0]}" complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _sluice sluice
`

const zshCompletion = `#compdef sluice
# zsh completion for sluice: put it in a folder of $fpath as _sluice
_sluice() {
	local -a answers
	answers=("${(@f)$("${words[1]}" complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
	if [[ -n "${answers[1]}" ]]; then
		compadd -- "${answers[@]}"
	else
		_files
	fi
}
if [[ "$funcstack[1]" = _sluice ]]; then _sluice "$@"; else compdef _sluice sluice; fi
`

func completionCommand() *cli.Command {
	return &cli.Command{
		Name: "completion", Usage: "print what completes commands, flags and their values in a shell",
		UsageText: "sluice completion bash|zsh",
		Action: func(c *cli.Context) error {
			script, known := map[string]string{"bash": bashCompletion, "zsh": zshCompletion}[c.Args().First()]
			if !known || c.NArg() != 1 {
				return usagef("completion takes the name of a shell: bash or zsh")
			}
			_, err := fmt.Fprint(c.App.Writer, script)
			return err
		},
	}
}

// completeCommand answers the scripts, a possible word a line.
func completeCommand() *cli.Command {
	return &cli.Command{
		Name: "complete", Hidden: true, SkipFlagParsing: true,
		Action: func(c *cli.Context) error {
			for _, word := range complete(c.App, c.Args().Slice()) {
				fmt.Fprintln(c.App.Writer, word)
			}
			return nil
		},
	}
}

// flagValues are the words that flags take, by name; other flags take what only the user, or the file system, knows.
var flagValues = map[string][]string{
	"output":   {"table", "wide", "json"},
	"protocol": {"tcp", "udp", "sctp"},
}

// complete lists what the last of words may become.
func complete(app *cli.App, words []string) (out []string) {
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	if len(words) == 0 {
		words = []string{""}
	}
	last := words[len(words)-1]
	commands, flags := app.Commands, []cli.Flag(nil)
	var open cli.Flag // it waits for its value
	var at *cli.Command
	for _, w := range words[:len(words)-1] {
		switch {
		case open != nil:
			open = nil
		case strings.HasPrefix(w, "-"):
			if f := flagNamed(flags, trimDashes(w)); f != nil && takesValue(f) {
				open = f
			}
		default:
			i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(w) })
			if i < 0 {
				commands = nil // an argument: no command follows
				continue
			}
			at = commands[i]
			flags, commands = append(slices.Clip(flags), at.Flags...), at.Subcommands
		}
	}
	switch {
	case open != nil:
		out = flagValues[open.Names()[0]]
	case strings.HasPrefix(last, "-"):
		for _, f := range flags {
			if name := "--" + f.Names()[0]; !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
		out = append(out, "--help")
	default:
		for _, c := range commands {
			if !c.Hidden && c.Name != "help" {
				out = append(out, c.Name)
			}
		}
		if at != nil && at.Name == "completion" {
			out = []string{"bash", "zsh"}
		}
	}
	return slices.DeleteFunc(slices.Clone(out), func(s string) bool { return !strings.HasPrefix(s, last) })
}

func flagNamed(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

// takesValue reports whether the next word belongs to the flag.
func takesValue(f cli.Flag) bool {
	_, isBool := f.(*cli.BoolFlag)
	return !isBool && !isInterval(f)
}
