package engine

import (
	"fmt"
	"net/netip"

	"sluice/flow"
	"sluice/rewrite"
	"sluice/rings"
)

// Tunnels: direct return to members that are anywhere. The packet stays as it is, but for the hop that it takes, and goes to the
// member inside another, whose headers are put into the headroom of its frame.
//
//	client ── C > V ──▶ us ── S > M [ C > V ] ──▶ routers ──▶ member, which owns V and answers C past us
//
//	1 a packet that does not fit with the tunnel's headers: the client is told by ICMP how large it may be, or, where it may be
//	  cut (IPv4 without DF), it goes in parts                                            tunnelPacket
//	2 an ICMP error of a router between us and the member is about the outer packet: it becomes one about the inner packet, for
//	  the client, with the MTU less the tunnel's headers (RFC 2003 section 4)            relateTunnel
//
// How a connection is encapsulated stays in its record, in the Diffs, which have no other use there: what is known of a member
// that is gone, or of another setting, does not change it.

// TunnelSpec is how the members of a pool are reached through tunnels.
type TunnelSpec struct {
	Kind rewrite.TunnelKind
	Port uint16 // of GUE; 0: rewrite.GUEPort
	DF   rewrite.DFPolicy
	// Checksum is of GUE's UDP: by default over IPv6 alone, where it is not optional (RFC 6935).
	Checksum TunnelChecksum
	// Sources are outer source addresses, at most one of each family; without one it is that of the port that leads to the member.
	Sources []netip.Addr
}

// TunnelChecksum says whether GUE's UDP carries a checksum.
type TunnelChecksum uint8

// The settings of TunnelChecksum.
const (
	ChecksumAuto TunnelChecksum = iota
	ChecksumOn
	ChecksumOff
)

// compile makes the way to a member at dst through a tunnel; Src is the zero value where there is no source address.
func (s *TunnelSpec) compile(hop Hop, dst netip.Addr, port *PortSpec) rewrite.Tunnel {
	t := rewrite.Tunnel{L2: rewrite.MakeL2(hop.MAC, port.MAC), Dst: flow.AddrFrom(dst), Kind: s.Kind, DF: s.DF, Port: s.Port, MTU: 0xffff}
	if t.Kind == rewrite.GUE && t.Port == 0 {
		t.Port = rewrite.GUEPort
	}
	if port.MTU > 0 && port.MTU < 0xffff {
		t.MTU = uint16(port.MTU)
	}
	t.ZeroSum = s.Checksum == ChecksumOff || s.Checksum == ChecksumAuto && dst.Is4()
	if a := s.Source(dst, port); a.IsValid() {
		t.Src = flow.AddrFrom(a)
	}
	return t
}

// Source is the outer source address towards a member behind a port; not valid where there is none.
func (s *TunnelSpec) Source(member netip.Addr, port *PortSpec) netip.Addr {
	for _, a := range s.Sources {
		if a.Is4() == member.Is4() {
			return a
		}
	}
	if member.Is4() {
		return port.Addr4
	}
	return port.Addr6
}

