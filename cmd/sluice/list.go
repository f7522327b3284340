package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"sluice/ctl"
)

// counters are the columns that virtual servers, pools and members share.
func counters[T any](of func(*T) *ctl.CounterView) []column[T] {
	return []column[T]{
		{"CONNS", false, func(v *T) any { return of(v).Connections }},
		{"OPENED", false, func(v *T) any { return of(v).Opened }},
		{"PKTS-IN", false, func(v *T) any { return of(v).ClientPackets }},
		{"PKTS-OUT", false, func(v *T) any { return of(v).ServerPackets }},
		{"BYTES-IN", true, func(v *T) any { return of(v).ClientBytes }},
		{"BYTES-OUT", true, func(v *T) any { return of(v).ServerBytes }},
	}
}

var virtualColumns = append([]column[ctl.VirtualView]{
	{"NAME", false, func(v *ctl.VirtualView) any { return v.Name }},
	{"PROTO", false, func(v *ctl.VirtualView) any { return v.Protocol }},
	{"ADDRESS", false, func(v *ctl.VirtualView) any { return v.Address }},
	{"POOL", false, func(v *ctl.VirtualView) any { return v.Pool }},
	{"STATE", false, func(v *ctl.VirtualView) any { return v.State }},
	{"SINCE", true, func(v *ctl.VirtualView) any { return v.Since }},
	{"WITHDRAWN", true, func(v *ctl.VirtualView) any { return v.Withdrawn }},
	{"LIMIT", true, func(v *ctl.VirtualView) any { return limitText(v.ConnectionLimit) }},
	{"RATE-LIMIT", true, func(v *ctl.VirtualView) any { return limitText(v.RateLimit) }},
	{"HALF-OPEN-LIMIT", true, func(v *ctl.VirtualView) any { return limitText(v.HalfOpenLimit) }},
	{"SOURCE-RATE-LIMIT", true, func(v *ctl.VirtualView) any { return limitText(v.SourceRateLimit) }},
}, append(counters(func(v *ctl.VirtualView) *ctl.CounterView { return &v.CounterView }),
	column[ctl.VirtualView]{"CAUSE", true, func(v *ctl.VirtualView) any { return v.Cause }})...)

// limitText is a limit, of which 0 is none.
func limitText(n int) string {
	if n == 0 {
		return "none"
	}
	return strconv.Itoa(n)
}

func virtualCommand() *cli.Command {
	return noun("virtual", "list virtual servers", clientFlags(), func(c *cli.Context) error {
		return list(c, "/v1/virtuals", nil, virtualColumns)
	}, virtualOrderCommands()...)
}

var poolColumns = append([]column[ctl.PoolView]{
	{"NAME", false, func(v *ctl.PoolView) any { return v.Name }},
	{"SCHEDULER", false, func(v *ctl.PoolView) any { return v.Scheduler }},
	{"MEMBERS", false, func(v *ctl.PoolView) any { return v.Members }},
	{"USABLE", false, func(v *ctl.PoolView) any { return v.Usable }},
	{"SLOW-START", true, func(v *ctl.PoolView) any { return durationText(v.SlowStartMS) }},
}, counters(func(v *ctl.PoolView) *ctl.CounterView { return &v.CounterView })...)

// durationText is a time in milliseconds, of which 0 is none.
func durationText(ms int64) string {
	if ms == 0 {
		return "none"
	}
	return milliseconds(uint64(ms))
}

func poolCommand() *cli.Command {
	return noun("pool", "list pools", clientFlags(), func(c *cli.Context) error {
		return list(c, "/v1/pools", nil, poolColumns)
	})
}

var memberColumns = append([]column[ctl.MemberView]{
	{"POOL", false, func(v *ctl.MemberView) any { return v.Pool }},
	{"MEMBER", false, func(v *ctl.MemberView) any { return v.Name }},
	{"ADDRESS", true, func(v *ctl.MemberView) any { return v.Address }},
	{"STATE", false, func(v *ctl.MemberView) any { return v.State }},
	{"SINCE", true, func(v *ctl.MemberView) any { return v.Since }},
	{"CAUSE", true, func(v *ctl.MemberView) any { return v.Cause }},
	{"PRIORITY", true, func(v *ctl.MemberView) any { return v.Priority }},
	{"WEIGHT", false, func(v *ctl.MemberView) any {
		if v.FileWeight != nil {
			return fmt.Sprintf("%d (file: %d)", v.Weight, *v.FileWeight)
		}
		return v.Weight
	}},
	{"LIMIT", true, func(v *ctl.MemberView) any { return limitText(v.ConnectionLimit) }},
	{"RATE-LIMIT", true, func(v *ctl.MemberView) any { return limitText(v.RateLimit) }},
	{"SLOW-START", true, func(v *ctl.MemberView) any { return durationText(v.SlowStartMS) }}, // what is left of it
	{"PORT", true, func(v *ctl.MemberView) any { return v.Port }},
	{"MAC", true, func(v *ctl.MemberView) any { return v.MAC }},
}, counters(func(v *ctl.MemberView) *ctl.CounterView { return &v.CounterView })...)

