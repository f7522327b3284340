package rings

import (
	"fmt"
	"sync/atomic"
)

// ring is our side of a single-producer single-consumer ring whose other side is the kernel (or, for the memory
// driver, another goroutine). The two indices run freely and wrap at 2^32; slot i is slots[i&mask].
//
// The producer index is written only by the producer and published with release order after the slots; the
// consumer index only by the consumer after it has read the slots. Both sides keep the other's index as last
// read (cached) and read the shared word again only when the cached value does not suffice, because reading
// it moves a cache line between cores.
type ring[T any] struct {
	slots    []T
	mask     uint32
	local    uint32 // our own index, running ahead of what we have published
	cached   uint32 // the other side's index as last read
	producer *atomic.Uint32
	consumer *atomic.Uint32
	flags    *atomic.Uint32 // XDP_RING_NEED_WAKEUP, written by the kernel; nil for memory rings
}

// room is how many slots the producer may fill, looking at the consumer only if fewer than want are known.
func (r *ring[T]) room(want uint32) uint32 {
	size := uint32(len(r.slots))
	if free := size - (r.local - r.cached); free >= want {
		return free
	}
	r.cached = r.consumer.Load()
	return size - (r.local - r.cached)
}

// put fills the next slot; room must have said that there is one.
func (r *ring[T]) put(v T) {
	r.slots[r.local&r.mask] = v
	r.local++
}

// putAll fills as many slots as there are values.
func (r *ring[T]) putAll(values []T) {
	n := copy(r.slots[r.local&r.mask:], values)
	copy(r.slots, values[n:])
	r.local += uint32(len(values))
}

// putBackwards is putAll for values in the opposite order.
func (r *ring[T]) putBackwards(values []T) {
	slots := r.slots[r.local&r.mask:]
	n := min(len(slots), len(values))
	reverse(slots[:n], values[len(values)-n:])
	r.local += uint32(n)
	if rest := values[:len(values)-n]; len(rest) > 0 {
		n = min(len(r.slots), len(rest)) // all of it, as room has said
		reverse(r.slots[:n], rest[len(rest)-n:])
		r.local += uint32(n)
	}
}

// reverse copies from to to, the last first; both are of one length. Eight at a time are half the instructions.
func reverse[T any](to, from []T) {
	for len(to) >= 8 && len(from) >= 8 {
		a, b := (*[8]T)(to), (*[8]T)(from[len(from)-8:])
		a[0], a[1], a[2], a[3] = b[7], b[6], b[5], b[4]
		a[4], a[5], a[6], a[7] = b[3], b[2], b[1], b[0]
		to, from = to[8:], from[:len(from)-8]
	}
	for i := range to {
		to[i] = from[len(from)-1-i]
	}
}

// publish shows the consumer everything put so far.
func (r *ring[T]) publish() { r.producer.Store(r.local) }

// filled is how many slots the consumer may read, looking at the producer only if fewer than want are known.
func (r *ring[T]) filled(want uint32) uint32 {
	if n := r.cached - r.local; n >= want {
		return n
	}
	r.cached = r.producer.Load()
	return r.cached - r.local
}

// get reads the next slot; filled must have said that there is one.
func (r *ring[T]) get() T {
	v := r.slots[r.local&r.mask]
	r.local++
	return v
}

// getAll reads as many slots as there are places.
func (r *ring[T]) getAll(places []T) {
	n := copy(places, r.slots[r.local&r.mask:])
	copy(places[n:], r.slots)
	r.local += uint32(len(places))
}

// run is the next slots that lie in a row, at most n; filled or room must have said that there are as many. Whoever has used k of them adds k to local.
func (r *ring[T]) run(n uint32) []T {
	at := r.local & r.mask
	return r.slots[at:min(at+n, uint32(len(r.slots)))]
}

// release gives the producer back every slot read so far.
func (r *ring[T]) release() { r.consumer.Store(r.local) }

// unseen is how many published slots the consumer has not taken yet; the producer asks.
func (r *ring[T]) unseen() uint32 { return r.producer.Load() - r.consumer.Load() }

// newRing makes the two ends of a ring in ordinary memory. It panics if size is no power of two.
func newRing[T any](size int) (producer, consumer ring[T]) {
	if size <= 0 || size&(size-1) != 0 {
		panic(fmt.Sprintf("a ring of %d slots: it has to be a power of two", size))
	}
	// The two words are written by different cores: keep them on lines of their own.
	words := new(struct {
		producer atomic.Uint32
		_        [124]byte
		consumer atomic.Uint32
		_        [124]byte
	})
	r := ring[T]{
		slots: make([]T, size), mask: uint32(size - 1),
		producer: &words.producer, consumer: &words.consumer,
	}
	return r, r
}
