package engine

import (
	"fmt"
	"net/netip"
	"strings"

	"sluice/flow"
	"sluice/rewrite"
)

// asked is a question, and what the worker that was asked has copied for the answer. Names and text are made of it afterwards,
// outside the worker.
type asked struct {
	question Question
	worker   int
	now      uint64
	key      flow.Key
	cfg      *Config
	ingress  int // port that it is taken to arrive on

	found    *Conn // the connection that it belongs to
	side     flow.Side
	replaces *Conn
	judged   judgement
	why      Reason // of a refusal
	decision Decision
	member   *member
	rec      flow.Record // what would be entered, or is there
	server   flow.Key    // the tuple of packets from the server
	oneMAC   [6]byte     // of sentenceAnswer: where the client is
	onePort  uint16
	trail    trail
	pool     *pool
	quotas   []Quota
	// stateless says that no entry is made although one should be.
	stateless   bool
	persistence *PersistenceExplanation
	// passed are the groups that are passed over, where another worker chooses: the owner of the client's persistence entry.
	passed passedGroups
}

// explain walks the packet path with a packet that nobody has sent. Nothing that others could notice changes.
func (w *worker) explain(a *asked, now uint64) error {
	frame, err := a.question.parse(&w.pkts[0], &w.keys[0])
	if err != nil {
		return err
	}
	w.now, w.refs[0] = now, 0
	c, k := &w.runtime.choice, &w.keys[0]
	w.runtime.peek = &peek{frame: frame, mac: rewrite.SourceMAC(frame), node: a.question.Node}
	c.peek, c.pool = true, nil
	defer c.exchange(a.passed)()
	defer func() { w.runtime.peek, c.trail, c.going, c.peek = nil, trail{}, [2]*shared{}, false }()
	a.ingress = a.question.ingress(w.cfg, k)
	w.ports[0] = uint16(a.ingress)
	a.worker, a.now, a.key, a.cfg = w.id, now, *k, w.cfg
	r := w.table.Lookup(k)
	if r != 0 && !w.reopens(0, r) {
		w.explainFound(a, r)
		return nil
	}
	switch {
	case r != 0:
		w.goes(a, r.Index())
	case w.table.Len() == w.table.Cap() && w.opens(0):
		if i := w.table.Victim(now, w.timeoutOf); i != 0 {
			w.goes(a, i)
		}
	}
	a.judged = w.judge(0)
	w.explainJudged(a)
	return nil
}

// goes notes a record that is removed before the packet gets its connection.
func (w *worker) goes(a *asked, index uint32) {
	p, r, counts := w.runtime.peek, w.table.Record(index), &w.runtime.counts
	p.going = index
	if holds(r) {
		w.runtime.choice.going = [2]*shared{counts.nodes[r.Node], counts.virtuals[r.VS]}
	}
	if r.SNAT != 0 {
		p.freed = &flow.Freed{Destination: w.table.DestinationOf(r), Port: r.SPort}
	}
	replaces := w.copyOf(index, r)
	a.replaces = &replaces
}

// explainFound is for a packet of a connection.
func (w *worker) explainFound(a *asked, r flow.Ref) {
	rec := w.table.Record(r.Index())
	found := w.copyOf(r.Index(), rec)
	a.found, a.side, a.rec, a.server = &found, r.Side(), *rec, w.table.ServerKey(rec)
	a.decision = DecideForward
	port := w.ports[0]
	if r.Side() == flow.FromClient {
		if a.question.Port < 0 {
			port = rec.ClientIf
		}
		if why, ok := w.checkClient(rec, &w.pkts[0], port); !ok {
			a.decision, a.why = DecideDrop, why
		}
	} else if a.question.Port >= 0 && rec.ServerIf != port {
		a.decision, a.why = DecideDrop, WrongSide
	} else if rec.OneSided() {
		a.decision = DecideHost
	}
}

