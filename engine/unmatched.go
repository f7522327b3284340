package engine

import (
	"sluice/flow"
	"sluice/rewrite"
)

// What is for a virtual address but for no virtual server is answered, where the address says so (UnmatchedReset), as by a host that
// has nobody there: TCP with a RST, UDP with port unreachable, other protocols with protocol unreachable. The answers have a limit
// of their own, as large as that of ICMP errors: whoever scans ports takes nothing from the path MTU of others.

// judgeUnmatched decides on packet i, to such an address.
func (w *worker) judgeUnmatched(i int) judgement {
	k, p, b := &w.keys[i], &w.pkts[i], w.packet(i)
	switch {
	case rewrite.BadSource(k.Src), b[6]&1 != 0, w.cfg.isOwn(k.Src):
		return dropped(BadSource)
	case k.Proto == flow.TCP && p.TCP.Flags&flow.FlagRST != 0, // RFC 9293 section 3.10.7.1
		p.V6 && k.Proto == noNextHeader,
		!rewrite.MayAnswer(b, p, rewrite.PortUnreachable): // for a RST as well: RFC 9293 section 3.9.2.3, to many
		return dropped(NoVirtualServer)
	}
	return judgement{sentence: sentenceUnmatched, why: NoVirtualServer}
}

// noNextHeader is the IPv6 protocol of a packet that is all headers, and asks for nothing (RFC 8200 section 4.7).
const noNextHeader = 59

// isOwn reports whether an address is isOurs, or a port's own.
func (c *Config) isOwn(a flow.Addr) bool { return c.services.slot(a, 0).used || c.isSNAT(a) }

// unmatchedDecision is what answerUnmatched does with a packet of a protocol, if the limit lets it.
func unmatchedDecision(proto uint8) Decision {
	if proto == flow.TCP {
		return DecideReset
	}
	return DecideUnreachable
}

// answerUnmatched answers packet i, of which judgeUnmatched says that it may be.
func (w *worker) answerUnmatched(i int) {
	j := i & (burstSize - 1)
	p, d, port := &w.pkts[j], w.descs[j], w.ports[j]
	if !w.sentUnmatched.take(w.now, w.cfg.icmpRate) {
		w.drop(d, UnmatchedRate)
		return
	}
	about := rewrite.ProtocolUnreachable
	switch w.keys[j].Proto {
	case flow.TCP:
		w.refuseByReset(i, NoVirtualServer)
		return
	case flow.UDP:
		about = rewrite.PortUnreachable
	}
	from := rewrite.SourceMAC(w.region.Packet(d))
	a := rewrite.ErrorAnswer{Src: w.keys[j].Dst, Problem: about, L2: rewrite.MakeL2(from, w.cfg.Ports[port].MAC)}
	w.answerBy(&a, p, d, port, NoVirtualServer)
}
