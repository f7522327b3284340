// Package ctl is the control side of sluice: the configuration file and what is done with it.
//
// The file is one YAML document. Load turns it into a File in three steps, and reports every problem of every
// step at once, each with line and column:
//
//	bytes ──▶ syntax tree ──▶ File with defaults ──▶ checks across keys ──▶ File, warnings
//	  decode.go      │            configkeys.go            validate.go
//	                 └─ unknown, duplicate and mistyped keys are refused here
//
// configkeys.go is the only list of keys: the decoder reads by it, defaults and ranges come from it, and
// docs/CONFIG.md is generated from it. A File is never changed after Parse returned it and may be shared.
package ctl

import (
	"net"
	"net/netip"
	"time"

	"sluice/ctl/monitor"
	"sluice/engine"
)

// File is a whole configuration, checked, with every default filled in.
type File struct {
	Name           string // of the file, as it was given to Load or Parse
	Engine         Engine
	Timeouts       Timeouts
	Control        Control
	Log            Log
	Ports          []Port // at least one
	Neighbours     []Neighbour
	Routes         []Route
	Monitors       []monitor.Monitor
	SNATPools      []SNATPool
	Pools          []Pool
	Persistences   []Persistence
	VirtualServers []VirtualServer

	where    map[string]position // key path, such as ports[0].name, to its place in the text
	warnings []string
}

// Warnings are remarks about a valid file, in the form of its errors: what has no effect or is risky.
func (f *File) Warnings() []string { return f.warnings }

// Position is the line and column, from 1, of a key path such as "virtual-servers[0].pool", or of the nearest
// enclosing key that the file has. It is 0, 0 for a File that was not parsed.
func (f *File) Position(key string) (line, column int) {
	p := locate(f.where, key)
	return p.line, p.column
}

// Monitor returns the monitor of that name, or nil.
func (f *File) Monitor(name string) *monitor.Monitor {
	return findNamed(f.Monitors, name, func(m *monitor.Monitor) string { return m.Name })
}

// Pool returns the pool of that name, or nil.
func (f *File) Pool(name string) *Pool {
	return findNamed(f.Pools, name, func(p *Pool) string { return p.Name })
}

// Port returns the port of that name, or nil.
func (f *File) Port(name string) *Port {
	return findNamed(f.Ports, name, func(p *Port) string { return p.Name })
}

// VirtualServer returns the virtual server of that name, or nil.
func (f *File) VirtualServer(name string) *VirtualServer {
	return findNamed(f.VirtualServers, name, func(v *VirtualServer) string { return v.Name })
}

func findNamed[T any](list []T, name string, of func(*T) string) *T {
	for i := range list {
		if of(&list[i]) == name {
			return &list[i]
		}
	}
	return nil
}

// Engine sets the packet engine: drivers, workers, memory.
type Engine struct {
	Driver      Driver
	Mode        BindMode
	Workers     int   // 0: auto
	Cores       []int // nil: auto
	Polling     Polling
	BusyPoll    BusyPoll
	Connections int // capacity of the connection table, all workers together
	Frames      int // 0: auto; all ports together
	FrameSize   int // bytes
	RingSize    int // descriptors, of each of the four rings of a queue
	TxBudget    int // frames per wake-up in copy mode
	HoldTime    time.Duration
	AfterHold   AfterHold
	ClientEnd   ClientEnd
	Steering    Steering
	HostPort    bool
	HugePages   HugePages
	OutOfWindow OutOfWindow
	// HalfOpenPerSource bounds the half-open connections of a source prefix; 0: no bound.
	HalfOpenPerSource            int
	SourcePrefix4, SourcePrefix6 int
	ICMPRate                     int  // ICMP errors per second; 0: none
	KeepConnections              bool // the table outlives a killed process
}

// BusyPoll is the kernel's preferred busy polling.
type BusyPoll struct {
	Enabled bool
	Timeout time.Duration // whole microseconds
	Budget  int           // packets
}

