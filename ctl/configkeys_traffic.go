package ctl

import (
	"net"
	"net/netip"
	"time"

	"github.com/goccy/go-yaml/ast"

	"sluice/flow"
)

// The keys of ports, pools and virtual servers.

const endLimits = "ip:ports, [ip]:ports or prefix:ports; ports with commas, ranges, or any"

const nameLimits = "1 to 64 letters, digits and ._-:[]"

// nameKey is the key "name". One that is not required gets its default from File.complete.
func nameKey[T any](otherwise, example, text string, field func(*T) *string) configKey[T] {
	return textKey(keyDoc{name: "name", kind: "name", limits: nameLimits, required: otherwise == "", otherwise: otherwise, example: example, text: text},
		parseName, field)
}

var portKeys = mapping[Port]{what: "a port", later: []string{"snat", "mtu"}, keys: []configKey[Port]{
	nameKey("that of the interface", "outside", "Name of the port, unique.", func(p *Port) *string { return &p.Name }),
	textKey(keyDoc{name: "interface", kind: "interface name", required: true, limits: "at most 15 characters", example: "eth1", text: "The network interface, unique."},
		parseInterface, func(p *Port) *string { return &p.Interface }),
	autoNumberKey(keyDoc{name: "queues", example: "4", text: "Number of receive queues to serve, from queue 0. auto serves all that the interface has."},
		1, 1024, func(p *Port) *int { return &p.Queues }),
	textKey(keyDoc{name: "mac", kind: "MAC address", otherwise: "that of the interface", limits: "of one station", example: "02:00:00:00:01:01", text: "Only used offline (replay, explain)."},
		parseMAC, func(p *Port) *net.HardwareAddr { return &p.MAC }),
	scalarsKey(keyDoc{name: "addresses", kind: "list of addresses with prefix length", otherwise: "those of the interface", example: "[172.16.10.1/24]", text: "Only used offline (replay, explain)."},
		textKey(keyDoc{kind: "address with prefix length"}, parsePrefix, func(p *netip.Prefix) *netip.Prefix { return p }), func(p *Port) *[]netip.Prefix { return &p.Addresses }),
	listKey(keyDoc{name: "vlans", example: "[{name: red, id: 10}]", text: "VLANs (802.1Q) whose frames come tagged on this interface, each like a port of its own: its frames have the tag, on arrival and when they leave. The port itself then stands for frames without a tag; those with other tags are dropped. Without this list tags are kept as they come, and say nothing. The NIC must leave tags in the frames (ethtool -K DEV rxvlan off; sluice doctor)."},
		&vlanKeys, func(p *Port) *[]VLAN { return &p.VLANs }),
	wordKey(keyDoc{name: "checksum", def: "auto", example: "verify", text: "What is done about checksums of packets that arrive. trust carries them on, changed as addresses and ports are: what was damaged arrives as damaged. verify drops wrong ones. recompute makes them all anew, and hides damage. auto is trust, and samples packets for checksums that a sender on a virtual link (veth, virtio) has left to its device: once one is seen it is said in the log, and such packets have their checksum computed from then on. That costs time; better turn it off at the sender (ethtool -K DEV tx off)."},
		[]Checksum{ChecksumAuto, ChecksumTrust, ChecksumVerify, ChecksumRecompute}, nil, func(p *Port) *Checksum { return &p.Checksum }),
	jumboKey,
}}

var neighbourKeys = mapping[Neighbour]{what: "a neighbour", keys: []configKey[Neighbour]{
	textKey(keyDoc{name: "address", kind: "IP address", required: true, example: "192.168.20.1", text: "Its address, on the network of the port."},
		parseAddr, func(n *Neighbour) *netip.Addr { return &n.Address }),
	textKey(keyDoc{name: "mac", kind: "MAC address", required: true, limits: "of one station", example: "02:00:00:00:14:01", text: "Its MAC address."},
		parseMAC, func(n *Neighbour) *net.HardwareAddr { return &n.MAC }),
	textKey(keyDoc{name: "port", kind: "name", required: true, limits: "of a port", example: "inside", text: "The port behind which it is."},
		parseName, func(n *Neighbour) *string { return &n.Port }),
}}

