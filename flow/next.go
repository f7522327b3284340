package flow

import "math/bits"

// Next is the time, in milliseconds as of Expire, at which Expire will have connections to look at, if it has done with all up to now; false
// if there are none. What is to be looked at may go on, or be gone by then.
func (t *Table) Next() (at uint64, ok bool) {
	w := &t.wheel
	if t.live == 0 {
		return 0, false
	}
	first := w.cursor + 1 // the cursor's own list is done, and nothing is put there any more
	for ahead := uint64(0); ahead < wheelSlots; {
		slot := (first + ahead) & (wheelSlots - 1)
		if rest := w.filled[slot>>6] >> (slot & 63); rest != 0 {
			return (first + ahead + uint64(bits.TrailingZeros64(rest))) << tickShift, true
		}
		ahead += 64 - slot&63
	}
	return 0, false
}
