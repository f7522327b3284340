package flow

import "testing"

// sameSteady holds TrackSteady against what TrackTCP has made of a segment, and reports whether it was a steady one.
func sameSteady(t *testing.T, before, after *Record, side Side, s *Segment, j Judgement) bool {
	t.Helper()
	r := *before
	if !r.TrackSteady(side, s) {
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
