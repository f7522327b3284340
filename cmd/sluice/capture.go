package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/urfave/cli/v2"

	"sluice/ctl"
)

func captureCommand() *cli.Command {
	text := func(name, usage string) cli.Flag { return &cli.StringFlag{Name: name, Usage: usage} }
	return &cli.Command{
		Name: "capture", Usage: "capture packets before and after, with what became of each",
		UsageText: "sluice capture [-w FILE|-] [FILTERS] [BOUNDS]",
		Description: "The workers of the running sluice copy packets as they arrive and as they leave. The file is pcapng with two interfaces, " +
			"`before` and `after`, and each packet has a comment with its verdict: forwarded to member X via port Y, dropped: REASON, handed to the kernel, " +
			"handed over to worker N, answered. Without -w each packet is a line. Filters that are given together must all agree; an end is that of the " +
			"packet before or after, whichever side it is on. No worker waits for a capture: what finds no room is counted as lost, and said at the " +
			"end, as is what was not of the sample. There is one capture at a time; it ends with its bounds, with Ctrl-C, with whoever reads it, or by `sluice capture stop`.",
		Flags: append(connectFlags(),
			&cli.StringFlag{Name: "write", Aliases: []string{"w"}, Usage: "write pcapng to `FILE`; - is standard output"},
			text("protocol", "only this `PROTOCOL`: tcp, udp, sctp, icmp or a number"),
			&cli.StringSliceFlag{Name: "end", Usage: "only packets from or to `ADDRESS` or ADDRESS:PORT; twice: between both"},
			text("virtual", "only those of this virtual server: its `NAME`"),
			text("member", "only those of this member: `NAME` or POOL/NAME"),
			text("port", "only those that arrive on or leave by this port: its `NAME`"),
			&cli.IntFlag{Name: "worker", Usage: "only those of worker `N`", Value: -1},
			&cli.BoolFlag{Name: "drops", Usage: "only what is dropped"},
			text("reason", "only what is dropped, or answered, for `REASON`, as sluice drop names it"),
			&cli.IntFlag{Name: "count", Usage: "end after `N` packets", Value: ctl.DefaultCaptureCount},
			&cli.DurationFlag{Name: "duration", Usage: "end after this `TIME`", Value: ctl.DefaultCaptureDuration},
			&cli.IntFlag{Name: "bytes", Usage: "end after `N` bytes of frames", Value: ctl.DefaultCaptureBytes},
			&cli.IntFlag{Name: "snap", Aliases: []string{"s"}, Usage: "keep the first `N` bytes of each frame; 0: all"},
			&cli.IntFlag{Name: "sample", Usage: "look at one in `N` packets", Value: 1},
			&cli.IntFlag{Name: "ring", Usage: "a worker may be `N` bytes ahead of the reader", Value: ctl.DefaultCaptureRing},
		),
		Action:      capture,
		Subcommands: captureCommands(),
	}
}

func capture(c *cli.Context) error {
	if word := c.Args().First(); word != "" {
		if near := nearest(word, []string{"list", "stop"}); near != "" {
			return noCommand(c, "capture")
		}
		return usagef("capture takes no arguments, not %q; filters are flags: --end 172.16.10.55:4003", c.Args().First())
	}
	var out io.Writer
	begun, finish := func() {}, func() error { return nil }
	switch name := c.String("write"); name {
	case "":
		p := newLines(c.App.Writer)
		out, finish = p, p.close
	case "-":
		if terminalOf(c.App.Writer) != nil {
			return usagef("a capture is not for a terminal; pipe it to `tshark -r -`, or leave -w out")
		}
		out = c.App.Writer
	default:
		f, err := openCaptureFile(name)
		if err != nil {
			return err
		}
		out, begun, finish = f, f.begin, f.finish
	}
	cl, err := client(c)
	if err != nil {
		return errors.Join(err, finish())
	}
	defer cl.Close()
	ctx, cut := context.WithCancel(context.WithoutCancel(c.Context))
	defer cut()
	ended := context.AfterFunc(c.Context, func() { // Ctrl-C: the rest and the counts still come
		ask, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		var none ctl.CaptureEndView
		if cl.Delete(ask, "/v1/capture", &none) != nil {
			cut()
		}
		time.AfterFunc(5*time.Second, cut)
	})
	defer ended()
	stats, err := cl.Capture(ctx, captureQuery(c), out, func() { begun(); fmt.Fprintln(os.Stderr, "capturing; Ctrl-C ends it") })
	if err = errors.Join(err, finish()); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, captureSummary(&stats))
	return nil
}

// captureQuery is what the flags ask for.
func captureQuery(c *cli.Context) url.Values {
	q := url.Values{"end": c.StringSlice("end")}
	for _, k := range []string{"protocol", "virtual", "member", "port", "reason"} {
		if v := c.String(k); v != "" {
			q.Set(k, v)
		}
	}
	for _, k := range []string{"worker", "count", "bytes", "snap", "sample", "ring"} {
		if c.IsSet(k) {
			q.Set(k, fmt.Sprint(c.Int(k)))
		}
	}
	if c.Bool("drops") {
		q.Set("drops", "true")
	}
	q.Set("duration", c.Duration("duration").String())
	return q
}

