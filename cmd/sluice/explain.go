package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"sluice/ctl"
)

func explainCommand() *cli.Command {
	return &cli.Command{
		Name: "explain", Usage: "say where a packet goes, and why",
		UsageText: "sluice explain [-c FILE] tcp|udp|sctp|icmp|NUMBER SRC:PORT DST:PORT",
		Description: "The running sluice is asked: the worker that has the packet's connection, or would own it, goes the way of the packet with its own " +
			"state and takes nothing on it: no turn, no place, no port. With -c it reads the configuration file alone, with the same code: routes, " +
			"neighbours and the state of a running sluice are not looked at, and the table is empty. The packet is the first of a connection, " +
			"or belongs to one that is there. Of ICMP the port of the source is the id of the query; protocols without ports have addresses alone.",
		Flags: append([]cli.Flag{configFlag(), &cli.StringFlag{Name: "port", Usage: "the packet arrives on this port: its `NAME`"}}, clientFlags()...),
		Action: func(c *cli.Context) error {
			args := c.Args().Slice()
			if len(args) != 3 {
				return usagef("explain takes a protocol, a source and a destination: sluice explain tcp 172.16.10.55:4003 10.10.1.100:80")
			}
			q, err := ctl.ParseQuestion(args[0], args[1], args[2])
			if err != nil {
				return usageError{err}
			}
			format := c.String("output")
			if format != "table" && format != "wide" && format != "json" {
				return usagef("no output format %q; there are table, wide and json", format)
			}
			var v ctl.ExplainView
			if c.String("config") == "" {
				var cl *ctl.Client
				if cl, err = client(c); err == nil {
					err = cl.Get(c.Context, ctl.ExplainPath(args[0], args[1], args[2], c.String("port")), &v)
					cl.Close()
				}
			} else {
				var f *ctl.File
				if f, err = loadConfig(c); err == nil {
					v, err = f.Explain(q, c.String("port"))
				}
			}
			switch {
			case err != nil:
				return err
			case format == "json":
				return printJSON(c.App.Writer, v)
			}
			return printExplanation(c.App.Writer, &v, format == "wide")
		},
	}
}

// printExplanation follows the packet: whose it is, who may take it, who does, and how it leaves.
func printExplanation(w io.Writer, v *ctl.ExplainView, wide bool) error {
	row := func(name, format string, a ...any) { fmt.Fprintf(w, "%-16s%s\n", name, fmt.Sprintf(format, a...)) }
	arrival := ""
	if v.Port != "" {
		arrival = ", arriving on port " + v.Port
	}
	row("packet", "%s %s > %s%s", v.Protocol, v.Source, v.Destination, arrival)
	switch {
	case v.Connection != nil:
		row("connection", "%s, idle %s, expires in %s, age %s, from the %s's side; `sluice conn show %s` shows it all",
			v.Connection.State, milliseconds(uint64(v.Connection.IdleMS)), milliseconds(v.Connection.ExpiresMS), milliseconds(uint64(v.Connection.AgeMS)), v.Side, v.Connection.ClientSideClient)
		row("virtual server", "%s", v.VirtualServer)
		row("member", "%s of pool %s", v.Member, v.Pool)
	case v.VirtualServer != "":
		row("virtual server", "%s", v.VirtualServer)
	default:
		row("virtual server", "none")
	}
	for _, o := range v.OtherVirtuals {
		row("", "not %s: %s", o.Name, o.Why)
	}
	if v.OtherAddresses > 0 && v.Connection == nil {
		row("", "not the %s at other addresses", count(v.OtherAddresses, "virtual server"))
	}
	if r := v.Replaces; r != nil {
		row("replaces", "%s %s > %s, %s", r.Protocol, r.ClientSideClient, r.ClientSideServer, r.State)
	}
	for i, q := range v.Quotas {
		share := ""
		if q.PerWorker {
			share = ", this worker's share"
		}
		row([]string{"limits", ""}[min(i, 1)], "%s: %d of %d used%s", q.Name, q.Used, q.Limit, share)
	}
	if v.Pool != "" && v.Connection == nil && v.Scheduler != "" {
		row("pool", "%s, %s%s", v.Pool, v.Scheduler, schedulerInput(v))
	}
	if p := v.Persistence; p != nil {
		entry := "no entry"
		if p.Entry != "" {
			entry = fmt.Sprintf("an entry for %s: %s", p.Entry, p.Outcome)
		}
		row("persistence", "%s, client %s, kept by worker %d: %s", p.Name, p.Client, p.Worker, entry)
	}
	for _, g := range v.Groups {
		note := fmt.Sprintf("asked, %s can take connections", count(g.Usable, "member"))
		if !g.Asked {
			note = "passed over"
		}
		if g.Note != "" {
			note += ": " + g.Note
		}
		row("", "priority %d of pool %s: %s", g.Priority, g.Pool, note)
	}
	printCandidates(w, v, wide)
	for _, t := range v.Tried {
		row("", "%s was asked before: %s", t.Member, t.Reason)
	}
	row("owner", "worker %d, by bin %d of the client's end", v.Worker, v.Bin)
	row("verdict", "%s", v.Text)
	for _, way := range []struct {
		name string
		r    *ctl.RewriteView
	}{{"to the server", v.ToServer}, {"to the client", v.ToClient}} {
		r := way.r
		if r == nil {
			if v.ToServer != nil {
				row(way.name, "from the member itself, past sluice")
			}
			continue
		}
		row(way.name, "%s > %s becomes %s > %s", r.Source, r.Destination, r.SourceAfter, r.DestinationAfter)
		port, hop := r.Port, r.NextHop
		if port == "" {
			port = "that the client's packets come from,"
		}
		switch {
		case hop != "":
		case v.Offline && r.Port != "":
			hop = "a MAC that the file does not say; ask the running sluice (without -c)"
		default:
			hop = "the MAC that they come from"
		}
		row("", "out of port %s to %s", port, hop)
		if t := v.Tunnel; t != nil && r == v.ToServer {
			row("", "inside %s from %s to %s, packets of at most %d bytes", t.Kind, t.Source, t.Destination, t.MTU)
		}
	}
	return nil
}

// schedulerInput is what the scheduler goes by beside its candidates.
func schedulerInput(v *ctl.ExplainView) (s string) {
	if v.Turn > 0 || v.Random != "" {
		s = fmt.Sprintf(", turn %d", v.Turn)
	}
	if v.Hash != "" {
		s += ", client's hash " + v.Hash
	}
	return s
}

// manyCandidates is how many members a table shows; those chosen and tried always are.
const manyCandidates = 32

func printCandidates(w io.Writer, v *ctl.ExplainView, wide bool) {
	left := 0
	for i, m := range v.Candidates {
		mark := " "
		if m.Chosen {
			mark = ">"
		}
		if i >= manyCandidates && !wide && !m.Chosen {
			left++
			continue
		}
		facts := []string{fmt.Sprintf("weight %d", m.Weight), count(int(m.Connections), "connection")}
		if m.HandshakeUS > 0 && v.Scheduler == "fastest" {
			facts = append(facts, fmt.Sprintf("handshake %d us, %d ms ago", m.HandshakeUS, m.HandshakeMS))
		}
		if m.Note != "" {
			facts = append(facts, m.Note)
		}
		name := m.Member
		if m.Address != name {
			name += " at " + m.Address
		}
		fmt.Fprintf(w, "%-16s%s %s: %s\n", "", mark, name, strings.Join(facts, ", "))
	}
	if left > 0 {
		fmt.Fprintf(w, "%-16s  %d more; -o wide or json shows them\n", "", left)
	}
}

// count is a number of things in words.
func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
