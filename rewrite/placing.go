package rewrite

import "sluice/flow"

// ParseAndPlace is ParsePlain for frame after frame of a burst, and Table.Hash for what it has read, in one loop: a head is loaded
// once, and every look-up begins one packet after the other, so that memory has time for each. It returns how many frames are
// plain, with a bit for each that is of TCP (the others mean nothing), and leaves as many from the first one that is not, or that it
// leaves to others: always, on machines without the instructions for it.
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
	for ; n < len(frames); n++ {
		if !ParsePlain((*Head)(mem[frames[n].Addr:]), frames[n].Len, most, &pkts[n], &keys[n]) {
			break
		}
		to.Note(n, &keys[n])
		if keys[n].Proto == flow.TCP {
			tcp |= 1 << n
		}
	}
	return n, tcp
}
