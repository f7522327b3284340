package engine

import (
	"math/bits"

	"sluice/flow"
	"sluice/rewrite"
)

// The bucket of a new connection's server-side tuple is known only when its member is chosen, and then comes from memory,
// which costs more than all the rest of the packet. So where a burst has several new connections their members are chosen
// first, one after the other, while the buckets come. What is chosen here is a proposal: a place with the member is taken, and
// a port if the source is translated, but nothing else has changed, and connect does with it what it does with its own choice.
// A proposal that comes to nothing, because the packet is refused or the tuple is taken, gives both back.

//
// Whoever has a proposal has also been judged (judge.go) and found free of everything that depends on the packets before it but
// for quotas, so that admit asks nothing else again.

// proposal is a connection to be; member is nil where there is none.
type proposal struct {
	member  *member
	virtual *virtual
	id      uint32 // of the virtual server
	proto   uint8
	mac     [6]byte // of the client
	head    uint32  // of the chain in which its source port is looked for
	draft   flow.Draft
}

// proposals are those of the packets in hand.
type proposals struct {
	of [burstSize]proposal
	n  int // those before are used or empty
	// first has a bit for each packet that has opened its connection with a SYN and no more, and is not rewritten yet.
	first uint64
	// seen has a bit for tuples: two packets of one new connection must not take two turns of the pool.
	seen [64]uint64
}

// destinationFound is the virtual server of a destination; to is where it arrived, port and protocol, 0 of nothing.
type destinationFound struct {
	dst flow.Addr
	to  uint64
	id  uint32
}

// propose chooses members for the packets in hand that will open connections.
func (w *worker) propose() {
	a := &w.ahead
	if w.table.Len()+burstSize > w.table.Cap() {
		return // some will not find room
	}
	a.seen = [64]uint64{}
	a.n = w.n
	chosen, found := uint64(0), [2]destinationFound{}
	for n := range w.n {
		i := n & (burstSize - 1)
		k, p := &w.keys[i], &w.pkts[i]
		if w.refs[i] != 0 || !begins(p) || !hasPorts(k.Proto) || p.TTL <= 1 || noSource(k.Src) {
			continue
		}
		// Nearly all go where the last one of their protocol went.
		f, to := &found[k.Proto&1], uint64(w.ports[i])<<32|uint64(k.DstPort())<<8|uint64(k.Proto)
		if f.to != to || f.dst != k.Dst || w.cfg.serverEnds.entries != nil { // then it depends on the source as well
			*f = destinationFound{dst: k.Dst, to: to, id: w.cfg.find(k, w.ports[i])}
		}
		id := f.id
		if id == 0 {
			continue
		}
		v := &w.cfg.virtuals[id]
		mac := rewrite.SourceMAC(w.region.Packet(w.descs[i]))
		if v.inOrder || mac[0]&1 != 0 || w.cfg.isOurs(k.Src) {
			continue
		}
		if _, ok := w.mayOpen(v, id, k.Src); !ok || a.has(k) {
			continue
		}
		a.of[i].virtual, a.of[i].id, a.of[i].mac = v, id, mac
		w.runtime.choice.pools[v.pool.index].due++
		chosen |= 1 << i
	}
	translated := uint64(0) // those that want a port, which is looked for when all have been asked for
	for ; chosen != 0; chosen &= chosen - 1 {
		i := bits.TrailingZeros64(chosen) & (burstSize - 1)
		x, k := &a.of[i], &w.keys[i]
		m, reserved := w.runtime.choice.first(x.virtual.pool, k, w.now)
		if m == nil {
			continue
		}
		if w.tally.virtuals.add(x.id, 1); !reserved {
			w.tally.nodes.add(m.id, 1)
		}
		x.member, x.proto = m, k.Proto
		if x.virtual.Mode == FullNAT && w.sources != nil && w.fetchPort(x, k) {
			translated |= 1 << i
		} else if !w.draft(i, x) {
			w.giveUp(x)
		}
	}
	if translated != 0 {
		w.proposeTranslated(translated)
	}
	w.table.Fetch()
}

// fetchPort asks for what tells which ports the proposal may have at the address that its client begins with, if there is one.
func (w *worker) fetchPort(x *proposal, k *flow.Key) bool {
	addrs := x.virtual.snatOf(x.member).addrs
	if len(addrs) == 0 {
		return false
	}
	a := &addrs[w.firstAddress(addrs, k.Src)]
	d := flow.Destination{Server: x.member.addr, SNAT: a.id, Port: x.member.servicePort(k.DstPort()), Proto: k.Proto}
	x.head = w.sources.FetchHead(d, w.cfg.owners.bin(k.Src, k.SrcPort()))
	return true
}

// proposeTranslated drafts the proposals of set, whose heads of chains have been asked for.
func (w *worker) proposeTranslated(set uint64) {
	for rest := set; rest != 0; rest &= rest - 1 {
		w.sources.FetchSet(w.ahead.of[bits.TrailingZeros64(rest)&(burstSize-1)].head)
	}
	for ; set != 0; set &= set - 1 {
		i := bits.TrailingZeros64(set) & (burstSize - 1)
		if x := &w.ahead.of[i]; !w.draft(i, x) {
			w.giveUp(x)
		}
	}
}

