package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"sluice/ctl"
)

var portColumns = []column[ctl.PortView]{
	{"PORT", false, func(v *ctl.PortView) any { return v.Name }},
	{"INTERFACE", false, func(v *ctl.PortView) any { return v.Interface }},
	{"STATE", false, func(v *ctl.PortView) any { return v.State }},
	{"QUEUES", false, func(v *ctl.PortView) any { return v.Queues }},
	{"DRIVER", false, func(v *ctl.PortView) any { return v.Driver }},
	{"XDP", false, func(v *ctl.PortView) any { return v.XDP }},
	{"MODE", false, func(v *ctl.PortView) any { return v.Mode }},
	{"RECEIVED", false, func(v *ctl.PortView) any { return v.Received }},
	{"SENT", false, func(v *ctl.PortView) any { return v.Sent }},
	{"PASSED", false, func(v *ctl.PortView) any { return v.Passed }},
	{"HELD", false, func(v *ctl.PortView) any { return v.Held }},
	{"RING-FULL", true, func(v *ctl.PortView) any { return v.RingFull }},
	{"FILL-EMPTY", true, func(v *ctl.PortView) any { return v.FillEmpty }},
	{"LOST", true, func(v *ctl.PortView) any { return v.Lost }},
	{"INVALID", true, func(v *ctl.PortView) any { return v.Invalid }},
	{"MTU", true, func(v *ctl.PortView) any { return v.MTU }},
	{"JUMBO", true, func(v *ctl.PortView) any { return v.Jumbo }},
	{"MAC", true, func(v *ctl.PortView) any { return v.MAC }},
	{"STEERING", true, func(v *ctl.PortView) any { return v.Steering }},
	{"NOTE", true, func(v *ctl.PortView) any { return v.Note }},
}

func portCommand() *cli.Command {
	release := &cli.Command{
		Name: "release", Usage: "take a killed sluice's XDP programs, addresses and links off the host",
		UsageText: "sluice port release INTERFACE | --all",
		Description: "An engine that was killed leaves its XDP program attached, so that connections can be saved by a restart; " +
			"this removes it, and with --all everything else that it left in this network namespace. `ip link set DEV xdp off` is refused on such a program.",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "all", Usage: "every port, and what belongs to no port"}},
		Action: func(c *cli.Context) error {
			if c.Bool("all") == c.Args().Present() {
				return usagef("name one interface, or --all")
			}
			done, err := ctl.ReleasePorts(c.Args().First())
			for _, line := range done {
				fmt.Fprintln(c.App.Writer, line)
			}
			if err == nil && len(done) == 0 {
				fmt.Fprintln(c.App.Writer, "nothing was left")
			}
			return err
		},
	}
	return noun("port", "list ports", clientFlags(), func(c *cli.Context) error {
		return list(c, "/v1/ports", nil, portColumns)
	}, release)
}
