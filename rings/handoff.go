package rings

// Handoff is a ring of descriptors from one worker to another: one producer, one consumer, no lock. A full ring
// refuses, and the producer drops and counts: nothing waits.
type Handoff struct {
	in  ring[Desc] // the producer's end
	_   [64]byte
	out ring[Desc] // the consumer's end
}

// NewHandoff makes a ring for size descriptors, a power of two.
func NewHandoff(size int) *Handoff {
	h := &Handoff{}
	h.in, h.out = newRing[Desc](size)
	return h
}

// Put is the producer's: it takes the first n descriptors and returns n.
func (h *Handoff) Put(burst []Desc) int {
	n := min(len(burst), int(h.in.room(uint32(len(burst)))))
	if n == 0 {
		return 0
	}
	h.in.putAll(burst[:n])
	h.in.publish()
	return n
}

// HalfFree is the producer's: it reports whether half of the ring is free, so that what can wait leaves room for what cannot.
func (h *Handoff) HalfFree() bool {
	half := uint32(len(h.in.slots) / 2)
	return h.in.room(half) >= half
}

// Get is the consumer's: it fills burst and returns how many.
func (h *Handoff) Get(burst []Desc) int {
	n := min(h.out.filled(uint32(len(burst))), uint32(len(burst)))
	if n == 0 {
		return 0
	}
	h.out.getAll(burst[:n])
	h.out.release()
	return int(n)
}

// Empty reports whether the consumer would get nothing. Only the consumer may ask.
func (h *Handoff) Empty() bool { return h.out.filled(1) == 0 }

// Len is how many descriptors are in the ring. Exact only while both sides are at rest.
func (h *Handoff) Len() int { return int(h.in.producer.Load() - h.in.consumer.Load()) }
