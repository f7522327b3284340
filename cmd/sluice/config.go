package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"sluice/ctl"
)

var settingColumns = []column[shownSetting]{
	{"SETTING", false, func(s *shownSetting) any { return s.Path }},
	{"VALUE", false, func(s *shownSetting) any { return s.Value }},
}

// plannedChange is a change and how it comes into force.
type plannedChange struct {
	ctl.Change
	Restart bool `json:"restart"` // a reload refuses it
}

func configCommand() *cli.Command {
	flags := func() []cli.Flag { return append(orderFlags(), configFlag()) }
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

// orderedColumns show what operators have ordered, below the settings of the file.
var orderedColumns = []column[ctl.OrderedView]{
	{"ORDERED", false, func(o *ctl.OrderedView) any { return o.Path }},
	{"VALUE", false, func(o *ctl.OrderedView) any { return o.Value }},
	{"FILE", false, func(o *ctl.OrderedView) any { return o.File }},
	{"SINCE", false, func(o *ctl.OrderedView) any { return o.Since }},
	{"TAKEN BACK BY", false, func(o *ctl.OrderedView) any { return o.TakeBack }},
}

// shownSetting is a setting with what was ordered in its place.
type shownSetting struct {
	ctl.Setting
	Ordered string `json:"ordered,omitempty"` // in force, before the value of the file
}

func configShow(c *cli.Context) error {
	format, err := outputFormat(c, "table", "json")
	if err != nil {
		return err
	}
	var v ctl.ConfigView
	if c.String("config") != "" {
		f, err := loadConfig(c)
		if err != nil {
			return err
		}
		v.Settings = f.Settings()
	} else if v, err = runningConfig(c); err != nil {
		return err
	}
	ordered := map[string]string{}
	for _, o := range v.Ordered {
		ordered[o.Path] = o.Value
	}
	shown := make([]shownSetting, len(v.Settings))
	for i, s := range v.Settings {
		shown[i] = shownSetting{s, ordered[s.Path]}
	}
	if format == "json" {
		return printJSON(c.App.Writer, shown)
	}
	columns := append(settingColumns, column[shownSetting]{"ORDERED", false, func(s *shownSetting) any { return s.Ordered }})
	if len(v.Ordered) == 0 {
		columns = settingColumns
	}
	if err := printTable(c.App.Writer, shown, columns, false); err != nil {
		return err
	}
	return printOrdered(c.App.Writer, v.Ordered)
}

// printOrdered prints what operators have ordered, if they have.
func printOrdered(w io.Writer, list []ctl.OrderedView) error {
	if len(list) == 0 {
		return nil
	}
	fmt.Fprintln(w, "\nordered at run time; it stands before the file, over reloads and restarts:")
	return printTable(w, list, orderedColumns, false)
}

func runningConfig(c *cli.Context) (v ctl.ConfigView, err error) {
	return v, fetch(c, "/v1/config", &v)
}

// configDifference is the JSON of config diff.
type configDifference struct {
	Changes []plannedChange   `json:"changes"` // by a reload with the file
	Ordered []ctl.OrderedView `json:"ordered"` // stays in force over a reload
}

func configDiff(c *cli.Context) error {
	format, err := outputFormat(c, "table", "json")
	if err != nil {
		return err
	}
	f, err := loadConfig(c)
	if err != nil {
		return err
	}
	running, err := runningConfig(c)
	if err != nil {
		return err
	}
	d := configDifference{Changes: []plannedChange{}, Ordered: running.Ordered}
	for _, change := range ctl.Diff(running.Settings, f.Settings()) {
		d.Changes = append(d.Changes, plannedChange{change, change.NeedsRestart()})
	}
	if format == "json" {
		return printJSON(c.App.Writer, d)
	}
	printChanges(c.App.Writer, f.Name, d.Changes)
	return printOrdered(c.App.Writer, d.Ordered)
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
