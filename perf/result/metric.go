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
	{Name: "to_nat", Title: "x nat"},
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
	{Name: "connections_per_core_second", Title: "connections/core s", Higher: true, Group: Detail},
	{Name: "loss_free_mpps", Title: "loss-free Mpps", Higher: true, Plot: true},
	{Name: "p50_us", Title: "p50 us", Plot: true},
	{Name: "p99_us", Title: "p99 us", Plot: true},
	{Name: "p999_us", Title: "p99.9 us"},
	{Name: "max_us", Title: "max us"},
	{Name: "cpu_percent", Title: "CPU %"},
	{Name: "loss_percent", Title: "loss %"},
	{Name: "load_mpps", Title: "load Mpps", Info: true, Group: Detail},
	{Name: "load_loss_percent", Title: "load loss %", Info: true, Group: Detail},

	// Ratios of sluice to a carrier, within one repetition (perf/link).
	{Name: "to_forward", Title: "x forward", Higher: true},
	{Name: "to_forward_inline", Title: "x forward-inline", Higher: true, Group: Detail},
	{Name: "to_nftables", Title: "x nftables", Higher: true},
	{Name: "to_nftables_inline", Title: "x nftables-inline", Higher: true},
	{Name: "to_asavie", Title: "x asavie", Higher: true},
	{Name: "to_asavie_ports", Title: "x asavie-ports", Higher: true, Group: Detail},
	{Name: "to_rings", Title: "x rings", Higher: true},
	{Name: "to_haproxy", Title: "x haproxy", Higher: true},
	{Name: "to_haproxy_http", Title: "x haproxy-http", Higher: true},
	{Name: "loss_free_to_forward", Title: "x forward, loss-free", Higher: true, Group: Detail},
	{Name: "loss_free_to_forward_inline", Title: "x forward-inline, loss-free", Higher: true, Group: Detail},
	{Name: "loss_free_to_nftables", Title: "x nftables, loss-free", Higher: true, Group: Detail},
	{Name: "loss_free_to_nftables_inline", Title: "x nftables-inline, loss-free", Higher: true, Group: Detail},
	{Name: "loss_free_to_asavie", Title: "x asavie, loss-free", Higher: true, Group: Detail},
	{Name: "loss_free_to_asavie_ports", Title: "x asavie-ports, loss-free", Higher: true, Group: Detail},
	{Name: "loss_free_to_rings", Title: "x rings, loss-free", Higher: true, Group: Detail},
	{Name: "p50_to_forward", Title: "p50 x forward", Group: Detail},
	{Name: "p50_to_forward_inline", Title: "p50 x forward-inline"},
	{Name: "p50_to_nftables", Title: "p50 x nftables", Group: Detail},
	{Name: "p50_to_nftables_inline", Title: "p50 x nftables-inline", Group: Detail},
	{Name: "p50_to_haproxy", Title: "p50 x haproxy"},
	{Name: "p99_to_forward", Title: "p99 x forward", Group: Detail},
	{Name: "p99_to_forward_inline", Title: "p99 x forward-inline"},
	{Name: "p99_to_nftables", Title: "p99 x nftables", Group: Detail},
	{Name: "p99_to_nftables_inline", Title: "p99 x nftables-inline", Group: Detail},
	{Name: "p99_to_haproxy", Title: "p99 x haproxy"},
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
