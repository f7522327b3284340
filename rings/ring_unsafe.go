package rings

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

// offsets says where the parts of one ring lie in its mapping (struct xdp_ring_offset in
// include/uapi/linux/if_xdp.h). Units: bytes.
type offsets struct {
	producer, consumer, desc, flags uint64
}

// ringOver lays a ring of size slots over mem as the kernel mapped it. Producer says which side is ours: the
// local index starts where our side stands, so that a ring that has been in use is taken up again.
func ringOver[T any](mem []byte, off offsets, size int, producer bool) (ring[T], error) {
	var zero T
	inside := func(at, n uint64) bool { return at <= uint64(len(mem)) && n <= uint64(len(mem))-at }
	if size <= 0 || size&(size-1) != 0 || size > len(mem) || !inside(off.desc, uint64(size)*uint64(unsafe.Sizeof(zero))) ||
		!inside(off.producer, 4) || !inside(off.consumer, 4) || !inside(off.flags, 4) {
		return ring[T]{}, fmt.Errorf("a ring of %d slots does not fit the %d bytes that the kernel mapped", size, len(mem))
	}
	base := unsafe.Pointer(unsafe.SliceData(mem))
	r := ring[T]{
		slots:    unsafe.Slice((*T)(unsafe.Add(base, off.desc)), size),
		mask:     uint32(size - 1),
		producer: (*atomic.Uint32)(unsafe.Add(base, off.producer)),
		consumer: (*atomic.Uint32)(unsafe.Add(base, off.consumer)),
		flags:    (*atomic.Uint32)(unsafe.Add(base, off.flags)),
	}
	if producer {
		r.local, r.cached = r.producer.Load(), r.consumer.Load()
	} else {
		r.local, r.cached = r.consumer.Load(), r.producer.Load()
	}
	return r, nil
}