var routeKeys = mapping[Route]{what: "a route", later: []string{"port", "metric"}, keys: []configKey[Route]{
	textKey(keyDoc{name: "prefix", kind: "network", required: true, limits: "no bits beyond its length", example: "0.0.0.0/0", text: "The destinations."},
		parseNetwork, func(r *Route) *netip.Prefix { return &r.Prefix }),
	textKey(keyDoc{name: "via", kind: "IP address", required: true, limits: "same family as prefix", example: "172.16.10.55", text: "The next hop, a neighbour of a port."},
		parseAddr, func(r *Route) *netip.Addr { return &r.Via }),
}}

var snatPoolKeys = mapping[SNATPool]{what: "a SNAT pool", keys: []configKey[SNATPool]{
	nameKey("", "out", "Name of the pool, unique, and not automap.", func(p *SNATPool) *string { return &p.Name }),
	scalarsKey(keyDoc{name: "addresses", kind: "list of IP addresses", required: true, example: "[192.168.20.200, 192.168.20.201]", text: "The addresses, at most 64. A client gets the same one as long as it has a free port."},
		textKey(keyDoc{kind: "IP address"}, parseAddr, func(a *netip.Addr) *netip.Addr { return a }), func(p *SNATPool) *[]netip.Addr { return &p.Addresses }),
	textKey(keyDoc{name: "ports", kind: "range of ports", def: "1024-65535", limits: "first-last, at least 256", example: "32768-60999", text: "Source ports, and ICMP query ids, of each address. Each address has all of them for each port of each member. Of a client's address and port follows which 1 in 256 of the ports it can have, so a few clients may find none when others still would."},
		parsePortRange, func(p *SNATPool) *flow.PortRange { return &p.Ports }),
	textKey(keyDoc{name: "port", kind: "name", limits: "of a port", otherwise: "the last port", example: "inside", text: "The port on which the addresses are put: where the members are."},
		parseName, func(p *SNATPool) *string { return &p.Port }),
	wordKey(keyDoc{name: "address-handling", def: "managed", example: "external", text: "managed puts the addresses on the port and announces them. external leaves both to you."},
		[]AddressHandling{AddressManaged, AddressExternal}, nil, func(p *SNATPool) *AddressHandling { return &p.AddressHandling }),
}}

var poolKeys = mapping[Pool]{what: "a pool", later: []string{"snat"}, keys: append([]configKey[Pool]{
	nameKey("", "web", "Name of the pool, unique.", func(p *Pool) *string { return &p.Name }),
	wordKey(keyDoc{name: "scheduler", def: "round-robin", example: "maglev", text: "How the member of a new connection is chosen. round-robin, least-connections and first look at no weights other than 0. fastest takes the shortest handshake, measured on live traffic. source-hash moves only the clients of a member that changes; maglev has more even shares and moves a few of the others' as well."},
		[]Scheduler{RoundRobin, WeightedRoundRobin, LeastConnections, WeightedLeastConnections, Fastest, TwoChoices, SourceHash, Maglev, First, Random},
		nil, func(p *Pool) *Scheduler { return &p.Scheduler }),
	listKey(keyDoc{name: "members", required: true, example: "[{address: 192.168.20.1:80}]", text: "The servers."},
		&memberKeys, func(p *Pool) *[]Member { return &p.Members }),
	nestedKey(keyDoc{name: "hash", example: "{prefix-v4: 24}", text: "What tells clients apart for source-hash and maglev."},
		&hashKeys, func(p *Pool) *Hash { return &p.Hash }),
	autoNumberKey(keyDoc{name: "table-size", example: "65537", text: "Slots of the table of source-hash and maglev, a prime at least twice the members. auto is 100 a member or more; a pool that grows over 655, 1,311 or 5,243 members then moves most clients, which a fixed size avoids."},
		2, 16777213, func(p *Pool) *int { return &p.TableSize }),
	durationKey(keyDoc{name: "half-life", def: "2s", example: "10s", text: "The time in which fastest halves a handshake time that is not measured again, so that a slow member gets its chance."},
		time.Millisecond, time.Hour, func(p *Pool) *time.Duration { return &p.HalfLife }),
	numberKey(keyDoc{name: "minimum-active", def: "1", example: "2", text: "How many usable members the members of a priority must have to take connections; else the next lower priority does. Where none has as many, the highest that has any."},
		1, 65535, func(p *Pool) *int { return &p.MinimumActive }),
	durationKey(keyDoc{name: "return-after", def: "0s", example: "30s", text: "How long after the last connection that it could not take a priority takes connections again from the lower one."},
		0, time.Hour, func(p *Pool) *time.Duration { return &p.ReturnAfter }),
	durationKey(keyDoc{name: "slow-start", def: "0s", example: "30s", text: "How long a member that comes up takes part in choices with a share that grows from nothing to all."},
		0, time.Hour, func(p *Pool) *time.Duration { return &p.SlowStart }),
	tunnelKey,
}, healthKeys...)}

