package engine

import (
	"sluice/flow"
	"sluice/rewrite"
	"sluice/rings"
)

// ClampAuto is the VirtualSpec.MSSClamp that follows from the MTUs on the way.
const ClampAuto = -1

// clampMSS lowers the maximum segment size that a SYN of the connection announces, if its virtual server wants that: so segments
// fit where an ICMP error would not arrive.
func (w *worker) clampMSS(rec *flow.Record, p *rewrite.Packet, d rings.Desc) {
	if int(rec.VS) >= len(w.cfg.virtuals) {
		return
	}
	mss := uint16(0)
	switch clamp := w.cfg.virtuals[rec.VS].MSSClamp; clamp {
	case 0:
		return
	case ClampAuto:
		mtu := w.cfg.mtuBetween(rec.ClientIf, w.cfg.nodes[rec.Node].port)
		if rec.Kind() == flow.Tunnelled {
			t := w.cfg.tunnelOf(rec)
			mtu = min(mtu, t.InnerMTU())
		}
		mss = rewrite.MSSOf(mtu, p.V6)
	default:
		mss = uint16(clamp)
	}
	rewrite.ClampMSS(w.region.Packet(d), p, mss)
}

// mtuBetween is the smaller of two ports' MTUs, as far as they are known.
func (c *Config) mtuBetween(a, b uint16) int {
	mtu := 0xffff
	for _, port := range [2]uint16{a, b} {
		if m := c.exits[port].mtu; m > 0 {
			mtu = min(mtu, m)
		}
	}
	return mtu
}
