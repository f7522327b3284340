package engine

import (
	"fmt"

	"sluice/flow"
	"sluice/rewrite"
)

// Transparent modes serve destinations that are not ours: what clients ask for stays what they ask for, and we choose the
// way to it.
//
//	Router     host ── H > D ──▶ us ── S > D, to the MAC of router 2 ──▶ router 2 ──▶ D
//	           host ◀── D > H ── us ◀──────── D > S, S is router 2's ─── router 2
//	Firewall   host ── H > D ──▶ us ── H > D, to the MAC of firewall 1 ──▶ firewall 1 ──▶ D
//	           host ◀── O > H ── us ◀── O > H, from the MAC of firewall 2 ── firewall 2    learned: what H answers goes to that MAC
//	Forward    host ── H > D ──▶ us ── H or S > D, where the kernel's routes lead ──▶ D
//
// Neither end is a client by its address, so the owner of a connection follows from both: bins of the two ends, exclusive
// or, which are the same for both directions and for the packets that an ICMP error quotes. It is what a NIC hashes that
// hashes all four fields with our key. Where the source is translated, the port is of that bin.

// The modes that a spec may have beside those of translation and direct return.
const (
	// Router sends each connection to one of several routers. Its source may become an address of that router's network.
	Router Mode = 8 + iota
	// Firewall sends all connections between two addresses through the same of several firewalls, and answers those that were
	// opened from behind a firewall through that one.
	Firewall
	// Forward routes as the kernel would, and keeps track.
	Forward
)

// Transparent reports whether destinations are not ours and stay.
func (m Mode) Transparent() bool { return m >= Router }

// checkTransparent refuses what makes no sense in a transparent mode.
func (v *virtual) checkTransparent() error {
	switch {
	case v.withoutEntry():
		return fmt.Errorf("virtual server %s: this mode needs an entry in the table for every connection", v.Name)
	case v.Mode == Firewall && v.SNAT != "":
		return fmt.Errorf("virtual server %s: firewalls see both ends as they are; no SNAT", v.Name)
	}
	var err error
	v.pool.eachServing(func(m *member) {
		switch {
		case m.Port != 0:
			err = fmt.Errorf("virtual server %s: member %s has port %d, and ports stay as they are in this mode", v.Name, m.Name, m.Port)
		case v.Mode == Firewall && m.SNAT != "":
			err = fmt.Errorf("virtual server %s: firewalls see both ends as they are; no SNAT for member %s", v.Name, m.Name)
		}
	})
	for p := v.pool; p != nil && v.Mode == Firewall; p = p.fallback {
		if !p.symmetric {
			err = fmt.Errorf("virtual server %s: pool %s does not hash both ends", v.Name, p.name)
		}
	}
	return err
}

// resolveMembers finds the SNAT pools of members.
func (c *Config) resolveMembers() (err error) {
	for i := range c.pools {
		c.pools[i].each(func(_ *group, m *member) {
			if m.SNAT == "" {
				return
			}
			for j := range c.snatPools {
				if c.snatPools[j].name == m.SNAT {
					m.snat = &c.snatPools[j]
				}
			}
			if m.snat == nil {
				err = fmt.Errorf("pool %s member %s: no SNAT pool %s", c.pools[i].name, m.Name, m.SNAT)
			}
		})
	}
	return err
}

// compileTransparent prepares what only these modes need. The virtual servers must be compiled.
func (c *Config) compileTransparent(spec *Spec) {
	for _, v := range spec.Draining.Virtuals {
		c.transparent = c.transparent || v.Mode.Transparent()
	}
	for id := range c.virtuals {
		v := &c.virtuals[id]
		if !v.exists {
			continue
		}
		c.transparent = c.transparent || v.Mode.Transparent()
		if v.Mode != Firewall {
			continue
		}
		for _, d := range v.All() {
			bits := prefixBits(d.Prefix)
			v.takes = append(v.takes, prefix{maskAddr(flow.AddrFrom(d.Prefix.Addr()), int(bits)), bits, d.Prefix.Addr().Is4()})
		}
		v.pool.eachServing(func(m *member) {
			for len(c.firewalls) <= m.Hop.Port {
				c.firewalls = append(c.firewalls, nil)
			}
			c.firewalls[m.Hop.Port] = append(c.firewalls[m.Hop.Port], firewall{mac: m.Hop.MAC, ok: m.Hop.OK, id: uint32(id), node: m.id})
		})
	}
}

// firewall is a member of a Firewall virtual server, behind the port by whose index it is found.
type firewall struct {
	mac  [6]byte
	ok   bool
	id   uint32 // of the virtual server
	node uint32 // of the member
}

