package engine

import (
	"sluice/flow"
	"sluice/rewrite"
	"sluice/sched"
)

// schedule goes over the burst in order: packets whose connection was found stay, the others get a connection, go
// to the kernel or are dropped. Then the burst is rewritten.
//
// A packet may find what an earlier one of its burst has just made, so after the first change the table is asked
// again. A SYN that starts anew over a connection that is closing removes a record; the packets before it may
// still refer to that, so they are rewritten first.
func (w *worker) schedule() {
	from, inserted, removed := 0, false, false
	for i := range w.n {
		r := w.refs[i]
		if removed || r == 0 && inserted {
			r = w.table.Lookup(&w.keys[i])
		}
		if r != 0 && w.reopens(i, r) {
			w.rewrite(from, i)
			from = i
			w.remove(r.Index())
			removed, r = true, 0
		}
		if r == 0 {
			if w.table.Len() == w.table.Cap() && w.opens(i) {
				w.rewrite(from, i)
				from = i
				removed = w.evict() || removed
			}
			if r = w.admit(i); r != 0 {
				inserted = true
			}
		}
		w.refs[i] = r
	}
	w.rewrite(from, w.n)
}

// reopens reports whether packet i is a SYN or INIT from the client that may start a new connection over r.
func (w *worker) reopens(i int, r flow.Ref) bool {
	if p := &w.pkts[i]; p.Proto == flow.UDP || !begins(p) {
		return false
	}
	return r.Side() == flow.FromClient && w.table.Record(r.Index()).Reusable()
}

func (w *worker) remove(index uint32) {
	w.release(w.table.Record(index))
	w.table.Remove(index)
}

// admit decides on packet i, which belongs to no connection. It returns the reference of a new one, or 0 when the
// packet is no longer in hand.
func (w *worker) admit(i int) flow.Ref {
	k, d := &w.keys[i], w.descs[i]
	id := uint32(0)
	if k.Proto == flow.TCP || k.Proto == flow.UDP || k.Proto == flow.SCTP {
		id = w.cfg.services.find(k.Dst, k.DstPort(), k.Proto)
	}
	if id == 0 {
		if virtual, host := w.cfg.services.address(k.Dst); virtual && !host {
			w.drop(d, NoVirtualServer)
		} else if a := w.answered(k); a != nil {
			w.answerOne(i, a)
		} else {
			w.toHost(d)
		}
		return 0
	}
	p := &w.pkts[i]
	if p.TTL <= 1 {
		w.drop(d, TTLExpired)
		return 0
	}
	if noSource(k.Src) || w.region.Packet(d)[6]&1 != 0 || w.cfg.isVirtual(k.Src) {
		w.drop(d, BadSource)
		return 0
	}
	v := &w.cfg.virtuals[id]
	if v.OnePacket {
		w.forwardOne(i, v)
		return 0
	}
	adopt := false
	if !begins(p) {
		switch {
		case k.Proto != flow.TCP: // out of the blue (RFC 9260 section 8.4)
			w.drop(d, NoConnection)
			return 0
		case v.MidStream == MidStreamReset && p.TCP.Flags&flow.FlagRST == 0:
			w.answerReset(i)
			return 0
		case v.MidStream != MidStreamAdopt || p.TCP.Flags&flow.FlagRST != 0:
			w.drop(d, NoConnection)
			return 0
		}
		adopt = true
	}
	r, why := w.connect(i, id, adopt)
	if r == 0 {
		w.drop(d, why)
	}
	return r
}

// begins reports whether a packet can be the first of a connection.
func begins(p *rewrite.Packet) bool {
	switch p.Proto {
	case flow.TCP:
		return isSYN(p)
	case flow.SCTP:
		return p.SCTP.Opens()
	}
	return p.Proto == flow.UDP
}

func isSYN(p *rewrite.Packet) bool {
	return p.TCP.Flags&(flow.FlagSYN|flow.FlagACK|flow.FlagRST|flow.FlagFIN) == flow.FlagSYN
}

// noSource reports whether an address cannot be a client's: 0/8, 127/8, 224/3 (RFC 1122 section 3.2.1.3, RFC 1112), ::, ::1,
// multicast (RFC 4291 section 2.5).
func noSource(a flow.Addr) bool {
	if a.Is4() {
		first := a.V4() >> 24
		return first == 0 || first == 127 || first >= 224
	}
	return a.Hi>>56 == 0xff || a.Hi == 0 && a.Lo <= 1
}

// isVirtual reports whether an address is a virtual one; as a source it is forged (a land attack).
func (c *Config) isVirtual(a flow.Addr) bool {
	virtual, _ := c.services.address(a)
	return virtual
}

// opens reports whether packet i, which belongs to no connection, would open one: only then does another give way to it.
func (w *worker) opens(i int) bool {
	k := &w.keys[i]
	if !begins(&w.pkts[i]) {
		return false
	}
	id := w.cfg.services.find(k.Dst, k.DstPort(), k.Proto)
	if id == 0 || w.pkts[i].TTL <= 1 || w.cfg.virtuals[id].OnePacket {
		return false
	}
	_, ok := w.mayOpen(&w.cfg.virtuals[id], id, k.Src)
	return ok
}

