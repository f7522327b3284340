package ctl

import (
	"context"
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/engine"
)

// collectorOf exports a server's counters. It asks the workers once per scrape.
type collectorOf struct{ s *Server }

var (
	serviceLabels = []string{"virtual"}
	memberLabels  = []string{"pool", "member"}
	sideLabel     = "side"
	monitorLabels = []string{"pool", "member", "monitor"}

	descBuild       = desc("build_info", "Version of the running program.", "version")
	descConnections = desc("connections", "Connections in the table.", "worker")
	descCapacity    = desc("connections_limit", "Connections that fit the table.", "worker")
	descReceived    = desc("received_packets_total", "Packets taken from receive rings.", "worker")
	descSent        = desc("sent_packets_total", "Packets taken by transmit rings.", "worker")
	descHost        = desc("host_packets_total", "Packets without a connection, handed to the kernel.", "worker")
	descHanded      = desc("handed_over_packets_total", "Packets given to the worker that owns them.", "worker")
	descAnswered    = desc("answered_packets_total", "Packets that became a RST, an ICMP error or an echo reply.", "worker")
	descUnsent      = desc("unsent_packets_total", "Packets, of those dropped, that were lost on their way out, after they had been counted as going on.", "worker")
	descWaiting     = desc("waiting_parts", "Parts of datagrams that wait for their first.", "worker")
	descDatagrams   = desc("fragmented_datagrams", "Datagrams of which some parts have come and others have not.", "worker")
	descDropped     = desc("dropped_packets_total", "Packets dropped, by reason.", "reason")

	descBusy         = desc("worker_busy_seconds_total", "Time in steps that found work.", "worker")
	descPause        = desc("worker_pause_seconds", "Gaps of more than 100 microseconds between two steps of a worker that was not asleep.", "worker")
	descLargestPause = desc("worker_largest_pause_seconds", "The largest such gap of the last minute.", "worker")
	descHandedIn     = desc("handed_in_packets_total", "Packets taken from workers that do not own them.", "worker")
	descSteering     = desc("port_expected_handed_over_ratio", "Share of a port's packets that steering leaves to be handed over, as computed from what its driver reports.", "port")

	descMoved   = desc("moved_connections_total", "Connections that go through another router or firewall, because theirs stopped serving.")
	descEvicted = desc("evicted_connections_total", "Half-open or closing connections that gave way to new ones.")
	descResets  = desc("sent_resets_total", "RSTs that the engine made.")
	descOutside = desc("out_of_window_segments_total", "TCP segments outside their connection's window.")

	descEnded = desc("ended_connections_total", "Connections that ended because their member stopped serving.")

	descMemberUp      = desc("member_up", "1 if the monitors find the member up.", memberLabels...)
	descMemberChanges = desc("member_changes_total", "Changes of the monitors' verdict.", memberLabels...)
	descProbes        = desc("monitor_probes_total", "Probes that told something about the member.", monitorLabels...)
	descProbeFailures = desc("monitor_failures_total", "Probes that failed.", monitorLabels...)
	descProbesUnsent  = desc("monitor_inconclusive_total", "Probes that could not be made, for a reason on this host.", monitorLabels...)
	descErrors        = desc("translated_icmp_errors_total", "ICMP errors about connections, translated.")
	descICMPSent      = desc("sent_icmp_errors_total", "ICMP errors that the engine made.")
	descSplit         = desc("split_packets_total", "Packets without DF that left in parts, as they were too big for the next link.")
	descRecomputed    = desc("recomputed_checksum_packets_total", "Packets whose checksums were computed anew on arrival.")
	descEchoes        = desc("answered_echo_requests_total", "Echo requests to virtual addresses that the engine answered.")

	descVirtualOpened  = desc("virtual_connections_opened_total", "Connections opened at a virtual server.", serviceLabels...)
	descVirtualActive  = desc("virtual_connections", "Connections open at a virtual server.", serviceLabels...)
	descVirtualPackets = desc("virtual_packets_total", "Packets, by the side they came from.", append(serviceLabels, sideLabel)...)
	descVirtualBytes   = desc("virtual_bytes_total", "Bytes of IP packets, by the side they came from.", append(serviceLabels, sideLabel)...)

	descVirtualUp        = desc("virtual_up", "1 if the virtual server takes new connections: it is not disabled, and a member that may serve it takes some.", serviceLabels...)
	descVirtualDisabled  = desc("virtual_disabled", "1 if an operator has disabled the virtual server.", serviceLabels...)
	descVirtualWithdrawn = desc("virtual_withdrawn", "1 if the virtual server's addresses are withdrawn, because every member is down.", serviceLabels...)

	descMemberOpened  = desc("member_connections_opened_total", "Connections opened to a member.", memberLabels...)
	descMemberActive  = desc("member_connections", "Connections open to a member.", memberLabels...)
	descMemberUsable  = desc("member_usable", "1 if the member takes new connections.", memberLabels...)
	descMemberPackets = desc("member_packets_total", "Packets, by the side they came from.", append(memberLabels, sideLabel)...)
	descMemberBytes   = desc("member_bytes_total", "Bytes of IP packets, by the side they came from.", append(memberLabels, sideLabel)...)

	descSNATPorts   = desc("snat_ports", "Connections from a SNAT address, each with a port of it.", "pool", "address")
	descPortSets    = desc("snat_port_sets", "Sets of SNAT ports in use: one for every SNAT address, port of a member, and bin of clients.")
	descCrowdedSets = desc("snat_crowded_port_sets", "Of these, sets with at most an eighth of their ports left: a warning before connections are dropped as snat_exhausted.")

	descPortReceived = desc("port_received_packets_total", "Packets received on a port.", "port")
	descPortSent     = desc("port_sent_packets_total", "Packets sent on a port.", "port")
	descPortRingFull = desc("port_receive_ring_full_total", "Packets that the kernel dropped on a full receive ring.", "port")
	descPortHeld     = desc("port_held_packets_total", "Packets dropped by the XDP program while no engine served the port.", "port")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("sluice_"+name, help, labels, nil)
}

