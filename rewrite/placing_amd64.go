package rewrite

import (
	"golang.org/x/sys/cpu"

	"sluice/flow"
)

// wide says whether the processor has the instructions of placeWide: Intel's since 2019, AMD's since 2022.
var wide = cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL && cpu.X86.HasAVX512VBMI && cpu.X86.HasBMI2

// placeWide is placeEach. The number of frames is a multiple of abreast; what is beyond the number that it returns, in pkts,
// keys, and what to notes, may have changed.
//
//go:noescape
func placeWide(mem []byte, frames []Frame, most uint32, pkts *Packet, keys *flow.Key, to *flow.Placing) (n int, tcp uint64)

func parseAndPlace(mem []byte, frames []Frame, most uint32, pkts []Packet, keys []flow.Key, to *flow.Placing) (n int, tcp uint64) {
	if !wide {
		return 0, 0
	}
	return placeWide(mem, frames, most, &pkts[0], &keys[0], to)
}
