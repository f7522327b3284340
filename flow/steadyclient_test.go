package flow

import (
	"math/rand/v2"
	"testing"
)

// sameSteadyClient holds TrackClientSteady against what TrackClient has made of a segment, and reports whether it was a steady one.
func sameSteadyClient(t *testing.T, before, after *Record, s *Segment, j Judgement) bool {
	t.Helper()
	r := *before
	if !r.TrackClientSteady(s) {
		if r != *before {
			t.Fatalf("%+v is not steady and has changed\n%+v to\n%+v", *s, *before, r)
		}
		return false
	}
	if j != Inside || r != *after {
		t.Fatalf("%+v is steady and judged %v:\n%+v becomes\n%+v, not\n%+v", *s, j, *before, r, *after)
	}
	return true
}

// One-sided connections of segments at random: those that are steady are judged as by TrackClient.
func TestClientSteady(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	steady, others := 0, 0
	for range 2000 {
		r := tcpRecord()
		r.SetKind(Routed, true)
		r.BeginTCP(&Segment{Seq: rng.Uint32(), Flags: FlagSYN, Scale: uint8(rng.IntN(15)), Window: uint16(rng.Uint32())})
		for range 50 {
			var b [8]byte
			for i := range b {
				b[i] = byte(rng.Uint32())
			}
			switch b[1] &^= 1; rng.IntN(8) {
			case 0:
			case 1, 2:
				b[0] = FlagACK | byte(rng.IntN(32))
			default:
				b[0] = FlagACK
				b[2], b[4] = byte(rng.IntN(3)-1), byte(rng.IntN(3)-1)
				b[1] &^= 6
			}
			_, s := fuzzSegment(&r, b[:])
			before := r
			if sameSteadyClient(t, &before, &r, &s, r.TrackClient(&s)) {
				steady++
			} else {
				others++
			}
		}
	}
	if t.Logf("%d steady, %d others", steady, others); steady < 10_000 || others < 10_000 {
		t.Error("too few of a kind")
	}
}
