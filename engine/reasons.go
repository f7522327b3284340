package engine

// Reason names why a packet was dropped. Every dropped packet has exactly one, and each reason one counter.
type Reason uint8

// The reasons.
const (
	NotIP Reason = iota
	VLANUnknown
	VLANTags
	Truncated
	BadHeader
	BadLength
	BadChecksum
	PartialChecksum
	Fragmented
	FragmentTimeout
	FragmentOverlap
	FragmentFull
	ExtensionHeaders
	BadSource
	TTLExpired
	TooBig
	NoVirtualServer
	UnmatchedRate
	Untranslatable
	NoConnection
	EchoRefused
	EchoRate
	NoMember
	MemberLimit
	VirtualLimit
	PersistenceRefused
	VirtualDisabled
	SourceDenied
	SourceRate
	HalfOpenVirtual
	HalfOpenSource
	NoNeighbour
	TableFull
	TupleCollision
	SNATExhausted
	HairpinRefused
	WrongSide
	OutOfWindow
	HandoffFull
	TxFull
	PortDown
	HostOff
	numReasons
)

// ReasonInfo describes a reason to people.
type ReasonInfo struct {
	Name string
	Text string
}

var reasons = [numReasons]ReasonInfo{
	NotIP:              {"not_ip", "not IPv4 or IPv6"},
	VLANUnknown:        {"vlan_unknown", "a VLAN tag that none of the port's vlans has"},
	VLANTags:           {"vlan_tags", "it would leave with more than two VLAN tags"},
	Truncated:          {"truncated", "the frame ends inside a header"},
	BadHeader:          {"bad_header", "a header contradicts itself, or an IPv6 UDP checksum is zero"},
	BadLength:          {"bad_length", "a length field exceeds the frame"},
	BadChecksum:        {"bad_checksum", "a wrong checksum, of IPv4, TCP, UDP, SCTP or ICMP, on a port with checksum: verify"},
	PartialChecksum:    {"partial_checksum", "a checksum that its sender left to a device, on a port with checksum: verify: turn the sender's offload off (ethtool -K DEV tx off), or say checksum: auto"},
	Fragmented:         {"fragment", "part of a datagram that cannot be put together, whose first part is without its whole transport header or was refused, or that has no connection"},
	FragmentTimeout:    {"fragment_timeout", "part of a datagram whose first part did not come in time"},
	FragmentOverlap:    {"fragment_overlap", "part of a datagram that repeats or overlaps another, or goes beyond its end"},
	FragmentFull:       {"fragment_full", "part of a datagram that waited for the first one when there was no room, or of one in too many pieces"},
	ExtensionHeaders:   {"extension_headers", "more IPv6 extension headers than are followed"},
	BadSource:          {"bad_source", "a new connection from an address, or MAC, that nobody can answer to: unspecified, loopback, multicast, reserved, or the virtual address itself"},
	TTLExpired:         {"ttl_expired", "TTL or hop limit of 1 or 0, and no ICMP error may be sent about it (icmp-rate)"},
	TooBig:             {"too_big", "larger than the MTU of the port it would leave by, with DF or IPv6, and no ICMP error may be sent about it (icmp-rate); or there were no free frames for its parts"},
	NoVirtualServer:    {"no_virtual_server", "to a virtual address, but no virtual server has this protocol and port"},
	UnmatchedRate:      {"unmatched_rate", "to a virtual address with unmatched: reset, where no virtual server has this protocol and port, beyond icmp-rate"},
	Untranslatable:     {"untranslatable", "a protocol whose packets do not survive a change of addresses: AH signs them, DCCP and UDP-Lite have checksums that are not followed"},
	NoConnection:       {"no_connection", "TCP to a virtual server, neither of a known connection nor a SYN; or to a SNAT address, of no connection"},
	EchoRefused:        {"echo_refused", "an echo request to a virtual address with echo: off, or with echo: while-up and no member that is up"},
	EchoRate:           {"echo_rate", "an echo request to a virtual address beyond icmp-rate"},
	NoMember:           {"no_member", "the pool has no member that takes new connections"},
	MemberLimit:        {"member_limit", "every member that could take the connection has as many as it may, or as many new ones this second (connection-limit, rate-limit of members)"},
	VirtualLimit:       {"virtual_limit", "the virtual server has as many connections as it may, or as many new ones this second (connection-limit, rate-limit)"},
	PersistenceRefused: {"persistence_refused", "the member of the client's persistence entry does not take the connection and no other may (on-down, on-full: refuse), or there is no room for an entry (entries-full: refuse)"},
	VirtualDisabled:    {"virtual_disabled", "a new connection to a virtual server that an operator has disabled (`sluice virtual enable`)"},
	SourceDenied:       {"source_denied", "a new connection from a source that may not (allow and deny of the virtual server)"},
	SourceRate:         {"source_rate", "the source prefix has had as many new connections to the virtual server as it may this second (source-rate-limit)"},
	HalfOpenVirtual:    {"half_open_virtual", "the virtual server has as many half-open connections as it may (half-open-limit)"},
	HalfOpenSource:     {"half_open_source", "the source prefix has as many half-open connections as it may (half-open-per-source)"},
	NoNeighbour:        {"no_neighbour", "the next hop towards the member, or where the routes lead, has no MAC address yet"},
	TableFull:          {"table_full", "the connection table is full of established connections"},
	TupleCollision:     {"tuple_collision", "every member has a connection from this client port already"},
	SNATExhausted:      {"snat_exhausted", "every SNAT address has all ports of the client's bin in use for every member that was tried (a bin has 1 of 256 ports): add addresses to the snat-pool"},
	HairpinRefused:     {"hairpin_refused", "the client is on the network of the member, whose answer would go past us (hairpin: refuse)"},
	WrongSide:          {"wrong_side", "arrived on another port than its connection uses"},
	OutOfWindow:        {"out_of_window", "a TCP segment outside its connection's window, or an SCTP packet with a wrong verification tag, where these are dropped (out-of-window: drop)"},
	HandoffFull:        {"handoff_full", "the ring to the owning worker was full"},
	TxFull:             {"tx_full", "the transmit ring was full"},
	PortDown:           {"port_down", "the port that it leaves on has no link, or its interface is gone"},
	HostOff:            {"host_off", "for the kernel, but there is no host port"},
}

func (r Reason) String() string { return reasons[r].Name }

// Reasons lists all reasons in the order of Counters.Drops.
func Reasons() []ReasonInfo { return reasons[:] }