var hashKeys = mapping[Hash]{what: "the hash", keys: []configKey[Hash]{
	flagKey(keyDoc{name: "ports", def: "false", example: "true", text: "Whether the client's port is part of it."}, func(h *Hash) *bool { return &h.Ports }),
	numberKey(keyDoc{name: "prefix-v4", def: "32", example: "24", text: "How many bits of an IPv4 address are part of it."}, 1, 32, func(h *Hash) *int { return &h.Prefix4 }),
	numberKey(keyDoc{name: "prefix-v6", def: "128", example: "64", text: "How many bits of an IPv6 address are part of it."}, 1, 128, func(h *Hash) *int { return &h.Prefix6 }),
}}

var memberKeys = mapping[Member]{what: "a member", later: []string{"monitor"}, keys: []configKey[Member]{
	nameKey("its address", "s1", "Name of the member, unique in the pool.", func(m *Member) *string { return &m.Name }),
	textKey(keyDoc{name: "address", kind: "address", required: true, limits: "ip:port, [ip]:port or ip", example: "192.168.20.1:8080", text: "Where the member listens. Without a port it is that of the virtual server."},
		parseTarget, func(m *Member) *netip.AddrPort { return &m.Address }),
	numberKey(keyDoc{name: "weight", def: "1", example: "3", text: "Share of new connections. 0 takes none, and running ones continue."},
		0, 65535, func(m *Member) *int { return &m.Weight }),
	numberKey(keyDoc{name: "priority", def: "0", example: "10", text: "Members of the highest priority take the connections. When they are full or fewer than minimum-active are usable, the next lower priority does, such as a server that says sorry."},
		0, 65535, func(m *Member) *int { return &m.Priority }),
	numberKey(keyDoc{name: "connection-limit", def: "0", example: "50", text: "How many connections it may have, over all workers and virtual servers, exactly. One counts until it is closed: both ends' FINs are acknowledged, or it was reset. Where answers are not seen (direct-return, tunnel) one counts until its entry goes, unless the client resets it. 0 is no limit."},
		0, 100_000_000, func(m *Member) *int { return &m.ConnectionLimit }),
	numberKey(keyDoc{name: "rate-limit", def: "0", example: "100", text: "How many new connections it may get in a second, over all workers. 0 is no limit."},
		0, 100_000_000, func(m *Member) *int { return &m.RateLimit }),
	textKey(keyDoc{name: "snat", kind: "name", limits: "of a snat-pool, or automap", otherwise: "that of the virtual server", example: "provider-b", text: "Where connections to this member come from, with modes that translate the source. Of a router, an address of its network: answers come back through it."},
		parseName, func(m *Member) *string { return &m.SNAT }),
}}

