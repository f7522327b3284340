package engine

import (
	"sluice/flow"
	"sluice/rewrite"
)

// One-packet virtual servers keep no connection: every datagram is scheduled by itself, and an answer finds its virtual
// server by the member that it comes from. Those that are stateless when the table is full do the same with what finds
// no room. All that is remembered of a client is the way back to it, in a cache that
// may forget: an answer for a forgotten client is dropped by name.
type clientCache struct {
	entries [clientEntries]clientEntry
}

type clientEntry struct {
	addr flow.Addr
	mac  [6]byte
	port uint16
}

const clientEntries = 1 << 12

func (w *worker) clientEntry(a flow.Addr) *clientEntry {
	return &w.clients.entries[w.runtime.secret.Hash(&flow.Key{Dst: a})&(clientEntries-1)]
}

// forwardOne sends packet i to a member of v without an entry in the table.
func (w *worker) forwardOne(i int, v *virtual) {
	k, p, d := &w.keys[i], &w.pkts[i], w.descs[i]
	m, why := w.chooseOne(i, v)
	if m == nil {
		w.drop(d, why)
		return
	}
	n := &w.cfg.nodes[m.id]
	if int(p.End-p.L3) > w.cfg.leastMTU && w.tooBig(i, int(n.port)) {
		return
	}
	b := w.region.Packet(d)
	*w.clientEntry(k.Src) = clientEntry{addr: k.Src, mac: rewrite.SourceMAC(b), port: w.ports[i]}
	port := m.servicePort(k.DstPort())
	diff := rewrite.AddrDiff(k.Dst, m.addr)
	rewrite.ToServer(b, p, &n.l2, m.addr, port, diff, rewrite.AddDiff(diff, rewrite.PortDiff(k.DstPort(), port)))
	if w.sendOn(int(n.port), p, d) {
		w.countService(w.cfg.find(k, w.ports[i]), m.id, flow.FromClient, p)
		w.stats.ToServer++
	}
}

// answerPort is where answers come from that have no entry.
func (v *virtual) answerPort() uint16 {
	if len(v.Destinations) > 0 {
		return v.Destinations[0].Ports.First
	}
	return v.Port
}

// chooseOne is the member that packet i goes to without an entry, or nil and why.
func (w *worker) chooseOne(i int, v *virtual) (*member, Reason) {
	c := &w.runtime.choice
	m := c.only(v.pool, &w.keys[i], w.now, w.runtime.peek != nil)
	switch {
	case m == nil:
		return nil, c.why
	case !w.cfg.nodes[m.id].ok:
		return nil, NoNeighbour
	}
	return m, 0
}

// answered says which virtual server's member sent a packet that has no entry, or is nil. A segment to somebody who has
// sent nothing that way is the host's or the member's own affair.
func (w *worker) answered(k *flow.Key) *service {
	a := w.cfg.answers.slot(k.Src, uint32(k.Proto)<<16|uint32(k.SrcPort()))
	if !a.used || k.Proto != flow.UDP && w.clientEntry(k.Dst).addr != k.Dst {
		return nil
	}
	return a
}

// answerOne sends a member's packet i back to the client as its virtual server.
func (w *worker) answerOne(i int, a *service) {
	k, p, d := &w.keys[i], &w.pkts[i], w.descs[i]
	c := w.clientEntry(k.Dst)
	switch {
	case p.TTL <= 1:
		w.dropOr(i, TTLExpired)
		return
	case c.addr != k.Dst:
		w.drop(d, NoNeighbour)
		return
	}
	if int(p.End-p.L3) > w.cfg.leastMTU && w.tooBig(i, int(c.port)) {
		return
	}
	v := &w.cfg.virtuals[a.id]
	port := v.answerPort()
	diff := rewrite.AddrDiff(k.Src, v.addr)
	l2 := rewrite.MakeL2(c.mac, w.cfg.Ports[c.port].MAC)
	rewrite.ToClient(w.region.Packet(d), p, &l2, v.addr, port, diff, rewrite.AddDiff(diff, rewrite.PortDiff(k.SrcPort(), port)))
	if w.sendOn(int(c.port), p, d) {
		w.countService(a.id, a.node, flow.FromServer, p)
		w.stats.ToClient++
	}
}

// countService counts a packet for a virtual server and a member.
func (w *worker) countService(id, node uint32, side flow.Side, p *rewrite.Packet) {
	n := int(p.End - p.L3)
	w.virtual.count(id, side, n)
	w.node.count(node, side, n)
}
