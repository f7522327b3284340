package result

import (
	"slices"
	"strings"
)

// Metric says what a metric's number means. The list below is the only place that does: the tables, the report and
// docs/PERFORMANCE.md take headings and sentences from it.
type Metric struct {
	Name   string
	Title  string // for people: a heading
	Unit   string
	About  string // one sentence, for whoever sees the heading for the first time
	Higher bool   // higher is better; of a metric that is neither, Info is true
	Info   bool   // a measure of the surroundings, not of the engine
	Group  Group
	Plot   bool // worth a drawing
	order  int
}

// Stored is its name in files.
func (m Metric) Stored() string {
	if m.Name == programRun {
		return stored
	}
	return m.Name
}

// Better says which way is better, or nothing.
func (m Metric) Better() string {
	switch {
	case m.Info:
		return ""
	case m.Higher:
		return "more"
	}
	return "less"
}

// Group is where a metric is shown.
type Group uint8

// The groups.
const (
	Main   Group = iota
	Detail       // in reports only
	Stage        // in a table of stages
)

// Units.
const (
	nanoseconds  = "ns"
	microseconds = "us"
	percent      = "%"
	ratio        = "ratio"
	millions     = "million packets/s"
)

// programRun is what cases of the XDP program, "program/rules=10", show of what files call ns_per_packet: the program is one of the
// steps that a packet takes, and no figure of the engine.
const (
	programRun   = "program_ns"
	programCases = "program/"
	stored       = "ns_per_packet"
)

