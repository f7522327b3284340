package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"sluice/ctl"
)

var settingColumns = []column[ctl.Setting]{
	{"SETTING", false, func(s *ctl.Setting) any { return s.Path }},
	{"VALUE", false, func(s *ctl.Setting) any { return s.Value }},
}

// plannedChange is a change and how it comes into force.
type plannedChange struct {
	ctl.Change
	Restart bool `json:"restart"` // a reload refuses it
}

func configCommand() *cli.Command {
	flags := func() []cli.Flag { return append(clientFlags(), configFlag()) }
	return &cli.Command{
		Name: "config", Usage: "show the configuration in force, and what a file would change",
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return noCommand(c, "config")
			}
			return cli.ShowSubcommandHelp(c)
		},
		Subcommands: []*cli.Command{
			{
				Name: "show", Usage: "show every setting with its value, defaults included",
				UsageText:   "sluice config show [-c FILE] [-o table|json]",
				Description: "Without -c it shows the running engine's configuration, as it was last loaded; with it that of the file.",
				Flags:       flags(),
				Action: func(c *cli.Context) error {
					if err := noArguments(c); err != nil {
						return err
					}
					return configShow(c)
				},
			},
			{
				Name: "diff", Usage: "show what differs between the running engine and a file",
				UsageText: "sluice config diff -c FILE [-o table|json]",
				Description: "From the engine's configuration to the file's: + is added, - is removed, ~ is changed. What only a restart " +
					"changes is marked; sluice reload would refuse the file for it. The exit code is 0 with and without differences.",
				Flags: flags(),
				Action: func(c *cli.Context) error {
					if err := noArguments(c); err != nil {
						return err
					}
					return configDiff(c)
				},
			},
		},
	}
}

func configShow(c *cli.Context) error {
	format := c.String("output")
	if format != "table" && format != "json" {
		return usagef("no output format %q; there are table and json", format)
	}
	var settings []ctl.Setting
	if c.String("config") != "" {
		f, err := loadConfig(c)
		if err != nil {
			return err
		}
		settings = f.Settings()
	} else {
		v, err := runningConfig(c)
		if err != nil {
			return err
		}
		settings = v.Settings
	}
	if format == "json" {
		return printJSON(c.App.Writer, settings)
	}
	return printTable(c.App.Writer, settings, settingColumns, false)
}

func runningConfig(c *cli.Context) (v ctl.ConfigView, err error) {
	return v, ctl.Get(c.Context, c.String("socket"), "/v1/config", &v)
}

func configDiff(c *cli.Context) error {
	format := c.String("output")
	if format != "table" && format != "json" {
		return usagef("no output format %q; there are table and json", format)
	}
	f, err := loadConfig(c)
	if err != nil {
		return err
	}
	running, err := runningConfig(c)
	if err != nil {
		return err
	}
	changes := []plannedChange{}
	for _, d := range ctl.Diff(running.Settings, f.Settings()) {
		changes = append(changes, plannedChange{d, d.NeedsRestart()})
	}
	if format == "json" {
		return printJSON(c.App.Writer, changes)
	}
	printChanges(c.App.Writer, f.Name, changes)
	return nil
}

func printChanges(w io.Writer, file string, changes []plannedChange) {
	if len(changes) == 0 {
		fmt.Fprintf(w, "the running engine has what %s says\n", file)
		return
	}
	restart := 0
	for _, c := range changes {
		note := ""
		if c.Restart {
			note = "  (needs a restart)"
			restart++
		}
		fmt.Fprintln(w, c.Change.String()+note)
	}
	if restart > 0 {
		fmt.Fprintf(w, "%d of %d changes need a restart, and sluice reload refuses the file for them\n", restart, len(changes))
	}
}
