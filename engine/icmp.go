package engine

import (
	"sluice/flow"
	"sluice/rewrite"
	"sluice/rings"
)

// ICMP errors about packets of connections are translated, inside and out, and go to the end that sent the packet; any other
// is the kernel's. Their tuple is that of what comes from where the error comes from, the quoted one turned around, so that they
// are looked up, steered and handed over with their burst as the packets are that they are about (inner source if that was a
// client's, inner destination if a member's). They change nothing of the connection.

// isRelated reports whether a packet in hand is an ICMP error with such a tuple.
func isRelated(p *rewrite.Packet) bool { return p.ICMP == rewrite.ICMPRelated && !p.Plain }

// readError reads what the ICMP error d is about, which Parse has just taken into the next place of the burst. It reports
// whether it stays in hand.
func (w *worker) readError(d rings.Desc, port uint16) bool {
	j := w.n & (burstSize - 1)
	if rewrite.ReadQuote(w.region.Packet(d), &w.pkts[j], &w.quotes[j], &w.keys[j]) != rewrite.Done {
		w.toHost(d)
		return false
	}
	return w.relates(d, port)
}

// relates reports whether an error whose quote has been read stays in hand: not one about a tunnel of ours, which has ended.
func (w *worker) relates(d rings.Desc, port uint16) bool {
	j := w.n & (burstSize - 1)
	p := &w.pkts[j]
	if w.cfg.isTunnelEnd(&w.keys[j]) && w.relateTunnel(d, p, &w.quotes[j], port, &w.keys[j]) {
		return false
	}
	p.ICMP, p.Opens = rewrite.ICMPRelated, false
	return true
}

// relate sends packet i on, an ICMP error about a packet of the connection of rec.
func (w *worker) relate(i int, ref flow.Ref, rec *flow.Record) {
	j := i & (burstSize - 1)
	p, q, d, port := &w.pkts[j], &w.quotes[j], w.descs[j], w.ports[j]
	if p.TTL <= 1 { // nothing is said about an ICMP error (RFC 1812 section 4.3.2.7)
		w.drop(d, TTLExpired)
		return
	}
	if ref.Side() == flow.FromClient { // about a packet of the member
		n := &w.cfg.nodes[rec.Node]
		switch {
		case rec.ClientIf != port && !rec.OneSided(): // answers that bypass us meet other routers
			w.drop(d, WrongSide)
		case !n.ok:
			w.drop(d, NoNeighbour)
		case rec.Kind() != flow.Translated && rec.SNAT == 0:
			before := w.stats.ToServer
			w.forwardWhole(rec, flow.FromClient, p, d, &n.l2, int(n.port), port)
			w.stats.Errors += w.stats.ToServer - before
		case q.Plain && rec.Plain():
			rewrite.PlainErrorToServer(w.region.Packet(d), q, &n.l2, w.cfg.addrs[rec.Node].V4(), rec.NPort, rec.L3Diff, rec.L4Diff)
			w.sendError(d, p, int(n.port), &w.stats.ToServer)
		default:
			k := w.table.ServerKey(rec)
			to := rewrite.EndsOf(&k)
			rewrite.TranslateError(w.region.Packet(d), p, q, &n.l2, &to, false)
			w.sendError(d, p, int(n.port), &w.stats.ToServer)
		}
		return
	}
	if rec.OneSided() {
		w.toHost(d)
		return
	}
	if rec.ServerIf != port && w.astray(rec, port) {
		w.drop(d, WrongSide)
		return
	}
	if q.Plain && rec.Plain() {
		mac := &w.cfg.Ports[rec.ClientIf].MAC
		rewrite.PlainErrorToClient(w.region.Packet(d), q, &rec.ClientMAC, mac, rec.Virtual.V4(), rec.VPort, ^rec.L3Diff, ^rec.L4Diff)
		w.sendError(d, p, int(rec.ClientIf), &w.stats.ToClient)
		return
	}
	l2 := rewrite.MakeL2(rec.ClientMAC, w.cfg.Ports[rec.ClientIf].MAC)
	if rec.Kind() != flow.Translated && rec.SNAT == 0 {
		before := w.stats.ToClient
		w.forwardWhole(rec, flow.FromServer, p, d, &l2, int(rec.ClientIf), port)
		w.stats.Errors += w.stats.ToClient - before
		return
	}
	k := rec.ClientKey()
	to := rewrite.EndsOf(&k)
	rewrite.TranslateError(w.region.Packet(d), p, q, &l2, &to, false)
	w.sendError(d, p, int(rec.ClientIf), &w.stats.ToClient)
}

