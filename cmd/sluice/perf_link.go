package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"sluice/perf/link"
	"sluice/perf/result"
)

// The scenarios over real interfaces: what is measured runs as a program of its own, this one again.

// linkFlags are those of link, latency and connections, with the carriers that the scenario has.
func linkFlags(carriers []string, more ...cli.Flag) []cli.Flag {
	return perfFlags(3, append([]cli.Flag{
		&cli.StringFlag{Name: "carriers", Usage: "only these, a `LIST` of " + strings.Join(carriers, ",")},
		&cli.IntFlag{Name: "generator-core", Usage: "core `N` of the generator, and of client and server", Value: 0},
		&cli.IntFlag{Name: "core", Usage: "core `N` of what is measured", Value: 1},
		&cli.DurationFlag{Name: "window", Usage: "`TIME` that one sample takes; 200ms with --quick", Value: time.Second},
		&cli.BoolFlag{Name: "no-install", Usage: "skip what needs Debian packages that are missing, rather than install them"},
		&cli.BoolFlag{Name: "verify", Usage: "verify every checksum at the far ends; slower, for tests"},
	}, more...)...)
}

func linkOptions(c *cli.Context, carriers []string) (o link.Options, err error) {
	if c.Args().Present() {
		return o, usagef("%s takes no arguments, not %q", c.Command.Name, c.Args().First())
	}
	if o.Runs, err = perfRuns(c); err != nil {
		return o, err
	}
	if o.Program, err = os.Executable(); err != nil {
		return o, err
	}
	o.Quick, o.Window, o.Install, o.Verify = c.Bool("quick"), c.Duration("window"), !c.Bool("no-install"), c.Bool("verify")
	o.GeneratorCore, o.CarrierCore = c.Int("generator-core"), c.Int("core")
	if o.Carriers = words(c.String("carriers")); c.IsSet("carriers") && len(o.Carriers) == 0 {
		return o, oneOf("carriers", o.Carriers, carriers)
	}
	o.Progress = perfProgress(c, 0)
	if o.Quick && !c.IsSet("runs") {
		o.Runs = 1
	}
	if o.Quick && !c.IsSet("window") {
		o.Window = 200 * time.Millisecond
	}
	if o.Window < 10*time.Millisecond || o.Window > time.Minute {
		return o, usagef("--window %s is not between 10ms and 1m", o.Window)
	}
	if o.GeneratorCore == o.CarrierCore || o.GeneratorCore < 0 || o.CarrierCore < 0 {
		return o, usagef("--generator-core and --core must be two different cores")
	}
	if err := usable(o.GeneratorCore, o.CarrierCore); err != nil {
		return o, err
	}
	return o, nil
}

// usable refuses cores that this process may not run on.
func usable(cores ...int) error {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return fmt.Errorf("ask for the cores of this process: %w", err)
	}
	for _, core := range cores {
		if !set.IsSet(core) {
			return usagef("core %d is none that this process may use (it may use %d of them; see taskset -p $$)", core, set.Count())
		}
	}
	return nil
}

// words splits a list at its commas; a word counts once.
func words(s string) (list []string) {
	for _, w := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' }) {
		if !slices.Contains(list, w) {
			list = append(list, w)
		}
	}
	return list
}

// oneOf refuses words that are not known.
func oneOf(flag string, list, known []string) error {
	if len(list) == 0 {
		return usagef("--%s takes one or more of %s", flag, strings.Join(known, ", "))
	}
	for _, w := range list {
		if !slices.Contains(known, w) {
			return usagef("--%s: %q is none of %s", flag, w, strings.Join(known, ", "))
		}
	}
	return nil
}