// captureSummary says what was captured, and all that was not.
func captureSummary(s *ctl.CaptureStats) string {
	end := map[string]string{"count": "the number of packets was reached", "duration": "its time was over", "bytes": "the number of bytes was reached", "stopped": "it was ended",
		"takeover": "another sluice has taken over: begin a capture there", "shutdown": "sluice was stopped"}[s.End]
	if end == "" {
		end = s.End
	}
	text := fmt.Sprintf("%d packets captured of %d that workers received", s.Written, s.Seen)
	for _, part := range []struct {
		n    uint64
		what string
	}{{s.Lost, "lost for want of room"}, {s.Skipped, "not of the sample"}, {s.Unmatched, "not wanted"}, {s.Captured - s.Written, "left unread"}, {s.Held, "still under way"}} {
		if part.n > 0 {
			text += fmt.Sprintf(", %d %s", part.n, part.what)
		}
	}
	return text + "; " + end
}

// lines makes a line of each packet of a pcapng file that is written to it.
type lines struct {
	*io.PipeWriter
	done chan error
}

// pairTime is how long the line of a packet waits for the other side of it.
const pairTime = 50 * time.Millisecond

func newLines(w io.Writer) *lines {
	r, pipe := io.Pipe()
	l := &lines{pipe, make(chan error, 1)}
	packets := make(chan capturedFrame)
	go func() {
		defer close(packets)
		in, err := pcapgo.NewNgReader(r, pcapgo.DefaultNgReaderOptions)
		for err == nil {
			var p capturedFrame
			var options pcapgo.NgPacketOptions
			if p.data, p.info, options, err = in.ReadPacketDataWithOptions(); err == nil {
				p.comment = strings.Join(options.Comments, "; ")
				packets <- p
			}
		}
		_, _ = io.Copy(io.Discard, r) // an end without a packet is the usual one
	}()
	go func() { l.done <- printPairs(w, packets) }()
	return l
}

// close waits until everything is printed.
func (l *lines) close() error { return errors.Join(l.PipeWriter.Close(), <-l.done) }

// capturedFrame is one side of a packet.
type capturedFrame struct {
	data    []byte
	info    gopacket.CaptureInfo
	comment string
}

// printPairs prints each packet in a line with what it became. The other side comes at once or not at all.
func printPairs(w io.Writer, packets <-chan capturedFrame) (err error) {
	var held *capturedFrame
	print := func(after *capturedFrame) {
		if held == nil || err != nil {
			return
		}
		line := fmt.Sprintf("%s %s", held.info.Timestamp.Format("15:04:05.000000"), frameText(held.data, held.info.Length))
		if after != nil {
			line += " => " + frameText(after.data, after.info.Length)
		}
		_, err = fmt.Fprintln(w, line+"; "+held.comment)
		held = nil
	}
	for {
		var late <-chan time.Time
		if held != nil {
			late = time.After(pairTime)
		}
		select {
		case p, more := <-packets:
			switch {
			case !more:
				print(nil)
				return err
			case p.info.InterfaceIndex == 1:
				print(&p)
			default:
				print(nil)
				held = &p
			}
		case <-late:
			print(nil)
		}
	}
}

// frameText is a frame in some words.
func frameText(data []byte, length int) string {
	p := gopacket.NewPacket(data, layers.LayerTypeEthernet, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
	network := p.NetworkLayer()
	if network == nil {
		if eth, is := p.LinkLayer().(*layers.Ethernet); is {
			return fmt.Sprintf("%s > %s %s, %d bytes", eth.SrcMAC, eth.DstMAC, eth.EthernetType, length)
		}
		return fmt.Sprintf("a frame of %d bytes", length)
	}
	src, dst := network.NetworkFlow().Src().String(), network.NetworkFlow().Dst().String()
	switch l := p.TransportLayer().(type) {
	case *layers.TCP:
		flags := ""
		for _, f := range []struct {
			set  bool
			name string
		}{{l.SYN, "S"}, {l.FIN, "F"}, {l.RST, "R"}, {l.PSH, "P"}, {l.ACK, "."}} {
			if f.set {
				flags += f.name
			}
		}
		return fmt.Sprintf("tcp %s > %s [%s], %d bytes", withPort(src, uint16(l.SrcPort)), withPort(dst, uint16(l.DstPort)), flags, length)
	case *layers.UDP:
		return fmt.Sprintf("udp %s > %s, %d bytes", withPort(src, uint16(l.SrcPort)), withPort(dst, uint16(l.DstPort)), length)
	case *layers.SCTP:
		return fmt.Sprintf("sctp %s > %s, %d bytes", withPort(src, uint16(l.SrcPort)), withPort(dst, uint16(l.DstPort)), length)
	}
	what := "ip"
	switch {
	case p.Layer(layers.LayerTypeICMPv4) != nil, p.Layer(layers.LayerTypeICMPv6) != nil:
		what = "icmp"
	case p.Layer(gopacket.LayerTypeFragment) != nil:
		what = "fragment"
	}
	return fmt.Sprintf("%s %s > %s, %d bytes", what, src, dst, length)
}

func withPort(addr string, port uint16) string {
	if strings.Contains(addr, ":") {
		addr = "[" + addr + "]"
	}
	return fmt.Sprintf("%s:%d", addr, port)
}