var virtualServerKeys = mapping[VirtualServer]{what: "a virtual server", later: []string{"tls", "cookie", "rule", "source", "affinity"}, keys: append([]configKey[VirtualServer]{
	nameKey("", "web", "Name of the virtual server, unique.", func(v *VirtualServer) *string { return &v.Name }),
	textKey(keyDoc{name: "address", kind: "address", limits: endLimits, otherwise: "those of addresses", example: "10.10.1.100:80", text: "Where clients connect to: an address or a prefix with its ports, such as 10.10.1.100:80, 10.10.1.100:80,443, 10.10.1.100:8000-8999, 10.20.0.0/16:any. A member without a port is reached on the port that the client asked for. A prefix takes what arrives on port; it is put on no port and nothing announces it: routes lead it here. No multicast, broadcast, loopback or link-local address. Of several virtual servers the one with the longest prefix that wants a packet gets it (an address before all prefixes, 0.0.0.0/0 last); of those the one with its port alone, then a range, then any; then the one with its protocol before any. The same destination twice is refused."},
		parseEnds, func(v *VirtualServer) *ends { return &v.ends }),
	scalarsKey(keyDoc{name: "addresses", kind: "list of addresses", example: "[10.10.1.101:80, 10.20.0.0/16:80-89]", text: "Further ones. All share the pool, limits and counters; the virtual server is known by the first, over reloads and restarts."},
		textKey(keyDoc{kind: "address", limits: endLimits}, parseEnds, func(e *ends) *ends { return e }), func(v *VirtualServer) *[]ends { return &v.moreEnds }),
	wordKey(keyDoc{name: "protocol", required: true, example: "tcp", text: "The protocol. Of SCTP, ends with one address each: other addresses of a multi-homed end belong to no connection. icmp is queries, such as echo, which the kernel answers otherwise; any is every protocol that has no virtual server of its own, by address alone where ports are not known; ICMP only of prefixes, as an address answers it itself. Both have no ports: the address is ip:any."},
		[]Protocol{TCP, UDP, SCTP, ICMP, AnyProtocol}, nil, func(v *VirtualServer) *Protocol { return &v.Protocol }),
	textKey(keyDoc{name: "pool", kind: "name", otherwise: "none, which only mode forward does without", limits: "of a pool", example: "web", text: "The pool that serves it. All members must have addresses of the virtual server's family."},
		parseName, func(v *VirtualServer) *string { return &v.Pool }),
	wordKey(keyDoc{name: "mode", def: "nat", example: "nat", text: "How packets reach the member. nat rewrites the destination to the member, and the source of its answers back; the members route their answers through sluice. fullnat rewrites the source as well, to an address of a SNAT pool, so that members need no route through sluice, and clients and members may be on one network. direct-return changes neither: the member has the virtual address itself, on a loopback, gets the client's packets by its MAC address, on a network of a port, and answers the client past sluice (docs/SERVERS.md has what to set there). tunnel does the same for members anywhere: the packet goes to the member's own address inside another, as the pool's tunnel says, and the member may be of the other family. The others serve destinations that are not ours, which stay as they are: prefixes such as 0.0.0.0/0:any, or addresses, of what arrives on port. router sends each connection to a router of the pool, by its MAC address, from that member's snat if it has one, so that the answer comes back through the same provider. firewall does so with firewalls: everything between two addresses goes through the same one, whichever end opened the connection, by a hash of both; name the firewalls alike on the sluice at their other side; what comes in through one of them is answered through it. forward needs no pool: it goes where the kernel's routes lead, with snat or without."},
		[]Mode{ModeNAT, ModeFullNAT, ModeDirectReturn, ModeTunnel, ModeRouter, ModeFirewall, ModeForward}, []Mode{"splice", "cluster", "proxy"}, func(v *VirtualServer) *Mode { return &v.Mode }),
	textKey(keyDoc{name: "port", kind: "name", limits: "of a port", otherwise: "the first port", example: "outside", text: "The port on which clients arrive: addresses are put on it, and prefixes take only what arrives on it. The same for all virtual servers of an address."},
		parseName, func(v *VirtualServer) *string { return &v.Port }),
	wordKey(keyDoc{name: "address-handling", def: "managed", example: "external", text: "managed puts the address on the port and announces it. external leaves both to you. The same for all virtual servers of an address."},
		[]AddressHandling{AddressManaged, AddressExternal}, nil, func(v *VirtualServer) *AddressHandling { return &v.AddressHandling }),
	wordKey(keyDoc{name: "unmatched", def: "drop", example: "reset", text: "What happens to packets to this address for which there is no virtual server. drop says nothing to their sender, such as a traceroute that is given no port (UDP from 33434 on), which misses its last hop. reset has the engine answer as a host does where nobody listens: TCP with a RST, UDP with port unreachable, other protocols with protocol unreachable (ICMPv6: unrecognized next header), from this address, at most engine.icmp-rate times a second (after a quiet second twice as many in the first), what is beyond is dropped as unmatched_rate; a source that nobody can be is not answered, nor is a RST. ICMP is for echo to say. host hands them to the kernel, which answers for an address that is on the host, as one that is managed is: port unreachable or RST, at its own rate; but whatever listens on all addresses of the host is reached there too. The same for all virtual servers of an address."},
		[]Unmatched{UnmatchedDrop, UnmatchedReset, UnmatchedHost}, nil, func(v *VirtualServer) *Unmatched { return &v.Unmatched }),
	wordKey(keyDoc{name: "echo", def: "kernel", example: "while-up", text: "Who answers echo requests (ping) to this address: the kernel, if the address is the host's, as one that is managed is; the engine, at most engine.icmp-rate times a second; off, nobody; while-up, the engine as long as a virtual server of this address has a member that is up. A virtual server for icmp goes before it. The same for all virtual servers of an address."},
		[]Echo{EchoKernel, EchoEngine, EchoOff, EchoWhileUp}, nil, func(v *VirtualServer) *Echo { return &v.Echo }),
	nestedKey(keyDoc{name: "timeouts", example: "{udp: 30s}", text: "Idle times of this virtual server's connections."},
		timeoutKeys(false), func(v *VirtualServer) *Timeouts { return &v.Timeouts }),
	wordKey(keyDoc{name: "mid-stream", def: "drop", example: "adopt", text: "What happens to a TCP segment that is neither of a known connection nor a SYN: adopt chooses a member and goes on with it there, reset answers with a RST."},
		[]MidStream{MidStreamDrop, MidStreamAdopt, MidStreamReset}, nil, func(v *VirtualServer) *MidStream { return &v.MidStream }),
	flagKey(keyDoc{name: "one-packet", def: "false", example: "true", text: "For UDP: no connection is kept, every datagram is scheduled by itself, and answers are translated back by the member that they come from. For DNS and the like. Its members may serve no other one-packet virtual server on the same port."},
		func(v *VirtualServer) *bool { return &v.OnePacket }),
	flagKey(keyDoc{name: "reset-on-expiry", def: "false", example: "true", text: "Send a RST to both ends of an established TCP connection that expires, so that they need not wait for it."},
		func(v *VirtualServer) *bool { return &v.ResetExpired }),
	numberKey(keyDoc{name: "half-open-limit", def: "0", example: "10000", text: "How many half-open or unanswered connections it may have; the packets that would open more are dropped before a member sees them. 0 is no limit. Each worker enforces its share."},
		0, 100_000_000, func(v *VirtualServer) *int { return &v.HalfOpenLimit }),
	numberKey(keyDoc{name: "connection-limit", def: "0", example: "10000", text: "How many connections it may have, over all workers, exactly. One counts until it is closed, as those of members do. 0 is no limit."},
		0, 100_000_000, func(v *VirtualServer) *int { return &v.ConnectionLimit }),
	numberKey(keyDoc{name: "rate-limit", def: "0", example: "1000", text: "How many new connections it may get in a second, over all workers. 0 is no limit."},
		0, 100_000_000, func(v *VirtualServer) *int { return &v.RateLimit }),
	wordKey(keyDoc{name: "refused", def: "drop", example: "reset", text: "What happens to a SYN that a limit forbids, or for which there is no member or no port of a SNAT address: reset answers with a RST. It is not for sources that allow and deny shut out, which are dropped."},
		[]Refused{RefusedDrop, RefusedReset}, nil, func(v *VirtualServer) *Refused { return &v.Refused }),
	wordKey(keyDoc{name: "table-full", def: "refuse", example: "forward", text: "What happens to a new connection when the table is full of established ones: forward sends its packets to the member that the client's hash says, without an entry, until there is room. Only with source-hash or maglev; its members may serve no other such virtual server on the same port."},
		[]TableFull{TableFullRefuse, TableFullForward}, nil, func(v *VirtualServer) *TableFull { return &v.TableFull }),
	textKey(keyDoc{name: "snat", kind: "name", limits: "of a snat-pool, or automap", otherwise: "none", example: "out", text: "Where connections to members come from: with fullnat all of them, with nat those that hairpin says. automap is the own address of the port behind which the member is, with ports 16384 to 32767, which must not be in ip_local_port_range."},
		parseName, func(v *VirtualServer) *string { return &v.SNAT }),
	wordKey(keyDoc{name: "hairpin", otherwise: "snat where snat is given, else refuse", example: "refuse", text: "With nat, what happens to a client on the network of the member, whose answers would go past sluice: snat gives the connection a SNAT address, refuse tries another member or drops it, forward treats it as any other."},
		[]HairpinMode{HairpinSNAT, HairpinRefuse, HairpinForward}, nil, func(v *VirtualServer) *HairpinMode { return &v.Hairpin }),
	mssKey,
	persistenceKey(),
}, accessKeys...)}

// coresKey is engine.cores, the one key that is a word or a list.
func coresKey(doc keyDoc) configKey[Engine] {
	k := scalarsKey(doc, numberKey(keyDoc{}, 0, 4095, func(n *int) *int { return n }), func(e *Engine) *[]int { return &e.Cores })
	list := k.tree
	k.tree = func(d *decoder, n ast.Node, at string, into *Engine) {
		if s, ok := scalarOf(d.resolve(n)); ok && s.text == "auto" {
			return
		}
		list(d, n, at, into)
	}
	numbers := k.show
	k.show = func(from *Engine, at string, emit func(Setting)) {
		if len(from.Cores) == 0 {
			emit(Setting{at, "auto"})
			return
		}
		numbers(from, at, emit)
	}
	return k
}
