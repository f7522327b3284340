package sched

import "math/bits"

// first takes the first available member in the pool's order: connections are packed on few members, each up to its
// limit on connections, and the last ones stay idle or can be switched off. Without limits the first member gets
// everything.
type first struct{ set Bitmap }

func newFirst(members []Member) first { return first{eligible(members)} }

func (first) Needs() Needs { return 0 }

func (f first) Pick(in *Input) int {
	for w := range f.set {
		if word := in.among(f.set, w); word != 0 {
			return w<<6 | bits.TrailingZeros64(word)
		}
	}
	return None
}
