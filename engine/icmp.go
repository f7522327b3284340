package engine

import (
	"sluice/flow"
	"sluice/rewrite"
	"sluice/rings"
)

// relate deals with an ICMP error, which arrived on port: one about a packet of a connection is translated, inside and
// out, and goes to the end that sent the packet; any other is the kernel's. It is looked up by itself, ahead of its
// burst: what it is about has passed before, and it changes nothing of the connection. Its owner is that of the
// connection, which follows from the quoted packet (inner source if that was a client's, inner destination if a member's).
func (w *worker) relate(d rings.Desc, p *rewrite.Packet, port uint16) {
	b := w.region.Packet(d)
	var q rewrite.Quote
	var k flow.Key
	if rewrite.ReadQuote(b, p, &q, &k) != rewrite.Done {
		w.toHost(d)
		return
	}
	if o := int(w.slots[w.cfg.owner(&k)]); o != w.slot && !w.handedIn {
		w.give(o, processKind|uint32(port), d)
		return
	}
	r := w.table.Lookup(&k)
	if w.leaving != nil && (r == 0 || w.leaving.isSent(r.Index())) {
		w.give(int(w.leaving.slots[w.leaving.next.owner(&k)]), processKind|uint32(port), d)
		return
	}
	if r == 0 {
		w.toHost(d)
		return
	}
	rec := w.table.Record(r.Index())
	if p.TTL <= 1 { // nothing is said about an ICMP error (RFC 1812 section 4.3.2.7)
		w.drop(d, TTLExpired)
		return
	}
	if r.Side() == flow.FromClient { // about a packet of the member
		n := &w.cfg.nodes[rec.Node]
		switch {
		case rec.ClientIf != port:
			w.drop(d, WrongSide)
		case !n.ok:
			w.drop(d, NoNeighbour)
		default:
			k = w.table.ServerKey(rec)
			w.translateError(d, p, &q, &k, &n.l2, int(n.port))
			w.stats.ToServer++
		}
		return
	}
	if rec.ServerIf != port {
		w.drop(d, WrongSide)
		return
	}
	k = rec.ClientKey()
	l2 := rewrite.MakeL2(rec.ClientMAC, w.cfg.Ports[rec.ClientIf].MAC)
	w.translateError(d, p, &q, &k, &l2, int(rec.ClientIf))
	w.stats.ToClient++
}

// translateError sends an error on, about a packet that had the tuple k when it left its sender.
func (w *worker) translateError(d rings.Desc, p *rewrite.Packet, q *rewrite.Quote, k *flow.Key, l2 *rewrite.L2, port int) {
	to := rewrite.EndsOf(k)
	rewrite.TranslateError(w.region.Packet(d), p, q, l2, &to, false)
	w.stats.Errors++
	w.send(port, d)
}

// give hands one frame to another worker.
func (w *worker) give(slot int, options uint32, d rings.Desc) {
	d.Options = options
	w.one[0] = d
	w.stats.HandedOut += uint64(w.put(&w.peers[slot], w.one[:]))
}