// Timeouts are idle times of connections. Those of a VirtualServer are complete: what it does not override is
// the global value.
type Timeouts struct {
	TCPHandshake, TCPEstablished, TCPClosing, TCPClosed time.Duration
	UDP, UDPUnanswered, ICMP, Other                     time.Duration
	SCTPInit, SCTPEstablished, SCTPShutdown, SCTPClosed time.Duration
}

// Log sets the program's own log.
type Log struct {
	Level  LogLevel
	Format LogFormat
}

// Port is one network interface.
type Port struct {
	Name      string
	Interface string
	Queues    int              // 0: auto
	MAC       net.HardwareAddr // nil: the interface's own
	Addresses []netip.Prefix   // with host bits; nil: the kernel's
	VLANs     []VLAN
	Checksum  Checksum
	Jumbo     Jumbo
}

// Neighbour is a static answer to "which MAC has this address".
type Neighbour struct {
	Address netip.Addr
	MAC     net.HardwareAddr
	Port    string
}

// Route is a static route for offline use.
type Route struct {
	Prefix netip.Prefix // host bits are zero
	Via    netip.Addr
}

// Pool is a set of members and the way to choose among them.
type Pool struct {
	Name          string
	Scheduler     Scheduler
	Members       []Member
	Hash          Hash
	TableSize     int           // of maglev and source-hash; 0: by the number of members
	HalfLife      time.Duration // of what fastest has measured
	MinimumActive int
	ReturnAfter   time.Duration
	SlowStart     time.Duration

	Monitors       []string // names of Monitors
	MonitorsNeeded Needed
	Passive        monitor.PassiveConfig
	AllDown        AllDown
	OnDown         OnDown
	StartUp        StartUp
	Tunnel         Tunnel
}

// Hash is what tells clients apart for schedulers that hash.
type Hash struct {
	Ports            bool
	Prefix4, Prefix6 int
}

// Member is a server of a pool.
type Member struct {
	Name    string
	Address netip.AddrPort // port 0: the port of the virtual server
	Weight  int            // 0: no new connections

	Priority        int // the highest takes the connections
	ConnectionLimit int // 0: none
	RateLimit       int // new connections a second; 0: none

	SNAT string // name of a SNATPool, or Automap; empty: that of the virtual server
}

// Target is the member's address and port as a virtual server with that port reaches it.
func (m *Member) Target(virtualPort uint16) netip.AddrPort {
	if m.Address.Port() == 0 {
		return netip.AddrPortFrom(m.Address.Addr(), virtualPort)
	}
	return m.Address
}

// VirtualServer is what clients connect to: addresses or prefixes, with ports, and a protocol.
type VirtualServer struct {
	Name string
	// Destinations are all that it takes, and Address the beginning of the first: its address, or a prefix's first one, and
	// port, 0 for any or a range.
	Destinations    []engine.Destination
	Address         netip.AddrPort
	Protocol        Protocol
	Pool            string // name of a Pool
	Mode            Mode
	Port            string // name of a Port
	AddressHandling AddressHandling
	Unmatched       Unmatched
	Echo            Echo
	Timeouts        Timeouts
	MidStream       MidStream
	OnePacket       bool
	ResetExpired    bool
	HalfOpenLimit   int // 0: none
	ConnectionLimit int // 0: none
	RateLimit       int // new connections a second; 0: none
	Refused         Refused
	TableFull       TableFull
	SNAT            string // name of a SNATPool, or Automap; empty: none
	Hairpin         HairpinMode
	MSSClamp        int            // 0: none, engine.ClampAuto
	Persistence     string         // name of a Persistence; empty: none
	Allow, Deny     []netip.Prefix // of sources
	SourceRate      int            // new connections a second of a source prefix; 0: no limit
	Withdraw        bool           // addresses are taken off their port while every member is down
	Hook            []string       // a program and its arguments; nil: none

	ends     ends     // of address
	moreEnds []ends   // of addresses
	endKeys  []string // where each of Destinations is from
}

