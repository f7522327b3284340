package main

import (
	"fmt"
	"net/url"
	"time"

	"github.com/urfave/cli/v2"

	"sluice/ctl"
)

// What an operator orders about members, and what monitors say about them.

func memberOrderCommands() []*cli.Command {
	wait := func(by bool) cli.Flag {
		return &cli.BoolFlag{Name: "wait", Usage: "wait until the member has no connection, and say how many there are", Value: by}
	}
	return []*cli.Command{
		{
			Name: ctl.OrderDrain, Usage: "give a member no new connections, and wait until it has none",
			UsageText: "sluice member drain POOL MEMBER [--deadline D [--then leave|reset]] [--wait=false]",
			Description: "Connections that the member has go on, and clients that persistence keeps with it still come (on-drain: place). The order holds, over reloads and restarts, until `sluice member enable`; " +
				"whoever stops waiting does not take it back.",
			Flags: append(orderFlags(), wait(true),
				&cli.DurationFlag{Name: "deadline", Usage: "how long connections may take to end, such as `10m`"},
				&cli.StringFlag{Name: "then", Usage: "what happens to the rest at the deadline: `leave or reset`", Value: ctl.ThenLeave}),
			Action: func(c *cli.Context) error { return orderMember(c, ctl.OrderDrain) },
		},
		{
			Name: ctl.OrderDisable, Usage: "give a member no new connections, not even by persistence; those that it has go on",
			UsageText: "sluice member disable POOL MEMBER [--wait]",
			Flags:     orderFlags(wait(false)),
			Action:    func(c *cli.Context) error { return orderMember(c, ctl.OrderDisable) },
		},
		{
			Name: ctl.OrderForceOff, Usage: "give a member no new connections and end those that it has, with a RST to both ends",
			UsageText: "sluice member force-off POOL MEMBER [--wait]",
			Flags:     orderFlags(wait(false)),
			Action:    func(c *cli.Context) error { return orderMember(c, ctl.OrderForceOff) },
		},
		{
			Name: ctl.OrderEnable, Usage: "take back what was ordered about a member",
			UsageText: "sluice member enable POOL MEMBER",
			Flags:     orderFlags(),
			Action:    func(c *cli.Context) error { return orderMember(c, ctl.OrderEnable) },
		},
		weightCommand(),
	}
}

// orderMember has an order put in force, and waits if it is to.
func orderMember(c *cli.Context, action string) error {
	if c.Args().Len() != 2 {
		return usagef("member %s needs a pool and a member: sluice member %s POOL MEMBER", action, action)
	}
	q := url.Values{"pool": {c.Args().Get(0)}, "member": {c.Args().Get(1)}, "action": {action}}
	var deadline time.Time
	if d := c.Duration("deadline"); d != 0 {
		if d < 0 {
			return usagef("--deadline %s is not in the future", d)
		}
		deadline = time.Now().Add(d)
		q.Set("deadline", d.String())
		q.Set("then", c.String("then"))
	}
	switch then := c.String("then"); {
	case then != "" && then != ctl.ThenLeave && then != ctl.ThenReset:
		return usagef("no --then %q; there are leave and reset", then)
	case then == ctl.ThenReset && deadline.IsZero():
		return usagef("--then reset needs a --deadline")
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
	w := c.App.Writer
	var v ctl.OrderView
	if err := cl.Post(c.Context, "/v1/members/order?"+q.Encode(), &v); err != nil {
		return err
	}
	if format == "json" { // what is waited for goes beside it
		if err := printJSON(w, v); err != nil {
			return err
		}
		w = c.App.ErrWriter
	} else {
		fmt.Fprintf(w, "%s %s: %s, all workers went by it after %d us\n", v.Pool, v.Member, v.Action, v.TookUS)
	}
	if !c.Bool("wait") {
		return nil
	}
	// What is reset at the deadline is gone a moment later.
	until := deadline
	if c.String("then") == ctl.ThenReset && !until.IsZero() {
		until = until.Add(5 * time.Second)
	}
	said, last := time.Time{}, int64(-1)
	left, err := ctl.WaitDrained(c.Context, cl, v.Pool, v.Member, until, func(n int64) {
		if n != last && (time.Since(said) >= time.Second || n == 0) {
			fmt.Fprintln(w, count(int(n), "connection"))
			said, last = time.Now(), n
		}
	})
	switch {
	case c.Context.Err() != nil:
		return fmt.Errorf("the order stands, with %s left; `sluice member enable %s %s` takes it back", count(int(left), "connection"), v.Pool, v.Member)
	case err != nil:
		return err
	case left > 0:
		return fmt.Errorf("%s left at the deadline", count(int(left), "connection"))
	}
	return nil
}

var monitorColumns = []column[ctl.MonitorView]{
	{"POOL", false, func(v *ctl.MonitorView) any { return v.Pool }},
	{"MEMBER", false, func(v *ctl.MonitorView) any { return v.Member }},
	{"MONITOR", false, func(v *ctl.MonitorView) any { return v.Monitor }},
	{"TYPE", false, func(v *ctl.MonitorView) any { return v.Type }},
	{"ADDRESS", true, func(v *ctl.MonitorView) any { return v.Address }},
	{"VERDICT", false, func(v *ctl.MonitorView) any { return v.Verdict }},
	{"SINCE", true, func(v *ctl.MonitorView) any { return v.Since }},
	{"CHANGES", true, func(v *ctl.MonitorView) any { return v.Changes }},
	{"PROBES", true, func(v *ctl.MonitorView) any { return v.Probes }},
	{"FAILURES", true, func(v *ctl.MonitorView) any { return v.Failures }},
	{"LAST-MS", true, func(v *ctl.MonitorView) any { return v.LastMS }},
	{"LAST", false, func(v *ctl.MonitorView) any { return v.Last }},
	{"CAUSE", false, func(v *ctl.MonitorView) any { return v.LastCause }},
}

func monitorCommand() *cli.Command {
	return noun("monitor", "list what monitors say about members", clientFlags(), func(c *cli.Context) error {
		return list(c, "/v1/monitors", nil, monitorColumns)
	})
}