func perfLinkCommand() *cli.Command {
	return &cli.Command{
		Name: "link", Usage: "packets per second over real interfaces, beside the kernel, nftables, asavie and HAProxy",
		UsageText: "sluice perf link [--flows LIST] [--sizes LIST] [--directions LIST] [--modes LIST] [--search] [--json FILE]",
		Description: "Makes a lab of network namespaces, sends from a generator on one core and measures what each carrier brings to the\n" +
			"other end on another core. Carriers take turns; their medians and the ratios within a repetition are shown. What no option\n" +
			"says otherwise, --quick sends over 1000 connections and new ones, in frames of 64 bytes, without HTTP. An empty list of\n" +
			"--flows leaves the packets out: HTTP alone is measured then.",
		Flags: linkFlags(link.CarrierNames(),
			&cli.StringFlag{Name: "flows", Usage: "numbers of connections, and new for every packet a new one: `LIST`; an empty one is for HTTP alone", Value: "1,1000,100000,new"},
			&cli.StringFlag{Name: "sizes", Usage: "of frames: `LIST` of 64,imix,1500", Value: "64,imix,1500"},
			&cli.StringFlag{Name: "directions", Usage: "`LIST` of one-way,both: requests alone, or requests and their answers", Value: "one-way,both"},
			&cli.StringFlag{Name: "modes", Usage: "of AF_XDP for sluice: `LIST` of auto,copy,generic,zero-copy", Value: "auto,generic,zero-copy"},
			&cli.IntFlag{Name: "rate", Usage: "packets per second, paced: `N`; 0 is flat out", Value: 0},
			&cli.BoolFlag{Name: "search", Usage: "search the loss-free rate too"},
			&cli.Float64Flag{Name: "loss", Usage: "percent that may be lost of a rate that is loss-free: `P`", Value: 0.01},
			&cli.IntFlag{Name: "ring-size", Usage: "of AF_XDP rings: `N`; 0 is the default of sluice", Value: 0},
			&cli.BoolFlag{Name: "no-http", Usage: "leave HTTP out"},
			&cli.StringFlag{Name: "in", Usage: "no lab: send out of this `INTERFACE`, and measure what is between it and --out"},
			&cli.StringFlag{Name: "out", Usage: "count at this `INTERFACE`"},
			&cli.StringFlag{Name: "to", Usage: "with --in: `ADDRESS` of the virtual server, which has UDP port 53", Value: "10.10.1.100"},
			&cli.StringFlag{Name: "router", Usage: "with --in: `MAC` address that packets are sent to"},
			&cli.StringFlag{Name: "name", Usage: "with --in: `NAME` of what carries", Value: "external"},
		),
		Action: func(c *cli.Context) error {
			o, err := linkOptions(c, link.CarrierNames())
			if err != nil {
				return err
			}
			l := link.LinkOptions{
				Sizes: words(c.String("sizes")), Directions: words(c.String("directions")), Modes: words(c.String("modes")),
				Rate: c.Int("rate"), Search: c.Bool("search"), Loss: c.Float64("loss") / 100, HTTP: !c.Bool("no-http"), RingSize: c.Int("ring-size"),
			}
			flows := words(c.String("flows"))
			if o.Quick {
				quick := func(flag string, list *[]string, v ...string) {
					if !c.IsSet(flag) {
						*list = v
					}
				}
				quick("flows", &flows, "1000", "new")
				quick("sizes", &l.Sizes, "64")
				quick("modes", &l.Modes, "auto")
				if !c.IsSet("no-http") {
					l.HTTP = len(flows) == 0
				}
			}
			if l.Flows, err = flowCounts(flows); err != nil {
				return err
			}
			for _, check := range []error{
				oneOf("sizes", l.Sizes, link.SizeNames()), oneOf("directions", l.Directions, []string{"one-way", "both"}),
				oneOf("modes", l.Modes, []string{"auto", "copy", "generic", "zero-copy"}),
			} {
				if check != nil {
					return check
				}
			}
			if l.Rate < 0 || l.Loss < 0 || l.Loss > 1 {
				return usagef("--rate cannot be negative, and --loss is between 0 and 100")
			}
			if r := l.RingSize; r != 0 && (r < 64 || r > 4096 || r&(r-1) != 0) {
				return usagef("--ring-size %d is not 64, 128, 256, 512, 1024, 2048 or 4096", r)
			}
			if e, err := external(c); err != nil || e != nil {
				if err != nil {
					return err
				}
				if len(l.Flows) == 0 {
					return usagef("--in and --out measure packets: --flows takes one or more numbers, or new")
				}
				return perfLink(c, "link", &o, func(ctx context.Context, rec *result.Recorder) (link.Modes, error) {
					return link.LinkExternal(ctx, o, l, *e, rec)
				})
			}
			if err := link.CheckLink(&o, &l); err != nil {
				return usageError{err}
			}
			return perfLink(c, "link", &o, func(ctx context.Context, rec *result.Recorder) (link.Modes, error) { return link.Link(ctx, o, l, rec) })
		},
	}
}

