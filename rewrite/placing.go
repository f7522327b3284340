package rewrite

import "sluice/flow"

// ParseAndPlace is ParsePlains for a burst that begins with frames, and Table.Hash for what it has read, in one loop: a head is loaded
// once, and every look-up begins one packet after the other, so that memory has time for each. It returns how many frames are
// plain, with a bit for each that is of TCP (the others mean nothing), and leaves as many from the first one that is not, or that it
// leaves to ParsePlains: always, on machines without the instructions for it.
func ParseAndPlace(mem []byte, frames []Frame, most uint32, pkts []Packet, keys []flow.Key, to *flow.Placing) (n int, tcp uint64) {
	if n := min(len(frames), len(pkts), len(keys), flow.Burst) &^ (abreast - 1); n > 0 && len(mem) >= HeadLen {
		return parseAndPlace(mem, frames[:n], most, pkts, keys, to)
	}
	return 0, 0
}

// abreast is how many packets it judges at once.
const abreast = 16

// placeEach is ParseAndPlace in Go.
func placeEach(mem []byte, frames []Frame, most uint32, pkts []Packet, keys []flow.Key, to *flow.Placing) (n int, tcp uint64) {
	n = parseEach(mem, frames, most, pkts, keys)
	for i := range n {
		to.Note(i, &keys[i])
		if keys[i].Proto == flow.TCP {
			tcp |= 1 << i
		}
	}
	return n, tcp
}
