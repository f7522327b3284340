package engine

import (
	"fmt"
	"net/netip"

	"sluice/flow"
)

// Decision is where a packet goes.
type Decision string

// The decisions.
const (
	DecideConnect Decision = "connect" // to a member, as a new connection
	DecideHost    Decision = "host"    // to the kernel
	DecideDrop    Decision = "drop"
)

// Explanation says where the first packet of a connection goes and why. It comes from the same tables and functions
// as the packet path, and takes no turn.
type Explanation struct {
	Decision Decision
	Reason   string // for a drop: its name; for the host: why
	Bin      int    // of the client's end
	Worker   int    // owner of the connection
	Ingress  string // port that the packet is taken to arrive on

	Virtual    string
	Pool       string
	Scheduler  string
	Turn       uint64
	Candidates []CandidateInfo
	Member     string
	ToServer   *Rewrite    // what the member receives
	ToClient   *Rewrite    // what the client receives of the answer; nil where answers bypass us
	Tunnel     *TunnelInfo // what the member receives it in; nil without a tunnel
}

// CandidateInfo is a member as the scheduler sees it.
type CandidateInfo struct {
	Member   string
	Address  string
	Weight   uint32
	Priority int
	Active   int64
	Chosen   bool
	Note     string // why it cannot take the connection
}

// Rewrite is one direction of a connection before and after.
type Rewrite struct {
	Before, After Tuple
	Port          string // egress
	MAC           string // Ethernet destination; empty: that of the client's packets
}

// Tuple is source and destination.
type Tuple struct{ Src, Dst netip.AddrPort }

// Owner is the worker that owns packets of a tuple that arrive on a port: where a NIC whose hash is ours delivers them.
func (c *Config) Owner(k *flow.Key, ingress int) int { return c.owner(k, uint16(ingress)) }

// Explain says what would happen under c to the first packet from src to dst, if it arrived where clients do: on the first
// port on which a virtual server wants it.
func (c *Config) Explain(proto uint8, src, dst netip.AddrPort) Explanation {
	k := flow.Key{Src: flow.AddrFrom(src.Addr()), Dst: flow.AddrFrom(dst.Addr()), Ports: flow.Ports(src.Port(), dst.Port()), Proto: proto}
	for ingress := range c.services.networks.lengths {
		if c.find(&k, uint16(ingress)) != 0 {
			return c.ExplainOn(ingress, proto, src, dst)
		}
	}
	return c.ExplainOn(0, proto, src, dst)
}

// ExplainOn is Explain for a packet that arrives on a port, by its index. That an address of the host's own is never taken
// by a prefix is the XDP program's to see.
func (c *Config) ExplainOn(ingress int, proto uint8, src, dst netip.AddrPort) Explanation {
	k := flow.Key{Src: flow.AddrFrom(src.Addr()), Dst: flow.AddrFrom(dst.Addr()), Ports: flow.Ports(src.Port(), dst.Port()), Proto: proto}
	e := Explanation{Worker: c.owner(&k, uint16(ingress)), Bin: int(c.owners.bin(k.Src, k.SrcPort())), Ingress: c.Ports[ingress].Name}
	id := c.find(&k, uint16(ingress))
	if id == 0 {
		switch virtual, host := c.covered(&k, uint16(ingress)); {
		case virtual && host:
			e.Decision, e.Reason = DecideHost, "the address is virtual, no virtual server has this protocol and port, and unmatched is host"
		case virtual:
			e.Decision, e.Reason = DecideDrop, NoVirtualServer.String()
		default:
			e.Decision, e.Reason = DecideHost, "the destination is not a virtual address: the XDP program leaves the packet to the kernel"
		}
		return e
	}
	v := &c.virtuals[id]
	e.Virtual, e.Pool, e.Scheduler = v.Name, v.pool.name, v.pool.schedulerName
	if why, ok := v.admits(k.Src); !ok {
		e.Decision, e.Reason = DecideDrop, why.String()
		return e
	}
	var search choice
	search.apply(c)
	c.explainPick(&e, v, &k, &search, 0)
	return e
}

// explainPick does what connect does, with turns and places that are looked at and not taken.
func (c *Config) explainPick(e *Explanation, v *virtual, k *flow.Key, search *choice, now uint64) {
	c.explainCandidates(e, v.pool, k, search)
	if v.Limit > 0 && v.shared.active.Load() >= int64(v.Limit) {
		e.Decision, e.Reason = DecideDrop, VirtualLimit.String()
		return
	}
	search.begin(v.pool, k, now, true)
	m := search.next()
	for p := v.pool; p != search.pool; {
		p = p.fallback
		e.Pool, e.Scheduler = p.name, p.schedulerName
		c.explainCandidates(e, p, k, search)
	}
	e.Turn = search.in.Turn
	if m == nil {
		e.Decision, e.Reason = DecideDrop, search.why.String()
		return
	}
	c.explainRewrite(e, v, k, m)
}

