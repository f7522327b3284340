package result

import "slices"

// Metric says what a metric's number means.
type Metric struct {
	Name   string
	Title  string // for people, with the unit
	Higher bool   // higher is better; of a metric that is neither, Info is true
	Info   bool   // a measure of the surroundings, not of the engine
	Group  Group
	Plot   bool // worth a drawing
	order  int
}

// Group is where a metric is shown.
type Group uint8

// The groups.
const (
	Main   Group = iota
	Detail       // in reports only
	Stage        // in a table of stages
)

// known are the metrics in the order in which they are shown.
var known = []Metric{
	{Name: "ns_per_packet", Title: "ns/packet", Plot: true},
	{Name: "raw_ns_per_packet", Title: "ns/packet with generator", Group: Detail},
	{Name: "generator_ns_per_packet", Title: "generator ns", Info: true, Group: Detail},
	{Name: "raw_to_net", Title: "raw/net", Info: true},
	{Name: "floor_ns_per_packet", Title: "floor ns with generator", Info: true, Group: Detail},
	{Name: "to_floor", Title: "x floor"},
	{Name: "gomap_ns", Title: "Go map ns", Info: true},
	{Name: "to_gomap", Title: "x Go map"},
	{Name: "mpps", Title: "Mpps", Higher: true, Plot: true},
	{Name: "mpps_per_core", Title: "Mpps/core", Higher: true, Group: Detail},
	{Name: "raw_mpps", Title: "Mpps with generator", Higher: true, Group: Detail},
	{Name: "gbit_per_second", Title: "Gbit/s", Higher: true},
	{Name: "to_first", Title: "x smallest"},
	{Name: "core_percent", Title: "core %", Info: true},
	{Name: "speedup", Title: "x one worker", Higher: true},
	{Name: "allocations_per_packet", Title: "allocs/packet"},
	{Name: "bytes_per_connection", Title: "B/connection"},

	{Name: "parse_ns", Title: "parse ns", Group: Stage},
	{Name: "lookup_ns", Title: "look-up ns", Group: Stage},
	{Name: "steer_ns", Title: "steer ns", Group: Stage},
	{Name: "schedule_ns", Title: "schedule ns", Group: Stage},
	{Name: "rewrite_ns", Title: "rewrite ns", Group: Stage},
	{Name: "rings_ns", Title: "rings ns", Group: Stage},
	{Name: "timers_ns", Title: "timers ns", Group: Stage},
	{Name: "other_ns", Title: "other ns", Group: Stage},

	{Name: "requests_per_second", Title: "requests/s", Higher: true, Plot: true},
	{Name: "connections_per_second", Title: "connections/s", Higher: true, Plot: true},
	{Name: "p50_us", Title: "p50 us", Plot: true},
	{Name: "p99_us", Title: "p99 us", Plot: true},
	{Name: "p999_us", Title: "p99.9 us"},
	{Name: "max_us", Title: "max us"},
	{Name: "cpu_percent", Title: "CPU %"},
	{Name: "loss_percent", Title: "loss %"},
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
