package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"sluice/ctl"
)

var captureColumns = []column[ctl.CaptureView]{
	{"WHO", false, func(v *ctl.CaptureView) any { return v.Who }},
	{"SINCE", false, func(v *ctl.CaptureView) any { return v.Since }},
	{"UNTIL", false, func(v *ctl.CaptureView) any { return v.Until }},
	{"PACKETS", false, func(v *ctl.CaptureView) any { return v.Packets }},
	{"FILTER", false, func(v *ctl.CaptureView) any { return v.Filter }},
}

// captureCommands are about captures that go on, whoever has begun them.
func captureCommands() []*cli.Command {
	return []*cli.Command{
		{
			Name: "list", Usage: "list captures that go on, with who has begun them and when they end at the latest",
			Flags: append(clientFlags(), watchFlag()),
			Action: func(c *cli.Context) error {
				if err := noArguments(c); err != nil {
					return err
				}
				return watching(c, func(c *cli.Context) error { return list(c, "/v1/captures", nil, captureColumns) })
			},
		},
		{
			Name: "stop", Usage: "end the capture that goes on, also another user's",
			UsageText:   "sluice capture stop [-o table|json]",
			Description: "Whoever reads it gets what was captured so far, and the counts, as if its time were over.",
			Flags:       orderFlags(),
			Action: func(c *cli.Context) error {
				if err := noArguments(c); err != nil {
					return err
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
				var v ctl.CaptureEndView
				if err := cl.Delete(c.Context, "/v1/capture", &v); err != nil {
					return err
				}
				if format == "json" {
					return printJSON(c.App.Writer, v)
				}
				_, err = fmt.Fprintln(c.App.Writer, "the capture was told to end")
				return err
			},
		},
	}
}
