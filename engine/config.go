package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"

	"sluice/flow"
	"sluice/rewrite"
	"sluice/sched"
)

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
	echoes      []echo // what entries of services for addresses point to
	owners      owners
	answers     services // of members of virtual servers that may do without entries: whose answers they are
	serverEnds  services // members' ends of connections, with the port that leads there; only where there are prefixes
	sources     SourceLimit
	dropOutside bool
	places      []place  // by node id
	exits       []exit   // by port
	macs        []uint64 // by port; the first byte is the lowest
	// senders are what frames from a port begin with, but for the destination.
	senders     [][16]byte
	leastMTU    int      // of all of them: only what is larger is looked at again
	plainMost   uint32   // the largest packet that may be plain: leastMTU, as a length that a packet can have
	icmpRate    int      // a worker's share
	snat        services // SNAT addresses: node is the id, id the range of ports that are ours alone
	hasSNAT     bool
	transparent bool         // a virtual server has such a mode
	firewalls   [][]firewall // by port
	routes      routes
	unpooled    pool // of virtual servers in mode Forward
	snatPools   []snatPool
	tunnels     []rewrite.Tunnel // by node id
	tunnelHeads []tunnelHeads    // likewise; nil: no virtual server has tunnels
	tunnelEnds  services         // of all of them, the far ones
	hasTunnels  bool             // there is one
	sourceRates *sourceRates     // nil: no virtual server has a limit
	lanes       []lane           // by port; nil: no port is a VLAN
	lanePorts   []lanePort       // by key

	persistences     []persistence
	persistenceRules []flow.PersistenceRule // by id
	persists         bool                   // a virtual server has persistence
	homes            services               // members of those by address: key is the pool's index plus one, id the member's
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
	// persistence is nil where there is none.
	persistence *persistence
	takes       []prefix // of a Firewall's destinations
	// halfOpen is a worker's share of HalfOpenLimit.
	halfOpen int32
	access   *access
	inOrder  bool // meetsOrder
}

// node is where a member's frames go. It is read for every packet to the member, and a line of the cache has two: with thousands of members it
// matters how many lines they are.
type node struct {
	l2   rewrite.L2
	v4   [4]byte
	port uint16
	ok   bool
	_    uint8 // with ok and port a word of 4 bytes
	// halfLife is that of the member's handshake times, in milliseconds; 0: they are not measured.
	halfLife uint32
	exists   bool
	route    bool // not of a pool: a next hop of the kernel's
	_        [6]byte
}

type member struct {
	MemberSpec
	id     uint32
	addr   flow.Addr
	shared *shared
	subnet flow.Addr // of Subnet, masked
	// subnetBits are counted from the beginning of the mapped address; 0: no subnet
	subnetBits int
	snat       *snatPool // of connections to it; nil: the virtual server's
	route      bool      // not of a pool: a next hop of the kernel's
}

type memberName struct{ pool, Name string }

type pool struct {
	name                   string
	index                  int
	schedulerName          string
	needs                  sched.Needs // of any group
	hash                   sched.HashInput
	symmetric              bool
	minimum                int
	returnAfter, slowStart uint64
	groups                 []group // the highest priority first
	allDown                AllDown
	fallback               *pool // for AllDownPool
	direct                 bool  // isDirect
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
	if err := c.compileVLANs(); err != nil {
		return nil, err
	}
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
	if err := c.resolveMembers(); err != nil {
		return nil, err
	}
	if err := c.compileRoutes(spec.Routes, dict); err != nil {
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
			c.nodes[m.id] = c.nodeOf(m)
			c.nodes[m.id].halfLife = halfLife
		})
		if err != nil {
			return nil, err
		}
	}
	c.placeMembers()
	c.placeRoutes()
	for id, d := range spec.Draining.Nodes {
		if hop := d.Hop; int(id) < len(c.nodes) && !c.nodes[id].exists && hop.Port >= 0 && hop.Port < len(spec.Ports) {
			c.nodes[id] = node{ok: hop.OK, port: uint16(hop.Port), l2: rewrite.MakeL2(hop.MAC, spec.Ports[hop.Port].MAC)}
			c.names[id] = &memberName{d.Pool, d.Name}
		}
	}
	for i := range c.nodes {
		binary.BigEndian.PutUint32(c.nodes[i].v4[:], c.addrs[i].V4())
	}
	if err := c.compilePersistence(spec.Persistences, dict); err != nil {
		return nil, err
	}
	if err := c.compileVirtuals(spec.Virtuals, dict, len(spec.Draining.Virtuals)+spec.snatAddresses()); err != nil {
		return nil, err
	}
	c.placeHomes()
	for id, v := range spec.Draining.Virtuals {
		for len(c.virtuals) <= int(id) {
			c.virtuals = append(c.virtuals, virtual{})
		}
		if !c.virtuals[id].exists {
			c.virtuals[id].VirtualSpec = v
			c.addDraining(&v)
		}
	}
	c.compileTransparent(&spec)
	if err := c.compileTunnels(&spec, dict); err != nil {
		return nil, err
	}
	if err := c.compileSNAT(&spec, c.snatPools); err != nil {
		return nil, err
	}
	c.compileFirst()
	return c, c.sortServices()
}