// known are the metrics in the order in which they are shown.
var known = []Metric{
	{Name: stored, Title: "ns/packet", Unit: nanoseconds, Plot: true,
		About: "CPU time of one packet, net: the measured (raw) time less what the generator takes by itself"},
	{Name: programRun, Title: "ns/run of XDP program", Unit: nanoseconds, Plot: true,
		About: "time of one run of the XDP program, which decides for each packet whether it is sluice's or the kernel's"},
	{Name: "raw_ns_per_packet", Title: "ns/packet with generator", Unit: nanoseconds, Group: Detail,
		About: "CPU time of one packet, raw: as measured, with that of the generator"},
	{Name: "generator_ns_per_packet", Title: "generator ns", Unit: nanoseconds, Info: true, Group: Detail,
		About: "CPU time that the generator takes for one packet, measured by itself in the same repetition"},
	{Name: "raw_to_net", Title: "raw/net", Unit: ratio, Info: true,
		About: "how much the generator weighs: the time of a packet with it (raw) divided by that without (net)"},
	{Name: "floor_ns_per_packet", Title: "floor ns with generator", Unit: nanoseconds, Info: true, Group: Detail,
		About: "CPU time of one packet on the floor: the same rings and generator, with packets only passed on, unread"},
	{Name: "to_floor", Title: "x floor", Unit: ratio,
		About: "time of a packet divided by that on the floor, the same rings with packets only passed on, unread; both with the generator"},
	{Name: "gomap_ns", Title: "Go map ns", Unit: nanoseconds, Info: true,
		About: "a yardstick: time of a hit in a Go map with as many keys of 13 bytes as there are connections, asked in the same pattern"},
	{Name: "to_gomap", Title: "x Go map", Unit: ratio,
		About: "ns/packet divided by the time of a hit in a Go map with as many keys of 13 bytes as there are connections"},
	{Name: "mpps", Title: "Mpps", Unit: millions, Higher: true, Plot: true,
		About: "packets per second: on memory rings 1000 / (ns/packet) for each worker, over interfaces what arrived at the far end"},
	{Name: "mpps_per_core", Title: "Mpps/core", Unit: millions, Higher: true, Group: Detail,
		About: "packets per second of the carrier's CPU time, so that what other programs took of its core does not count"},
	{Name: "raw_mpps", Title: "Mpps with generator", Unit: millions, Higher: true, Group: Detail,
		About: "packets that really moved per second of the clock, with the generator on the workers' cores"},
	{Name: "gbit_per_second", Title: "Gbit/s", Unit: "Gbit/s", Higher: true,
		About: "bits of the frames that arrived at the far ends, check sequences included"},
	{Name: "to_first", Title: "x smallest", Unit: ratio,
		About: "time of a packet divided by that at the first, smallest number of the same curve (connections, members, virtuals or rules)"},
	{Name: "to_nat", Title: "x nat", Unit: ratio,
		About: "ns/packet divided by that of mode nat with the same traffic"},
	{Name: "core_percent", Title: "core %", Unit: percent, Info: true,
		About: "share of its core that a worker got, over interfaces the lesser of generator and carrier; well below 100 another program has disturbed the figure"},
	{Name: "speedup", Title: "x one worker", Unit: ratio, Higher: true,
		About: "what all workers carry per second of their CPU time, divided by what the smallest number of workers, usually one, carries"},
	{Name: "allocations_per_packet", Title: "allocs/packet", Unit: "per packet",
		About: "allocations on the Go heap for one packet; it should be 0"},

	{Name: "stage_samples", Title: "samples", Unit: "samples", Info: true, Group: Stage,
		About: "samples of the CPU profile that the stages are from, those of the generator among them; ± at a stage is what 19 of 20 such profiles are within"},
	stage("parse_ns", "parse ns", "reading the headers"),
	stage("lookup_ns", "look-up ns", "finding the connection in the table"),
	stage("steer_ns", "steer ns", "finding the worker that owns the packet, and handing it over"),
	stage("schedule_ns", "schedule ns", "choosing a member for a new connection and entering the connection"),
	stage("rewrite_ns", "rewrite ns", "tracking the connection's state and changing the packet"),
	stage("rings_ns", "rings ns", "receiving, sending and taking frames back"),
	stage("timers_ns", "timers ns", "ending connections whose time is over"),
	stage("other_ns", "other ns", "all else, such as counters and the clock, and stages with fewer than 25 samples"),

	{Name: "requests_per_second", Title: "requests/s", Unit: "requests/s", Higher: true, Plot: true,
		About: "HTTP requests answered per second, to one client thread with 32 connections"},
	{Name: "connections_per_second", Title: "connections/s", Unit: "connections/s", Higher: true, Plot: true,
		About: "new connections carried per second: flat out over UDP, and over TCP the highest rate at which they live whole lives"},
	{Name: "connections_per_core_second", Title: "connections/core s", Unit: "connections/s", Higher: true, Group: Detail,
		About: "new connections per second of the carrier's CPU time"},
	{Name: "loss_free_mpps", Title: "loss-free Mpps", Unit: millions, Higher: true, Plot: true,
		About: "the highest paced rate of which no more than --loss (0.01% unless told) was lost, by search"},
	{Name: "p50_us", Title: "p50 us", Unit: microseconds, Plot: true,
		About: "round trips, the median: half of the answers came within this time from when the request was due"},
	{Name: "p99_us", Title: "p99 us", Unit: microseconds, Plot: true,
		About: "99 of 100 answers came within this time"},
	{Name: "p999_us", Title: "p99.9 us", Unit: microseconds,
		About: "999 of 1,000 answers came within this time; of fewer than 1,000 probes, as with --quick, the slowest"},
	{Name: "max_us", Title: "max us", Unit: microseconds,
		About: "the slowest answer; one that did not come within 200 ms counts as that"},
	{Name: "cpu_percent", Title: "CPU %", Unit: percent,
		About: "CPU time of the carrier's own threads, 100 is one core; empty where the kernel carries on the core of others"},
	{Name: "loss_percent", Title: "loss %", Unit: percent,
		About: "what did not arrive of a paced load (--rate), or probes without an answer within 200 ms"},
	{Name: "load_mpps", Title: "load Mpps", Unit: millions, Info: true, Group: Detail,
		About: "the load that was sent beside the probes of a round-trip case (load=half, load=90)"},
	{Name: "load_loss_percent", Title: "load loss %", Unit: percent, Info: true, Group: Detail,
		About: "how much of that load did not arrive"},

	// Ratios of sluice to a carrier, within one repetition (perf/link).
	carried("forward", Main),
	carried("forward-inline", Main),
	carried("nftables", Main),
	carried("nftables-inline", Main),
	carried("asavie", Main),
	carried("asavie-ports", Main),
	carried("rings", Main),
	carried("haproxy", Main),
	carried("haproxy-http", Main),
	lossFree("forward"),
	lossFree("forward-inline"),
	lossFree("nftables"),
	lossFree("nftables-inline"),
	lossFree("asavie"),
	lossFree("asavie-ports"),
	lossFree("rings"),
	roundTrip("p50", "forward", Detail),
	roundTrip("p50", "forward-inline", Main),
	roundTrip("p50", "nftables", Detail),
	roundTrip("p50", "nftables-inline", Detail),
	roundTrip("p50", "haproxy", Main),
	roundTrip("p99", "forward", Detail),
	roundTrip("p99", "forward-inline", Main),
	roundTrip("p99", "nftables", Detail),
	roundTrip("p99", "nftables-inline", Detail),
	roundTrip("p99", "haproxy", Main),
}

