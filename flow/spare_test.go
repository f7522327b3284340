package flow

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// The ring and the list behind it are one stack of free records, whatever goes over from one to the other, and a table that has been
// put to rest goes on as it was.
func TestSpareIsAStack(t *testing.T) {
	const capacity = 2000
	rng := rand.New(rand.NewPCG(9, 10))
	tab := newTable(t, capacity, testNodes)
	var free, taken []uint32
	used, ringFull, listEmpty := uint32(0), 0, 0
	for range 400 {
		give := rng.IntN(2) == 0
		for range rng.IntN(300) {
			if give {
				if len(taken) == 0 {
					break
				}
				at := rng.IntN(len(taken))
				i := taken[at]
				taken = slices.Delete(taken, at, at+1)
				free = append(free, i)
				tab.give(i)
			} else {
				want := uint32(0)
				switch {
				case len(free) > 0:
					want, free = free[len(free)-1], free[:len(free)-1]
				case used < capacity:
					used++
					want = used
				}
				if got := tab.take(); got != want {
					t.Fatalf("record %d was taken, not %d", got, want)
				}
				if want != 0 {
					taken = append(taken, want)
				}
			}
			if tab.spare.n == spareSize {
				ringFull++
			}
			if tab.free == 0 {
				listEmpty++
			}
		}
		if rng.IntN(10) == 0 {
			tab.spillAll()
		}
		if err := tab.checkLists(); err != nil && len(taken) == 0 {
			t.Fatal(err)
		}
	}
	if ringFull == 0 || listEmpty == 0 {
		t.Errorf("the ring was full %d times, the list empty %d times", ringFull, listEmpty)
	}
}
