package rewrite

import (
	"golang.org/x/sys/cpu"

	"sluice/flow"
)

// vectors says whether the processor has the instructions of plainVectors: all since 2011.
var vectors = cpu.X86.HasAVX

//go:noescape
func plainVectors(mem []byte, frames []Frame, most uint32, pkts *Packet, keys *flow.Key, least *[256]uint8) (n int)

func parsePlains(mem []byte, frames []Frame, most uint32, pkts []Packet, keys []flow.Key) int {
	if vectors {
		return plainVectors(mem, frames, most, &pkts[0], &keys[0], &plainLeast)
	}
	return parseEach(mem, frames, most, pkts, keys)
}