// compileFirst notes what the first packets of connections would else find out each for itself.
func (c *Config) compileFirst() {
	for i := range c.virtuals {
		v := &c.virtuals[i]
		v.inOrder = v.meetsOrder()
		if v.Timeouts == (Timeouts{}) { // nothing is known of it any more
			v.Timeouts = DefaultTimeouts
		}
	}
	for i := range c.pools {
		c.pools[i].direct = c.pools[i].isDirect()
	}
}

// nodeOf is the node of a member.
func (c *Config) nodeOf(m *member) node {
	return node{exists: true, route: m.route, ok: m.Hop.OK, port: uint16(m.Hop.Port), l2: rewrite.MakeL2(m.Hop.MAC, c.Ports[m.Hop.Port].MAC)}
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
		c.macs = append(c.macs, binary.LittleEndian.Uint64(append(p.MAC[:], 0, 0)))
		var sender [16]byte
		copy(sender[6:], p.MAC[:])
		c.senders = append(c.senders, sender)
	}
	c.plainMost = uint32(min(c.leastMTU, math.MaxUint16))
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
	p.name, p.schedulerName, p.hash, p.symmetric, p.minimum = spec.Name, spec.Scheduler, spec.Hash, spec.Symmetric, spec.Minimum
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
			members[j] = sched.Member{Weight: m.Weight, ID: p.identity(m)}
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
	n := draining + 2*len(c.Ports)
	for i := range specs {
		n += len(specs[i].All())
	}
	c.services = newServices(n)
	c.addPortAddresses()
	var err error
	for _, s := range specs {
		served := &c.unpooled
		if s.Mode != Forward {
			if s.Pool < 0 || s.Pool >= len(c.pools) {
				return fmt.Errorf("virtual server %s: no pool %d", s.Name, s.Pool)
			}
			served = &c.pools[s.Pool]
		}
		first := s.All()[0]
		id := dict.virtual(s.Entry(c.Ports))
		for len(c.virtuals) <= int(id) {
			c.virtuals = append(c.virtuals, virtual{})
		}
		if c.virtuals[id].exists {
			return fmt.Errorf("virtual server %s: %s already has %s", s.Name, c.virtuals[id].Name, first)
		}
		v := virtual{VirtualSpec: s, exists: true, addr: flow.AddrFrom(first.Prefix.Addr()), pool: served, shared: dict.services[id]}
		if v.Timeouts == (Timeouts{}) {
			v.Timeouts = DefaultTimeouts
		}
		if s.HalfOpenLimit > 0 {
			v.halfOpen = int32(share(s.HalfOpenLimit, c.owners.workers))
		}
		if v.access, err = s.compileAccess(); err != nil {
			return err
		}
		if s.SourceRate > 0 {
			c.sourceRates = dict.sourceRates()
		}
		v.shared.disable(s.Disabled)
		if err := errors.Join(v.resolveSNAT(c.snatPools), v.resolvePersistence(c.persistences)); err != nil {
			return err
		}
		c.virtuals[id] = v
		if err := c.addDestinations(&c.virtuals[id], id); err != nil {
			return err
		}
	}
	c.compileEchoes()
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
			port := m.servicePort(v.All()[0].Ports.First)
			if other := c.answers.findAddress(m.addr, port, v.Proto); other != 0 && other != uint32(id) {
				err = fmt.Errorf("virtual servers %s and %s may both forward without an entry in the table and share member %s port %d: its answers could belong to either",
					v.Name, c.virtuals[other].Name, m.Name, port)
				return
			}
			c.answers.add(m.addr, port, v.Proto, uint32(id), UnmatchedDrop)
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
	if int(r.VS) < len(c.virtuals) {
		return &c.virtuals[r.VS].Timeouts
	}
	return &DefaultTimeouts
}
