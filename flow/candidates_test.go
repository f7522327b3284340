package flow

import (
	"math/rand/v2"
	"testing"
)

// Of both implementations a candidate is a slot that has the tag, if there is one, and nothing else is written.
func TestCandidates(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 2))
	buckets, records := make([]bucket, 5), make([]Record, 100)
	found := 0
	for range 3000 {
		few := 1 + r.Uint64N(6) // tags are often the same, and often those of the counts
		for b := range buckets {
			for w := range buckets[b].tags {
				buckets[b].tags[w] = 0
				for lane := range 4 {
					buckets[b].tags[w] |= r.Uint64N(few) << (16 * lane)
				}
			}
			for i := range buckets[b].refs {
				buckets[b].refs[i] = ref(1+r.Uint32N(99), Side(r.IntN(2)))
			}
		}
		n := r.IntN(Burst + 1)
		var fast, slow scratch
		for j := range fast.cand {
			fast.bucket[j], fast.tag[j], fast.cand[j] = r.Uint64N(5), 1+uint16(r.Uint64N(few)), 77
		}
		slow = fast
		findCandidates(buckets, &slow, n)
		before := fast
		for way, candidates := range candidateWays() {
			fast = before
			candidates(buckets, records, &fast, n)
			for j := range Burst {
				bk, has := &buckets[fast.bucket[j]], map[Ref]bool{}
				for i := range slots {
					if uint16(bk.tags[i>>2]>>(16*(i&3))) == fast.tag[j] {
						has[bk.refs[i]] = true
					}
				}
				for _, got := range []Ref{fast.cand[j], slow.cand[j]} {
					if j >= n && got != 77 || j < n && got == 0 && len(has) > 0 || j < n && got != 0 && !has[got] {
						t.Fatalf("%s: tuple %d of %d, tag %d in %v: %v", way, j, n, fast.tag[j], *bk, got)
					}
				}
				if j < n && fast.cand[j] != 0 {
					found++
				}
			}
			if fast.cand = slow.cand; fast != slow {
				t.Fatalf("%s: something else was written", way)
			}
		}
	}
	if found < 10000 {
		t.Errorf("only %d found", found)
	}
}
