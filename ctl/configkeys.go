package ctl

import (
	"time"

	"sluice/ctl/monitor"
)

// The keys, from the whole file downwards. What is written here is what is decoded and what is documented.

var fileKeys = mapping[File]{what: "the file", later: []string{"cluster", "snat", "tls", "include", "rule"}, keys: []configKey[File]{
	nestedKey(keyDoc{name: "engine", example: "{workers: 2}", text: "The packet engine: drivers, workers, memory."},
		&engineKeys, func(f *File) *Engine { return &f.Engine }),
	nestedKey(keyDoc{name: "timeouts", example: "{udp: 30s}", text: "Idle times of connections, for all virtual servers."},
		timeoutKeys(true), func(f *File) *Timeouts { return &f.Timeouts }),
	nestedKey(keyDoc{name: "control", example: "{metrics: 127.0.0.1:9090}", text: "Where the command line and metrics reach the engine."},
		&controlKeys, func(f *File) *Control { return &f.Control }),
	nestedKey(keyDoc{name: "log", example: "{level: debug}", text: "The program's own log, on standard error."},
		&logKeys, func(f *File) *Log { return &f.Log }),
	listKey(keyDoc{name: "ports", required: true, example: "[{name: outside, interface: eth1}]", text: "The network interfaces that the engine serves."},
		&portKeys, func(f *File) *[]Port { return &f.Ports }),
	listKey(keyDoc{name: "neighbours", example: "[{address: 192.168.20.1, mac: 02:00:00:00:14:01, port: inside}]",
		text: "Static neighbours. Needed offline, where no kernel is asked; live they go before the kernel's."},
		&neighbourKeys, func(f *File) *[]Neighbour { return &f.Neighbours }),
	listKey(keyDoc{name: "routes", example: "[{prefix: 0.0.0.0/0, via: 172.16.10.55}]", text: "Static routes, offline only; live they are the kernel's."},
		&routeKeys, func(f *File) *[]Route { return &f.Routes }),
	listKey(keyDoc{name: "monitors", example: "[{name: web-alive, type: http, http: {path: /health}}]", text: "Ways to find out whether a member works, for pools to use."},
		&monitorKeys, func(f *File) *[]monitor.Monitor { return &f.Monitors }),
	listKey(keyDoc{name: "snat-pools", example: "[{name: out, addresses: [192.168.20.200]}]", text: "Addresses that connections to members come from, for mode fullnat."},
		&snatPoolKeys, func(f *File) *[]SNATPool { return &f.SNATPools }),
	listKey(keyDoc{name: "pools", example: "[{name: web, members: [{address: 192.168.20.1:80}]}]", text: "Sets of servers."},
		&poolKeys, func(f *File) *[]Pool { return &f.Pools }),
	listKey(keyDoc{name: "persistences", example: "[{name: shop, timeout: 30m}]", text: "Memories of which member had a client's last connection, for virtual servers to use."},
		&persistenceKeys, func(f *File) *[]Persistence { return &f.Persistences }),
	listKey(keyDoc{name: "virtual-servers", example: "[{name: web, address: 10.10.1.100:80, protocol: tcp, pool: web}]", text: "What clients connect to."},
		&virtualServerKeys, func(f *File) *[]VirtualServer { return &f.VirtualServers }),
}}