func stage(name, title, does string) Metric {
	return Metric{Name: name, Title: title, Unit: nanoseconds, Group: Stage, About: does + ": its part of a packet's time, by a CPU profile"}
}

// Ratio is the name of a metric that compares sluice with a carrier. kind is what is compared: nothing for what is carried, loss_free,
// p50 or p99.
func Ratio(kind, carrier string) string {
	name := "to_" + strings.ReplaceAll(carrier, "-", "_")
	if kind != "" {
		name = kind + "_" + name
	}
	return name
}

func carried(carrier string, g Group) Metric {
	return Metric{Name: Ratio("", carrier), Title: "x " + carrier, Unit: ratio, Higher: true, Group: g,
		About: "what sluice carries divided by what " + carrier + " does: packets or connections per second of CPU time; with life=whole connections a second, over HTTP requests a second"}
}

func lossFree(carrier string) Metric {
	return Metric{Name: Ratio("loss_free", carrier), Title: "x " + carrier + ", loss-free", Unit: ratio, Higher: true, Group: Detail,
		About: "the loss-free rate of sluice divided by that of " + carrier}
}

func roundTrip(percentile, carrier string, g Group) Metric {
	return Metric{Name: Ratio(percentile, carrier), Title: percentile + " x " + carrier, Unit: ratio, Group: g,
		About: "the " + percentile + " of round trips through sluice divided by that of " + carrier + ", for busy polling with other-core=busy where that was measured"}
}

// Known are all metrics that scenarios may produce, in the order in which they are shown.
func Known() []Metric {
	all := slices.Clone(known)
	for i := range all {
		all[i].order = i
	}
	return all
}

// MetricOf describes a metric. One that is not known is shown by its name, and lower is taken to be better.
func MetricOf(name string) Metric {
	i := slices.IndexFunc(known, func(m Metric) bool { return m.Name == name })
	if i < 0 {
		return Metric{Name: name, Title: name, order: len(known)}
	}
	m := known[i]
	m.order = i
	return m
}

// in is the name under which a case has a metric in its file, or nothing if it shows none of that name.
func (r *Result) in(name string) string {
	switch program := strings.HasPrefix(r.Case, programCases); {
	case program && name == programRun:
		return stored
	case program && name == stored, name == programRun:
		return ""
	}
	return name
}

// Value is a metric's median as it is shown, if the case has it.
func (r *Result) Value(name string) (v float64, ok bool) {
	v, ok = r.Metrics[r.in(name)]
	return v, ok
}