// compileTunnels makes the ways to all nodes, and the table of the ends of our tunnels.
func (c *Config) compileTunnels(spec *Spec, dict *Dictionary) error {
	c.tunnels = make([]rewrite.Tunnel, len(c.nodes))
	for i := range c.pools {
		s := &spec.Pools[i].Tunnel
		c.pools[i].each(func(_ *group, m *member) { c.tunnels[m.id] = s.compile(m.Hop, m.Addr, &spec.Ports[m.Hop.Port]) })
	}
	for id, d := range spec.Draining.Nodes {
		if int(id) < len(c.nodes) && !c.nodes[id].exists && d.Hop.Port >= 0 && d.Hop.Port < len(spec.Ports) {
			c.tunnels[id] = d.Tunnel.compile(d.Hop, dict.values[id].Netip(), &spec.Ports[d.Hop.Port])
		}
	}
	c.tunnelEnds = newServices(len(c.tunnels))
	for i := range c.tunnels {
		if t := &c.tunnels[i]; t.Src != (flow.Addr{}) {
			c.hasTunnels = true
			for _, key := range [2]uint32{serviceKey(flow.UDP, t.Port), 0} {
				*c.tunnelEnds.slot(t.Dst, key) = service{addr: t.Dst, key: key, used: true}
			}
		}
	}
	for i := range c.virtuals {
		v := &c.virtuals[i]
		if !v.exists || v.Mode != Tunnel {
			continue
		}
		c.makeTunnelHeads()
		var err error
		v.pool.eachServing(func(m *member) {
			if m.Hop.OK && c.tunnels[m.id].Src == (flow.Addr{}) {
				err = fmt.Errorf("virtual server %s: no source address for a tunnel to member %s", v.Name, m.Name)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// isTunnelEnd reports whether a packet with the tuple outer could come from the far end of a tunnel, back through it.
func (c *Config) isTunnelEnd(outer *flow.Key) bool {
	if !c.hasTunnels {
		return false
	}
	key := uint32(0)
	switch outer.Proto {
	case protoIPv4, protoIPv6:
	case flow.UDP:
		key = serviceKey(flow.UDP, outer.SrcPort())
	default:
		return false
	}
	return c.tunnelEnds.slot(outer.Src, key).used
}

// Protocol numbers of IP in IP (IANA).
const (
	protoIPv4 = 4
	protoIPv6 = 41
)

// encapsulate notes in the record of a new connection how its packets go to member m.
func (w *worker) encapsulate(rec *flow.Record, m *member) {
	t := &w.cfg.tunnels[m.id]
	rec.L3Diff, rec.L4Diff = t.Port, rewrite.Diff(t.Kind)
}

// tunnelOf is the tunnel of a connection.
func (c *Config) tunnelOf(rec *flow.Record) rewrite.Tunnel {
	t := c.tunnels[rec.Node]
	t.Port, t.Kind = rec.L3Diff, rewrite.TunnelKind(rec.L4Diff)
	return t
}

// tunnelPacket sends the packet p of d, which arrived on port, from the client to the member.
func (w *worker) tunnelPacket(rec *flow.Record, p *rewrite.Packet, d rings.Desc, port uint16) {
	t := w.cfg.tunnelOf(rec)
	if t.Src == (flow.Addr{}) || int(t.Kind) > int(rewrite.GUE) {
		w.drop(d, NoNeighbour)
		return
	}
	if int(p.End-p.L3) > t.InnerMTU() {
		w.tunnelTooBig(rec, &t, p, d, port)
		return
	}
	if d, ok := w.encapsulated(rec, &t, p, d); ok {
		w.counted(rec, flow.FromClient, p)
		w.send(int(w.cfg.nodes[rec.Node].port), d)
	} else {
		w.drop(d, TooBig)
	}
}

// enterTunnel encapsulates a frame that has been counted as going on and fits, and sends it.
func (w *worker) enterTunnel(rec *flow.Record, t *rewrite.Tunnel, p *rewrite.Packet, d rings.Desc) {
	if d, ok := w.encapsulated(rec, t, p, d); ok {
		w.send(int(w.cfg.nodes[rec.Node].port), d)
	} else {
		w.lose(d, TooBig)
	}
}

// tunnelTooBig deals with a packet that does not fit into the tunnel as it is.
func (w *worker) tunnelTooBig(rec *flow.Record, t *rewrite.Tunnel, p *rewrite.Packet, d rings.Desc, port uint16) {
	b := w.region.Packet(d)
	switch df := dontFragment(b, p); {
	case df && t.DF == rewrite.ClearDF && t.Dst.Is4() && !p.V6:
		w.tunnelInParts(rec, *t, p, d)
	case df:
		w.answerAbout(p, d, port, rewrite.PacketTooBig, uint32(max(t.InnerMTU(), 0)), TooBig)
	default:
		w.tunnelParts(rec, t, p, d)
	}
}

// tunnelParts cuts a packet and sends each part through the tunnel by itself, as a router in front of it would: nobody but the
// member's own IP has to put them together.
func (w *worker) tunnelParts(rec *flow.Record, t *rewrite.Tunnel, p *rewrite.Packet, d rings.Desc) {
	if !w.mayCut(p, d, t.InnerMTU()) {
		return
	}
	w.counted(rec, flow.FromClient, p)
	for int(p.End-p.L3) > t.InnerMTU() {
		part := *p
		first, rest, ok := w.split(&part, d, t.InnerMTU())
		if !ok {
			w.lose(d, TooBig)
			return
		}
		w.stats.Made++
		w.enterTunnel(rec, t, &part, first)
		d, p.End = rest, w.length(rest) // what Encapsulate reads of it
	}
	w.enterTunnel(rec, t, p, d)
}

// tunnelInParts is for packets that must not be cut, where the setting is to do so all the same with what carries them: the outer
// packet goes in parts, which the member puts together before it looks inside.
func (w *worker) tunnelInParts(rec *flow.Record, t rewrite.Tunnel, p *rewrite.Packet, d rings.Desc) {
	mtu := int(t.MTU)
	t.MTU = 0xffff
	d, ok := w.encapsulated(rec, &t, p, d)
	if !ok {
		w.drop(d, TooBig)
		return
	}
	outer := rewrite.Packet{L3: etherLen, End: w.length(d)}
	if w.sendParts(int(w.cfg.nodes[rec.Node].port), outer, d, mtu) {
		w.counted(rec, flow.FromClient, p)
	}
}

const etherLen = 14

// relateTunnel deals with an ICMP error about a packet that we may have sent into a tunnel (isTunnelEnd), and reports whether it was. The error
// about what was inside is the client's; its owner is that of the connection.
func (w *worker) relateTunnel(d rings.Desc, p *rewrite.Packet, q *rewrite.Quote, port uint16, outer *flow.Key) bool {
	var inner rewrite.Packet
	var k flow.Key
	b := w.region.Packet(d)
	if rewrite.ReadTunnelQuote(b, q, outer.SrcPort(), &inner, &k) != rewrite.Done { // of GUE, the port that it went to
		return false
	}
	if o := int(w.slots[w.cfg.clientOwner(&k)]); o != w.slot && !w.handedIn {
		w.give(o, processKind|uint32(port), d)
		return true
	}
	r := w.table.Lookup(&k)
	if w.leaving != nil && (r == 0 || w.leaving.isSent(r.Index())) {
		w.give(int(w.leaving.slots[w.leaving.next.clientOwner(&k)]), processKind|uint32(port), d)
		return true
	}
	if r == 0 || r.Side() != flow.FromClient {
		return false
	}
	rec := w.table.Record(r.Index())
	t := w.cfg.tunnelOf(rec)
	if rec.Kind() != flow.Tunnelled || t.Dst != outer.Src || t.Src != outer.Dst || (t.Kind == rewrite.GUE) != (q.Proto == flow.UDP) ||
		t.Kind == rewrite.GUE && t.Port != outer.SrcPort() {
		return false
	}
	about, mtu := rewrite.HostUnreachable, uint32(0)
	switch {
	case q.TooBig(p):
		about, mtu = rewrite.PacketTooBig, uint32(max(0, int(min(q.MTU, 0xffff))-t.Overhead()))
		if inner.V6 { // less is no answer that a sender takes (RFC 8201 section 4)
			mtu = max(mtu, 1280)
		}
		if q.MTU == 0 || mtu < leastMTU4 {
			return false
		}
	case !q.Unreachable(p):
		return false
	}
	w.answerInner(d, &inner, rec, about, mtu)
	return true
}

// leastMTU4 is the smallest MTU of a link for IPv4 (RFC 791 section 3.2).
const leastMTU4 = 68

// answerInner sends the client of rec the ICMP error about the packet that is quoted in d.
func (w *worker) answerInner(d rings.Desc, inner *rewrite.Packet, rec *flow.Record, about rewrite.Problem, mtu uint32) {
	e := &w.cfg.exits[rec.ClientIf]
	a := rewrite.ErrorAnswer{Src: e.addr4, Problem: about, MTU: mtu, L2: rewrite.MakeL2(rec.ClientMAC, w.cfg.Ports[rec.ClientIf].MAC)}
	if inner.V6 {
		a.Src = e.addr6
	}
	d.Addr += uint64(rewrite.UncoverQuote(w.region.Packet(d), inner))
	d.Len, d.Options = uint32(inner.End), 0
	b := w.region.Packet(d)
	if a.Src == (flow.Addr{}) || !rewrite.MayAnswer(b, inner, about) || !w.sentErrors.take(w.now, w.cfg.icmpRate) {
		w.drop(d, TooBig)
		return
	}
	n := a.Build(w.region.Frame(d.Addr)[d.Addr-w.region.Base(d.Addr):], b, inner)
	if n == 0 {
		w.drop(d, TooBig)
		return
	}
	d = w.alone(d, n)
	w.stats.Errors++
	w.stats.ToClient++
	w.send(int(rec.ClientIf), d)
}

// tunnelReset sends a RST that we have made to the member.
func (w *worker) tunnelReset(rec *flow.Record, reset *rewrite.Reset) {
	t := w.cfg.tunnelOf(rec)
	if t.Src == (flow.Addr{}) {
		return
	}
	if d, ok := w.buildReset(reset); ok {
		w.enterTunnel(rec, &t, &rewrite.Packet{L3: etherLen, End: uint16(d.Len), V6: !rec.Client.Is4()}, d)
	}
}

// TunnelInfo is a tunnel in an Explanation.
type TunnelInfo struct {
	Kind string     `json:"kind"` // ipip | gue
	Src  netip.Addr `json:"source"`
	Dst  netip.Addr `json:"destination"`
	Port uint16     `json:"port,omitempty"` // of GUE
	MTU  int        `json:"mtu"`            // the largest packet that fits, in bytes
}

func (c *Config) explainTunnel(r *flow.Record) *TunnelInfo {
	t := c.tunnelOf(r)
	info := &TunnelInfo{Kind: TunnelName(t.Kind), Src: t.Src.Netip(), Dst: t.Dst.Netip(), MTU: t.InnerMTU()}
	if t.Kind == rewrite.GUE {
		info.Port = t.Port
	}
	return info
}

// Forwarding is how the packets of a connection go on, in a word; none where they are translated.
func Forwarding(r *flow.Record) string {
	switch r.Kind() {
	case flow.Routed:
		return "routed"
	case flow.Tunnelled:
		return TunnelName(rewrite.TunnelKind(r.L4Diff))
	}
	return ""
}

// TunnelName is the word for a kind.
func TunnelName(k rewrite.TunnelKind) string {
	if k == rewrite.GUE {
		return "gue"
	}
	return "ipip"
}
