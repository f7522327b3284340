package main

import (
	"fmt"
	"io"
	"net/url"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"sluice/ctl"
)

var connColumns = []column[ctl.ConnView]{
	{"PROTO", false, func(v *ctl.ConnView) any { return v.Protocol }},
	{"CLIENT", false, func(v *ctl.ConnView) any { return v.ClientSideClient }},
	{"VIRTUAL", false, func(v *ctl.ConnView) any { return v.ClientSideServer }},
	{"MEMBER", false, func(v *ctl.ConnView) any { return v.ServerSideServer }},
	{"STATE", false, func(v *ctl.ConnView) any { return v.State }},
	{"IDLE", false, func(v *ctl.ConnView) any { return milliseconds(uint64(v.IdleMS)) }},
	{"EXPIRES", false, func(v *ctl.ConnView) any { return milliseconds(v.ExpiresMS) }},
	{"PKTS-IN", true, func(v *ctl.ConnView) any { return v.ClientPackets }},
	{"PKTS-OUT", true, func(v *ctl.ConnView) any { return v.ServerPackets }},
	{"BYTES-IN", true, func(v *ctl.ConnView) any { return v.ClientBytes }},
	{"BYTES-OUT", true, func(v *ctl.ConnView) any { return v.ServerBytes }},
	{"WORKER", true, func(v *ctl.ConnView) any { return v.Worker }},
	{"VIRTUAL-SERVER", true, func(v *ctl.ConnView) any { return v.VirtualServer }},
	{"POOL", true, func(v *ctl.ConnView) any { return v.Pool }},
	{"MEMBER-NAME", true, func(v *ctl.ConnView) any { return v.Member }},
}

// filters choose connections.
func filters() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "client", Usage: "only those of this client: `ADDRESS` or ADDRESS:PORT"},
		&cli.StringFlag{Name: "virtual", Usage: "only those to this virtual server: its `NAME`, address or address:port"},
		&cli.StringFlag{Name: "member", Usage: "only those to this member: its `NAME`, address or address:port"},
		&cli.StringFlag{Name: "state", Usage: "only those in this `STATE`, such as established"},
		&cli.StringFlag{Name: "protocol", Usage: "only this `PROTOCOL`: tcp, udp, sctp, icmp or a number"},
	}
}

// filterFlags are those of commands that print no table.
func filterFlags() []cli.Flag { return append(connectFlags(), filters()...) }

