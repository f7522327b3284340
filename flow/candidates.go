package flow

import "math/bits"

// findCandidates notes for the first n tuples of the scratch the first slot of their bucket that has their tag, or 0. On amd64 this
// is done by candidates (prefetch_amd64.s), eight tags at once. The words are searched as one set without a branch: bit 16*i+w
// is lane i of word w; with none the slot is any, and the mask makes it 0.
func findCandidates(buckets []bucket, s *scratch, n int) {
	for i := range n {
		j := i & (Burst - 1)
		bk, tag := &buckets[s.bucket[j]], s.tag[j]
		m := match(bk.tags[0], tag)>>15 | match(bk.tags[1], tag)>>14 | match(bk.tags[2], tag)&lastTags>>13
		at := bits.TrailingZeros64(m | 1<<63)
		some := Ref(uint32(int64(m|-m) >> 63))
		s.cand[j] = bk.refs[min(at&3<<2|at>>4, slots-1)] & some
	}
}
