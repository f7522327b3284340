package engine

import (
	"net/netip"

	"sluice/flow"
	"sluice/sched"
)

// Spec is what a configuration says, with names and addresses resolved; NewConfig compiles it.
type Spec struct {
	Generation uint64
	Ports      []PortSpec // a port is known by its index here
	Host       *HostSpec  // the port towards the kernel; nil for none
	Pools      []PoolSpec
	Virtuals   []VirtualSpec
	ClientEnd  ClientEnd
	Workers    int // how many workers share the bins
	// RSSTableSize is the number of entries of the smallest indirection table among the NICs; 0: at least as many as bins.
	// It must not change while connections live, but by Scale.
	RSSTableSize int
	// DropOutside drops TCP segments outside their connection's window and SCTP packets with a wrong verification tag, which
	// else are forwarded without effect.
	DropOutside bool
	Draining    Draining
	Sources     SourceLimit
	// ICMPRate is how many ICMP errors about packets that cannot go on are sent per second, over all workers; 0: none.
	ICMPRate int
	SNAT     []SNATSpec
	// Persistences are those that virtual servers name.
	Persistences []PersistenceSpec
	Routes       []RouteSpec // for Forward, and what comes through a firewall
}

// Draining is what the configuration no longer names and connections still use: they go on, new ones do not come. Ids are
// those of the dictionary.
type Draining struct {
	Nodes map[uint32]DrainingNode
	// Virtuals are virtual servers as far as they are known: an address at least. Their connections keep the timeouts.
	Virtuals map[uint32]VirtualSpec
	// SNAT are source addresses; their connections keep them.
	SNAT map[uint32]netip.Addr
}

// DrainingNode is a member that drains.
type DrainingNode struct {
	Pool, Name string
	Hop        Hop
	Tunnel     TunnelSpec
}

// SourceLimit bounds the half-open connections of a source prefix, on each worker by its share.
type SourceLimit struct {
	HalfOpen int // 0: no limit
	Bits4    int // prefix length for IPv4
	Bits6    int
}

// MidStream is what becomes of a TCP segment to a virtual server that is neither of a known connection nor a SYN.
type MidStream uint8

// The settings of MidStream.
const (
	MidStreamDrop  MidStream = iota
	MidStreamAdopt           // a member is chosen and the connection goes on there
	MidStreamReset           // the client gets a RST
)

// PortSpec is one network port.
type PortSpec struct {
	Name string
	MAC  [6]byte
	Down bool // it has no link: what is to leave on it is dropped
	MTU  int  // bytes of IP packet; 0: not known, nothing is too big
	// Addr4 and Addr6 are the port's own addresses, where ICMP errors come from; not valid: none are sent.
	Addr4, Addr6 netip.Addr
	VLAN         VLANSpec
	Checksum     SumPolicy
}

// HostSpec is the host port: frames that have no flow go there.
type HostSpec struct {
	Port int     // index in Ports
	MAC  [6]byte // of the kernel's end
}

// Hop is how frames reach a member.
type Hop struct {
	Port int
	MAC  [6]byte
	OK   bool // the MAC is known
}

// MemberSpec is a member of a pool.
type MemberSpec struct {
	Name     string
	Addr     netip.Addr
	Port     uint16 // 0: the port of the virtual server
	Weight   uint32
	Priority int // of its group: the highest takes the connections
	Limit    int // connections; 0: no limit
	Rate     int // new connections per second; 0: no limit
	State    MemberState
	Hop      Hop
	// Subnet is the network that the member and we are both on; the zero value is one that is not known, or none.
	Subnet netip.Prefix
	// SNAT names the SNATSpec of connections to this member instead of the virtual server's.
	SNAT string
}

// MemberState is whether a member takes connections, and since when. That of a compiled configuration is where it begins;
// SetMembers changes it.
type MemberState struct {
	Kind  MemberKind
	Since uint64 // milliseconds of the engine's clock when it came up; 0: long ago
}

// MemberKind is whether a member takes connections.
type MemberKind uint8

// The kinds. Connections that a member has go on, whatever it is.
const (
	MemberUp       MemberKind = iota
	MemberDown                // by its monitors
	MemberDraining            // none but by persistence
	MemberDisabled
)

// PoolSpec is a pool of members.
type PoolSpec struct {
	Name      string
	Scheduler string
	Options   sched.Options
	Hash      sched.HashInput
	// Symmetric has both ends of a connection hashed, whichever opened it, and members known by their names, so that machines to
	// which they have different addresses agree on them.
	Symmetric bool
	Members   []MemberSpec
	// Minimum is how many usable members a group needs to take connections, if any group has as many. 0 is 1.
	Minimum int
	// ReturnAfter is how long a group must have been usable again before it takes over from a lower one, and SlowStart how
	// long a member that comes up takes part with a growing share; milliseconds.
	ReturnAfter, SlowStart uint32
	// AllDown is what happens to new connections while no member is usable; Fallback is the index in Pools for AllDownPool.
	AllDown  AllDown
	Fallback int
	// Tunnel is how members are reached by virtual servers with mode Tunnel.
	Tunnel TunnelSpec
}

// Unmatched is what becomes of packets to a virtual address that no virtual server wants. ICMP is for Echo to say.
type Unmatched uint8

// The settings of Unmatched.
const (
	UnmatchedDrop  Unmatched = iota
	UnmatchedHost            // the kernel has them
	UnmatchedReset           // they are answered as by a host where nobody listens (unmatched.go)
)

// AllDown is what happens to new connections of a pool without a usable member.
type AllDown uint8