// explainJudged does what admit does.
func (w *worker) explainJudged(a *asked) {
	c, p, id := &w.runtime.choice, w.runtime.peek, a.judged.id
	v := &w.cfg.virtuals[id]
	if id != 0 {
		a.pool, a.quotas = v.pool, w.quotas(v, id)
	}
	switch a.judged.sentence {
	case sentenceConnect, sentenceAdopt:
		_, why := w.connect(0, id, a.judged.sentence == sentenceAdopt)
		switch {
		case p.member != nil:
			a.decision, a.member, a.rec = DecideConnect, p.member, p.rec
		case why == TableFull && v.Stateless:
			a.stateless = true
			w.explainOne(a, v, id)
			return
		case w.resets(0, v, why):
			a.decision, a.why = DecideReset, why
		default:
			a.decision, a.why = DecideDrop, why
		}
		if c.pool != nil { // else it was refused before a member was looked for
			a.trail, a.pool = c.trail, c.pool
		}
		a.persistence = p.persistence
		a.server = w.table.ServerKey(&a.rec)
	case sentenceOne:
		w.explainOne(a, v, id)
	case sentenceHost:
		a.decision = DecideHost
		if w.cfg.Host == nil {
			a.decision, a.why = DecideDrop, HostOff
		}
	case sentenceAnswer:
		e := w.clientEntry(a.key.Dst)
		if a.decision, a.oneMAC, a.onePort = DecideForward, e.mac, e.port; e.addr != a.key.Dst {
			a.decision, a.why = DecideDrop, NoNeighbour
		}
	case sentenceEcho:
		if a.decision = DecideEcho; !w.sentEchoes.left(w.now, w.cfg.icmpRate) {
			a.decision, a.why = DecideDrop, EchoRate
		}
	case sentenceReset:
		a.decision, a.why = DecideReset, NoConnection
	case sentenceUnmatched:
		if a.decision, a.why = unmatchedDecision(a.key.Proto), a.judged.why; !w.sentUnmatched.left(w.now, w.cfg.icmpRate) {
			a.decision, a.why = DecideDrop, UnmatchedRate
		}
	default:
		a.decision, a.why = DecideDrop, a.judged.why
	}
}

// explainOne is for a packet that goes without an entry.
func (w *worker) explainOne(a *asked, v *virtual, id uint32) {
	if v.OnePacket && v.SourceRate > 0 && !w.takeSource(v, id, a.key.Src) {
		a.decision, a.why = DecideDrop, SourceRate
		return
	}
	m, why := w.chooseOne(0, v)
	a.trail, a.pool = w.runtime.choice.trail, w.runtime.choice.pool
	if m == nil {
		a.decision, a.why = DecideDrop, why
		return
	}
	a.decision, a.member = DecideForward, m
	a.rec = w.describe(0, id, v, m)
	a.server = w.table.ServerKey(&a.rec)
}

// quotas are the bounds that connect looks at.
func (w *worker) quotas(v *virtual, id uint32) (out []Quota) {
	add := func(name string, used, limit int64, share bool) {
		if limit > 0 {
			out = append(out, Quota{name, used, limit, share})
		}
	}
	add("half-open-limit", int64(w.half.virtual[id]), int64(v.halfOpen), true)
	if w.cfg.sources.HalfOpen > 0 {
		add("half-open-per-source", int64(w.half.source[w.sourceCounter(w.keys[0].Src)]), int64(w.cfg.sources.HalfOpen), true)
	}
	add("connection-limit", v.shared.active.Load(), int64(v.Limit), false)
	add("rate-limit", int64(v.shared.opened(w.now)), int64(v.Rate), false)
	add("table", int64(w.table.Len()), int64(w.table.Cap()), true)
	return out
}

