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

// parseOpenings is parseAny for the first of the frames [from, to) of w.descs, as long as they open connections of TCP over IPv4
// (rewrite.ParseOpening). It returns how many do.
func (w *worker) parseOpenings(from, to int, port uint16) int {
	n := 0
	for w.capture == nil && w.jumbo == nil && from+n < to {
		d, j := w.descs[(from+n)&(burstSize-1)], w.n&(burstSize-1)
		if !rewrite.MayBePlain(w.region.Head(d.Addr)) || !rewrite.ParseOpening(w.region.Packet(d), &w.pkts[j], &w.keys[j]) {
			break
		}
		w.descs[j], w.ports[j] = d, port
		if w.pkts[j].Opens {
			w.opening++
		}
		w.n++
		n++
	}
	return n
}
