package rewrite

import "sluice/flow"

// ParseAndPlaceMixed is ParseAndPlace for packets that are plain or regular, in any order: what ParsePlain and ParseRegular read of
// frames, of which the first is number from of its burst, and Table.Hash for it, in one loop. It returns how many packets these are,
// up to the first that is neither; what is beyond them in pkts, keys, and what to notes, may have changed.
func ParseAndPlaceMixed(mem []byte, frames []Frame, most uint32, pkts *[flow.Burst]Packet, keys *[flow.Burst]flow.Key, from int, to *flow.MixedPlacing) int {
	if frames = frames[:min(len(frames), flow.Burst-from)]; len(frames) == 0 || from < 0 || len(mem) < LongHeadLen {
		return 0
	}
	return parseAndPlaceMixed(mem, frames, most, pkts, keys, from, to)
}

// placeMixedEach is ParseAndPlaceMixed in Go.
func placeMixedEach(mem []byte, frames []Frame, most uint32, pkts *[flow.Burst]Packet, keys *[flow.Burst]flow.Key, from int, to *flow.MixedPlacing) int {
	last := uint64(len(mem) - LongHeadLen)
	for i, f := range frames {
		if f.Addr > last {
			return i
		}
		h, j := (*LongHead)(mem[f.Addr:]), (from+i)&(flow.Burst-1)
		p, k := &pkts[j], &keys[j]
		if !ParsePlain((*Head)(h[:]), f.Len, most, p, k) && !ParseRegular(h, f.Len, p, k) {
			return i
		}
		to.Note(j, k)
	}
	return len(frames)
}
