package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"sluice/ctl"
)

func replayCommand() *cli.Command {
	return &cli.Command{
		Name: "replay", Usage: "show what a configuration does with a capture; needs no root and no network",
		UsageText: "sluice replay -c FILE IN.pcap [-o OUT.pcap] [--json]",
		Description: "Interfaces of a pcapng file are ports, by their name (that of the port or of its interface) or their\n" +
			"order; the packets of a pcap file enter the first port. Time is the capture's. The output is a pcapng file\n" +
			"with one interface for each port. A file name of - is standard input or output.",
		Flags: []cli.Flag{
			configFlag(),
			&cli.StringFlag{Name: "out", Aliases: []string{"o"}, Usage: "write what is sent to `FILE`"},
			&cli.BoolFlag{Name: "json", Usage: "print the report as JSON"},
			&cli.IntFlag{Name: "connections", Usage: "list at most `N` of the connections that are left", Value: 20},
		},
		Action: func(c *cli.Context) error {
			switch {
			case c.String("config") == "":
				return usagef("replay needs a configuration: sluice replay -c FILE IN.pcap -o OUT.pcap")
			case c.NArg() == 0:
				return usagef("replay needs a capture file: sluice replay -c FILE IN.pcap -o OUT.pcap")
			case c.NArg() > 1:
				return usagef("replay takes one capture file, not %q as well", c.Args().Get(1))
			case c.Int("connections") < 0:
				return usagef("--connections %d is negative", c.Int("connections"))
			}
			return replay(c, c.Args().First(), c.String("out"))
		},
	}
}

func replay(c *cli.Context, inName, outName string) (err error) {
	f, err := loadConfig(c)
	if err != nil {
		return err
	}
	in := io.Reader(os.Stdin)
	if inName != "-" {
		file, err := os.Open(inName)
		if err != nil {
			return fmt.Errorf("open the capture: %w", err)
		}
		defer file.Close()
		in = file
	}
	var out io.Writer
	reportTo := c.App.Writer
	switch outName {
	case "":
	case "-":
		out, reportTo = c.App.Writer, c.App.ErrWriter
	default:
		file, err := createOutput(inName, outName)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		out = file
	}
	report, err := ctl.Replay(c.Context, f, in, out, ctl.ReplayOptions{Connections: c.Int("connections")})
	if err != nil {
		err = fmt.Errorf("%s: %w", inName, err)
	}
	if report == nil {
		return err
	}
	if c.Bool("json") {
		return errors.Join(err, printJSON(reportTo, report))
	}
	return errors.Join(err, printReplay(reportTo, report))
}

// createOutput refuses to write over the capture that is read.
func createOutput(inName, outName string) (*os.File, error) {
	if in, err := os.Stat(inName); err == nil {
		if out, err := os.Stat(outName); err == nil && os.SameFile(in, out) {
			return nil, usagef("%s is both the input and the output", outName)
		}
	}
	file, err := os.Create(outName)
	if err != nil {
		return nil, fmt.Errorf("create the output: %w", err)
	}
	return file, nil
}