// explanation makes names and text of what the worker has copied.
func (a *asked) explanation() Explanation {
	c := a.cfg
	e := Explanation{Decision: a.decision, Worker: a.worker, Ingress: c.portName(a.ingress), Bin: c.binOfPacket(&a.key, a.ingress), Quotas: a.quotas, Persistence: a.persistence}
	if a.found != nil {
		c.name(a.found)
		e.Existing, e.Side = a.found, [...]string{flow.FromClient: "client", flow.FromServer: "server"}[a.side]
		e.Bin = int(c.binOf(&a.rec, a.rec.Proto()))
		if a.question.Port < 0 {
			e.Ingress = a.found.Ports[a.side]
		}
		e.Virtual, e.Pool, e.Member = a.found.Virtual, a.found.Pool, a.found.Member
	}
	if a.replaces != nil {
		c.name(a.replaces)
		e.Replaces = a.replaces
	}
	if id := a.judged.id; id != 0 {
		e.Virtual = c.virtuals[id].Name
	}
	if a.found == nil {
		e.Others, e.Further = c.others(&a.key, a.ingress, a.judged.id)
	}
	if a.pool != nil {
		e.Pool, e.Scheduler = a.pool.name, a.pool.schedulerName
	}
	a.groups(&e)
	switch e.Decision {
	case DecideDrop, DecideReset, DecideUnreachable:
		e.Reason = a.why.String()
		return e
	case DecideEcho:
		return e
	case DecideHost:
		e.Reason = a.hostReason()
		return e
	}
	if s := a.judged.answer; s != nil {
		v := &c.virtuals[s.id]
		e.Virtual, e.Stateless = v.Name, true
		if n := c.names[s.node]; n != nil {
			e.Pool, e.Member = n.pool, n.Name
		}
		before := Tuple{endpoint(a.key.Src, a.key.SrcPort()), endpoint(a.key.Dst, a.key.DstPort())}
		e.ToClient = &Rewrite{Before: before, After: Tuple{endpoint(v.addr, v.answerPort()), before.Dst}, Port: c.Ports[a.onePort].Name, MAC: macString(a.oneMAC)}
		return e
	}
	if a.member != nil {
		e.Member = a.member.Name
		if a.member.route {
			e.Pool, e.Scheduler = c.names[a.member.id].pool, "route"
		}
		e.Stateless = a.judged.sentence == sentenceOne || a.stateless
	}
	a.ways(&e)
	return e
}

// groups tells of the groups that were looked at, and of the members of those that are the last of their pool's to be.
func (a *asked) groups(e *Explanation) {
	listed := map[*pool]bool{}
	for i := range a.trail.steps {
		s := &a.trail.steps[i]
		info := GroupInfo{Pool: s.pool.name, Priority: s.group.priority, Usable: s.usable, Need: s.least, Taken: s.verdict == groupEntered}
		switch s.verdict {
		case groupTooFew:
			info.Note = fmt.Sprintf("%d of at least %d members can take connections", s.usable, s.least)
		case groupPassed:
			info.Note = fmt.Sprintf("usable again, and taken back in %d ms", s.until-a.now)
		default:
			if s.open {
				info.Note = "members that are down are asked as well: no other pool and no other member is there"
			}
			e.Priority, e.Turn, e.Hash, e.Random = s.group.priority, s.in.Turn, s.in.Hash, s.in.Random
		}
		e.Groups = append(e.Groups, info)
		listed[s.pool] = true
	}
	for _, t := range a.trail.tried {
		e.Tried = append(e.Tried, Tried{t.member.Name, t.why.String()})
	}
	for p := a.poolOf(); p != nil; p = p.fallback {
		if listed[p] || len(listed) == 0 {
			a.candidates(e, p)
		}
		if len(listed) == 0 {
			break
		}
	}
}

// poolOf is the pool of the virtual server, where the search begins.
func (a *asked) poolOf() *pool {
	if a.judged.id == 0 {
		return nil
	}
	return a.cfg.virtuals[a.judged.id].pool
}

// candidates lists the members of a pool as the scheduler saw them, or would have.
func (a *asked) candidates(e *Explanation, p *pool) {
	for i := range p.groups {
		g := &p.groups[i]
		var step *groupStep
		for j := range a.trail.steps {
			if s := &a.trail.steps[j]; s.group == g && (step == nil || s.verdict == groupEntered) {
				step = s
			}
		}
		for j := range g.members {
			m := &g.members[j]
			in := memberInput{state: m.state()}
			in.Weight, in.Active = m.Weight, uint32(max(0, m.shared.active.Load()))
			if step != nil {
				in = step.members[j]
			}
			info := CandidateInfo{
				Pool: p.name, Member: m.Name, Weight: in.Weight, Priority: m.Priority, Active: int64(in.Active), LatencyUS: in.Latency, AgeMS: in.Age,
				Address: netip.AddrPortFrom(m.Addr, m.servicePort(a.key.DstPort())).String(), Chosen: m == a.member,
			}
			switch {
			case m.Weight == 0:
				info.Note = "weight 0 takes no new connection"
			case in.state.Kind != MemberUp && !info.Chosen:
				info.Note = in.state.Kind.String()
			case !m.Hop.OK:
				info.Note = NoNeighbour.String()
			case m.Limit > 0 && info.Active >= int64(m.Limit), m.Rate > 0 && in.opened >= uint32(m.Rate):
				info.Note = MemberLimit.String()
			case step != nil && step.verdict == groupEntered && !info.Chosen && !a.wasTried(m) && p.slowStart > 0 && in.state.Since > 0 && a.now-in.state.Since < p.slowStart && !step.asked.Has(j):
				info.Note = "slow start: not asked this turn"
			}
			e.Candidates = append(e.Candidates, info)
		}
	}
}