// external reads the flags of two given interfaces; without them it is nil.
func external(c *cli.Context) (*link.External, error) {
	e := &link.External{In: c.String("in"), Out: c.String("out"), Name: c.String("name")}
	if e.In == "" && e.Out == "" {
		return nil, nil
	}
	if e.In == "" || e.Out == "" {
		return nil, usagef("--in and --out go together")
	}
	for _, flag := range []string{"carriers", "modes", "ring-size"} {
		if c.IsSet(flag) {
			return nil, usagef("--%s is about carriers of the lab; what is between --in and --out is brought up by others", flag)
		}
	}
	var err error
	if e.To, err = netip.ParseAddr(c.String("to")); err != nil || !e.To.Is4() {
		return nil, usagef("--to %q is no IPv4 address", c.String("to"))
	}
	if e.Router, err = net.ParseMAC(c.String("router")); err != nil {
		return nil, usagef("--router: %w; give the MAC address of the carrier's interface at --in", err)
	}
	return e, nil
}

func perfLatencyCommand() *cli.Command {
	return &cli.Command{
		Name: "latency", Usage: "round trips through the engine, beside the kernel, nftables and HAProxy, idle and under load",
		UsageText: "sluice perf latency [--loads LIST] [--polling LIST] [--cores LIST] [--json FILE]",
		Description: "A client sends at scheduled times and a server answers; a late answer counts from when it was due. The load is half and 90% of\n" +
			"what each carrier carries without loss. What no option says otherwise, --quick measures idle, with cores awake.",
		Flags: linkFlags(link.LatencyCarriers(),
			&cli.StringFlag{Name: "loads", Usage: "`LIST` of idle,half,90: parts of the loss-free rate", Value: "idle,half,90"},
			&cli.StringFlag{Name: "polling", Usage: "of sluice: `LIST` of busy,adaptive,interrupt", Value: "busy,adaptive,interrupt"},
			&cli.StringFlag{Name: "cores", Usage: "idle: `LIST` of awake,asleep: whether cores with nothing to do wait for work or sleep", Value: "awake,asleep"},
			&cli.IntFlag{Name: "probes", Usage: "round trips per second: `N`", Value: 2000},
			&cli.Float64Flag{Name: "loss", Usage: "percent that may be lost of a rate that is loss-free: `P`", Value: 0.01},
		),
		Action: func(c *cli.Context) error {
			o, err := linkOptions(c, link.LatencyCarriers())
			if err != nil {
				return err
			}
			l := link.LatencyOptions{Loads: words(c.String("loads")), Polling: words(c.String("polling")), Cores: words(c.String("cores")), Rate: c.Int("probes"), Loss: c.Float64("loss") / 100}
			if o.Quick && !c.IsSet("loads") {
				l.Loads = []string{"idle"}
			}
			if o.Quick && !c.IsSet("cores") {
				l.Cores = []string{"awake"}
			}
			if err := oneOf("loads", l.Loads, []string{"idle", "half", "90"}); err != nil {
				return err
			}
			if err := oneOf("polling", l.Polling, []string{"busy", "adaptive", "interrupt"}); err != nil {
				return err
			}
			if err := oneOf("cores", l.Cores, []string{"awake", "asleep"}); err != nil {
				return err
			}
			if l.Rate < 1 || l.Rate > 100_000 || l.Loss < 0 || l.Loss > 1 {
				return usagef("--probes is between 1 and 100000, and --loss between 0 and 100")
			}
			if err := link.CheckLatency(&o, &l); err != nil {
				return usageError{err}
			}
			return perfLink(c, "latency", &o, func(ctx context.Context, rec *result.Recorder) (link.Modes, error) {
				return link.Latency(ctx, o, l, rec)
			})
		},
	}
}

