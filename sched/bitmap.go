package sched

import "math/bits"

// Bitmap is a set of members: member i is bit i%64 of word i/64. A nil Bitmap as Input.Available has everyone in it.
type Bitmap []uint64

// NewBitmap makes room for n members and contains none.
func NewBitmap(n int) Bitmap { return make(Bitmap, (n+63)/64) }

// Set adds member i, which there must be room for.
func (b Bitmap) Set(i int) { b[i>>6] |= 1 << (i & 63) }

// Clear removes member i, which there must be room for.
func (b Bitmap) Clear(i int) { b[i>>6] &^= 1 << (i & 63) }

// Has reports whether member i is in the set; one beyond its end is not.
func (b Bitmap) Has(i int) bool {
	w := uint(i) >> 6
	return w < uint(len(b)) && b[w]>>(uint(i)&63)&1 != 0
}

// Count is how many members are in the set.
func (b Bitmap) Count() (n int) {
	for _, word := range b {
		n += bits.OnesCount64(word)
	}
	return n
}

// available reports whether member i may be picked.
func (in *Input) available(i int) bool { return in.Available == nil || in.Available.Has(i) }

// among is word w of those of set that are available.
func (in *Input) among(set Bitmap, w int) uint64 {
	if in.Available == nil {
		return set[w]
	}
	if w >= len(in.Available) {
		return 0
	}
	return set[w] & in.Available[w]
}
