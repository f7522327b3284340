//go:build !amd64

package rewrite

import "sluice/flow"

func parseAndPlaceMixed(mem []byte, frames []Frame, most uint32, pkts *[flow.Burst]Packet, keys *[flow.Burst]flow.Key, from int, to *flow.MixedPlacing) int {
	return placeMixedEach(mem, frames, most, pkts, keys, from, to)
}
