package main

import (
	"fmt"
	"net/url"

	"github.com/urfave/cli/v2"

	"sluice/ctl"
)

func virtualOrderCommands() []*cli.Command {
	return []*cli.Command{
		{
			Name: ctl.OrderDisable, Usage: "give a virtual server no new connections; those that it has go on",
			UsageText:   "sluice virtual disable NAME",
			Description: "The order holds, over reloads and restarts, until `sluice virtual enable`. New connections are dropped, or answered with a RST where the virtual server has refused: reset.",
			Flags:       orderFlags(),
			Action:      func(c *cli.Context) error { return orderVirtual(c, ctl.OrderDisable) },
		},
		{
			Name: ctl.OrderEnable, Usage: "take back that a virtual server is disabled",
			UsageText: "sluice virtual enable NAME",
			Flags:     orderFlags(),
			Action:    func(c *cli.Context) error { return orderVirtual(c, ctl.OrderEnable) },
		},
	}
}

// orderVirtual has an order about a virtual server put in force.
func orderVirtual(c *cli.Context, action string) error {
	if c.Args().Len() != 1 {
		return usagef("virtual %s needs a virtual server: sluice virtual %s NAME", action, action)
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
	var v ctl.VirtualOrderView
	q := url.Values{"name": {c.Args().Get(0)}, "action": {action}}
	if err := cl.Post(c.Context, "/v1/virtuals/order?"+q.Encode(), &v); err != nil {
		return err
	}
	if format == "json" {
		return printJSON(c.App.Writer, v)
	}
	fmt.Fprintf(c.App.Writer, "%s: %sd\n", v.Name, v.Action)
	return nil
}