func perfConnectionsCommand() *cli.Command {
	return &cli.Command{
		Name: "connections", Usage: "new connections per second, UDP and whole TCP lives, and with a full table, beside nftables",
		UsageText: "sluice perf connections [--json FILE]",
		Flags:     linkFlags(link.ConnectionCarriers(), &cli.Float64Flag{Name: "loss", Usage: "percent of connections that may fail at a rate that counts: `P`", Value: 0.1}),
		Action: func(c *cli.Context) error {
			o, err := linkOptions(c, link.ConnectionCarriers())
			if err != nil {
				return err
			}
			k := link.ConnectionsOptions{Loss: c.Float64("loss") / 100}
			if k.Loss < 0 || k.Loss > 1 {
				return usagef("--loss is between 0 and 100")
			}
			if err := link.CheckConnections(&o); err != nil {
				return usageError{err}
			}
			return perfLink(c, "connections", &o, func(ctx context.Context, rec *result.Recorder) (link.Modes, error) {
				return link.Connections(ctx, o, k, rec)
			})
		},
	}
}

// flowCounts reads numbers of connections; new is 0. An empty list is none.
func flowCounts(list []string) (flows []int, err error) {
	for _, w := range list {
		n := 0
		if w != "new" {
			if n, err = strconv.Atoi(w); err != nil || n < 1 || n > 10_000_000 {
				return nil, usagef("--flows: %q is neither new nor a number from 1 to 10000000", w)
			}
		}
		flows = append(flows, n)
	}
	return flows, nil
}

// perfLink runs a scenario and prints what it recorded, with the modes that carriers really ran in.
func perfLink(c *cli.Context, name string, o *link.Options, scenario func(context.Context, *result.Recorder) (link.Modes, error)) error {
	if err := link.Missing(); err != nil {
		return err
	}
	ctx, end := heedMore(c.Context)
	defer end()
	host, err := perfHost(), error(nil)
	if host.Taken, err = link.CoreTaken(o.CarrierCore); err != nil {
		return err
	}
	rec := result.NewRecorder(name, host)
	modes, err := scenario(ctx, rec)
	o.Progress.Done()
	lab, left := "", error(nil)
	if err != nil && ctx.Err() != nil {
		rec.Interrupt(o.Progress.Now())
		if errors.Is(err, link.ErrLeft) {
			left = err
		} else if c.String("in") == "" {
			lab = "; everything was taken down"
		}
	}
	f := rec.File()
	f.Host.Driver, f.Host.Mode = "veth", modes.String()
	if c.String("in") != "" {
		f.Host.Driver = c.String("in") + ", " + c.String("out")
	}
	return perfEnd(c, f, err, lab, left)
}

// perfForwarderCommand is what the harness starts as a carrier that only forwards.
func perfForwarderCommand() *cli.Command {
	return &cli.Command{
		Name: "forwarder", Usage: "forward between two interfaces; the harness starts it", Hidden: true,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "driver", Value: "xsk"}, &cli.StringFlag{Name: "outside"}, &cli.StringFlag{Name: "inside"},
			&cli.StringFlag{Name: "to-server"}, &cli.StringFlag{Name: "to-client"}, &cli.IntFlag{Name: "core"}, &cli.IntFlag{Name: "ring-size"},
		},
		Action: func(c *cli.Context) error {
			if err := oneOf("driver", words(c.String("driver")), []string{"xsk", "asavie", "asavie-one-port"}); err != nil {
				return err
			}
			f := link.Forwarder{
				Driver: c.String("driver"), Outside: c.String("outside"), Inside: c.String("inside"), Core: c.Int("core"), RingSize: c.Int("ring-size"),
			}
			var err error
			if f.ToServer, err = net.ParseMAC(c.String("to-server")); err != nil {
				return usageError{err}
			}
			if f.ToClient, err = net.ParseMAC(c.String("to-client")); err != nil {
				return usageError{err}
			}
			return f.Run(c.Context, c.App.Writer)
		},
	}
}