// sendError sends a translated error on, and counts it as n does.
func (w *worker) sendError(d rings.Desc, p *rewrite.Packet, port int, n *uint64) {
	if w.sendOn(port, p, d) {
		w.stats.Errors++
		*n++
	}
}

// give hands one frame to another worker.
func (w *worker) give(slot int, options uint32, d rings.Desc) {
	d.Options = options
	w.one[0] = d
	w.stats.HandedOut += uint64(w.put(&w.peers[slot], w.one[:]))
}

// answers limits the ICMP messages of one kind that a worker makes: so many each second of its clock.
type answers struct {
	second uint64
	n      int
}

// take takes one of rate a second at the time now, in milliseconds, if there is one left.
func (a *answers) take(now uint64, rate int) bool {
	if s := now / 1000; s != a.second {
		*a = answers{second: s}
	}
	if a.n >= rate {
		return false
	}
	a.n++
	return true
}

// left reports whether take would take one.
func (a *answers) left(now uint64, rate int) bool {
	return a.second != now/1000 && rate > 0 || a.second == now/1000 && a.n < rate
}

// answerError turns packet i of the burst, which cannot go on for the reason why, into the ICMP error that says so, from
// the address of the port that it came in by, and sends it back. Where none may be sent the packet is dropped.
func (w *worker) answerError(i int, about rewrite.Problem, mtu uint32, why Reason) {
	w.answerAbout(&w.pkts[i&(burstSize-1)], w.descs[i&(burstSize-1)], w.ports[i&(burstSize-1)], about, mtu, why)
}

// answerAbout is answerError for the packet p of d, which came in by port.
func (w *worker) answerAbout(p *rewrite.Packet, d rings.Desc, port uint16, about rewrite.Problem, mtu uint32, why Reason) {
	b, e := w.region.Packet(d), &w.cfg.exits[port]
	a := rewrite.ErrorAnswer{Src: e.addr4, Problem: about, MTU: mtu, L2: rewrite.MakeL2(rewrite.SourceMAC(b), w.cfg.Ports[port].MAC)}
	if p.V6 {
		a.Src = e.addr6
	}
	if a.Src == (flow.Addr{}) || !rewrite.MayAnswer(b, p, about) || !w.sentErrors.take(w.now, w.cfg.icmpRate) {
		w.drop(d, why)
		return
	}
	w.answerBy(&a, p, d, port, why)
}

// answerBy sends a, made about the packet p of d, back by port, which that came in by. The frame becomes the answer.
func (w *worker) answerBy(a *rewrite.ErrorAnswer, p *rewrite.Packet, d rings.Desc, port uint16, why Reason) {
	b := w.region.Packet(d)
	w.capture.note(w, d, why)
	frame := w.region.Frame(d.Addr)
	n := a.Build(frame[d.Addr-w.region.Base(d.Addr):], b, p)
	if n == 0 {
		w.drop(d, why)
		return
	}
	d = w.alone(d, n)
	w.stats.ICMPSent++
	w.stats.Answered++
	w.stats.Refused[why]++
	w.send(int(port), d)
}

// dropOr drops packet i, or answers it where a router says why.
func (w *worker) dropOr(i int, why Reason) {
	if why == TTLExpired {
		w.answerError(i, rewrite.HopLimit, 0, why)
		return
	}
	w.drop(w.descs[i&(burstSize-1)], why)
}

// tooBig ends packet i, which is larger than the smallest MTU of all ports, if it is too big for the port that it would leave by
// and must not be cut in parts, and reports whether it was; what may be is by sendOn.
func (w *worker) tooBig(i, port int) bool {
	p, mtu := &w.pkts[i&(burstSize-1)], w.cfg.exits[port].mtu
	if mtu == 0 || int(p.End-p.L3) <= mtu || !dontFragment(w.region.Packet(w.descs[i&(burstSize-1)]), p) {
		return false
	}
	w.answerError(i, rewrite.PacketTooBig, uint32(mtu), TooBig)
	return true
}
