package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"sluice/flow"
	"sluice/rewrite"
)

// Decision is where a packet goes.
type Decision string

// The decisions.
const (
	DecideConnect Decision = "connect" // to a member, as a new connection
	DecideForward Decision = "forward" // along a connection, or to a member without one
	DecideHost    Decision = "host"    // to the kernel
	DecideReset   Decision = "reset"   // nowhere: a RST is the answer
	// DecideUnreachable: nowhere: an ICMP error says that the port or the protocol has nobody.
	DecideUnreachable Decision = "unreachable"
	DecideEcho        Decision = "echo" // nowhere: it is a ping and answered
	DecideDrop        Decision = "drop"
)

// Explanation says where a packet goes and why. It comes from the same tables and functions as the packet path, and takes
// nothing: see peek.go.
type Explanation struct {
	Decision Decision
	Reason   string // for a drop, a RST or an ICMP error: the name of the Reason that would be counted; for the host: why
	Bin      int    // of the client's end
	Worker   int    // owner of the connection
	Ingress  string // port that the packet is taken to arrive on

	Existing *Conn  // the connection that the packet belongs to
	Side     string // of that, which the packet comes from: client or server
	Replaces *Conn  // the connection that would be removed to make room: it is over, or half open in a full table

	Virtual string
	Others  []OtherVirtual // the other virtual servers of the address, and why it is not them
	Further int            // how many more there are, at other addresses
	Quotas  []Quota        // bounds that the decision looks at

	Persistence *PersistenceExplanation // nil: none

	Groups                  []GroupInfo // in the order in which they were looked at
	Pool, Scheduler, Member string      // of the choice
	Priority                int
	Turn, Hash, Random      uint64 // what the scheduler had beside the candidates; 0 where it needs none
	Candidates              []CandidateInfo
	Tried                   []Tried     // members that were asked before and could not take it
	Mode                    string      // nat, fullnat, direct-return, routed, tunnel; empty where there is no member
	Stateless               bool        // no entry in the table is made
	ToServer                *Rewrite    // what the member receives
	ToClient                *Rewrite    // what the client receives of the answer; nil: answers bypass us
	Tunnel                  *TunnelInfo // what the member receives it in; nil without a tunnel
}

// OtherVirtual is a virtual server that does not take the packet.
type OtherVirtual struct{ Name, Why string }

// Quota is a bound and how much of it is used. A share is what this worker may have of it.
type Quota struct {
	Name        string
	Used, Limit int64
	Share       bool
}

// GroupInfo is a group of members that was looked at.
type GroupInfo struct {
	Pool         string
	Priority     int
	Usable, Need int
	Taken        bool // its members were asked
	Note         string
}

// Tried is a member that could not take the connection, and the Reason.
type Tried struct{ Member, Reason string }

// CandidateInfo is a member as the scheduler sees it.
type CandidateInfo struct {
	Pool      string
	Member    string
	Address   string
	Weight    uint32
	Priority  int
	Active    int64
	LatencyUS uint32 // smoothed handshake time, 0 unknown
	AgeMS     uint32 // since it was measured
	Chosen    bool
	Note      string // why it cannot take the connection
}

// Rewrite is one direction of a connection before and after.
type Rewrite struct {
	Before, After Tuple
	Port          string // egress; empty: that of the client's packets
	MAC           string // Ethernet destination; empty: that of the client's packets
}

// Tuple is source and destination.
type Tuple struct{ Src, Dst netip.AddrPort }

// Owner is the worker that owns packets of a tuple that arrive on a port: where a NIC whose hash is ours delivers them.
func (c *Config) Owner(k *flow.Key, ingress int) int { return c.owner(k, uint16(ingress)) }

// Explain says what would happen to the first packet from src to dst under c, with an empty table.
func (c *Config) Explain(proto uint8, src, dst netip.AddrPort) Explanation {
	e, err := c.ExplainPacket(Question{Proto: proto, Src: src, Dst: dst, Port: -1})
	if err != nil {
		return Explanation{Decision: DecideDrop, Reason: err.Error()}
	}
	return e
}

