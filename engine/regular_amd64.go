package engine

import "math/bits"

//go:noescape
func regularVectors(w *worker, c *changes, set uint64) (rest uint64)

// changeRegulars tracks and changes packets of set, as rewriteSteady does, in their order up to the first that it would leave to
// rewriteOne, that needs more than nearly all, or whose egress port is full. It returns the set from there on, for which nothing
// was changed.
func (w *worker) changeRegulars(c *changes, set uint64) uint64 {
	if !vectors {
		return set
	}
	to := c.toClient
	rest := regularVectors(w, c, set)
	c.toServer += uint64(bits.OnesCount64(set&^rest)) - (c.toClient - to)
	return rest
}
