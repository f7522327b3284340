package engine

import (
	"sluice/rewrite"
	"sluice/rings"
)

// parseRegular is parseAny for a frame with a regular packet (rewrite.ParseRegular): of IPv6, or with one VLAN tag. It reports
// whether it is one; if not, nothing has happened.
func (w *worker) parseRegular(d *rings.Desc, port uint16) bool {
	j := w.n & (burstSize - 1)
	p, options := &w.pkts[j], d.Options
	if w.capture != nil || !rewrite.ParseRegular(w.region.LongHead(d.Addr), d.Len, p, &w.keys[j]) {
		return false
	}
	if lanes := w.cfg.lanes; p.VLAN != 0 && int(port) < len(lanes) {
		l := &lanes[port]
		if id := p.VLAN & rewrite.VLANMask; id != 0 && l.single != nil {
			if port = l.single[id] - 1; int(port) >= len(lanes) {
				return false // nobody's; parseGeneral has a word for it
			}
			l = &lanes[port]
		}
		if l.tags.N > 0 { // also where another worker has found it
			options = options&placedBit | uint32(l.tags.N)<<tagShift
		}
	}
	w.descs[j] = rings.Desc{Addr: d.Addr, Len: d.Len, Options: options}
	w.ports[j] = port
	w.n++
	return true
}
