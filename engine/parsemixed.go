package engine

import (
	"sluice/rewrite"
	"sluice/rings"
)

// takeMixed parses and places packets of in from frame from on as long as they are plain or regular, in whatever order, all in one loop.
// It returns how many. It is not for packets that are captured, or whose checksums are looked at before anything else.
func (w *worker) takeMixed(in []rings.Desc, from int, port uint16) int {
	n := rewrite.ParseAndPlaceMixed(w.region.Bytes(), rewriteFrames(in[from:]), w.cfg.plainMost, &w.pkts, &w.keys, w.n, w.table.MixedPlacing())
	if n = w.addParsed(from, n, port); n == 0 || from > 0 {
		return n
	}
	if w.mayLook(port); w.checked != nil { // from now on
		w.checkSums(0)
		w.table.Hash(w.keys[:w.n], 0)
	}
	return n
}

// addParsed adds n packets to the burst, which are parsed behind it and whose frames are those of w.descs from number from on. Those
// with a tag arrived on the VLAN that it names; it returns how many there are before the first whose tag is nobody's.
func (w *worker) addParsed(from, n int, port uint16) int {
	first := w.n
	if first != from {
		for i := first; i < first+n; i++ {
			w.ports[i&(burstSize-1)] = port
		}
	}
	if w.cfg.lanes != nil {
		n = w.findLanes(from, n, port)
	}
	if first != from { // not before: what is nobody's stays where it is
		copy(w.descs[first:], w.descs[from:from+n])
	}
	w.n += n
	return n
}

// findLanes is addParsed for tags. Nearly all packets have the tag of the one before them.
func (w *worker) findLanes(from, n int, port uint16) int {
	lanes := w.cfg.lanes
	trunk := &lanes[port]
	last, to, noted := uint16(0), port, uint32(0)
	for i := range n {
		j := (w.n + i) & (burstSize - 1)
		vlan := w.pkts[j].VLAN
		if vlan == 0 {
			continue
		}
		if vlan != last {
			if to = port; vlan&rewrite.VLANMask != 0 && trunk.single != nil {
				if to = trunk.single[vlan&rewrite.VLANMask] - 1; int(to) >= len(lanes) {
					return i // parseGeneral has a word for it
				}
			}
			last, noted = vlan, uint32(lanes[to].tags.N)<<tagShift // also where another worker has found it
		}
		w.ports[j] = to
		if noted != 0 {
			d := &w.descs[(from+i)&(burstSize-1)]
			d.Options = d.Options&placedBit | noted
		}
	}
	return n
}
