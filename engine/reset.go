package engine

import (
	"sluice/flow"
	"sluice/rewrite"
	"sluice/rings"
)

// answerReset turns packet i, a TCP segment without a connection, into the RST that answers it, and sends it back where it
// came from.
func (w *worker) answerReset(i int) {
	d := w.descs[i]
	b := w.region.Packet(d)
	d = w.alone(d, rewrite.AnswerReset(b, &w.pkts[i]))
	w.stats.Resets++
	w.stats.Answered++
	w.send(int(w.ports[i]), d)
}

// expire is called for a connection whose time has come.
func (w *worker) expire(r *flow.Record) {
	if r.Proto() == flow.TCP && r.TCPState() == flow.TCPEstablished && int(r.VS) < len(w.cfg.virtuals) && w.cfg.virtuals[r.VS].ResetExpired {
		w.sendResets(r)
	}
	switch s := r.TCPState(); { // of SCTP the states have the same numbers
	case r.OneSided(): // answers were not to be seen
	case s == flow.TCPSynSent && r.Packets(flow.FromClient) > 1: // counted when the client repeated itself
	case s == flow.TCPSynSent, s == flow.TCPNone && !r.Replied():
		w.node.connections[r.Node].Unanswered++
	}
	w.retire(r)
	if holds(r) {
		w.tally.add(r, -1) // the next connection is looked at in the next step
	}
}

// sendResets tells both ends of a connection that it is over. Each RST carries the number that its receiver expects next
// (RFC 9293 section 3.10.7.4, RFC 5961 section 3.2).
func (w *worker) sendResets(r *flow.Record) {
	k := w.table.ServerKey(r)
	server := r.Win[flow.FromServer]
	if r.OneSided() { // what it has sent shows in what the client says of it
		server = flow.Window{End: r.Win[flow.FromClient].Ack, Ack: r.Win[flow.FromClient].End}
	}
	toClient := rewrite.Reset{
		L2:  rewrite.MakeL2(r.ClientMAC, w.cfg.Ports[r.ClientIf].MAC),
		Src: r.Virtual, Dst: r.Client, SrcPort: r.VPort, DstPort: r.CPort,
		Seq: server.End, Ack: server.Ack,
	}
	w.sendReset(int(r.ClientIf), &toClient)
	if n := &w.cfg.nodes[r.Node]; n.ok {
		toServer := rewrite.Reset{
			L2: n.l2, Src: k.Dst, Dst: k.Src, SrcPort: r.SPort, DstPort: r.NPort,
			Seq: r.Win[flow.FromClient].End, Ack: r.Win[flow.FromClient].Ack,
		}
		if r.Kind() == flow.Tunnelled {
			w.tunnelReset(r, &toServer)
			return
		}
		w.sendReset(int(n.port), &toServer)
	}
}

func (w *worker) sendReset(port int, reset *rewrite.Reset) {
	if d, ok := w.buildReset(reset); ok {
		w.send(port, d)
	}
}

// buildReset makes a RST in a frame of its own; without a free one the ends find out by themselves.
func (w *worker) buildReset(reset *rewrite.Reset) (d rings.Desc, ok bool) {
	addr, ok := w.pool.Get()
	if !ok {
		return d, false
	}
	addr += rings.Headroom
	n := reset.Build(w.region.Frame(addr)[rings.Headroom:])
	w.stats.Resets++
	w.stats.Made++
	return rings.Desc{Addr: addr, Len: uint32(n)}, true
}
