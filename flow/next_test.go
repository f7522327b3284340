package flow

import (
	"math/rand/v2"
	"testing"
)

// Expire has nothing to look at before Next says so, and something right then, whatever is opened, put off and removed in between.
func TestNextIsWhenExpireHasWork(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	tab := newTable(t, 256, testNodes)
	if at, ok := tab.Next(); ok {
		t.Errorf("an empty table has something to look at, at %d", at)
	}
	ends := map[uint32]uint64{} // by record
	now, looks, n := uint64(0), 0, uint32(0)
	expire := func() (looked int) {
		return tab.Expire(now, 1<<20, func(r *Record) uint64 {
			i := uint32(0)
			for at := range tab.records {
				if &tab.records[at] == r {
					i = uint32(at)
				}
			}
			if ends[i] <= now && rng.IntN(4) == 0 {
				ends[i] = now + rng.Uint64N(2_000_000) // it was seen again
			}
			if ends[i] <= now {
				delete(ends, i)
				return now
			}
			return ends[i]
		}, func(*Record) {})
	}
	for range 3000 {
		for range rng.IntN(4) {
			n++
			rec := conn(n)
			end := now + rng.Uint64N([]uint64{300, 5_000, 100_000, 3_000_000}[rng.IntN(4)])
			if ref, res := tab.Insert(&rec, TCP, now, end); res == Inserted {
				ends[ref.Index()] = end
			}
		}
		if rng.IntN(4) == 0 {
			for i := range ends {
				tab.Remove(i)
				delete(ends, i)
				break
			}
		}
		at, ok := tab.Next()
		if ok != (tab.Len() > 0) || ok && at <= now {
			t.Fatalf("at %d with %d connections: %d %t", now, tab.Len(), at, ok)
		}
		if !ok {
			continue
		}
		if to := now + rng.Uint64N(2*(at-now)); to < at { // else it wakes in between, as for a packet
			if now = to; expire() != 0 {
				t.Fatalf("at %d there was something to look at, before %d", now, at)
			}
			continue
		}
		now = at - 1
		if expire() != 0 {
			t.Fatalf("at %d there was something to look at, before %d", now, at)
		}
		if now = at; expire() == 0 {
			t.Fatalf("at %d there was nothing to look at", at)
		}
		looks++
	}
	if err := tab.Check(); err != nil || looks < 300 {
		t.Errorf("%d looks; %v", looks, err)
	}
}
