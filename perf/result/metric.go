package result

import "slices"

// Metric says what a metric's number means.
type Metric struct {
	Name   string
	Title  string // for people, with the unit
	Higher bool   // higher is better; of a metric that is neither, Info is true
	Info   bool   // a measure of the surroundings, not of the engine
	order  int
}

// known are the metrics in the order in which they are shown.
var known = []Metric{
	{Name: "ns_per_packet", Title: "ns/packet"},
	{Name: "raw_ns_per_packet", Title: "ns/packet with generator"},
	{Name: "generator_ns_per_packet", Title: "generator ns", Info: true},
	{Name: "raw_to_net", Title: "raw/net", Info: true},
	{Name: "floor_ns_per_packet", Title: "floor ns", Info: true},
	{Name: "to_floor", Title: "x floor"},
	{Name: "gomap_ns", Title: "Go map ns", Info: true},
	{Name: "to_gomap", Title: "x Go map"},
	{Name: "mpps", Title: "Mpps", Higher: true},
	{Name: "mpps_per_core", Title: "Mpps/core", Higher: true},
	{Name: "raw_mpps", Title: "Mpps with generator", Higher: true},
	{Name: "gbit_per_second", Title: "Gbit/s", Higher: true},
	{Name: "to_first", Title: "x smallest"},
	{Name: "core_percent", Title: "core %", Info: true},
	{Name: "speedup", Title: "x one worker", Higher: true},
	{Name: "allocations_per_packet", Title: "allocs/packet"},
	{Name: "bytes_per_connection", Title: "B/connection"},

	{Name: "parse_ns", Title: "parse ns"},
	{Name: "lookup_ns", Title: "look-up ns"},
	{Name: "steer_ns", Title: "steer ns"},
	{Name: "schedule_ns", Title: "schedule ns"},
	{Name: "rewrite_ns", Title: "rewrite ns"},
	{Name: "rings_ns", Title: "rings ns"},
	{Name: "timers_ns", Title: "timers ns"},
	{Name: "other_ns", Title: "other ns"},

	{Name: "requests_per_second", Title: "requests/s", Higher: true},
	{Name: "connections_per_second", Title: "connections/s", Higher: true},
	{Name: "p50_us", Title: "p50 us"},
	{Name: "p99_us", Title: "p99 us"},
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