// meetsOrder reports whether what becomes of a new connection to v depends on what becomes of those before it: limits are met in
// the order of arrival.
func (v *virtual) meetsOrder() bool {
	return v.OnePacket || v.persistence != nil || v.Mode >= Firewall || v.Hairpin == HairpinRefuse || v.Limit > 0 || v.Rate > 0 || v.SourceRate > 0
}

// draft describes the connection that x proposes for packet i, in the record that it will have, and reports whether there can be one.
func (w *worker) draft(i int, x *proposal) bool {
	v, m, k := x.virtual, x.member, &w.keys[i]
	if v.Mode != NAT || v.Hairpin != HairpinForward && m.near(k.Src) {
		rec, _, ok := w.track(i, x.id, v, m, false)
		if !ok {
			return false
		}
		r := w.table.Draft(&x.draft, i)
		if r == nil {
			w.giveBackPort(&rec, m, x.proto)
			return false
		}
		*r = rec
		w.table.Expect(&x.draft, x.proto)
		return true
	}
	// What track comes to where the destination changes and no more.
	r := w.table.Draft(&x.draft, i)
	if r == nil {
		return false
	}
	p, port := &w.pkts[i], m.servicePort(k.DstPort())
	r.Client, r.Virtual = k.Src, k.Dst
	r.CPort, r.VPort, r.SPort, r.NPort = k.SrcPort(), k.DstPort(), k.SrcPort(), port
	r.Node, r.VS = m.id, x.id
	r.ClientMAC = x.mac
	r.ClientIf, r.ServerIf = w.ports[i], uint16(m.Hop.Port)
	r.L3Diff = rewrite.AddrDiff(k.Dst, m.addr)
	r.L4Diff = rewrite.AddDiff(r.L3Diff, rewrite.PortDiff(k.DstPort(), port))
	if p.V6 {
		r.L3Diff = 0
	}
	switch x.proto {
	case flow.TCP:
		w.beginTCP(r, m, p)
	case flow.SCTP:
		r.BeginSCTP(&p.SCTP)
	}
	w.table.ExpectFrom(&x.draft, x.proto, m.addr, k.Src, flow.Ports(port, k.SrcPort()))
	return true
}

// has reports whether a tuple, or one that looks like it, was met before in this burst.
func (a *proposals) has(k *flow.Key) bool {
	h := (k.Src.Lo ^ k.Src.Hi ^ uint64(k.Ports)<<16) * 0x9e3779b97f4a7c15 >> 52
	word, bit := &a.seen[h>>6&63], uint64(1)<<(h&63)
	met := *word&bit != 0
	*word |= bit
	return met
}

// retract ends the proposals that came to nothing.
func (w *worker) retract() {
	for i := range w.ahead.of[:w.ahead.n] {
		w.cancel(&w.ahead.of[i])
	}
	w.ahead.n, w.ahead.first = 0, 0
}

// cancel gives back what a proposal has taken, if it is one.
func (w *worker) cancel(a *proposal) {
	if a.member == nil {
		return
	}
	w.giveBackPort(w.table.Drafted(&a.draft), a.member, a.proto)
	w.table.Discard(&a.draft)
	w.giveUp(a)
}

// giveUp ends a proposal that has neither a record nor a port.
func (w *worker) giveUp(a *proposal) {
	a.member.shared.cancel(uint32(a.member.Rate), w.now)
	a.virtual.shared.cancel(0, w.now)
	a.member = nil
}

// mayExist reports whether packet i can belong to a connection that is in the table: one without a proposal can, and one whose
// tuple looks like another's.
func (w *worker) mayExist(i int) bool {
	a := &w.ahead.of[i&(burstSize-1)]
	return a.member == nil || w.table.MayHave(&a.draft)
}

// connectProposed makes the connection that was proposed for packet i, if that is possible.
func (w *worker) connectProposed(i int) flow.Ref {
	a := &w.ahead.of[i&(burstSize-1)]
	if a.member == nil {
		return 0
	}
	v := a.virtual
	if v.halfOpen > 0 || w.cfg.sources.HalfOpen > 0 {
		if _, ok := w.mayOpen(v, a.id, w.keys[i].Src); !ok {
			return 0
		}
	}
	rec := w.table.Drafted(&a.draft)
	r, res := w.table.Open(&a.draft, w.now, w.now+uint64(v.Timeouts.at(a.proto, rec)))
	if res != flow.Inserted {
		w.cancel(a)
		return 0
	}
	w.opened(r, a.id, a.member)
	a.member = nil
	if a.proto == flow.TCP && w.pkts[i&(burstSize-1)].TCP.Len == 0 && rec.Plain() && v.MSSClamp == 0 {
		w.ahead.first |= 1 << (i & (burstSize - 1))
	}
	return r
}

// sendFirst is rewriteOne for packet i if its bit in first is set: tracking would find what it has begun with, and most of what would be
// asked was asked when it was judged.
func (w *worker) sendFirst(i int, rec *flow.Record) bool {
	i &= burstSize - 1
	p, n := &w.pkts[i], &w.cfg.nodes[rec.Node]
	size := int(p.End - p.L3)
	if w.ahead.first>>(i&(burstSize-1))&1 == 0 || !n.ok || size > w.cfg.leastMTU {
		return false
	}
	d := w.descs[i]
	rewrite.ToServer(w.region.Packet(d), p, &n.l2, w.cfg.addrs[rec.Node], rec.NPort, rec.L3Diff, rec.L4Diff)
	w.countSteady(rec, flow.FromClient, size)
	w.stats.ToServer++
	w.send(int(n.port), d)
	return true
}
