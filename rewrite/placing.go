package rewrite

import "sluice/flow"

// ParseAndPlace is ParsePlains for a burst that begins with frames, and Table.Hash for what it has read, in one loop: a head is loaded
// once, and every look-up begins one packet after the other, so that memory has time for each. It returns how many frames are
// plain, and leaves as many from the first one that is not, or that it leaves to ParsePlains: always, on machines without the instructions for it.
func ParseAndPlace(mem []byte, frames []Frame, most uint32, pkts []Packet, keys []flow.Key, to *flow.Placing) int {
	if n := min(len(frames), len(pkts), len(keys), flow.Burst) &^ (abreast - 1); n > 0 && len(mem) >= HeadLen {
		return parseAndPlace(mem, frames[:n], most, pkts, keys, to)
	}
	return 0
}

// abreast is how many packets it judges at once.
const abreast = 16

// placeEach is ParseAndPlace in Go.
func placeEach(mem []byte, frames []Frame, most uint32, pkts []Packet, keys []flow.Key, to *flow.Placing) int {
	n := parseEach(mem, frames, most, pkts, keys)
	for i := range n {
		to.Note(i, &keys[i])
	}
	return n
}