func milliseconds(ms uint64) string {
	d := time.Duration(ms) * time.Millisecond
	if d < time.Minute {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

func connCommand() *cli.Command {
	limited := append(filters(), &cli.IntFlag{Name: "limit", Usage: "at most `N`", Value: 100})
	flags := clientFlags(limited...)
	show := &cli.Command{
		Name: "show", Usage: "show the table's entry of each connection of a client",
		UsageText: "sluice conn show [CLIENT[:PORT]]",
		Flags:     orderFlags(limited...),
		Action: func(c *cli.Context) error {
			if err := connLimit(c); err != nil {
				return err
			}
			format, err := outputFormat(c, "table", "json")
			if err != nil {
				return err
			}
			q := connQuery(c)
			if c.Args().Present() {
				q.Set("client", c.Args().First())
			}
			conns := []ctl.ConnView{}
			if err := fetch(c, "/v1/connections?"+q.Encode(), &conns); err != nil {
				return err
			}
			if format == "json" {
				return printJSON(c.App.Writer, conns)
			}
			if len(conns) == 0 {
				return fmt.Errorf("no such connection; `sluice conn list` shows what there is")
			}
			for i := range conns {
				if i > 0 {
					fmt.Fprintln(c.App.Writer)
				}
				printConn(c.App.Writer, &conns[i])
			}
			return nil
		},
	}
	return noun("conn", "list connections", flags, func(c *cli.Context) error {
		if err := connLimit(c); err != nil {
			return err
		}
		return list(c, "/v1/connections", connQuery(c), connColumns)
	}, show, connDeleteCommand(), connExportCommand())
}

func connDeleteCommand() *cli.Command {
	return &cli.Command{
		Name: "delete", Usage: "take connections out of the table",
		UsageText: "sluice conn delete [CLIENT[:PORT]] [--virtual NAME] [--member NAME] [--state STATE] [--reset] | --all",
		Flags: append(orderFlags(filters()...),
			&cli.BoolFlag{Name: "reset", Usage: "send a RST to both ends of each TCP connection"},
			&cli.BoolFlag{Name: "all", Usage: "every connection"}),
		Action: func(c *cli.Context) error {
			q := filterQuery(c)
			if c.Args().Present() {
				q.Set("client", c.Args().First())
			}
			if c.Bool("all") == (len(q) > 0) {
				return usagef("say which connections, or --all")
			}
			for _, k := range []string{"all", "reset"} {
				if c.Bool(k) {
					q.Set(k, "true")
				}
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
			if err := cl.Delete(c.Context, "/v1/connections?"+q.Encode(), &d); err != nil {
				return err
			}
			if format == "json" {
				return printJSON(c.App.Writer, d)
			}
			fmt.Fprintf(c.App.Writer, "%s deleted\n", count(d.Deleted, "connection"))
			return nil
		},
	}
}

func connExportCommand() *cli.Command {
	return &cli.Command{
		Name: "export", Usage: "write all connections, one JSON object a line",
		Flags: filterFlags(),
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("export takes no arguments, not %q", c.Args().First())
			}
			cl, err := client(c)
			if err != nil {
				return err
			}
			defer cl.Close()
			return cl.Copy(c.Context, "/v1/connections/export?"+filterQuery(c).Encode(), c.App.Writer)
		},
	}
}

// connLimit checks --limit, of which the API takes 1 to 10000.
func connLimit(c *cli.Context) error {
	if n := c.Int("limit"); n < 1 || n > ctl.MaxConnections {
		return usagef("--limit takes a number from 1 to %d; `sluice conn export` writes all", ctl.MaxConnections)
	}
	return nil
}

func connQuery(c *cli.Context) url.Values {
	q := filterQuery(c)
	q.Set("limit", strconv.Itoa(c.Int("limit")))
	return q
}

func filterQuery(c *cli.Context) url.Values {
	q := url.Values{}
	for _, k := range []string{"client", "virtual", "member", "state", "protocol"} {
		if v := c.String(k); v != "" {
			q.Set(k, v)
		}
	}
	return q
}

// printConn prints the nine lines of the classic connection table, then what else is known.
func printConn(w io.Writer, v *ctl.ConnView) {
	printNine(w, v)
	row := func(name string, format string, args ...any) {
		fmt.Fprintf(w, "%-34s%s\n", name, fmt.Sprintf(format, args...))
	}
	row("state", "%s, idle %s, expires in %s, age %s", v.State, milliseconds(uint64(v.IdleMS)), milliseconds(v.ExpiresMS), milliseconds(uint64(v.AgeMS)))
	row("virtual server, pool, member", "%s, %s, %s", v.VirtualServer, v.Pool, v.Member)
	row("client side", "port %s, answers to %s", v.ClientPort, v.ClientMAC)
	row("server side", "port %s", v.ServerPort)
	if v.Forwarding != "" {
		past := ""
		if v.OneSided {
			past = ", answered past sluice"
		}
		row("forwarding", "%s%s", v.Forwarding, past)
	}
	row("from client", "%d packets, %d bytes", v.ClientPackets, v.ClientBytes)
	row("from server", "%d packets, %d bytes", v.ServerPackets, v.ServerBytes)
	row("owner", "worker %d", v.Worker)
}

func printNine(w io.Writer, v *ctl.ConnView) {
	for _, r := range [][2]string{
		{"client-side client address", v.ClientSideClient},
		{"client-side server address", v.ClientSideServer},
		{"server-side client address", v.ServerSideClient},
		{"server-side server address", v.ServerSideServer},
		{"virtual address", v.VirtualAddress},
		{"node address", v.NodeAddress},
		{"protocol", v.Protocol},
		{"sequence number from the client", strconv.FormatUint(uint64(v.ClientSequence), 10)},
		{"sequence number from the server", strconv.FormatUint(uint64(v.ServerSequence), 10)},
	} {
		fmt.Fprintf(w, "%-34s%s\n", r[0], r[1])
	}
}