// learned is the virtual server of packet i if that comes through one of its firewalls, else 0: its connection was opened
// from the far side. It is so only for what the virtual server takes in the other direction.
func (w *worker) learned(i int) uint32 {
	port := int(w.ports[i])
	if port >= len(w.cfg.firewalls) {
		return 0
	}
	mac, k := w.sourceMAC(i), &w.keys[i]
	for j := range w.cfg.firewalls[port] {
		if f := &w.cfg.firewalls[port][j]; f.ok && f.mac == mac && w.cfg.virtuals[f.id].answers(k) {
			return f.id
		}
	}
	return 0
}

// answers reports whether a packet is of what v takes, in the other direction.
func (v *virtual) answers(k *flow.Key) bool {
	if v.Proto != 0 && v.Proto != k.Proto {
		return false
	}
	for i := range v.takes {
		if t := &v.takes[i]; k.Src.Is4() == t.v4 && maskAddr(k.Src, int(t.bits)) == t.addr {
			return true
		}
	}
	return false
}

// prefix is a masked address with the bits that count of the mapped address.
type prefix struct {
	addr flow.Addr
	bits uint8
	v4   bool
}

// byRoute reports whether packet i, which opens a connection of v, goes where the kernel's routes lead.
func (w *worker) byRoute(i int, v *virtual) bool {
	return v.Mode == Forward || v.Mode == Firewall && w.learned(i) != 0
}

// hasWay reports whether packet i, which is for v, is ours at all. What the kernel has no route for through a port of ours is the
// kernel's.
func (w *worker) hasWay(i int, v *virtual) bool {
	return !w.byRoute(i, v) || w.cfg.routes.find(w.keys[i].Dst) != nil
}

// connectByRoute is connect for what goes where the kernel's routes lead.
func (w *worker) connectByRoute(i int, id uint32, adopt bool) (flow.Ref, Reason) {
	v, k, c, peek := &w.cfg.virtuals[id], &w.keys[i], &w.runtime.choice, w.runtime.peek
	c.pool = v.pool               // refuse asks it
	m := w.cfg.routes.find(k.Dst) // there is one: judge has looked
	switch {
	case !m.Hop.OK:
		if peek == nil {
			w.want(k.Dst)
		}
		return 0, NoNeighbour
	case !c.reserve(v.shared, int64(v.Limit), uint32(v.Rate), w.now):
		return 0, VirtualLimit
	}
	why, ok := SourceRate, v.SourceRate == 0 || w.takeSource(v, id, k.Src)
	var rec flow.Record
	if ok {
		rec, why, ok = w.track(i, id, v, m, adopt)
	}
	if ok {
		r, res := w.insert(&rec, k.Proto, w.now+uint64(v.Timeouts.at(k.Proto, &rec)))
		switch {
		case res == flow.Inserted && peek != nil:
			peek.found(m, &rec)
			return 0, 0
		case res == flow.Inserted:
			m.shared.active.Add(1)
			w.opened(r, id, m)
			return r, 0
		}
		w.giveBackPort(&rec, m, k.Proto)
		if why = TupleCollision; res == flow.Full {
			why = TableFull
		}
	}
	c.cancel(v.shared, uint32(v.Rate))
	return 0, why
}

// snatOf is the pool of SNAT addresses of connections to m, or nil.
func (v *virtual) snatOf(m *member) *snatPool {
	if m.snat != nil {
		return m.snat
	}
	return v.snat
}

// bin is the bin of a packet that arrived on a port: that of its client's end if it goes to a virtual server that
// translates, or comes from a member of one; of a port at a SNAT address, which is the connection's; else of both ends.
func (c *Config) bin(k *flow.Key, ingress uint16) uint8 {
	if c.isSNAT(k.Dst) {
		return uint8(k.DstPort())
	}
	if id := c.find(k, ingress); id != 0 && !c.virtuals[id].Mode.Transparent() {
		return c.owners.bin(k.Src, k.SrcPort())
	} else if virtual, _ := c.services.address(k.Dst); virtual && id == 0 {
		return c.owners.bin(k.Src, k.SrcPort())
	}
	return c.binOfEnds(k)
}

// binOfEnds is the bin of a packet between two ends that are not ours, the same for both directions. Of a member's service
// port the other end alone counts, as it does for the member's connections that are translated.
func (c *Config) binOfEnds(k *flow.Key) uint8 {
	src, dst := c.owners.bin(k.Src, k.SrcPort()), c.owners.bin(k.Dst, k.DstPort())
	if c.serverEnds.entries != nil {
		from, to := c.serverEnds.findAddress(k.Src, k.SrcPort(), k.Proto) != 0, c.serverEnds.findAddress(k.Dst, k.DstPort(), k.Proto) != 0
		switch {
		case from && !to:
			return dst
		case to && !from:
			return src
		}
	}
	return src ^ dst
}

