package sched

import "math"

// fastest takes the candidate with the lowest
//
//	latency · 2^(-age/half-life) · (connections+1) / weight
//
// latency is the smoothed handshake time. The connections keep the quickest from drowning: at rest, connections are in
// proportion to weight and inverse to handshake time.
//
// Age is the way back for a slow member: nobody connects to it, so its figure is not renewed, and halves with every
// half-life until it is worth a try. That one connection doubles its cost, so it remains about one until the handshake
// is measured. In between the figure falls on a straight line.
//
// A member without a figure (or with one halved 32 times) comes first while it has no connection, in turn. With
// connections its handshake is under way: it counts as quick as the quickest that is known. Where nothing is known, as
// with UDP, that leaves (connections+1)/weight.
type fastest struct{ perHalfLife float64 }

// DefaultHalfLife is two seconds in milliseconds: a member a hundred times slower than the others is tried every 13 s.
const DefaultHalfLife = 2000

// forgotten is the number of half-lives after which a figure is none.
const forgotten = 32

func newFastest(o Options) fastest {
	if o.HalfLife == 0 {
		o.HalfLife = DefaultHalfLife
	}
	return fastest{1 / float64(o.HalfLife)}
}

func (fastest) Needs() Needs { return NeedsTurn | NeedsWeight | NeedsActive | NeedsLatency }

// latency is what is left of a candidate's figure, 0 where there is none.
func (f fastest) latency(c *Candidate) float64 { return float64(c.Latency) * f.left(c.Age) }

// left is the part that is left of something after a time: a half after each half-life, on straight lines in between.
func (f fastest) left(age uint32) float64 {
	x := float64(age) * f.perHalfLife
	if x >= forgotten {
		return 0
	}
	halvings := uint64(x)
	rest := x - float64(halvings)
	return (1 - rest/2) * math.Float64frombits((1023-halvings)<<52) // the last is 2^-halvings
}

// Smooth is a Candidate's Latency after a handshake that took sample microseconds, at least 1: the caller keeps it, and
// sets Age to 0. A sample that follows at once counts one eighth, as with TCP's round-trip time (RFC 6298 section 2);
// the older the figure, the more the sample counts, so that a member that was slow long ago needs one good handshake
// and not twenty. halfLife is that of Options.
func Smooth(latency, age, sample, halfLife uint32) uint32 {
	sample = max(sample, 1)
	if latency == 0 {
		return sample
	}
	counts := max(1-newFastest(Options{HalfLife: halfLife}).left(age), 1./8)
	// Rounded to the side of the sample, or a figure would stop some microseconds from what is measured.
	if sample < latency {
		return latency - uint32(math.Ceil(counts*float64(latency-sample)))
	}
	return latency + uint32(math.Ceil(counts*float64(sample-latency)))
}

func (f fastest) Pick(in *Input) int {
	n := len(in.Candidates)
	if n == 0 {
		return None
	}
	known, unknown := None, None
	cost, load, quickest := math.Inf(1), math.Inf(1), math.Inf(1)
	// From a start that moves with the turn: the first of equals is taken.
	for k, i := 0, int(in.Turn%uint64(n)); k < n; k++ {
		if c := &in.Candidates[i]; c.Weight > 0 && in.available(i) {
			l := (float64(c.Active) + 1) / float64(c.Weight)
			switch t := f.latency(c); {
			case t > 0:
				if t < quickest {
					quickest = t
				}
				if t*l < cost {
					known, cost = i, t*l
				}
			case c.Active == 0:
				return i
			case l < load:
				unknown, load = i, l
			}
		}
		if i++; i == n {
			i = 0
		}
	}
	if unknown != None && (known == None || quickest*load < cost) {
		return unknown
	}
	return known
}