// printReplay prints the report for people: what happened first, then ports, virtual servers, members, drops and
// connections. Tables without lines are left out.
func printReplay(w io.Writer, r *ctl.ReplayReport) error {
	t := r.Total()
	fmt.Fprintf(w, "%d packets in %s", r.Packets, r.Last.Sub(r.First).Round(time.Millisecond))
	if !r.First.IsZero() {
		fmt.Fprintf(w, ", from %s", r.First.UTC().Format(time.RFC3339))
	}
	fmt.Fprintf(w, "\n%d to servers, %d to clients, %d to the host, %d dropped, %d left to the kernel; %d connections opened, %d closed, %d left\n",
		r.Engine.ToServer, r.Engine.ToClient, r.Engine.ToHost, r.Engine.Dropped, t.Passed+t.Malformed,
		r.Engine.Opened, r.Engine.Closed, r.Left)
	for _, n := range []struct {
		count uint64
		text  string
	}{
		{r.Truncated, "were captured only in part: their headers were replayed with zeros behind them"},
		{t.HeadersCut, "were captured without all their headers and not replayed; capture with a larger snapshot length (tcpdump -s 0)"},
		{t.TooLarge, "are larger than a frame and were not replayed; set engine.frame-size: 4096, or capture with offloads off (ethtool -K IF gro off tso off)"},
		{t.Malformed, "have damaged headers and were left to the kernel"},
		{r.Backwards, "are earlier than packets before them; reorder the capture (reordercap)"},
	} {
		if n.count > 0 {
			fmt.Fprintf(w, "note: %d packets %s\n", n.count, n.text)
		}
	}
	return errors.Join(
		replayTable(w, r.Ports, []column[ctl.ReplayPort]{
			{"PORT", false, func(p *ctl.ReplayPort) any { return p.Name }},
			{"IN", false, func(p *ctl.ReplayPort) any { return p.In }},
			{"BYTES", false, func(p *ctl.ReplayPort) any { return p.InBytes }},
			{"TO ENGINE", false, func(p *ctl.ReplayPort) any { return p.Engine }},
			{"TO KERNEL", false, func(p *ctl.ReplayPort) any { return p.Passed + p.Malformed }},
			{"OUT", false, func(p *ctl.ReplayPort) any { return p.Out }},
			{"BYTES", false, func(p *ctl.ReplayPort) any { return p.OutBytes }},
		}),
		replayTable(w, r.VirtualServers, []column[ctl.VirtualView]{
			{"VIRTUAL SERVER", false, func(v *ctl.VirtualView) any { return v.Name }},
			{"ADDRESS", false, func(v *ctl.VirtualView) any { return v.Address + "/" + v.Protocol }},
			{"POOL", false, func(v *ctl.VirtualView) any { return v.Pool }},
			{"OPENED", false, func(v *ctl.VirtualView) any { return v.Opened }},
			{"FROM CLIENTS", false, func(v *ctl.VirtualView) any { return v.ClientPackets }},
			{"FROM SERVERS", false, func(v *ctl.VirtualView) any { return v.ServerPackets }},
		}),
		replayTable(w, r.Members, []column[ctl.MemberView]{
			{"POOL", false, func(m *ctl.MemberView) any { return m.Pool }},
			{"MEMBER", false, func(m *ctl.MemberView) any { return m.Name }},
			{"ADDRESS", false, func(m *ctl.MemberView) any { return m.Address }},
			{"OPENED", false, func(m *ctl.MemberView) any { return m.Opened }},
			{"FROM CLIENTS", false, func(m *ctl.MemberView) any { return m.ClientPackets }},
			{"FROM SERVERS", false, func(m *ctl.MemberView) any { return m.ServerPackets }},
		}),
		replayTable(w, r.Drops, []column[ctl.DropView]{
			{"DROPPED", false, func(d *ctl.DropView) any { return d.Count }},
			{"REASON", false, func(d *ctl.DropView) any { return d.Reason }},
			{"MEANING", false, func(d *ctl.DropView) any { return d.Text }},
		}),
		replayTable(w, r.Connections, []column[ctl.ConnView]{
			{"CONNECTION LEFT", false, func(v *ctl.ConnView) any { return v.ClientSideClient + " > " + v.ClientSideServer }},
			{"PROTOCOL", false, func(v *ctl.ConnView) any { return v.Protocol }},
			{"MEMBER", false, func(v *ctl.ConnView) any { return v.ServerSideServer }},
			{"STATE", false, func(v *ctl.ConnView) any { return v.State }},
		}),
	)
}

func replayTable[T any](w io.Writer, rows []T, columns []column[T]) error {
	if len(rows) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	return printTable(w, rows, columns, false)
}