// binOf is the bin of a connection.
func (c *Config) binOf(r *flow.Record, proto uint8) uint8 {
	if r.Kind() == flow.Translated {
		return c.owners.bin(r.Client, r.CPort)
	}
	k := r.ClientKey()
	k.Proto = proto
	if c.transparent {
		return c.bin(&k, r.ClientIf)
	}
	return c.owners.bin(r.Client, r.CPort)
}

// astray reports whether an answer may arrive on port although its connection leaves by another. Where routers lead is not
// ours to say, unless the source address has bound the connection to one of them; a firewall has seen both directions.
func (w *worker) astray(rec *flow.Record, port uint16) bool {
	return !rec.Movable() || rec.SNAT != 0 || w.mode(rec) == Firewall || rec.ClientIf == port
}

// passOnRouted sends packet i of a connection in a transparent mode.
func (w *worker) passOnRouted(i int, rec *flow.Record, side flow.Side, l2 *rewrite.L2, port int) {
	p, d := &w.pkts[i&(burstSize-1)], w.descs[i&(burstSize-1)]
	if side == flow.FromClient {
		rec.ServerIf = uint16(port) // a route may lead elsewhere than before
		if p.Proto != flow.TCP && p.Proto != flow.SCTP && len(w.cfg.firewalls) > 0 {
			w.relearn(rec, rewrite.SourceMAC(w.region.Packet(d)))
		}
	}
	if rec.SNAT != 0 {
		w.translate(rec, side, p, d, l2, port)
		return
	}
	w.routePacket(rec, side, p, d, l2, port)
}

// relearn has answers go to another firewall, if packets come through that one now. Of protocols without a handshake only
// the firewall's MAC speaks for them.
func (w *worker) relearn(rec *flow.Record, mac [6]byte) {
	if rec.ClientMAC == mac || int(rec.ClientIf) >= len(w.cfg.firewalls) || !w.isLearned(rec) {
		return
	}
	for i := range w.cfg.firewalls[rec.ClientIf] {
		if f := &w.cfg.firewalls[rec.ClientIf][i]; f.ok && f.id == rec.VS && f.mac == mac {
			rec.ClientMAC = mac
		}
	}
}

// isLearned reports whether a connection was opened from behind a firewall.
func (w *worker) isLearned(rec *flow.Record) bool {
	return w.mode(rec) == Firewall && w.cfg.nodes[rec.Node].route
}

// reroute sends a connection another way, if there is one: its member has stopped serving. It stays what it is at both ends.
func (w *worker) reroute(rec *flow.Record) bool {
	if !rec.Movable() || rec.SNAT != 0 || int(rec.VS) >= len(w.cfg.virtuals) || !w.cfg.virtuals[rec.VS].exists {
		return false
	}
	v := &w.cfg.virtuals[rec.VS]
	if v.Mode != Router && v.Mode != Firewall {
		return false
	}
	k := rec.ClientKey()
	c := &w.runtime.choice
	c.begin(v.pool, &k, w.now, false)
	for m := c.next(); m != nil; m = c.again(m) {
		if v.snatOf(m) != nil {
			continue
		}
		if w.isLearned(rec) {
			m.shared.cancel(uint32(m.Rate), w.now) // it is not the member's: it came through it
			rec.ClientMAC, rec.ClientIf = m.Hop.MAC, uint16(m.Hop.Port)
		} else {
			m.shared.active.Add(-1) // setNode counts it
			w.setNode(rec, m)
		}
		w.stats.Moved++
		return true
	}
	return false
}

// endOrderOf is the order about the member of a connection, or about the firewall that it came through, or nil.
func (w *worker) endOrderOf(r *flow.Record) *endOrder {
	orders := w.runtime.ending.orders
	node := r.Node
	if w.isLearned(r) {
		if node = w.learnedFrom(r); node == 0 {
			return nil
		}
	}
	if int(node) >= len(orders) {
		return nil
	}
	return &orders[node]
}

// learnedFrom is the member that a connection came through, or 0. The member may be down, or its MAC be unknown by now.
func (w *worker) learnedFrom(r *flow.Record) uint32 {
	if int(r.ClientIf) < len(w.cfg.firewalls) {
		for i := range w.cfg.firewalls[r.ClientIf] {
			if f := &w.cfg.firewalls[r.ClientIf][i]; f.id == r.VS && f.mac == r.ClientMAC {
				return f.node
			}
		}
	}
	return 0
}

// mode is that of a connection's virtual server.
func (w *worker) mode(rec *flow.Record) Mode {
	if int(rec.VS) < len(w.cfg.virtuals) {
		return w.cfg.virtuals[rec.VS].Mode
	}
	return NAT
}

// binOfPacket is bin for people.
func (c *Config) binOfPacket(k *flow.Key, ingress int) int {
	if c.transparent {
		return int(c.bin(k, uint16(ingress)))
	}
	return int(c.owners.bin(k.Src, k.SrcPort()))
}
