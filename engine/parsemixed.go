package engine

import (
	"sluice/rewrite"
	"sluice/rings"
)

// takeMixed parses and places the packets of in from frame from on: those that are plain or regular in loops (rewrite.ParseAndPlaceMixed),
// and what is between these by itself. It returns how far it came: to the end, unless packets are captured, or their checksums
// looked at before anything else.
func (w *worker) takeMixed(in []rings.Desc, from int, port uint16) int {
	if w.checked != nil || w.capture != nil || from >= len(in) {
		return from
	}
	to := w.table.MixedPlacing()
	for from < len(in) {
		first := w.n
		n := w.addParsed(from, rewrite.ParseAndPlaceMixed(w.region.Bytes(), rewriteFrames(in[from:]), w.cfg.plainMost, &w.pkts, &w.keys, first, to), port)
		placed := w.n
		if from+n < len(in) {
			if opening := w.parseOpenings(from+n, min(from+n+portion, len(in)), port); opening > 0 {
				n += opening
			} else {
				w.parseGeneral(in[from+n], port)
				n++
			}
			w.table.Hash(w.keys[:w.n], placed)
		}
		if from == 0 {
			if w.mayLook(port); w.checked != nil { // from now on
				w.checkSums(0)
				w.table.Hash(w.keys[:w.n], 0)
				return n
			}
		}
		from += n
	}
	return from
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

// findLanes is addParsed for tags.
func (w *worker) findLanes(from, n int, port uint16) int {
	lanes := w.cfg.lanes
	trunk := &lanes[port]
	for i := range n {
		j, l := (w.n+i)&(burstSize-1), trunk
		vlan := w.pkts[j].VLAN
		if vlan == 0 {
			continue
		}
		if id := vlan & rewrite.VLANMask; id != 0 && trunk.single != nil {
			found := trunk.single[id] - 1
			if int(found) >= len(lanes) {
				return i // parseGeneral has a word for it
			}
			l, w.ports[j] = &lanes[found], found
		}
		if l.tags.N > 0 { // also where another worker has found it
			d := &w.descs[(from+i)&(burstSize-1)]
			d.Options = d.Options&placedBit | uint32(l.tags.N)<<tagShift
		}
	}
	return n
}
