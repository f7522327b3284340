package engine

import (
	"sluice/flow"
	"sluice/rewrite"
)

// Tunnels have a shorter way as well (rewritesteady.go): for packets of clients that are regular and fit, on connections that only go on
// and are encapsulated as the configuration has it now, whose headers are then ready (rewrite.TunnelHead).

// tunnelHeads are the headers for packets to a node, of IPv4 and of IPv6.
type tunnelHeads [2]rewrite.TunnelHead

// makeTunnelHeads makes those of all nodes that there is a way to.
func (c *Config) makeTunnelHeads() {
	if c.tunnelHeads != nil {
		return
	}
	c.tunnelHeads = make([]tunnelHeads, len(c.tunnels))
	for i := range c.tunnels {
		if t := &c.tunnels[i]; t.Src != (flow.Addr{}) {
			c.tunnelHeads[i] = tunnelHeads{t.Head(false), t.Head(true)}
		}
	}
}

// steadyTunnel sends packet i of a tunnelled connection on if it is one of those; if not nothing has changed.
func (w *worker) steadyTunnel(i int, ref flow.Ref, rec *flow.Record) bool {
	j := i & (burstSize - 1)
	p, d, cfg := &w.pkts[j], &w.descs[j], w.cfg
	if ref.Side() != flow.FromClient || int(rec.Node) >= len(cfg.tunnelHeads) {
		return false
	}
	family := 0
	if p.V6 {
		family = 1
	}
	t, n := &cfg.tunnelHeads[rec.Node][family], &cfg.nodes[rec.Node]
	size, base := int(p.End-p.L3), w.region.Base(d.Addr)
	ip := d.Addr + uint64(p.L3)
	if !p.Regular() || p.TTL <= 1 || rec.ClientIf != w.ports[j] || !n.ok || !t.Takes(uint32(rec.L4Diff)<<16|uint32(rec.L3Diff), size) ||
		ip < base+rewrite.TunnelRoom || w.region.Chained(d.Addr) || !rec.SteadyFromClient(p.Proto, &p.TCP) {
		return false
	}
	rec.Seen = uint32(w.now)
	if p.Proto == flow.TCP {
		rec.ClientMAC = rewrite.SourceMAC(w.region.Head(d.Addr)[:])
	}
	entropy, sum := uint32(0), uint32(0)
	if t.Varies() {
		entropy = rewrite.EntropyOf(&rec.Client, &rec.Virtual, flow.Ports(rec.CPort, rec.VPort), p.Proto)
	}
	if t.Summed() {
		sum = t.Sum(w.region.Bytes()[ip : ip+uint64(size)])
	}
	w.outerID++
	added := t.Encapsulate(w.region.LongHead(ip-rewrite.TunnelRoom), size, entropy, w.outerID, sum)
	d.Addr, d.Len, d.Options = ip-uint64(added), uint32(size+added), 0
	w.countSteady(rec, flow.FromClient, size)
	w.stats.ToServer++
	w.send(int(n.port), *d)
	return true
}
