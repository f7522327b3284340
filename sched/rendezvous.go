package sched

import (
	"math"
	"math/bits"
)

// rendezvous picks for a key the member with the highest random weight (Thaler and Ravishankar 1998; with weights:
// Schindelhauer and Schomaker 2005). Every member draws from the key and its identity, so that one that goes moves only
// its own keys, to the others by weight. That is all one could wish of a hash, in time that grows with the
// available members; so it is where the fast choices end when hardly anyone is available.
type rendezvous struct {
	set  Bitmap // members with a weight
	ids  []uint64
	cost []float64 // 1/weight
}

func newRendezvous(members []Member) rendezvous {
	r := rendezvous{set: eligible(members), ids: make([]uint64, len(members)), cost: make([]float64, len(members))}
	for i, m := range members {
		r.ids[i] = m.ID
		if m.Weight > 0 {
			r.cost[i] = 1 / float64(m.Weight)
		}
	}
	return r
}

// byIndex gives members identities for schedulers in which nothing must outlive the scheduler.
func byIndex(members []Member) []Member {
	out := make([]Member, len(members))
	for i, m := range members {
		out[i] = Member{Weight: m.Weight, ID: Mix(uint64(i))}
	}
	return out
}

// pick leaves out one member besides those that are not available; None leaves out no one.
func (r *rendezvous) pick(key uint64, in *Input, out int) int {
	best, least := None, math.Inf(1)
	for w := range r.set {
		for word := in.among(r.set, w); word != 0; word &= word - 1 {
			i := w<<6 | bits.TrailingZeros64(word)
			if i == out {
				continue
			}
			// The first of exponentially distributed times with the weights as rates.
			if t := -math.Log(part(Mix(key^r.ids[i]))) * r.cost[i]; t < least {
				best, least = i, t
			}
		}
	}
	return best
}

// part is x as a part of 2^64, above 0 and up to 1.
func part(x uint64) float64 { return float64(x>>11+1) / (1 << 53) }

// probes is how many members a fast choice looks at before rendezvous decides. With half the pool gone one pick in
// 65536 gets there, and the fewer are available, the faster it is.
const probes = 16
