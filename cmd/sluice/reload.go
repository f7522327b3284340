package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"sluice/ctl"
)

func reloadCommand() *cli.Command {
	return &cli.Command{
		Name: "reload", Usage: "have the running engine read its file again and apply what differs",
		UsageText: "sluice reload [--socket PATH] [-o table|json]",
		Flags:     clientFlags(),
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("reload takes no arguments, not %q: the engine reads the file that it was started with", c.Args().First())
			}
			format := c.String("output")
			if format != "table" && format != "json" {
				return usagef("no output format %q; there are table and json", format)
			}
			var v ctl.ReloadView
			if err := ctl.Post(c.Context, c.String("socket"), "/v1/reload", &v); err != nil {
				return err
			}
			w := c.App.Writer
			if format == "json" {
				return printJSON(w, v)
			}
			fmt.Fprintf(w, "%s: generation %d, %d changes, all workers had it after %d us\n", v.File, v.Generation, len(v.Changes), v.AppliedUS)
			for _, change := range v.Changes {
				fmt.Fprintln(w, " ", change)
			}
			if v.Draining > 0 {
				fmt.Fprintf(w, "%d removed members keep their connections until these end; see: sluice member list\n", v.Draining)
			}
			return nil
		},
	}
}
