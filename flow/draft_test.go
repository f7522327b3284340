package flow

import (
	"math/rand/v2"
	"testing"
)

// Connections that are drafted by the burst and opened or discarded one by one are the same as inserted ones, whatever is removed
// and expires meanwhile, in a table so full that many tuples are in their secondary bucket.
func TestDrafts(t *testing.T) {
	const capacity, numbers = 3000, 3600
	drafted, plain := newTable(t, capacity, testNodes), newTable(t, capacity, testNodes)
	rng := rand.New(rand.NewPCG(3, 4))
	in := map[uint32]bool{}
	secondary := false
	for round := range 600 {
		now := uint64(round) * 100
		var keys [Burst]Key
		var refs [Burst]Ref
		var of [Burst]uint32
		n, seen := 0, map[uint32]bool{}
		for range 1 + rng.IntN(Burst) {
			if x := uint32(rng.IntN(numbers)); !seen[x] {
				r := begun(x)
				seen[x], keys[n], of[n] = true, r.ClientKey(), x
				n++
			}
		}
		drafted.LookupBurst(keys[:n], refs[:])
		if n > 8 { // as packets that leave the burst
			drafted.Moved(3, n-1)
			n--
			keys[3], refs[3], of[3] = keys[n], refs[n], of[n]
		}
		var drafts [Burst]Draft
		var made [Burst]bool
		for i := range n {
			if (refs[i] != 0) != in[of[i]] {
				t.Fatalf("connection %d: found %t", of[i], refs[i] != 0)
			}
			if refs[i] != 0 || drafted.Len()+Burst > capacity {
				continue
			}
			r := drafted.Draft(&drafts[i], i)
			if r == nil {
				t.Fatal("no free record")
			}
			if *r != (Record{}) {
				t.Fatalf("a draft begins with %+v", *r)
			}
			*r = begun(of[i])
			drafted.Expect(&drafts[i], TCP)
			made[i] = true
		}
		drafted.Fetch()
		for i := range n {
			if !made[i] {
				continue
			}
			if drafted.MayHave(&drafts[i]) {
				if drafted.Lookup(&keys[i]) != 0 {
					t.Fatalf("connection %d is there before it is opened", of[i])
				}
			}
			if rng.IntN(4) == 0 {
				drafted.Discard(&drafts[i])
				continue
			}
			rec := begun(of[i])
			r, res := drafted.Open(&drafts[i], now, now+uint64(rng.IntN(30000)))
			_, want := plain.Insert(&rec, TCP, now, now+1000)
			if res != want || res != Inserted {
				t.Fatalf("connection %d: opened %d, inserted %d", of[i], res, want)
			}
			in[of[i]] = true
			a, b := *drafted.Record(r.Index()), *plain.Record(plain.Lookup(&keys[i]).Index())
			if a != b {
				t.Fatalf("opened  %+v\ninserted %+v", a, b)
			}
			if !drafted.MayHave(&drafts[i]) {
				t.Fatalf("connection %d cannot be there when it is", of[i])
			}
		}
		drafted.Expire(now, 40, func(r *Record) uint64 { return now * uint64(rng.IntN(2)+1) }, func(r *Record) {
			delete(in, number(r))
			k := r.ClientKey()
			plain.Remove(plain.Lookup(&k).Index())
		})
		if drafted.Len() != plain.Len() || drafted.Len() != len(in) {
			t.Fatalf("%d, %d and %d connections", drafted.Len(), plain.Len(), len(in))
		}
		if err := drafted.Check(); err != nil {
			t.Fatal(err)
		}
		for i := range drafted.buckets {
			secondary = secondary || drafted.buckets[i].overflow() > 0
		}
	}
	if !secondary {
		t.Error("no tuple was ever in its secondary bucket")
	}
}

// A draft whose server-side tuple is another's is not opened, also if the other has come after it was drafted.
func TestDraftCollides(t *testing.T) {
	tab := newTable(t, 100, testNodes)
	a, b := begun(1), begun(1)
	b.Virtual = AddrFrom4(0x0a0a0165)
	keys, refs := []Key{a.ClientKey(), b.ClientKey()}, make([]Ref, 2)
	tab.LookupBurst(keys, refs)
	var drafts [2]Draft
	for i, r := range []*Record{&a, &b} {
		*tab.Draft(&drafts[i], i) = *r
		tab.Expect(&drafts[i], TCP)
	}
	tab.Fetch()
	if _, res := tab.Open(&drafts[0], 1, 100); res != Inserted {
		t.Fatal(res)
	}
	if _, res := tab.Open(&drafts[1], 1, 100); res != Collision {
		t.Fatal(res)
	}
	tab.Discard(&drafts[1])
	if err := tab.Check(); err != nil || tab.Len() != 1 {
		t.Fatal(err, tab.Len())
	}
}
