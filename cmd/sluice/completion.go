package main

import (
	"fmt"
	"slices"

	"github.com/urfave/cli/v2"
)

// Shells ask the program itself what may come next, so that completion never differs from the commands: the scripts pass
// the words before the cursor, with the one at it, to the hidden command complete.

const bashCompletion = `# bash completion for sluice: source it, or put it in /usr/share/bash-completion/completions/sluice
_sluice() {
	local line=${COMP_LINE:0:COMP_POINT} words at IFS=$' \t\n'
	read -ra words <<<"$line"
	if [[ $line == *[[:space:]] ]]; then words+=(''); fi
	IFS=$'\n'
	COMPREPLY=($("${words[0]}" complete -- "${words[@]:1}" 2>/dev/null))
	# What bash replaces begins behind the last : or = of the word.
	at=${words[${#words[@]}-1]}
	at=${at%"${at##*[:=]}"}
	COMPREPLY=("${COMPREPLY[@]#"$at"}")
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
			for _, word := range complete(c.Context, c.App, c.Args().Slice()) {
				fmt.Fprintln(c.App.Writer, word)
			}
			return nil
		},
	}
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