func (a *asked) wasTried(m *member) bool {
	for _, t := range a.trail.tried {
		if t.member == m {
			return true
		}
	}
	return false
}

// ways says what becomes of the packets of a.rec. What other kinds of connections do differently, they say here.
func (a *asked) ways(e *Explanation) {
	c, r := a.cfg, &a.rec
	client, asked := endpoint(r.Client, r.CPort), endpoint(r.Virtual, r.VPort)
	source, server := endpoint(a.server.Dst, r.SPort), endpoint(a.server.Src, r.NPort)
	switch r.Kind() {
	case flow.Routed:
		if e.Mode = "routed"; r.OneSided() {
			e.Mode = "direct-return"
		}
	case flow.Tunnelled:
		e.Mode, e.Tunnel = "tunnel", c.explainTunnel(r)
	default:
		if e.Mode = "nat"; r.SNAT != 0 {
			e.Mode = "fullnat"
		}
	}
	e.ToServer = &Rewrite{Before: Tuple{client, asked}, After: Tuple{source, server}}
	if n := &c.nodes[r.Node]; int(n.port) < len(c.Ports) {
		e.ToServer.Port, e.ToServer.MAC = c.Ports[n.port].Name, macString([6]byte(n.l2[:6]))
	}
	if r.OneSided() {
		return
	}
	e.ToClient = &Rewrite{Before: Tuple{server, source}, After: Tuple{asked, client}}
	if known := a.found != nil; known || a.question.Port >= 0 {
		e.ToClient.Port = c.Ports[r.ClientIf].Name
		if known {
			e.ToClient.MAC = macString(r.ClientMAC)
		}
	}
}

// hostReason is why a packet is the kernel's.
func (a *asked) hostReason() string {
	if a.found != nil {
		return "answers of this connection go past sluice, and one that comes this way is left to the kernel"
	}
	virtual, _ := a.cfg.covered(&a.key, uint16(a.ingress))
	switch {
	case a.judged.id != 0:
		return "an ICMP message that is not a query is the address's own"
	case virtual && isICMP(a.key.Proto):
		return "ICMP to the address is the host's own (echo: kernel)"
	case virtual:
		return "the address is virtual, no virtual server has this protocol and port, and unmatched is host"
	}
	return "the destination is not a virtual address: the XDP program leaves the packet to the kernel, or the engine hands over what a member sends without a connection"
}

// others says why it is not the other virtual servers of the address; further is how many more there are.
func (c *Config) others(k *flow.Key, ingress int, chosen uint32) (out []OtherVirtual, further int) {
	for id := range c.virtuals {
		v := &c.virtuals[id]
		if !v.exists || uint32(id) == chosen {
			continue
		}
		if why := v.whyNot(c, k, ingress); why != "" {
			out = append(out, OtherVirtual{v.Name, why})
		} else {
			further++
		}
	}
	return out, further
}

// whyNot says why a virtual server does not take a packet to one of its addresses, in the order of services.find; of others
// nothing.
func (v *virtual) whyNot(c *Config, k *flow.Key, ingress int) string {
	here, port, narrow := false, false, false
	var ports []string
	for _, d := range v.All() {
		if !d.Prefix.Contains(k.Dst.Netip()) {
			continue
		}
		here, narrow = true, narrow || d.IsAddress() || v.Ingress == ingress
		port = port || d.AnyPort() || d.Ports.Contains(k.DstPort())
		ports = append(ports, d.PortText())
	}
	switch {
	case !here:
		return ""
	case !narrow:
		return "it takes only what arrives on port " + c.portName(v.Ingress)
	case v.Proto == 0 && isICMP(k.Proto):
		return "it is for any protocol but ICMP"
	case v.Proto != 0 && v.Proto != k.Proto:
		return "it has another protocol"
	case !port:
		return "it has port " + strings.Join(ports, ", ")
	}
	return "another one names the packet's address, port or protocol more exactly"
}

func endpoint(a flow.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a.Netip(), port) }
