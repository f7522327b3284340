package engine

import (
	"sluice/flow"
	"sluice/rewrite"
	"sluice/rings"
)

// Routed connections keep their addresses and ports at both ends: the frame gets another Ethernet header, and TTL falls by
// one, as a router must have it (RFC 1812 section 5.3.1), so that packets that go round in a circle end. Any protocol goes,
// as nothing is changed that a checksum or a signature covers.

// forwardWhole sends a packet of a connection whose addresses stay on to the end that it is for. It arrived on port in.
func (w *worker) forwardWhole(rec *flow.Record, side flow.Side, p *rewrite.Packet, d rings.Desc, l2 *rewrite.L2, port int, in uint16) {
	if rec.Kind() == flow.Tunnelled && side == flow.FromClient {
		w.tunnelPacket(rec, p, d, in)
		return
	}
	w.routePacket(rec, side, p, d, l2, port)
}

// routePacket sends a packet of a routed connection to its next hop.
func (w *worker) routePacket(rec *flow.Record, side flow.Side, p *rewrite.Packet, d rings.Desc, l2 *rewrite.L2, port int) {
	rewrite.Forward(w.region.Packet(d), p, l2)
	if w.sendOn(port, p, d) {
		w.counted(rec, side, p)
	}
}
