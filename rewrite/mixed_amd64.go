package rewrite

import (
	"golang.org/x/sys/cpu"

	"sluice/flow"
)

// vectors says whether the processor has the instructions of mixedVectors: all since 2011.
var vectors = cpu.X86.HasAVX

// mixedVectors is placeMixedEach; pkts and keys are those of frames, the first of which is number from of the burst.
//
//go:noescape
func mixedVectors(mem []byte, frames []Frame, most uint32, pkts *Packet, keys *flow.Key, from int, to *flow.MixedPlacing, least *[256]uint8) (n int)

func parseAndPlaceMixed(mem []byte, frames []Frame, most uint32, pkts *[flow.Burst]Packet, keys *[flow.Burst]flow.Key, from int, to *flow.MixedPlacing) int {
	if vectors {
		return mixedVectors(mem, frames, most, &pkts[from], &keys[from], from, to, &plainLeast)
	}
	return placeMixedEach(mem, frames, most, pkts, keys, from, to)
}
