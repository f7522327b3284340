package main

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"sluice/ctl"
)

var persistenceEntryColumns = []column[ctl.PersistenceEntryView]{
	{"PERSISTENCE", false, func(v *ctl.PersistenceEntryView) any { return v.Persistence }},
	{"CLIENT", false, func(v *ctl.PersistenceEntryView) any { return v.Client }},
	{"POOL", false, func(v *ctl.PersistenceEntryView) any { return v.Pool }},
	{"MEMBER", false, func(v *ctl.PersistenceEntryView) any { return v.Member }},
	{"SERVER", true, func(v *ctl.PersistenceEntryView) any { return v.Server }},
	{"IDLE", false, func(v *ctl.PersistenceEntryView) any { return milliseconds(v.IdleMS) }},
	{"EXPIRES", false, func(v *ctl.PersistenceEntryView) any { return milliseconds(v.ExpiresMS) }},
	{"WORKER", true, func(v *ctl.PersistenceEntryView) any { return v.Worker }},
}

var persistenceColumns = []column[ctl.PersistenceView]{
	{"PERSISTENCE", false, func(v *ctl.PersistenceView) any { return v.Name }},
	{"VIRTUAL-SERVERS", false, func(v *ctl.PersistenceView) any { return strings.Join(v.Virtuals, ",") }},
	{"PREFIXES", true, func(v *ctl.PersistenceView) any { return fmt.Sprintf("/%d,/%d", v.Prefix4, v.Prefix6) }},
	{"TIMEOUT", true, func(v *ctl.PersistenceView) any { return milliseconds(v.TimeoutMS) }},
	{"ENTRIES", false, func(v *ctl.PersistenceView) any { return v.Entries }},
	{"LIMIT", false, func(v *ctl.PersistenceView) any { return v.Limit }},
	{"HITS", false, func(v *ctl.PersistenceView) any { return v.Hits }},
	{"MISSES", false, func(v *ctl.PersistenceView) any { return v.Misses }},
	{"MOVED", false, func(v *ctl.PersistenceView) any { return v.Moved }},
	{"ELSEWHERE", true, func(v *ctl.PersistenceView) any { return v.Elsewhere }},
	{"REFUSED", true, func(v *ctl.PersistenceView) any { return v.Refused }},
	{"FULL", false, func(v *ctl.PersistenceView) any { return v.Full }},
	{"EVICTED", true, func(v *ctl.PersistenceView) any { return v.Evicted }},
}

const persistencePath = "/v1/persistences/entries"

func persistenceCommand() *cli.Command {
	filters := func() []cli.Flag {
		return []cli.Flag{
			&cli.StringFlag{Name: "persistence", Usage: "only those of this `NAME`"},
			&cli.StringFlag{Name: "client", Usage: "only that of this client, or those in this network: `ADDRESS` or PREFIX"},
			&cli.StringFlag{Name: "member", Usage: "only those of this member: its `NAME` or address"},
		}
	}
	flags := clientFlags(append(filters(), &cli.IntFlag{Name: "limit", Usage: "at most `N`", Value: 100})...)
	status := &cli.Command{
		Name: "status", Usage: "list persistences, with how many entries they have and what became of connections",
		Flags:  clientFlags(),
		Action: func(c *cli.Context) error { return list(c, "/v1/persistences", nil, persistenceColumns) },
	}
	remove := &cli.Command{
		Name: "delete", Usage: "forget which member clients had: their next connections are scheduled",
		UsageText: "sluice persistence delete [CLIENT|PREFIX] [--persistence NAME] [--member NAME] | --all",
		Flags:     append(orderFlags(filters()...), &cli.BoolFlag{Name: "all", Usage: "every entry"}),
		Action: func(c *cli.Context) error {
			q := persistenceQuery(c)
			if c.Args().Present() {
				q.Set("client", c.Args().First())
			}
			if c.Bool("all") == (len(q) > 0) {
				return usagef("say which entries, or --all")
			}
			if c.Bool("all") {
				q.Set("all", "true")
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
			var d ctl.DeletedView
			if err := cl.Delete(c.Context, persistencePath+"?"+q.Encode(), &d); err != nil {
				return err
			}
			if format == "json" {
				return printJSON(c.App.Writer, d)
			}
			fmt.Fprintf(c.App.Writer, "%d entries deleted\n", d.Deleted)
			return nil
		},
	}
	return noun("persistence", "list the entries of persistence: which member clients go to", flags, func(c *cli.Context) error {
		if n := c.Int("limit"); n < 1 || n > ctl.MaxConnections {
			return usagef("--limit takes a number from 1 to %d", ctl.MaxConnections)
		}
		q := persistenceQuery(c)
		q.Set("limit", strconv.Itoa(c.Int("limit")))
		return list(c, persistencePath, q, persistenceEntryColumns)
	}, status, remove)
}

func persistenceQuery(c *cli.Context) url.Values {
	q := url.Values{}
	for _, k := range []string{"persistence", "client", "member"} {
		if v := c.String(k); v != "" {
			q.Set(k, v)
		}
	}
	return q
}
