package flow

import (
	"math/rand/v2"
	"testing"
)

// What is done eight tags at once comes to the same as slot by slot, and as what insertion and removal did before there was either.
func TestSlots(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	filled, cleared, full, left := 0, 0, 0, 0
	for range 200_000 {
		var b bucket
		few := rng.IntN(2) == 0
		tag := func() uint16 {
			if few {
				return uint16(rng.IntN(3))
			}
			return uint16(rng.Uint32())
		}
		for s := range slots {
			if x := tag(); x != 0 && rng.IntN(8) > 0 {
				b.set(s, x, Ref(1+rng.Uint32()), rng.IntN(4) == 0)
			}
		}
		b.addOverflow(rng.IntN(3))
		r, x := Ref(1+rng.IntN(1000)), max(tag(), 1)
		if at := rng.IntN(slots); rng.IntN(2) == 0 && b.tag(at) != 0 {
			r, x = b.refs[at], b.tag(at)
		}
		one, other, plain := b, b, b
		fits := plain.freeSlot() >= 0
		if fits {
			plain.fill(plain.freeSlot(), x, r)
			filled++
		} else {
			full++
		}
		if got := fillSlot(&one, x, r); got != fits || one != plain {
			t.Fatalf("%x and %d into %+v: %t %+v, not %+v", x, r, b, got, one, plain)
		}
		if got := other.fillFree(x, r); got != fits || other != plain {
			t.Fatalf("slot by slot, %x and %d into %+v: %t %+v", x, r, b, got, other)
		}
		one, other, plain = b, b, b
		at := -1
		for s := range slots {
			if b.tag(s) == x {
				at = s
				break
			}
		}
		out := at >= 0 && b.refs[at] == r && !b.isSecond(at)
		if out {
			plain.set(at, 0, 0, false)
			cleared++
		} else {
			left++
		}
		if got := clearSlot(&one, x, r); got != out || one != plain {
			t.Fatalf("%x and %d out of %+v: %t %+v, not %+v", x, r, b, got, one, plain)
		}
		if got := other.clearFirst(x, r); got != out || other != plain {
			t.Fatalf("slot by slot, %x and %d out of %+v: %t %+v", x, r, b, got, other)
		}
	}
	if filled == 0 || cleared == 0 || full == 0 || left == 0 {
		t.Errorf("%d filled, %d full, %d cleared, %d left", filled, full, cleared, left)
	}
}
