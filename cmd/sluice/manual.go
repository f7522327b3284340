package main

import (
	"fmt"
	"strings"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	"github.com/urfave/cli/v2"

	"sluice/ctl"
)

// The reference of the command line is made from the commands themselves: docs/CLI.md, which a test holds true, and the
// manual page.

var exitCodes = []struct {
	code int
	text string
}{
	{exitOK, "it worked; a --watch that was interrupted too"},
	{exitFailed, "it failed, and standard error says why and what to do; of doctor: something must be mended; of perf compare --fail-above: something is worse"},
	{exitUsage, "the command line was not understood; nothing was done"},
}

// eachCommand visits the visible commands with their words, parents first.
func eachCommand(commands []*cli.Command, parent string, visit func(path string, c *cli.Command)) {
	for _, c := range commands {
		if c.Hidden || c.Name == "help" {
			continue
		}
		path := strings.TrimSpace(parent + " " + c.Name)
		visit(path, c)
		eachCommand(c.Subcommands, path, visit)
	}
}

// usageLine is how the command is written.
func usageLine(path string, c *cli.Command) string {
	if c.UsageText != "" {
		return c.UsageText
	}
	line := "sluice " + path
	if len(c.Subcommands) > 0 && len(c.Flags) == 0 {
		return line + " COMMAND"
	}
	if len(c.Flags) > 0 {
		line += " [flags]"
	}
	return line
}

// flagDoc is a flag as the reference shows it: its words, its default or nothing, and what it is for.
func flagDoc(f cli.Flag) (words, def, text string) {
	names := f.Names()
	for i, n := range names {
		names[i] = dashed(n)
	}
	words = strings.Join(names, ", ")
	d, ok := f.(cli.DocGenerationFlag)
	if !ok {
		return words, "", ""
	}
	text = d.GetUsage()
	if place, rest, quoted := strings.Cut(text, "`"); quoted {
		if value, after, closed := strings.Cut(rest, "`"); closed {
			text = place + value + after
			if isInterval(f) {
				value = "[" + value + "]"
			}
			words += " " + value
		}
	}
	if _, isBool := f.(*cli.BoolFlag); !isBool {
		def = d.GetValue()
	}
	if t, is := f.(*cli.DurationFlag); is && t.DefaultText != "" { // which other options have a say in
		def = t.DefaultText
	}
	return words, def, text
}

// cliReference is the generated part of docs/CLI.md.
func cliReference(app *cli.App) string {
	var b strings.Builder
	b.WriteString("\n## Exit codes\n\n| code | meaning |\n|---|---|\n")
	for _, e := range exitCodes {
		fmt.Fprintf(&b, "| %d | %s |\n", e.code, e.text)
	}
	b.WriteString("\n## Commands\n\n| command | |\n|---|---|\n")
	eachCommand(app.Commands, "", func(path string, c *cli.Command) {
		fmt.Fprintf(&b, "| [`sluice %s`](#sluice-%s) | %s |\n", path, strings.ReplaceAll(path, " ", "-"), c.Usage)
	})
	eachCommand(app.Commands, "", func(path string, c *cli.Command) {
		fmt.Fprintf(&b, "\n### sluice %s\n\n%s.\n\n```\n%s\n```\n", path, upperFirst(c.Usage), usageLine(path, c))
		if c.Description != "" {
			fmt.Fprintf(&b, "\n%s\n", c.Description)
		}
		if len(c.Flags) > 0 {
			b.WriteString("\n| flag | default | meaning |\n|---|---|---|\n")
			for _, f := range c.Flags {
				words, def, text := flagDoc(f)
				if def != "" {
					def = "`" + def + "`"
				}
				fmt.Fprintf(&b, "| `%s` | %s | %s |\n", words, def, strings.ReplaceAll(text, "|", "\\|"))
			}
		}
		if list := examplesOf(path); len(list) > 0 {
			b.WriteString("\n```\n")
			for _, e := range list {
				fmt.Fprintf(&b, "%s    # %s\n", e.line, e.does)
			}
			b.WriteString("```\n")
		}
	})
	return b.String() + "\n"
}

func upperFirst(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// manPage is the manual page, section 8, as roff.
func manPage(app *cli.App) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "%% SLUICE 8 \"\" \"sluice %s\"\n\n# NAME\n\nsluice - %s\n\n# SYNOPSIS\n\n**sluice** *COMMAND* [flags] [arguments]\n\n", ctl.Version, app.Usage)
	fmt.Fprintf(&b, "# DESCRIPTION\n\n%s\n\n# COMMANDS\n", app.Description)
	eachCommand(app.Commands, "", func(path string, c *cli.Command) {
		fmt.Fprintf(&b, "\n## sluice %s\n\n%s.\n\n    %s\n\n", path, upperFirst(c.Usage), usageLine(path, c))
		if c.Description != "" {
			fmt.Fprintf(&b, "%s\n\n", c.Description)
		}
		for _, f := range c.Flags {
			words, def, text := flagDoc(f)
			if def != "" {
				text += " (default: " + def + ")"
			}
			fmt.Fprintf(&b, "**%s**\n: %s\n\n", words, text)
		}
		for _, e := range examplesOf(path) {
			fmt.Fprintf(&b, "%s:\n\n    %s\n\n", upperFirst(e.does), e.line)
		}
	})
	b.WriteString("\n# EXIT STATUS\n\n")
	for _, e := range exitCodes {
		fmt.Fprintf(&b, "**%d**\n: %s\n\n", e.code, e.text)
	}
	b.WriteString("# FILES\n\n**/etc/sluice/sluice.yaml**\n: the configuration that the systemd unit uses\n\n**/run/sluice/sluice.sock**\n: the control socket\n\n")
	return md2man.Render([]byte(b.String()))
}

func manCommand() *cli.Command {
	return &cli.Command{
		Name: "man", Usage: "print the manual page",
		UsageText: "sluice man",
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			_, err := c.App.Writer.Write(manPage(newApp())) // commands that --help has not changed
			return err
		},
	}
}
