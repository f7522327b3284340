package engine

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"sync/atomic"

	"sluice/flow"
	"sluice/rewrite"
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
	Members   []MemberSpec
	// Minimum is how many usable members a group needs to take connections, if any group has as many. 0 is 1.
	Minimum int
	// ReturnAfter is how long a group must have been usable again before it takes over from a lower one, and SlowStart how
	// long a member that comes up takes part with a growing share; milliseconds.
	ReturnAfter, SlowStart uint32
	// AllDown is what happens to new connections while no member is usable; Fallback is the index in Pools for AllDownPool.
	AllDown  AllDown
	Fallback int
}

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
	Name     string
	Addr     netip.Addr
	Port     uint16 // 0: any
	Proto    uint8  // 0: any but ICMP
	Pool     int    // index in Pools
	Timeouts Timeouts
	// UnmatchedHost hands packets to this address that no virtual server wants to the kernel; else they are dropped.
	UnmatchedHost bool
	MidStream     MidStream
	// OnePacket treats each UDP datagram by itself: no entry in the table, a member for each, the answer translated back.
	OnePacket bool
	// ResetExpired sends a RST to both ends of a TCP connection that expires.
	ResetExpired bool
	// HalfOpenLimit bounds the half-open and unanswered connections; 0: no limit.
	HalfOpenLimit int
	// Limit bounds the connections over all workers, Rate the new ones per second; 0: no limit.
	Limit, Rate int
	// Stateless forwards what finds the table full by the pool's hash alone, without an entry: the member is the same for
	// every packet of a client. Only for pools that hash.
	Stateless bool
	// ResetRefused answers a SYN that finds no member, or a limit, with a RST; else it is dropped.
	ResetRefused bool
	// SNAT names the SNATSpec of connections to members: of all with FullNAT, else of those that Hairpin says.
	SNAT    string
	FullNAT bool
	Hairpin Hairpin
}

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
		if r.Replied() {
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

// Config is a compiled configuration: immutable, shared by all workers. Virtual servers and nodes are found by
// their ids, which stay the same from one configuration to the next, so that flows outlive configurations.
type Config struct {
	Generation  uint64
	Ports       []PortSpec
	Host        *HostSpec
	virtuals    []virtual              // by id; the zero value is one that does not exist, one that drains has its VirtualSpec
	nodes       []node                 // by id
	names       map[uint32]*memberName // by node id, for people
	addrs       []flow.Addr
	pools       []pool
	services    services
	owners      owners
	answers     services // of members of virtual servers that may do without entries: whose answers they are
	sources     SourceLimit
	dropOutside bool
	places      []place  // by node id
	exits       []exit   // by port
	leastMTU    int      // of all of them: only what is larger is looked at again
	icmpRate    int      // a worker's share
	snat        services // SNAT addresses: node is the id, id the range of ports that are ours alone
	hasSNAT     bool
	snatPools   []snatPool
}

// exit is a port as packets that cannot go on see it.
type exit struct {
	addr4, addr6 flow.Addr // the zero value: none
	mtu          int
}

type virtual struct {
	VirtualSpec
	exists bool
	addr   flow.Addr
	pool   *pool
	shared *shared
	snat   *snatPool
	// halfOpen is a worker's share of HalfOpenLimit.
	halfOpen int32
}

// node is where a member's frames go; read for every packet to it, so it is small.
type node struct {
	l2     rewrite.L2
	port   uint16
	ok     bool
	exists bool
	// halfLife is that of the member's handshake times, in milliseconds; 0: they are not measured.
	halfLife uint32
}

type member struct {
	MemberSpec
	id     uint32
	addr   flow.Addr
	shared *shared
	subnet flow.Addr // of Subnet, masked
	// subnetBits are counted from the beginning of the mapped address; 0: no subnet
	subnetBits int
}

type memberName struct{ pool, Name string }

type pool struct {
	name                   string
	index                  int
	schedulerName          string
	needs                  sched.Needs // of any group
	hash                   sched.HashInput
	minimum                int
	returnAfter, slowStart uint64
	groups                 []group // the highest priority first
	allDown                AllDown
	fallback               *pool // for AllDownPool
}

// group is the members of a pool that have a priority.
type group struct {
	priority  int
	scheduler sched.Scheduler
	needs     sched.Needs
	members   []member
	weights   []sched.Candidate // only the weights
	turn      *atomic.Uint64    // shared by all workers
	limited   bool              // a member has a limit of connections
}

// each calls f for every member.
func (p *pool) each(f func(g *group, m *member)) {
	for i := range p.groups {
		for j := range p.groups[i].members {
			f(&p.groups[i], &p.groups[i].members[j])
		}
	}
}

// NewConfig compiles spec. The dictionary gives ids; it is extended, never changed.
func NewConfig(spec Spec, dict *Dictionary) (*Config, error) {
	c := &Config{Generation: spec.Generation, Ports: slices.Clone(spec.Ports), Host: spec.Host, owners: newOwners(spec.ClientEnd, spec.Workers, spec.RSSTableSize),
		dropOutside: spec.DropOutside, sources: spec.Sources}
	if c.sources.HalfOpen > 0 {
		c.sources.HalfOpen = share(c.sources.HalfOpen, c.owners.workers)
	}
	c.compileExits(spec.ICMPRate)
	c.pools = make([]pool, len(spec.Pools))
	for i := range spec.Pools {
		c.pools[i].index = i
		if err := c.pools[i].compile(&spec.Pools[i], dict); err != nil {
			return nil, err
		}
	}
	if err := c.linkPools(spec.Pools); err != nil {
		return nil, err
	}
	var err error
	if c.snatPools, err = newSNATPools(spec.SNAT, dict); err != nil {
		return nil, err
	}
	c.addrs = dict.addrs()
	c.nodes = make([]node, len(c.addrs))
	c.names = map[uint32]*memberName{}
	for i := range c.pools {
		var err error
		halfLife := uint32(0)
		if c.pools[i].needs&sched.NeedsLatency != 0 {
			if halfLife = spec.Pools[i].Options.HalfLife; halfLife == 0 {
				halfLife = sched.DefaultHalfLife
			}
		}
		c.pools[i].each(func(_ *group, m *member) {
			c.names[m.id] = &memberName{c.pools[i].name, m.Name}
			if m.Hop.Port < 0 || m.Hop.Port >= len(spec.Ports) {
				err = fmt.Errorf("pool %s member %s: no port %d", c.pools[i].name, m.Name, m.Hop.Port)
				return
			}
			c.nodes[m.id] = node{halfLife: halfLife, exists: true, ok: m.Hop.OK, port: uint16(m.Hop.Port), l2: rewrite.MakeL2(m.Hop.MAC, spec.Ports[m.Hop.Port].MAC)}
		})
		if err != nil {
			return nil, err
		}
	}
	c.placeMembers()
	for id, d := range spec.Draining.Nodes {
		if hop := d.Hop; int(id) < len(c.nodes) && !c.nodes[id].exists && hop.Port >= 0 && hop.Port < len(spec.Ports) {
			c.nodes[id] = node{ok: hop.OK, port: uint16(hop.Port), l2: rewrite.MakeL2(hop.MAC, spec.Ports[hop.Port].MAC)}
			c.names[id] = &memberName{d.Pool, d.Name}
		}
	}
	if err := c.compileVirtuals(spec.Virtuals, dict, len(spec.Draining.Virtuals)); err != nil {
		return nil, err
	}
	for id, v := range spec.Draining.Virtuals {
		for len(c.virtuals) <= int(id) {
			c.virtuals = append(c.virtuals, virtual{})
		}
		if !c.virtuals[id].exists {
			c.virtuals[id].VirtualSpec = v
			c.services.addAddress(flow.AddrFrom(v.Addr))
		}
	}
	return c, c.compileSNAT(&spec, c.snatPools)
}

func (c *Config) compileExits(rate int) {
	c.leastMTU = math.MaxInt
	for _, p := range c.Ports {
		e := exit{mtu: p.MTU}
		if p.Addr4.IsValid() {
			e.addr4 = flow.AddrFrom(p.Addr4)
		}
		if p.Addr6.IsValid() {
			e.addr6 = flow.AddrFrom(p.Addr6)
		}
		if p.MTU > 0 {
			c.leastMTU = min(c.leastMTU, p.MTU)
		}
		c.exits = append(c.exits, e)
	}
	if rate > 0 {
		c.icmpRate = share(rate, c.owners.workers)
	}
}

// linkPools sets what pools fall back to, which must not lead back to them.
func (c *Config) linkPools(specs []PoolSpec) error {
	for i := range specs {
		if specs[i].AllDown != AllDownPool {
			continue
		}
		if specs[i].Fallback < 0 || specs[i].Fallback >= len(c.pools) {
			return fmt.Errorf("pool %s: no pool %d to fall back to", specs[i].Name, specs[i].Fallback)
		}
		c.pools[i].fallback = &c.pools[specs[i].Fallback]
	}
	for i := range c.pools {
		n := 0
		for p := c.pools[i].fallback; p != nil; p = p.fallback {
			if n++; n > len(c.pools) {
				return fmt.Errorf("pool %s: the pools that it falls back to lead round in a circle", c.pools[i].name)
			}
		}
	}
	return nil
}

// eachServing calls f for every member that may serve a virtual server with this pool.
func (p *pool) eachServing(f func(m *member)) {
	for ; p != nil; p = p.fallback {
		p.each(func(_ *group, m *member) { f(m) })
	}
}

func (p *pool) compile(spec *PoolSpec, dict *Dictionary) error {
	p.allDown = spec.AllDown
	p.name, p.schedulerName, p.hash, p.minimum = spec.Name, spec.Scheduler, spec.Hash, spec.Minimum
	p.returnAfter, p.slowStart = uint64(spec.ReturnAfter), uint64(spec.SlowStart)
	if err := spec.Hash.Check(); err != nil {
		return fmt.Errorf("pool %s: %w", spec.Name, err)
	}
	for _, m := range spec.Members {
		at := slices.IndexFunc(p.groups, func(g group) bool { return g.priority <= m.Priority })
		if at < 0 {
			at = len(p.groups)
		}
		if at == len(p.groups) || p.groups[at].priority != m.Priority {
			p.groups = slices.Insert(p.groups, at, group{priority: m.Priority, turn: dict.turn(spec.Name, m.Priority)})
		}
		g := &p.groups[at]
		id := dict.node(spec.Name, m.Addr, m.Port)
		dict.member(id).state.Store(m.State.pack())
		compiled := member{MemberSpec: m, id: id, addr: flow.AddrFrom(m.Addr), shared: dict.member(id)}
		if m.Subnet.IsValid() {
			compiled.subnetBits = m.Subnet.Bits() + 128 - m.Subnet.Addr().BitLen()
			compiled.subnet = maskAddr(flow.AddrFrom(m.Subnet.Addr()), compiled.subnetBits)
		}
		g.members = append(g.members, compiled)
		g.weights = append(g.weights, sched.Candidate{Weight: m.Weight})
		g.limited = g.limited || m.Limit > 0
	}
	for i := range p.groups {
		g := &p.groups[i]
		members := make([]sched.Member, len(g.members))
		for j := range g.members {
			m := &g.members[j]
			members[j] = sched.Member{Weight: m.Weight, ID: sched.Identity(m.addr, m.Port)}
		}
		var err error
		if g.scheduler, err = sched.New(spec.Scheduler, members, spec.Options); err != nil {
			return fmt.Errorf("pool %s: %w", spec.Name, err)
		}
		g.needs = g.scheduler.Needs()
		p.needs |= g.needs
	}
	return nil
}

func (c *Config) compileVirtuals(specs []VirtualSpec, dict *Dictionary, draining int) error {
	c.services = newServices(len(specs) + draining)
	for _, s := range specs {
		if s.Pool < 0 || s.Pool >= len(c.pools) {
			return fmt.Errorf("virtual server %s: no pool %d", s.Name, s.Pool)
		}
		id := dict.virtual(s.Addr, s.Port, s.Proto)
		for len(c.virtuals) <= int(id) {
			c.virtuals = append(c.virtuals, virtual{})
		}
		if c.virtuals[id].exists {
			return fmt.Errorf("virtual server %s: %s already has %v port %d", s.Name, c.virtuals[id].Name, s.Addr, s.Port)
		}
		v := virtual{VirtualSpec: s, exists: true, addr: flow.AddrFrom(s.Addr), pool: &c.pools[s.Pool], shared: dict.services[id]}
		if v.Timeouts == (Timeouts{}) {
			v.Timeouts = DefaultTimeouts
		}
		if s.HalfOpenLimit > 0 {
			v.halfOpen = int32(share(s.HalfOpenLimit, c.owners.workers))
		}
		if err := v.resolveSNAT(c.snatPools); err != nil {
			return err
		}
		c.virtuals[id] = v
		c.services.add(v.addr, s.Port, s.Proto, id, s.UnmatchedHost)
	}
	return c.compileAnswers()
}

// share is a worker's part of a limit, at least one.
func share(limit, workers int) int { return (limit + workers - 1) / workers }

// withoutEntry reports whether packets may be forwarded without an entry in the table.
func (v *virtual) withoutEntry() bool { return v.OnePacket || v.Stateless }

// compileAnswers makes the table of the members of virtual servers that may do without entries. A member's answers must belong to one
// virtual server: without an entry nothing else tells them apart.
func (c *Config) compileAnswers() error {
	n := 0
	for i := range c.virtuals {
		if c.virtuals[i].exists && c.virtuals[i].withoutEntry() {
			c.virtuals[i].pool.eachServing(func(*member) { n++ })
		}
	}
	c.answers = newServices(n)
	for id := range c.virtuals {
		v := &c.virtuals[id]
		if !v.exists || !v.withoutEntry() {
			continue
		}
		for p := v.pool; p != nil && v.Stateless; p = p.fallback {
			if p.needs != sched.NeedsHash {
				return fmt.Errorf("virtual server %s: only a pool whose scheduler hashes clients can do without the table, and pool %s does not", v.Name, p.name)
			}
		}
		var err error
		v.pool.eachServing(func(m *member) {
			port := m.servicePort(v.Port)
			if other := c.answers.find(m.addr, port, v.Proto); other != 0 && other != uint32(id) {
				err = fmt.Errorf("virtual servers %s and %s may both forward without an entry in the table and share member %s port %d: its answers could belong to either",
					v.Name, c.virtuals[other].Name, m.Name, port)
				return
			}
			c.answers.add(m.addr, port, v.Proto, uint32(id), false)
			c.answers.slot(m.addr, uint32(v.Proto)<<16|uint32(port)).node = m.id
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// timeouts are those of a connection's virtual server, or the defaults when nothing is known of it any more.
func (c *Config) timeouts(r *flow.Record) *Timeouts {
	if int(r.VS) < len(c.virtuals) && c.virtuals[r.VS].Timeouts != (Timeouts{}) {
		return &c.virtuals[r.VS].Timeouts
	}
	return &DefaultTimeouts
}