var engineKeys = mapping[Engine]{what: "the engine", later: []string{"bins", "asymmetric", "survival", "handover"}, keys: []configKey[Engine]{
	wordKey(keyDoc{name: "driver", def: "xsk", example: "xsk", text: "xsk is sluice's own AF_XDP driver. asavie is the github.com/asavie/xdp library, for comparison."},
		[]Driver{DriverXSK, DriverAsavie}, []Driver{"pcap", "mem", "dpdk"}, func(e *Engine) *Driver { return &e.Driver }),
	wordKey(keyDoc{name: "mode", def: "auto", example: "copy", text: "How AF_XDP binds. auto takes the best that the interface supports, in the order zero-copy, copy, generic; another word pins it."},
		[]BindMode{BindAuto, BindZeroCopy, BindCopy, BindGeneric}, nil, func(e *Engine) *BindMode { return &e.Mode }),
	autoNumberKey(keyDoc{name: "workers", example: "2", text: "Number of workers. auto is one per queue, at most one per core."},
		1, 64, func(e *Engine) *int { return &e.Workers }),
	coresKey(keyDoc{name: "cores", kind: "list of numbers, or auto", otherwise: "auto", example: "[1, 2]", text: "Cores that workers are pinned to, in order, each used once before any is used again. auto chooses."}),
	wordKey(keyDoc{name: "polling", def: "adaptive", example: "busy", text: "busy never sleeps. interrupt sleeps whenever there is nothing to do. adaptive polls for a while, then sleeps."},
		[]Polling{PollingBusy, PollingAdaptive, PollingInterrupt}, nil, func(e *Engine) *Polling { return &e.Polling }),
	nestedKey(keyDoc{name: "busy-poll", example: "{enabled: true}", text: "The kernel's preferred busy polling (SO_PREFER_BUSY_POLL): the driver's receive work is done in the worker's own system calls."},
		&busyPollKeys, func(e *Engine) *BusyPoll { return &e.BusyPoll }),
	numberKey(keyDoc{name: "connections", def: "262144", example: "1000000", text: "Capacity of the connection table, all workers together. The memory for it is taken at start."},
		1024, 100_000_000, func(e *Engine) *int { return &e.Connections }),
	autoNumberKey(keyDoc{name: "frames", example: "16384", text: "Number of packet frames, all ports together. auto fills every ring."},
		64, 1<<24, func(e *Engine) *int { return &e.Frames }),
	choiceKey(keyDoc{name: "frame-size", def: "2048", example: "4096", text: "Bytes of a frame. A packet fits into one frame."},
		[]int{2048, 4096}, func(e *Engine) *int { return &e.FrameSize }),
	choiceKey(keyDoc{name: "ring-size", def: "512", example: "2048", text: "Descriptors in each of the rx, tx, fill and completion rings of a queue."},
		[]int{64, 128, 256, 512, 1024, 2048, 4096}, func(e *Engine) *int { return &e.RingSize }),
	numberKey(keyDoc{name: "tx-budget", def: "64", example: "256", text: "Frames that the kernel sends per wake-up in copy mode (XDP_MAX_TX_SKB_BUDGET, where the kernel has it)."},
		1, 4096, func(e *Engine) *int { return &e.TxBudget }),
	durationKey(keyDoc{name: "hold-time", def: "10s", example: "30s", text: "How long traffic that is ours is dropped rather than passed to the kernel when no engine serves it. The kernel would answer it with resets, and a restarted engine could not save the connections."},
		leastHold, maxDuration, func(e *Engine) *time.Duration { return &e.HoldTime }),
	wordKey(keyDoc{name: "after-hold", def: "pass", example: "drop", text: "What happens to that traffic after the hold time: pass hands it to the kernel."},
		[]AfterHold{AfterHoldPass, AfterHoldDrop}, nil, func(e *Engine) *AfterHold { return &e.AfterHold }),
	wordKey(keyDoc{name: "client-end", def: "address+port", example: "address", text: "What identifies a client when connections are spread over workers. With address all connections of a client meet on one worker."},
		[]ClientEnd{ClientEndAddressPort, ClientEndAddress}, []ClientEnd{"prefix"}, func(e *Engine) *ClientEnd { return &e.ClientEnd }),
	wordKey(keyDoc{name: "steering", def: "auto", example: "off", text: "auto has the interfaces deliver a connection's packets on queues of the worker that owns it, as far as their drivers let themselves be told (ethtool: hash fields, key and indirection table); what it finds is put back at the end. What cannot be steered is handed over between workers."},
		[]Steering{SteeringAuto, SteeringOff}, nil, func(e *Engine) *Steering { return &e.Steering }),
	flagKey(keyDoc{name: "host-port", def: "true", example: "false", text: "Hand frames from members that belong to no connection to the kernel, so that the host's own connections with members work. With false they are dropped."},
		func(e *Engine) *bool { return &e.HostPort }),
	wordKey(keyDoc{name: "huge-pages", def: "auto", example: "off", text: "auto takes huge pages for frames and connections where the system has them, ordinary ones otherwise."},
		[]HugePages{HugePagesAuto, HugePagesOff}, nil, func(e *Engine) *HugePages { return &e.HugePages }),
	wordKey(keyDoc{name: "out-of-window", def: "forward", example: "drop", text: "What happens to a TCP segment outside its connection's window, a RST or SYN that does not fit it exactly, or an SCTP packet with a wrong verification tag. Either way it neither refreshes nor closes the connection; forward leaves the answer (a challenge ACK, RFC 5961) to the ends."},
		[]OutOfWindow{OutOfWindowForward, OutOfWindowDrop}, nil, func(e *Engine) *OutOfWindow { return &e.OutOfWindow }),
	numberKey(keyDoc{name: "half-open-per-source", def: "0", example: "100", text: "How many half-open or unanswered connections a source prefix may have; the SYNs and datagrams that would open more are dropped before a member sees them. 0 is no limit. Each worker enforces its share."},
		0, 65535, func(e *Engine) *int { return &e.HalfOpenPerSource }),
	numberKey(keyDoc{name: "source-prefix-v4", def: "32", example: "24", text: "Length of that prefix for IPv4, and of those that source-rate-limit counts."}, 8, 32, func(e *Engine) *int { return &e.SourcePrefix4 }),
	numberKey(keyDoc{name: "source-prefix-v6", def: "64", example: "56", text: "Length of that prefix for IPv6, and of those that source-rate-limit counts."}, 16, 128, func(e *Engine) *int { return &e.SourcePrefix6 }),
	numberKey(keyDoc{name: "icmp-rate", def: "1000", example: "100", text: "How many ICMP errors a second the engine sends about packets that cannot go on, how many echo requests it answers (echo of virtual servers), and how many packets for no virtual server (unmatched: reset), each apart from the others: TTL used up (so that traceroute shows the engine), or too big for the port they would leave by (so that their sender finds the path MTU). These errors come from the first global address of the port that the packet came in by. Beyond the rate, and with 0, such packets are dropped without a word. Each worker has its share."},
		0, 1_000_000, func(e *Engine) *int { return &e.ICMPRate }),
	flagKey(keyDoc{name: "keep-connections", def: "true", example: "false", text: "Keep the connection table in files, so that a sluice that is started after another was killed goes on with its connections."},
		func(e *Engine) *bool { return &e.KeepConnections }),
}}

