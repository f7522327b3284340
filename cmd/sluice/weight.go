package main

import (
	"fmt"
	"net/url"

	"github.com/urfave/cli/v2"

	"sluice/ctl"
)

func weightCommand() *cli.Command {
	return &cli.Command{
		Name: "weight", Usage: "give a member another share of new connections than the file",
		UsageText: "sluice member weight POOL MEMBER N|file [-o table|json]",
		Description: "N is 0 to 65535; 0 takes no new connections. It holds over reloads and restarts, and `sluice config diff` shows it beside the file, " +
			"until the word file takes it back.",
		Flags: orderFlags(),
		Action: func(c *cli.Context) error {
			if c.Args().Len() != 3 {
				return usagef("member weight needs a pool, a member and a weight: sluice member weight POOL MEMBER N|file")
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
			q := url.Values{"pool": {c.Args().Get(0)}, "member": {c.Args().Get(1)}, "weight": {c.Args().Get(2)}}
			var v ctl.WeightView
			if err := cl.Post(c.Context, "/v1/members/weight?"+q.Encode(), &v); err != nil {
				return err
			}
			if format == "json" {
				return printJSON(c.App.Writer, v)
			}
			note := "as the file says"
			if v.Ordered {
				note = fmt.Sprintf("the file says %d", v.File)
			}
			if v.Warning != "" {
				fmt.Fprintln(c.App.ErrWriter, "sluice: warning:", v.Warning)
			}
			fmt.Fprintf(c.App.Writer, "%s %s: weight %d (%s), all workers went by it after %d us\n", v.Pool, v.Member, v.Weight, note, v.TookUS)
			return nil
		},
	}
}
