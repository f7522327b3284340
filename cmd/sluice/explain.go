package main

import (
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/urfave/cli/v2"

	"sluice/engine"
	"sluice/flow"
)

func explainCommand() *cli.Command {
	return &cli.Command{
		Name: "explain", Usage: "say where the first packet of a connection goes, and why",
		UsageText: "sluice explain -c FILE tcp|udp|sctp SRC:PORT DST:PORT",
		Description: "It reads the configuration file alone, with the code that handles packets: routes, neighbours and the state of a " +
			"running sluice are not looked at, and counters start at zero.",
		Flags: []cli.Flag{configFlag(), &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FORMAT`: table or json", Value: "table"}},
		Action: func(c *cli.Context) error {
			proto, src, dst, err := parseTuple(c.Args().Slice())
			if err != nil {
				return err
			}
			f, err := loadConfig(c)
			if err != nil {
				return err
			}
			cfg, _, err := f.Offline()
			if err != nil {
				return err
			}
			e := cfg.Explain(proto, src, dst)
			if c.String("output") == "json" {
				return printJSON(c.App.Writer, e)
			}
			printExplanation(c.App.Writer, c.Args().Slice(), &e)
			return nil
		},
	}
}

func parseTuple(args []string) (proto uint8, src, dst netip.AddrPort, err error) {
	if len(args) != 3 {
		return 0, src, dst, usagef("explain takes a protocol, a source and a destination: sluice explain -c FILE tcp 172.16.10.55:4003 10.10.1.100:80")
	}
	switch strings.ToLower(args[0]) {
	case "tcp":
		proto = flow.TCP
	case "udp":
		proto = flow.UDP
	case "sctp":
		proto = flow.SCTP
	default:
		return 0, src, dst, usagef("protocol %q is not tcp, udp or sctp", args[0])
	}
	if src, err = netip.ParseAddrPort(args[1]); err != nil {
		return 0, src, dst, usagef("source %q is not ADDRESS:PORT (IPv6: [ADDRESS]:PORT)", args[1])
	}
	if dst, err = netip.ParseAddrPort(args[2]); err != nil {
		return 0, src, dst, usagef("destination %q is not ADDRESS:PORT (IPv6: [ADDRESS]:PORT)", args[2])
	}
	if src.Addr().Is4() != dst.Addr().Is4() {
		return 0, src, dst, usagef("source %s and destination %s are of different address families", args[1], args[2])
	}
	return proto, src, dst, nil
}

func printExplanation(w io.Writer, args []string, e *engine.Explanation) {
	row := func(name, format string, a ...any) { fmt.Fprintf(w, "%-16s%s\n", name, fmt.Sprintf(format, a...)) }
	row("packet", "%s %s > %s", args[0], args[1], args[2])
	if e.Virtual != "" {
		row("virtual server", "%s", e.Virtual)
		row("pool", "%s, %s, turn %d", e.Pool, e.Scheduler, e.Turn)
	}
	for _, m := range e.Candidates {
		mark := " "
		if m.Chosen {
			mark = ">"
		}
		note := m.Note
		if note != "" {
			note = "  (" + note + ")"
		}
		row("", "%s %s at %s, weight %d, %d connections%s", mark, m.Member, m.Address, m.Weight, m.Active, note)
	}
	row("owner", "worker %d, by bin %d of the client's end", e.Worker, e.Bin)
	if e.Decision != engine.DecideConnect {
		row("verdict", "%s: %s", e.Decision, e.Reason)
		return
	}
	row("verdict", "a new connection to %s", e.Member)
	row("to the server", "%s > %s becomes %s > %s", e.ToServer.Before.Src, e.ToServer.Before.Dst, e.ToServer.After.Src, e.ToServer.After.Dst)
	row("", "out of port %s to %s", e.ToServer.Port, e.ToServer.MAC)
	if t := e.Tunnel; t != nil {
		port := ""
		if t.Port != 0 {
			port = fmt.Sprintf(" port %d", t.Port)
		}
		row("", "inside %s from %s to %s%s, packets of at most %d bytes", t.Kind, t.Src, t.Dst, port, t.MTU)
	}
	if e.ToClient == nil {
		row("to the client", "from the member itself, past sluice")
		return
	}
	row("to the client", "%s > %s becomes %s > %s", e.ToClient.Before.Src, e.ToClient.Before.Dst, e.ToClient.After.Src, e.ToClient.After.Dst)
	row("", "out of the port and to the MAC that the client's packets come from")
}