// Describe sends nothing: members and virtual servers come and go (an unchecked collector).
func (c *collectorOf) Describe(chan<- *prometheus.Desc) {}

// Collect asks the workers and sends all metrics.
func (c *collectorOf) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	snaps, err := c.s.shots.get(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(descConnections, err)
		return
	}
	c.s.mu.RLock()
	defer c.s.mu.RUnlock()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(descBuild, 1, Version)
	for _, w := range c.s.workerViews(snaps) {
		id := strconv.Itoa(w.Worker)
		gauge(descConnections, float64(w.Connections), id)
		gauge(descCapacity, float64(w.Capacity), id)
		count(descReceived, w.Received, id)
		count(descSent, w.Sent, id)
		count(descHost, w.ToHost, id)
		count(descHanded, w.HandedOut, id)
		count(descHandedIn, w.HandedIn, id)
		count(descAnswered, w.Answered, id)
		count(descUnsent, w.Unsent, id)
		gauge(descWaiting, float64(w.Waiting), id)
		gauge(descDatagrams, float64(w.Datagrams), id)
		ch <- prometheus.MustNewConstMetric(descBusy, prometheus.CounterValue, w.BusySeconds, id)
		gauge(descLargestPause, float64(w.LargestPauseUS)/1e6, id)
	}
	for i := range snaps {
		ch <- pauseHistogram(&snaps[i].Pauses, strconv.Itoa(snaps[i].Worker))
	}
	sum := total(snaps)
	for _, d := range Drops(&sum) {
		count(descDropped, d.Count, d.Reason)
	}
	count(descMoved, sum.Moved)
	count(descEvicted, sum.Evicted)
	count(descEnded, sum.Ended)
	count(descResets, sum.Resets)
	count(descOutside, sum.Outside)
	count(descErrors, sum.Errors)
	count(descICMPSent, sum.ICMPSent)
	count(descSplit, sum.Split)
	count(descEchoes, sum.Echoes)
	count(descRecomputed, sum.Recomputed)
	service := func(v *CounterView, opened, active, packets, bytes *prometheus.Desc, labels ...string) {
		count(opened, v.Opened, labels...)
		gauge(active, float64(v.Connections), labels...)
		client, server := append(slices.Clip(labels), "client"), append(slices.Clip(labels), "server")
		count(packets, v.ClientPackets, client...)
		count(packets, v.ServerPackets, server...)
		count(bytes, v.ClientBytes, client...)
		count(bytes, v.ServerBytes, server...)
	}
	for _, v := range c.s.virtualViews(snaps) {
		service(&v.CounterView, descVirtualOpened, descVirtualActive, descVirtualPackets, descVirtualBytes, v.Name)
		gauge(descVirtualUp, oneIf(v.State == VirtualUp), v.Name)
		gauge(descVirtualDisabled, oneIf(v.State == VirtualDisabled), v.Name)
		gauge(descVirtualWithdrawn, oneIf(v.Withdrawn), v.Name)
	}
	for _, m := range c.s.memberViews(snaps) {
		service(&m.CounterView, descMemberOpened, descMemberActive, descMemberPackets, descMemberBytes, m.Pool, m.Name)
		gauge(descMemberUsable, oneIf(m.State == "active"), m.Pool, m.Name)
		if m.Verdict != "" {
			gauge(descMemberUp, oneIf(m.Verdict == "up"), m.Pool, m.Name)
			count(descMemberChanges, m.Changes, m.Pool, m.Name)
		}
	}
	for _, m := range c.s.health.monitorViews() {
		count(descProbes, m.Probes, m.Pool, m.Member, m.Monitor)
		count(descProbeFailures, m.Failures, m.Pool, m.Member, m.Monitor)
		count(descProbesUnsent, m.Inconclusive, m.Pool, m.Member, m.Monitor)
	}
	c.s.collectPersistence(snaps, gauge, count)
	sets, crowded := 0, 0
	for i := range snaps {
		sets, crowded = sets+snaps[i].PortSets, crowded+snaps[i].CrowdedSets
	}
	gauge(descPortSets, float64(sets))
	gauge(descCrowdedSets, float64(crowded))
	for _, a := range c.s.engine.Config().SNAT() {
		sum := sumService(snaps, nodesOf, a.ID)
		gauge(descSNATPorts, float64(sum.Active), a.Pool, a.Addr.String())
	}
	for _, p := range c.s.portViews(snaps) {
		count(descPortReceived, p.Received, p.Name)
		count(descPortSent, p.Sent, p.Name)
		count(descPortRingFull, p.RingFull, p.Name)
		count(descPortHeld, p.Held, p.Name)
		gauge(descSteering, p.HandedOver, p.Name)
	}
}

func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// pauseHistogram has the classes of pauses as cumulative buckets.
func pauseHistogram(p *engine.Pauses, labels ...string) prometheus.Metric {
	buckets, n := map[float64]uint64{}, uint64(0)
	for i, bound := range engine.PauseBounds() {
		n += p.Classes[i]
		buckets[bound.Seconds()] = n
	}
	n += p.Classes[len(p.Classes)-1]
	return prometheus.MustNewConstHistogram(descPause, n, float64(p.Sum)/1e9, buckets, labels...)
}