// ExplainEntry is Explain for a packet that arrives on a port, by its index, where the client has a persistence entry for a node
// (PersistenceEntry.Node); 0 is none.
func (c *Config) ExplainEntry(ingress int, proto uint8, src, dst netip.AddrPort, node uint32) Explanation {
	e, err := c.ExplainPacket(Question{Proto: proto, Src: src, Dst: dst, Port: ingress, Node: node})
	if err != nil {
		return Explanation{Decision: DecideDrop, Reason: err.Error()}
	}
	return e
}

// ExplainPacket asks a worker that has nothing but the configuration, and what its dictionary shares: turns and counts.
func (c *Config) ExplainPacket(q Question) (Explanation, error) {
	const capacity = 64
	mem, err := unix.Mmap(-1, 0, flow.Size(capacity), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return Explanation{}, fmt.Errorf("memory for a table: %w", err)
	}
	defer func() { _ = unix.Munmap(mem) }()
	w := &worker{slots: make([]uint8, c.owners.workers)} // all is its own
	if w.table, err = flow.New(mem, flow.Config{Capacity: capacity, Nodes: c.addrs}, 0); err != nil {
		return Explanation{}, err
	}
	w.runtime.micros = func() uint64 { return 0 }
	w.runtime.sourceBits4, w.runtime.sourceBits6 = c.sources.Bits4, c.sources.Bits6
	w.timeoutOf = func(r *flow.Record) uint64 { return 0 }
	w.applyConfig(c, w.slots, counts{})
	p := asked{question: q}
	if err := w.explain(&p, 0); err != nil {
		return Explanation{}, err
	}
	p.worker = c.owner(&p.key, uint16(p.ingress))
	return p.explanation(), nil
}

// Explain says what would happen to a packet now. The worker that has its connection, else the one that owns it, answers
// between two bursts, by its own live state.
func (e *Engine) Explain(ctx context.Context, q Question) (Explanation, error) {
	var pkt rewrite.Packet
	var k flow.Key
	if _, err := q.parse(&pkt, &k); err != nil {
		return Explanation{}, err
	}
	workers := e.seated()
	bySlot := map[int]*worker{}
	for _, w := range workers {
		bySlot[w.slot] = w
	}
	ingress := uint16(q.ingress(e.Config(), &k))
	// Whoever has a connection owns it, and passes nothing on; of the others each says who does.
	has, passes := make([]bool, Bins), make([]int, Bins)
	err := e.ask(ctx, workers, func(w *worker) {
		r := w.table.Lookup(&k)
		has[w.slot] = r != 0 && (w.leaving == nil || !w.leaving.isSent(r.Index()))
		passes[w.slot] = int(w.slots[w.cfg.owner(&k, ingress)])
		if l := w.leaving; l != nil {
			passes[w.slot] = int(l.slots[l.next.owner(&k, ingress)])
		}
	})
	if err != nil {
		return Explanation{}, err
	}
	if entry, ok, err := e.PersistenceEntry(ctx, &k, int(ingress)); err != nil {
		return Explanation{}, err
	} else if ok {
		q.Node = entry.Node
	}
	passed, err := e.passedByOwner(ctx, &k, ingress)
	if err != nil {
		return Explanation{}, err
	}
	slot := workers[0].slot
	for hops := 0; hops < 3 && passes[slot] != slot; hops++ {
		slot = passes[slot]
	}
	for _, w := range workers {
		if has[w.slot] {
			slot = w.slot
		}
	}
	w := bySlot[slot]
	if w == nil {
		return Explanation{}, errWorkersChange
	}
	p := asked{question: q, passed: passed}
	var failed error
	if err := e.wait(ctx, w, func(w *worker) { failed = w.explain(&p, e.opt.Clock()) }); err != nil {
		return Explanation{}, err
	}
	if failed != nil {
		return Explanation{}, failed
	}
	if p.cfg == nil { // it has ended before it came to the question
		return Explanation{}, errWorkersChange
	}
	return p.explanation(), nil
}

// errWorkersChange is returned for a question to a worker that gives everything over.
var errWorkersChange = errors.New("the workers change at this moment; ask again")

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
