package engine

import (
	"sluice/flow"
	"sluice/rewrite"
)

// What rewrite does itself for plain packets of nat is done here for the other modes, for IPv6 and for frames with a tag: packets
// that are regular (rewrite.Packet.Regular), on connections that only go on. What is not known at a glance to need no more than
// this is left to rewriteOne, before anything has changed:
//
//	both ends translated   full NAT, SNAT of routers and of forwarding; one end is the same with the other written as it was
//	routed                 routers, firewalls, forwarding, direct return: Ethernet header and TTL
//
// rewritesteady_test.go holds the two ways against each other.

// rewriteSteady is rewriteOne for a packet that may be of those.
func (w *worker) rewriteSteady(i int, ref flow.Ref, rec *flow.Record) {
	if ref.Side() == flow.FromClient {
		if w.steadyToServer(i&(burstSize-1), rec) {
			return
		}
	} else if w.steadyToClient(i&(burstSize-1), rec) {
		return
	}
	w.rewriteOne(i, ref, rec)
}

// steadyToServer sends packet j on to the server if it is one of those.
func (w *worker) steadyToServer(j int, rec *flow.Record) bool {
	j &= burstSize - 1
	p, cfg := &w.pkts[j], w.cfg
	n, size := &cfg.nodes[rec.Node], int(p.End-p.L3)
	if !p.Regular() || p.TTL <= 1 || size > cfg.leastMTU || rec.ClientIf != w.ports[j] || !n.ok || rec.Kind() == flow.Tunnelled ||
		!rec.SteadyFromClient(p.Proto, &p.TCP) {
		return false
	}
	d := &w.descs[j]
	h, ip := w.region.Head(d.Addr), w.region.Head(d.Addr+uint64(p.L3))
	mac := rewrite.SourceMAC(h[:])
	rec.Seen = uint32(w.now)
	if p.Proto == flow.TCP {
		rec.ClientMAC = mac
	}
	if rec.Movable() {
		rec.ServerIf = n.port
		if p.Proto != flow.TCP && len(cfg.firewalls) > 0 {
			w.relearn(rec, mac)
		}
	}
	*(*rewrite.L2)(h[:]) = n.l2
	if routed := rec.Kind() == flow.Routed; routed && (rec.SNAT == 0 || rec.OneSided()) {
		rewrite.ForwardRegular(ip, p.V6)
	} else {
		src, dst := &rec.Client, &rec.Virtual
		if rec.SNAT != 0 {
			src = &cfg.addrs[rec.SNAT]
		}
		if !routed {
			dst = &cfg.addrs[rec.Node]
		}
		translateRegular(ip, p, src, dst, flow.Ports(rec.SPort, rec.NPort), rec.L3Diff, rec.L4Diff)
	}
	w.countSteady(rec, flow.FromClient, size)
	w.stats.ToServer++
	w.send(int(n.port), *d)
	return true
}

// steadyToClient sends packet j on to the client if it is one of those.
func (w *worker) steadyToClient(j int, rec *flow.Record) bool {
	j &= burstSize - 1
	p, port := &w.pkts[j], w.ports[j]
	size := int(p.End - p.L3)
	if !p.Regular() || p.TTL <= 1 || size > w.cfg.leastMTU || rec.ServerIf != port && w.astray(rec, port) || rec.OneSided() ||
		!rec.SteadyFromServer(p.Proto, &p.TCP) {
		return false
	}
	d := &w.descs[j]
	h, ip := w.region.Head(d.Addr), w.region.Head(d.Addr+uint64(p.L3))
	rec.Seen = uint32(w.now)
	*(*[6]byte)(h[:]), *(*[6]byte)(h[6:]) = rec.ClientMAC, w.cfg.Ports[rec.ClientIf].MAC
	if rec.Kind() == flow.Routed && rec.SNAT == 0 {
		rewrite.ForwardRegular(ip, p.V6)
	} else {
		translateRegular(ip, p, &rec.Virtual, &rec.Client, flow.Ports(rec.VPort, rec.CPort), ^rec.L3Diff, ^rec.L4Diff)
	}
	w.countSteady(rec, flow.FromServer, size)
	w.stats.ToClient++
	w.send(int(rec.ClientIf), *d)
	return true
}

// translateRegular gives the packet from its IP header on other ends.
func translateRegular(ip *rewrite.Head, p *rewrite.Packet, src, dst *flow.Addr, ports uint32, l3, l4 rewrite.Diff) {
	if p.V6 {
		rewrite.TranslateRegular6(ip, p.Proto, src, dst, ports, l4)
		return
	}
	rewrite.TranslateRegular4(ip, p.Proto, src.V4(), dst.V4(), ports, l3, l4)
}

// countSteady is count for a packet of n bytes.
func (w *worker) countSteady(rec *flow.Record, side flow.Side, n int) {
	rec.Account(side, n)
	w.virtual.count(rec.VS, side, n)
	w.node.count(rec.Node, side, n)
}