func memberCommand() *cli.Command {
	return noun("member", "list members of pools", clientFlags(), func(c *cli.Context) error {
		return list(c, "/v1/members", nil, memberColumns)
	}, memberOrderCommands()...)
}

var workerColumns = []column[ctl.WorkerView]{
	{"WORKER", false, func(v *ctl.WorkerView) any { return v.Worker }},
	{"CORE", false, func(v *ctl.WorkerView) any { return v.Core }},
	{"MODE", false, func(v *ctl.WorkerView) any { return v.Mode }},
	{"QUEUES", false, func(v *ctl.WorkerView) any { return strings.Join(v.Queues, ",") }},
	{"CONNS", false, func(v *ctl.WorkerView) any { return v.Connections }},
	{"PKTS/S", false, func(v *ctl.WorkerView) any { return fmt.Sprintf("%.0f", v.PacketsPerSecond) }},
	{"BUSY", false, func(v *ctl.WorkerView) any { return fmt.Sprintf("%.1f%%", 100*v.BusyShare) }},
	{"RECEIVED", false, func(v *ctl.WorkerView) any { return v.Received }},
	{"TO-SERVER", true, func(v *ctl.WorkerView) any { return v.ToServer }},
	{"TO-CLIENT", true, func(v *ctl.WorkerView) any { return v.ToClient }},
	{"TO-HOST", true, func(v *ctl.WorkerView) any { return v.ToHost }},
	{"SENT", false, func(v *ctl.WorkerView) any { return v.Sent }},
	{"HANDED-OUT", false, func(v *ctl.WorkerView) any { return v.HandedOut }},
	{"HANDED-IN", false, func(v *ctl.WorkerView) any { return v.HandedIn }},
	{"ANSWERED", true, func(v *ctl.WorkerView) any { return v.Answered }},
	{"DROPPED", false, func(v *ctl.WorkerView) any { return v.Dropped }},
	{"UNSENT", true, func(v *ctl.WorkerView) any { return v.Unsent }},
	{"MAX-PAUSE", false, func(v *ctl.WorkerView) any { return (time.Duration(v.LargestPauseUS) * time.Microsecond).String() }},
	{"PAUSED-AT", true, func(v *ctl.WorkerView) any { return v.LargestPauseAt }},
	{"HANDED", true, func(v *ctl.WorkerView) any { return fmt.Sprintf("%.1f%%", 100*v.HandedShare) }},
	{"FREE-FRAMES", true, func(v *ctl.WorkerView) any { return v.FreeFrames }},
	{"SLEEPS", true, func(v *ctl.WorkerView) any { return v.Sleeps }},
	{"DATAGRAMS", true, func(v *ctl.WorkerView) any { return v.Datagrams }},
	{"WAITING", true, func(v *ctl.WorkerView) any { return v.Waiting }},
}

func workerCommand() *cli.Command {
	return noun("worker", "list workers", clientFlags(), func(c *cli.Context) error {
		return list(c, "/v1/workers", nil, workerColumns)
	})
}

var dropColumns = []column[ctl.DropView]{
	{"REASON", false, func(v *ctl.DropView) any { return v.Reason }},
	{"COUNT", false, func(v *ctl.DropView) any { return v.Count }},
	{"ANSWERED", false, func(v *ctl.DropView) any { return v.Answered }},
	{"MEANING", false, func(v *ctl.DropView) any { return v.Text }},
}

func dropCommand() *cli.Command {
	all := &cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "also the reasons for which nothing was dropped or answered; JSON always has them"}
	return noun("drop", "list why packets were dropped or refused, and how many", clientFlags(all), func(c *cli.Context) error {
		return listSome(c, "/v1/drops", nil, dropColumns, func(v *ctl.DropView) bool { return c.Bool("all") || v.Count+v.Answered > 0 },
			"nothing was dropped since the engine has started; --all lists the reasons that there are")
	})
}
