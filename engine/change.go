package engine

import (
	"sluice/flow"
	"sluice/rewrite"
)

// changeOne changes and counts packet i, which is plain, of TCP or else of UDP, and puts it on its egress port. rec is its record.
func (w *worker) changeOne(i int, rec *flow.Record, tcp bool) {
	d, side, size := w.descs[i], w.refs[i].Side(), w.pkts[i].PlainSize()
	h := w.region.Head(d.Addr)
	rec.Seen = uint32(w.now)
	rec.Account(side, size)
	w.virtual.count(rec.VS, side, size)
	w.node.count(rec.Node, side, size)
	if side == flow.FromClient {
		n := &w.cfg.nodes[rec.Node]
		if tcp {
			rec.ClientMAC = rewrite.SourceMAC(h[:])
		}
		rewrite.PlainToServer(h, &n.l2, tcp, w.cfg.addrs[rec.Node].V4(), rec.NPort, rec.L3Diff, rec.L4Diff)
		w.stats.ToServer++
		w.send(int(n.port), d)
		return
	}
	rewrite.PlainToClient(h, &rec.ClientMAC, &w.cfg.Ports[rec.ClientIf].MAC, tcp, rec.Virtual.V4(), rec.VPort, ^rec.L3Diff, ^rec.L4Diff)
	w.stats.ToClient++
	w.send(int(rec.ClientIf), d)
}

// tcpEach has a bit for each of pkts [from, to) that is of TCP; the others' mean nothing.
func tcpEach(pkts *[burstSize]rewrite.Packet, from, to int) (tcp uint64) {
	for i := from; i < to; i++ {
		is := uint64(0)
		if pkts[i&(burstSize-1)].Proto == flow.TCP {
			is = 1 << 63
		}
		tcp = tcp>>1 | is
	}
	return tcp >> (burstSize - (to - from)) << from
}
