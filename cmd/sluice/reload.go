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
		Flags:     orderFlags(),
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("reload takes no arguments, not %q: the engine reads the file that it was started with", c.Args().First())
			}
			format, err := outputFormat(c, "table", "json")
			if err != nil {
				return err
			}
			cl, err := client(c)
			if err != nil {
				return err
			}
			defer cl.Close()
			var v ctl.ReloadView
			if err := cl.Post(c.Context, "/v1/reload", &v); err != nil {
				return err
			}
			for _, warning := range v.Warnings {
				fmt.Fprintln(c.App.ErrWriter, "sluice: warning:", warning)
			}
			w := c.App.Writer
			if format == "json" {
				return printJSON(w, v)
			}
			fmt.Fprintf(w, "%s: generation %d, %s, all workers had it after %d us\n", v.File, v.Generation, count(len(v.Changes), "change"), v.AppliedUS)
			for _, change := range v.Changes {
				fmt.Fprintln(w, " ", change)
			}
			if v.Draining > 0 {
				fmt.Fprintf(w, "%s may still have connections, which go on until they end; see: sluice member list\n", count(v.Draining, "removed member"))
			}
			return nil
		},
	}
}