// leastHold is several times what passes between two signs of life (beatInterval).
const leastHold = time.Second

var busyPollKeys = mapping[BusyPoll]{what: "busy polling", keys: []configKey[BusyPoll]{
	flagKey(keyDoc{name: "enabled", def: "false", example: "true", text: "Whether it is used."}, func(b *BusyPoll) *bool { return &b.Enabled }),
	durationKey(keyDoc{name: "timeout", def: "20us", example: "50us", text: "SO_BUSY_POLL."}, time.Microsecond, time.Second, func(b *BusyPoll) *time.Duration { return &b.Timeout }),
	numberKey(keyDoc{name: "budget", def: "64", example: "128", text: "SO_BUSY_POLL_BUDGET: packets per poll."}, 1, 65535, func(b *BusyPoll) *int { return &b.Budget }),
}}

// timeoutKeys are the keys of timeouts. Those of a virtual server have no defaults here: File.complete gives
// them the global values, which may come later in the file.
func timeoutKeys(global bool) *mapping[Timeouts] {
	k := func(name, def, example, text string, field func(*Timeouts) *time.Duration) configKey[Timeouts] {
		doc := keyDoc{name: name, def: def, example: example, text: text}
		if !global {
			doc.def, doc.otherwise = "", "that of timeouts"
		}
		return durationKey(doc, time.Millisecond, maxDuration, field)
	}
	return &mapping[Timeouts]{what: "timeouts", keys: []configKey[Timeouts]{
		k("tcp-handshake", "30s", "10s", "TCP until the handshake is complete.", func(t *Timeouts) *time.Duration { return &t.TCPHandshake }),
		k("tcp-established", "1h", "30m", "TCP connections without a packet.", func(t *Timeouts) *time.Duration { return &t.TCPEstablished }),
		k("tcp-closing", "2m", "30s", "TCP from the first FIN on. The other end may still send, and what is lost may be sent again after a minute: a short time cuts such connections.", func(t *Timeouts) *time.Duration { return &t.TCPClosing }),
		k("tcp-closed", "2s", "10s", "TCP after both FINs were acknowledged, or a valid RST: how long late segments are still translated.", func(t *Timeouts) *time.Duration { return &t.TCPClosed }),
		k("udp", "60s", "30s", "UDP with packets in both directions.", func(t *Timeouts) *time.Duration { return &t.UDP }),
		k("udp-unanswered", "5s", "10s", "UDP until the member has answered.", func(t *Timeouts) *time.Duration { return &t.UDPUnanswered }),
		k("icmp", "10s", "30s", "ICMP queries without a packet in either direction.", func(t *Timeouts) *time.Duration { return &t.ICMP }),
		k("other", "10m", "1h", "Other protocols without a packet.", func(t *Timeouts) *time.Duration { return &t.Other }),
		k("sctp-init", "30s", "10s", "SCTP until the cookie is acknowledged.", func(t *Timeouts) *time.Duration { return &t.SCTPInit }),
		k("sctp-established", "1h", "30m", "SCTP associations without a packet; heartbeats (RFC 9260 section 8.3) count.", func(t *Timeouts) *time.Duration { return &t.SCTPEstablished }),
		k("sctp-shutdown", "30s", "10s", "SCTP from the first SHUTDOWN on.", func(t *Timeouts) *time.Duration { return &t.SCTPShutdown }),
		k("sctp-closed", "2s", "10s", "SCTP after a valid SHUTDOWN COMPLETE or ABORT: how long late packets are still translated.", func(t *Timeouts) *time.Duration { return &t.SCTPClosed }),
	}}
}

var logKeys = mapping[Log]{what: "the log", later: []string{"file", "syslog"}, keys: []configKey[Log]{
	wordKey(keyDoc{name: "level", def: "info", example: "debug", text: "The least severe messages that are written."},
		[]LogLevel{LogDebug, LogInfo, LogWarn, LogError}, nil, func(l *Log) *LogLevel { return &l.Level }),
	wordKey(keyDoc{name: "format", def: "text", example: "json", text: "text is key=value pairs, json one object a line."},
		[]LogFormat{LogText, LogJSON}, nil, func(l *Log) *LogFormat { return &l.Format }),
}}