// pickAttempts is how many members are tried when the chosen one cannot take the connection.
const pickAttempts = 4

// connect makes a connection to virtual server id for packet i.
func (w *worker) connect(i int, id uint32, adopt bool) (flow.Ref, Reason) {
	v := &w.cfg.virtuals[id]
	if why, ok := w.mayOpen(v, id, w.keys[i].Src); !ok {
		return 0, why
	}
	why := NoMember
	for range pickAttempts {
		m := v.pool.pick(v.pool.takeTurn(), w.keys[i].Src, &w.runtime.pick)
		if m == nil {
			return 0, why
		}
		if !m.Hop.OK {
			why = NoNeighbour
			continue
		}
		rec := w.describe(i, id, v, m)
		switch {
		case adopt:
			rec.AdoptTCP(flow.FromClient, &w.pkts[i].TCP)
		case v.Proto == flow.TCP:
			rec.BeginTCP(&w.pkts[i].TCP)
		case v.Proto == flow.SCTP:
			rec.BeginSCTP(&w.pkts[i].SCTP)
		}
		deadline := w.now + uint64(v.Timeouts.of(&rec))
		r, res := w.table.Insert(&rec, v.Proto, w.now, deadline)
		switch res {
		case flow.Full:
			return 0, TableFull
		case flow.Collision:
			why = TupleCollision
			if w.giveWay(&rec) {
				r, res = w.table.Insert(&rec, v.Proto, w.now, deadline)
			}
			if res != flow.Inserted {
				continue
			}
		}
		fresh := w.table.Record(r.Index())
		w.open(fresh)
		if fresh.Settle() {
			w.settled(fresh)
		}
		m.active.Add(1)
		w.stats.Opened++
		w.node[m.id].Opened++
		w.node[m.id].Active++
		w.virtual[id].Opened++
		w.virtual[id].Active++
		return r, 0
	}
	return 0, why
}

// giveWay removes the connection that holds rec's server-side tuple if it is over.
func (w *worker) giveWay(rec *flow.Record) bool {
	k := w.table.ServerKey(rec)
	r := w.table.Lookup(&k)
	if r == 0 || !w.table.Record(r.Index()).Closed() {
		return false
	}
	// Packets of it that are in this burst before us would find another record in its place; they are late
	// segments of a closed connection, and the re-lookup of schedule does not see them.
	for i := range w.n {
		if w.refs[i] != 0 && w.refs[i].Index() == r.Index() {
			return false
		}
	}
	w.remove(r.Index())
	return true
}

// describe fills a record for packet i going to member m.
func (w *worker) describe(i int, id uint32, v *virtual, m *member) flow.Record {
	k := &w.keys[i]
	port := m.servicePort(k.DstPort())
	addrs := rewrite.AddrDiff(k.Dst, m.addr)
	rec := flow.Record{
		Client: k.Src, Virtual: k.Dst,
		CPort: k.SrcPort(), VPort: k.DstPort(), SPort: k.SrcPort(), NPort: port,
		Node: m.id, VS: id,
		L4Diff:    rewrite.AddDiff(addrs, rewrite.PortDiff(k.DstPort(), port)),
		ClientMAC: rewrite.SourceMAC(w.region.Packet(w.descs[i])),
		ClientIf:  w.ports[i], ServerIf: uint16(m.Hop.Port),
	}
	if !w.pkts[i].V6 {
		rec.L3Diff = addrs
	}
	return rec
}

func (m *member) servicePort(virtual uint16) uint16 {
	if m.Port != 0 {
		return m.Port
	}
	return virtual
}

// takeTurn takes the pool's next turn, for all workers. What a pick has of chance comes from the turn, so that it can be repeated.
func (p *pool) takeTurn() uint64 {
	if p.needs&(sched.NeedsTurn|sched.NeedsRandom) == 0 {
		return 0
	}
	return p.turn.Add(1) - 1
}

// pickSeed is the same everywhere: machines with the same pool must send a client to the same member.
var pickSeed = flow.Secret{0x243f6a8885a308d3, 0x13198a2e03707344, 0xa4093822299f31d0, 0x082efa98ec4e6c89}

// pickScratch is what a pick needs and may not allocate.
type pickScratch struct {
	in         sched.Input
	candidates []sched.Candidate
}

// pick asks the scheduler. s holds the candidates while their connections are filled in.
func (p *pool) pick(turn uint64, client flow.Addr, s *pickScratch) *member {
	s.in = sched.Input{Turn: turn, Random: sched.Mix(turn), Candidates: p.weights}
	if p.needs&sched.NeedsHash != 0 {
		s.in.Hash = sched.HashInput{}.Hash(&pickSeed, client, 0)
	}
	if p.needs&sched.NeedsActive != 0 {
		s.candidates = append(s.candidates[:0], p.weights...)
		for i := range s.candidates {
			s.candidates[i].Active = uint32(max(0, p.members[i].active.Load()))
		}
		s.in.Candidates = s.candidates
	}
	i := p.scheduler.Pick(&s.in)
	if i == sched.None {
		return nil
	}
	return &p.members[i]
}
