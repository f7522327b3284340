package engine

import (
	"math/bits"

	"golang.org/x/sys/cpu"
)

// vectors says whether the processor has the instructions of changeVectors: all since 2013.
var vectors = cpu.X86.HasAVX && cpu.X86.HasBMI2

//go:noescape
func changeVectors(w *worker, c *changes, set uint64) (rest uint64)

// changeMany tracks and changes packets of set, as trackPlain and changeOne do, in their order up to the first that is not as nearly
// all are, or whose egress port is full. It returns the set from there on, for which nothing was changed.
func (w *worker) changeMany(c *changes, set uint64) uint64 {
	if !vectors {
		return set
	}
	to := c.toClient
	var rest uint64
	if wide {
		rest = changeWide(w, c, set)
	} else {
		rest = changeVectors(w, c, set)
	}
	c.toServer += uint64(bits.OnesCount64(set&^rest)) - (c.toClient - to)
	return rest
}
