//go:build !amd64

package rewrite

import "sluice/flow"

func parsePlains(mem []byte, frames []Frame, most uint32, pkts []Packet, keys []flow.Key) int {
	return parseEach(mem, frames, most, pkts, keys)
}