// explainCandidates lists the members of a pool.
func (c *Config) explainCandidates(e *Explanation, p *pool, k *flow.Key, search *choice) {
	for i := range p.groups {
		g, s := &p.groups[i], &search.pools[p.index].groups[i]
		for j := range g.members {
			m := &g.members[j]
			info := CandidateInfo{Member: m.Name, Weight: m.Weight, Priority: m.Priority, Active: m.shared.active.Load(),
				Address: netip.AddrPortFrom(m.Addr, m.servicePort(k.DstPort())).String()}
			switch {
			case m.Weight == 0:
				info.Note = "weight 0 takes no new connection"
			case m.state().Kind != MemberUp:
				info.Note = m.state().Kind.String()
			case !m.Hop.OK:
				info.Note = NoNeighbour.String()
			case !s.available.Has(j):
				info.Note = "not available"
			case m.Limit > 0 && info.Active >= int64(m.Limit):
				info.Note = MemberLimit.String()
			}
			e.Candidates = append(e.Candidates, info)
		}
	}
}

// String is the word for people.
func (k MemberKind) String() string {
	switch k {
	case MemberDown:
		return "down"
	case MemberDraining:
		return "draining"
	case MemberDisabled:
		return "disabled"
	}
	return "up"
}

func (c *Config) explainRewrite(e *Explanation, v *virtual, k *flow.Key, m *member) {
	snat, why, ok := v.translates(m, k.Src)
	if !ok {
		e.Decision, e.Reason = DecideDrop, why.String()
		return
	}
	e.Decision, e.Member = DecideConnect, m.Name
	for i := range e.Candidates {
		e.Candidates[i].Chosen = e.Candidates[i].Member == m.Name
	}
	client := netip.AddrPortFrom(k.Src.Netip(), k.SrcPort())
	virtual := netip.AddrPortFrom(k.Dst.Netip(), k.DstPort())
	server := netip.AddrPortFrom(m.Addr, m.servicePort(k.DstPort()))
	if !v.Mode.translates() {
		server = virtual
	}
	source := client
	if snat {
		if source, ok = c.explainSource(v, k, m); !ok {
			e.Decision, e.Reason = DecideDrop, SNATExhausted.String()
			return
		}
	}
	e.ToServer = &Rewrite{
		Before: Tuple{client, virtual}, After: Tuple{source, server},
		Port: c.Ports[m.Hop.Port].Name, MAC: macString(m.Hop.MAC),
	}
	if v.Mode == Tunnel {
		e.Tunnel = c.explainTunnel(m)
	}
	if !v.Mode.directReturn() {
		e.ToClient = &Rewrite{Before: Tuple{server, source}, After: Tuple{virtual, client}}
	}
}

// explainSource is where the connection would come from as the first of all: others have other ports of the bin, and perhaps
// another address of the pool.
func (c *Config) explainSource(v *virtual, k *flow.Key, m *member) (netip.AddrPort, bool) {
	bin := c.owners.bin(k.Src, k.SrcPort())
	for i := range v.snat.addrs {
		a := &v.snat.addrs[i]
		if !a.reaches(m) || a.Ports.Ports(bin) == 0 {
			continue
		}
		port, ok := flow.NewSourcePorts(1, pickSeed).Take(flow.Destination{}, bin, a.Ports, k.SrcPort())
		return netip.AddrPortFrom(a.Addr, port), ok
	}
	return netip.AddrPort{}, false
}

func macString(m [6]byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// VirtualInfo is a virtual server of a configuration, with its id in Snapshot.Virtual.
type VirtualInfo struct {
	ID uint32
	VirtualSpec
	PoolName string
}

// Virtuals lists the virtual servers.
func (c *Config) Virtuals() []VirtualInfo {
	var out []VirtualInfo
	for id := range c.virtuals {
		if v := &c.virtuals[id]; v.exists {
			out = append(out, VirtualInfo{uint32(id), v.VirtualSpec, v.pool.name})
		}
	}
	return out
}

// PoolInfo is a pool of a configuration.
type PoolInfo struct {
	Name      string
	Scheduler string
	Members   []MemberInfo // the highest priority first
}

// MemberInfo is a member, with its id in Snapshot.Node.
type MemberInfo struct {
	ID uint32
	MemberSpec
	Active int64 // connections over all workers
}

// Pools lists the pools.
func (c *Config) Pools() []PoolInfo {
	out := make([]PoolInfo, len(c.pools))
	for i := range c.pools {
		p := &c.pools[i]
		out[i] = PoolInfo{Name: p.name, Scheduler: p.schedulerName}
		p.each(func(_ *group, m *member) {
			info := MemberInfo{m.id, m.MemberSpec, m.shared.active.Load()}
			info.State = m.state()
			out[i].Members = append(out[i].Members, info)
		})
	}
	return out
}
