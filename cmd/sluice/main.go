// Command sluice is a load balancer over AF_XDP. See README.md; `sluice help` lists the commands.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"sluice/ctl"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a command line that cannot be understood, as opposed to one that fails.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func newApp() *cli.App {
	return &cli.App{
		Name: "sluice", Usage: "a load balancer over AF_XDP", Version: ctl.Version, HideVersion: true,
		Description: "Start it with `sluice run -c FILE`; try it with `sluice demo`.",
		Suggest:     true,
		Commands: []*cli.Command{
			runCommand(), reloadCommand(), checkCommand(), demoCommand(), replayCommand(), explainCommand(), configCommand(),
			virtualCommand(), poolCommand(), memberCommand(), monitorCommand(), connCommand(), persistenceCommand(), workerCommand(), portCommand(), dropCommand(),
			captureCommand(), topCommand(), doctorCommand(), prepareCommand(), perfCommand(),
			completionCommand(), completeCommand(), manCommand(), versionCommand(),
		},
		// What is printed and how the program ends is decided in main alone.
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   wrongFlag,
		Flags:          []cli.Flag{&cli.BoolFlag{Name: "version", Usage: "print the version", DisableDefaultText: true}},
		Action: func(c *cli.Context) error {
			if c.Bool("version") {
				fmt.Fprintln(c.App.Writer, "sluice", ctl.Version)
				return nil
			}
			if c.Args().Present() {
				return noCommand(c, "")
			}
			return cli.ShowAppHelp(c)
		},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args))
}

// run is the program with its exit code.
func run(ctx context.Context, args []string) int {
	app := newApp()
	app.Setup() // which adds the library's own command, help
	prepare(app.Commands)
	addExamples(app.Commands, "")
	err := app.RunContext(ctx, flagsFirst(app, args))
	if err == nil {
		return exitOK
	}
	for problem := range strings.Lines(err.Error()) { // joined errors have a line each
		fmt.Fprintln(os.Stderr, "sluice:", strings.TrimSuffix(problem, "\n"))
	}
	return exitCode(err)
}

// exitCode is what an error of a command means to the shell.
func exitCode(err error) int {
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage):
		return exitUsage
	}
	return exitFailed
}

// prepare gives every command the same handling of wrong flags, and commands that hold others a refusal of words
// that are none of them.
func prepare(commands []*cli.Command) {
	for _, c := range commands {
		c.OnUsageError = wrongFlag
		if c.Name != "help" { // the library's, which is a command of itself
			prepare(c.Subcommands)
		}
	}
}

// flagsFirst moves flags in front of the arguments of the command that they belong to: the library stops looking for
// flags at the first argument.
func flagsFirst(app *cli.App, args []string) []string {
	out, commands, i := args[:min(1, len(args)):1], app.Commands, 1
	flags := map[string]cli.Flag{}
	for i < len(args) {
		var next *cli.Command
		for _, c := range commands {
			if c.HasName(args[i]) {
				next = c
			}
		}
		if next == nil {
			break
		}
		for _, f := range next.Flags {
			for _, n := range f.Names() {
				flags[n] = f
			}
		}
		out, commands = append(out, args[i]), next.Subcommands
		i++
	}
	if i == 1 {
		return args // no command, and the library says so
	}
	var words []string
	for ; i < len(args); i++ {
		a := args[i]
		if a == "--" {
			words = append(words, args[i:]...)
			break
		}
		if len(a) < 2 || a[0] != '-' {
			words = append(words, a)
			continue
		}
		f, known := flags[trimDashes(a)]
		if isInterval(f) && i+1 < len(args) && args[i+1] != "" && args[i+1][0] >= '0' && args[i+1][0] <= '9' {
			i++
			a += "=" + args[i] // its value may be left out, so the library takes only this form
		}
		out = append(out, a)
		if _, isBool := f.(*cli.BoolFlag); known && !isBool && !isInterval(f) && i+1 < len(args) {
			i++
			out = append(out, args[i])
		}
	}
	return append(out, words...)
}

func trimDashes(s string) string {
	for len(s) > 0 && s[0] == '-' {
		s = s[1:]
	}
	return s
}

func versionCommand() *cli.Command {
	return &cli.Command{
		Name: "version", Usage: "print the version",
		Action: func(c *cli.Context) error {
			fmt.Fprintln(c.App.Writer, "sluice", ctl.Version)
			return nil
		},
	}
}