// The settings of AllDown.
const (
	AllDownRefuse   AllDown = iota // as the virtual server refuses
	AllDownReset                   // a RST
	AllDownFailOpen                // members that are down are chosen among: better a chance than none
	AllDownPool                    // another pool serves
)

// VirtualSpec is a virtual server.
type VirtualSpec struct {
	Name string
	// Addr and Port are where it is, if Destinations says nothing; port 0 is any.
	Addr  netip.Addr
	Port  uint16
	Proto uint8 // 0: any, ICMP only where Destinations are prefixes
	// Destinations are all that it takes, the first of which is what it is known by; they share the pool, limits and counters.
	// Prefixes among them take only what arrives on the port Ingress, an index in Ports.
	Destinations []Destination
	Ingress      int
	Pool         int // index in Pools
	Timeouts     Timeouts
	// Unmatched is what becomes of packets to this address that no virtual server wants.
	Unmatched Unmatched
	// Echo is who answers echo requests to this address; the same for all of its virtual servers.
	Echo      Echo
	MidStream MidStream
	// OnePacket treats each UDP datagram by itself: no entry in the table, a member for each, the answer translated back.
	OnePacket bool
	// ResetExpired sends a RST to both ends of a TCP connection that expires.
	ResetExpired bool
	// HalfOpenLimit bounds the half-open and unanswered connections; 0: no limit.
	HalfOpenLimit int
	// Allow and Deny are prefixes of sources that may open connections, or not. The longest that holds a source decides; in none,
	// it may if Allow is empty.
	Allow, Deny []netip.Prefix
	// SourceRate bounds the new connections per second of a source prefix, whose lengths are those of Sources; at most
	// MaxSourceRate, 0: no limit.
	SourceRate int
	// Disabled refuses new connections; SetVirtual changes it.
	Disabled bool
	// Limit bounds the connections over all workers, Rate the new ones per second; 0: no limit.
	Limit, Rate int
	// Stateless forwards what finds the table full by the pool's hash alone, without an entry: the member is the same for
	// every packet of a client. Only for pools that hash.
	Stateless bool
	// ResetRefused answers a SYN that finds no member, or a limit, with a RST; else it is dropped.
	ResetRefused bool
	Mode         Mode
	// SNAT names the SNATSpec of connections to members: of all with FullNAT, else of those that Hairpin says.
	SNAT    string
	Hairpin Hairpin
	// MSSClamp bounds the maximum segment size that SYNs of either end announce, as far as they pass here: 0 is none, ClampAuto
	// what the smaller of both ports, and a tunnel, can carry.
	MSSClamp int
	// Persistence names the PersistenceSpec of its clients; empty: none.
	Persistence string
}

// Mode is how connections of a virtual server reach their member.
type Mode uint8

// The modes.
const (
	NAT     Mode = iota // the destination becomes the member's
	FullNAT             // and the source a SNAT address
	// DirectReturn changes no address: members have the virtual address themselves, and answer past us.
	DirectReturn
	Tunnel // the same, but the packet goes to the member inside another
)

// Timeouts are idle times in milliseconds, below 2^31.
type Timeouts struct {
	Handshake     uint32 // TCP before it is established
	Established   uint32
	Closing       uint32 // after a FIN: the other end may go on sending for long, and its last segments be lost on the way
	Closed        uint32 // after both FINs are acknowledged, or a RST: how long late segments are still translated
	UDP           uint32
	UDPUnanswered uint32
	ICMP          uint32 // queries, answered or not
	Other         uint32 // protocols of which nothing is known

	SCTPInit        uint32 // SCTP before it is established
	SCTPEstablished uint32
	SCTPShutdown    uint32 // after a SHUTDOWN
	SCTPClosed      uint32 // after SHUTDOWN COMPLETE or ABORT: how long late packets are still translated
}

// DefaultTimeouts are used where the configuration says nothing.
var DefaultTimeouts = Timeouts{
	Handshake: 30_000, Established: 3_600_000, Closing: 120_000, Closed: 2_000, UDP: 60_000, UDPUnanswered: 5_000, ICMP: 10_000, Other: 600_000,
	SCTPInit: 30_000, SCTPEstablished: 3_600_000, SCTPShutdown: 30_000, SCTPClosed: 2_000,
}

// of is the timeout that applies to a connection in its present state.
func (t *Timeouts) of(r *flow.Record) uint32 { return t.at(r.Proto(), r) }

// at is of for a record that has yet to be given its protocol.
func (t *Timeouts) at(proto uint8, r *flow.Record) uint32 {
	switch proto {
	case flow.TCP, flow.UDP:
	case flow.SCTP:
		return t.ofSCTP(r.SCTPState())
	case flow.ICMP, flow.ICMPv6:
		return t.ICMP
	default:
		return t.Other
	}
	switch r.TCPState() {
	case flow.TCPNone:
		if r.Replied() || r.OneSided() { // what is not seen may still be there
			return t.UDP
		}
		return t.UDPUnanswered
	case flow.TCPSynSent, flow.TCPSynReceived:
		return t.Handshake
	case flow.TCPEstablished:
		return t.Established
	case flow.TCPClosed:
		return t.Closed
	}
	return t.Closing
}

func (t *Timeouts) ofSCTP(s flow.SCTPState) uint32 {
	switch s {
	case flow.SCTPInitSent, flow.SCTPCookie:
		return t.SCTPInit
	case flow.SCTPEstablished:
		return t.SCTPEstablished
	case flow.SCTPClosed:
		return t.SCTPClosed
	}
	return t.SCTPShutdown
}
