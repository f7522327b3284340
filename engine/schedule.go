package engine

import (
	"sluice/flow"
	"sluice/rewrite"
)

// schedule goes over the burst in order: packets whose connection was found stay, the others get a connection, go
// to the kernel or are dropped. Then the burst is rewritten.
//
// A packet may find what an earlier one of its burst has just made, so after the first change the table is asked
// again. A SYN that starts anew over a connection that is closing removes a record; the packets before it may
// still refer to that, so they are rewritten first.
func (w *worker) schedule(missed int) {
	if missed == 0 && w.opening == 0 { // nearly always
		w.rewrite(0, w.n)
		return
	}
	if missed > 1 {
		w.propose()
	}
	from, inserted, removed := 0, false, false
	for i := range w.n {
		r := w.refs[i]
		if (removed || r == 0 && inserted) && w.mayExist(i) {
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
	w.retract()
}

// reopens reports whether packet i is a SYN or INIT from the client that may start a new connection over r.
func (w *worker) reopens(i int, r flow.Ref) bool {
	return w.pkts[i].Opens && r.Side() == flow.FromClient && w.table.Record(r.Index()).Reusable()
}

func (w *worker) remove(index uint32) {
	w.release(w.table.Record(index))
	w.table.Remove(index)
}

// admit does with packet i, which belongs to no connection, what judge says (judge.go). It returns the reference of a new one, or
// 0 when the packet is no longer in hand.
func (w *worker) admit(i int) flow.Ref {
	if r := w.connectProposed(i); r != 0 {
		return r
	}
	if isRelated(&w.pkts[i]) { // about no connection of ours
		w.toHost(w.descs[i])
		return 0
	}
	j := w.judge(i)
	v := &w.cfg.virtuals[j.id]
	switch j.sentence {
	case sentenceConnect, sentenceAdopt:
		if v.persistence != nil && w.askEntry(i, v) {
			return 0
		}
		r, why := w.connect(i, j.id, j.sentence == sentenceAdopt)
		switch {
		case r != 0:
		case why == TableFull && v.Stateless:
			w.stats.Stateless++
			w.forwardOne(i, v)
		default:
			w.refuse(i, v, why)
		}
		return r
	case sentenceOne:
		if v.OnePacket && v.SourceRate > 0 && !w.takeSource(v, j.id, w.keys[i].Src) {
			w.drop(w.descs[i], SourceRate)
		} else {
			w.forwardOne(i, v)
		}
	case sentenceEcho:
		w.echo(i)
	case sentenceHost:
		w.toHost(w.descs[i])
	case sentenceAnswer:
		w.answerOne(i, j.answer)
	case sentenceReset:
		w.answerReset(i)
	case sentenceUnmatched:
		w.answerUnmatched(i)
	default:
		w.dropOr(i, j.why)
	}
	return 0
}

// refuse ends packet i, for which there is no connection to be had.
func (w *worker) refuse(i int, v *virtual, why Reason) {
	if w.resets(i, v, why) {
		w.refuseByReset(i, why)
		return
	}
	w.drop(w.descs[i], why)
}

// refuseByReset answers packet i, a TCP segment, with a RST for the reason why.
func (w *worker) refuseByReset(i int, why Reason) {
	w.stats.Refused[why]++
	w.capture.note(w, w.descs[i], why)
	w.answerReset(i)
}

// begins reports whether a packet can be the first of a connection.
func begins(p *rewrite.Packet) bool {
	switch p.Proto {
	case flow.TCP, flow.SCTP:
		return p.Opens
	case flow.ICMP, flow.ICMPv6:
		return p.ICMP == rewrite.ICMPRequest
	}
	return true
}

// hasPorts reports whether ports of a protocol are known, so that they can be translated.
func hasPorts(proto uint8) bool { return proto == flow.TCP || proto == flow.UDP || proto == flow.SCTP }

func isICMP(proto uint8) bool { return proto == flow.ICMP || proto == flow.ICMPv6 }

// noSource reports whether an address cannot be a client's: 0/8, 127/8, 224/3 (RFC 1122 section 3.2.1.3, RFC 1112), ::, ::1,
// multicast (RFC 4291 section 2.5).
func noSource(a flow.Addr) bool {
	if a.Is4() {
		first := a.V4() >> 24
		return first == 0 || first == 127 || first >= 224
	}
	return a.Hi>>56 == 0xff || a.Hi == 0 && a.Lo <= 1
}

// isOurs reports whether an address is a virtual or a SNAT one; as a source it is forged (a land attack).
func (c *Config) isOurs(a flow.Addr) bool {
	if c.services.mayBeVirtual(a) {
		if virtual, _ := c.services.address(a); virtual {
			return true
		}
	}
	return c.isSNAT(a)
}

// opens reports whether packet i, which belongs to no connection, would open one: only then does another give way to it.
func (w *worker) opens(i int) bool {
	k := &w.keys[i]
	if !begins(&w.pkts[i]) {
		return false
	}
	id := w.cfg.find(k, w.ports[i])
	if id == 0 {
		id = w.learned(i)
	}
	if id == 0 || w.pkts[i].TTL <= 1 || w.cfg.virtuals[id].OnePacket || w.cfg.virtuals[id].persistence != nil && w.asks(i, &w.cfg.virtuals[id]) {
		return false
	}
	_, ok := w.mayOpen(&w.cfg.virtuals[id], id, k.Src)
	return ok
}

// pickAttempts is how many members are tried when the chosen one has another connection with the same tuple.
const pickAttempts = 4

// connect makes a connection to virtual server id for packet i.
func (w *worker) connect(i int, id uint32, adopt bool) (flow.Ref, Reason) {
	v := &w.cfg.virtuals[id]
	if why, ok := w.mayOpen(v, id, w.keys[i].Src); !ok {
		return 0, why
	}
	if v.Mode >= Firewall && w.byRoute(i, v) {
		return w.connectByRoute(i, id, adopt)
	}
	c, proto, peek := &w.runtime.choice, w.keys[i].Proto, w.runtime.peek
	if !c.reserve(v.shared, int64(v.Limit), uint32(v.Rate), w.now) {
		return 0, VirtualLimit
	}
	if v.SourceRate > 0 && !w.takeSource(v, id, w.keys[i].Src) {
		if peek == nil {
			v.shared.cancel(uint32(v.Rate), w.now)
		}
		return 0, SourceRate
	}
	m, why := w.choose(i, v)
	for range pickAttempts {
		if m == nil {
			break
		}
		rec, no, ok := w.track(i, id, v, m, adopt)
		if !ok {
			why = no
			c.tried(m, no)
			if peek != nil {
				peek.handOn(c, v)
			}
			if m = c.again(m); m == nil && c.why != NoMember {
				why = c.why
			}
			continue
		}
		deadline := w.now + uint64(v.Timeouts.at(proto, &rec))
		r, res := w.insert(&rec, proto, deadline)
		if res == flow.Inserted {
			if peek != nil {
				peek.found(m, &rec)
				return 0, 0
			}
			w.opened(r, id, m)
			return r, 0
		}
		w.giveBackPort(&rec, m, proto)
		if why = TupleCollision; res == flow.Full {
			why = TableFull
			c.cancel(m.shared, uint32(m.Rate))
			m = nil
			break
		}
		c.tried(m, why)
		if peek != nil {
			peek.handOn(c, v)
		}
		if m = c.again(m); m == nil && c.why != NoMember {
			why = c.why
		}
	}
	if m != nil {
		c.cancel(m.shared, uint32(m.Rate))
	}
	c.cancel(v.shared, uint32(v.Rate))
	return 0, why
}

// insert puts the connection into the table, if need be in the place of one that is over.
func (w *worker) insert(rec *flow.Record, proto uint8, deadline uint64) (flow.Ref, flow.InsertResult) {
	if p := w.runtime.peek; p != nil {
		return 0, p.insert(w.table, rec, proto)
	}
	r, res := w.table.Insert(rec, proto, w.now, deadline)
	if res == flow.Collision && w.giveWay(rec) {
		r, res = w.table.Insert(rec, proto, w.now, deadline)
	}
	return r, res
}

// track describes the connection, takes a port for it if its source is translated, and starts to track it. It says why not.
func (w *worker) track(i int, id uint32, v *virtual, m *member, adopt bool) (flow.Record, Reason, bool) {
	rec, proto := w.describe(i, id, v, m), w.keys[i].Proto
	snat, why, ok := v.translates(m, rec.Client)
	switch {
	case !ok:
		return rec, why, false
	case snat && !hasPorts(proto) && !isICMP(proto):
		return rec, Untranslatable, false
	case snat && !w.source(&rec, v, m, proto):
		return rec, SNATExhausted, false
	case adopt:
		rec.AdoptTCP(flow.FromClient, &w.pkts[i].TCP)
	case proto == flow.TCP:
		w.beginTCP(&rec, m, &w.pkts[i])
	case proto == flow.SCTP:
		rec.BeginSCTP(&w.pkts[i].SCTP)
	}
	return rec, 0, true
}

// beginTCP starts to track a connection to m, and notes when, where handshakes are timed.
func (w *worker) beginTCP(rec *flow.Record, m *member, p *rewrite.Packet) {
	rec.BeginTCP(&p.TCP)
	if w.cfg.nodes[m.id].halfLife > 0 {
		rec.Fine = uint16(min(w.runtime.micros()-w.now*1000, 0xffff))
	}
}

// opened counts a new connection, whose place with the member and the virtual server is reserved.
func (w *worker) opened(r flow.Ref, id uint32, m *member) {
	fresh := w.table.Record(r.Index())
	w.open(fresh)
	if fresh.Settle() {
		w.settled(fresh)
	}
	w.stats.Opened++
	w.node.connections[m.id].Opened++
	w.virtual.connections[id].Opened++
	w.enter(fresh)
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
	translated := v.Mode.translates()
	if !hasPorts(k.Proto) || !translated {
		port = k.DstPort()
	}
	before, after := rewrite.EndsOf(k), rewrite.EndsOf(k)
	if translated {
		after.Dst, after.DstPort = m.addr, port
	}
	rec := flow.Record{
		Client: k.Src, Virtual: k.Dst,
		CPort: k.SrcPort(), VPort: k.DstPort(), SPort: k.SrcPort(), NPort: port,
		Node: m.id, VS: id,
		ClientMAC: w.sourceMAC(i),
		ClientIf:  w.ports[i], ServerIf: uint16(m.Hop.Port),
	}
	l3, l4 := rewrite.EndsDiff(&before, &after, k.Proto)
	rec.L4Diff = l4
	if !w.pkts[i].V6 {
		rec.L3Diff = l3
	}
	rec.SetKind(v.Mode.kind())
	if v.Mode == Tunnel {
		w.encapsulate(&rec, m)
	}
	return rec
}

func (m *member) servicePort(virtual uint16) uint16 {
	if m.Port != 0 {
		return m.Port
	}
	return virtual
}