// Words of the configuration: each type holds exactly the words that the file may use.
type (
	Driver          string
	BindMode        string
	Polling         string
	AfterHold       string
	ClientEnd       string
	Steering        string
	HugePages       string
	LogLevel        string
	LogFormat       string
	Scheduler       string
	Protocol        string
	Mode            string
	AddressHandling string
	Unmatched       string
	Echo            string
	Checksum        string
	MidStream       string
	OutOfWindow     string
	Refused         string
	TableFull       string
	HairpinMode     string
)

// The words themselves.
const (
	DriverXSK    Driver = "xsk"
	DriverAsavie Driver = "asavie"

	BindAuto     BindMode = "auto"
	BindZeroCopy BindMode = "zero-copy"
	BindCopy     BindMode = "copy"
	BindGeneric  BindMode = "generic"

	PollingBusy      Polling = "busy"
	PollingAdaptive  Polling = "adaptive"
	PollingInterrupt Polling = "interrupt"

	AfterHoldPass AfterHold = "pass"
	AfterHoldDrop AfterHold = "drop"

	ClientEndAddressPort ClientEnd = "address+port"
	ClientEndAddress     ClientEnd = "address"

	SteeringAuto Steering = "auto"
	SteeringOff  Steering = "off"

	HugePagesAuto HugePages = "auto"
	HugePagesOff  HugePages = "off"

	LogDebug LogLevel = "debug"
	LogInfo  LogLevel = "info"
	LogWarn  LogLevel = "warn"
	LogError LogLevel = "error"

	LogText LogFormat = "text"
	LogJSON LogFormat = "json"

	RoundRobin               Scheduler = "round-robin"
	WeightedRoundRobin       Scheduler = "weighted-round-robin"
	LeastConnections         Scheduler = "least-connections"
	WeightedLeastConnections Scheduler = "weighted-least-connections"
	Fastest                  Scheduler = "fastest"
	TwoChoices               Scheduler = "two-choices"
	SourceHash               Scheduler = "source-hash"
	Maglev                   Scheduler = "maglev"
	First                    Scheduler = "first"
	Random                   Scheduler = "random"

	TCP  Protocol = "tcp"
	UDP  Protocol = "udp"
	SCTP Protocol = "sctp"
	ICMP Protocol = "icmp"

	AnyProtocol Protocol = "any"

	ModeNAT     Mode = "nat"
	ModeFullNAT Mode = "fullnat"

	ModeDirectReturn Mode = "direct-return"
	ModeRouter       Mode = "router"
	ModeFirewall     Mode = "firewall"
	ModeForward      Mode = "forward"
	ModeTunnel       Mode = "tunnel"

	HairpinSNAT    HairpinMode = "snat"
	HairpinRefuse  HairpinMode = "refuse"
	HairpinForward HairpinMode = "forward"

	AddressManaged  AddressHandling = "managed"
	AddressExternal AddressHandling = "external"

	UnmatchedDrop  Unmatched = "drop"
	UnmatchedReset Unmatched = "reset"
	UnmatchedHost  Unmatched = "host"

	ChecksumAuto      Checksum = "auto"
	ChecksumTrust     Checksum = "trust"
	ChecksumVerify    Checksum = "verify"
	ChecksumRecompute Checksum = "recompute"

	EchoKernel  Echo = "kernel"
	EchoEngine  Echo = "engine"
	EchoOff     Echo = "off"
	EchoWhileUp Echo = "while-up"

	MidStreamDrop  MidStream = "drop"
	MidStreamAdopt MidStream = "adopt"
	MidStreamReset MidStream = "reset"

	TableFullRefuse  TableFull = "refuse"
	TableFullForward TableFull = "forward"

	RefusedDrop  Refused = "drop"
	RefusedReset Refused = "reset"

	OutOfWindowForward OutOfWindow = "forward"
	OutOfWindowDrop    OutOfWindow = "drop"
)
