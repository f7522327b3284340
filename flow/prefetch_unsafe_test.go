package flow

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// beforeGuard is n bytes of zeros behind which no byte can be read.
func beforeGuard(t *testing.T, n int) []byte {
	page := unix.Getpagesize()
	size := (n + page - 1) / page * page
	m, err := unix.Mmap(-1, 0, size+page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(m) })
	if err := unix.Mprotect(m[size:], unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	return m[size-n : size]
}

// Every implementation reads as many numbers as it was given and not one more, which would end the process.
func TestPrefetchBounds(t *testing.T) {
	const most = Burst
	index := unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(beforeGuard(t, most*8)))), most)
	refs := unsafe.Slice((*Ref)(unsafe.Pointer(unsafe.SliceData(beforeGuard(t, most*4)))), most)
	buckets, records := make([]bucket, 3), make([]Record, 3)
	for i := range most {
		index[i], refs[i] = uint64(i%3), ref(uint32(i%3), Side(i&1))
	}
	for n := range most + 1 {
		for _, f := range []func([]bucket, []uint64){prefetchBuckets, touchBuckets} {
			f(buckets, index[most-n:])
		}
		for _, f := range []func([]Record, []Ref){prefetchRecords, touchRecords} {
			f(records, refs[most-n:])
		}
	}
}

// The loads of touchBuckets and touchRecords are there, and reach the last number: a wrong one is out of range.
func TestTouchReads(t *testing.T) {
	panics := func(f func()) (yes bool) {
		defer func() { yes = recover() != nil }()
		f()
		return false
	}
	if !panics(func() { touchBuckets(make([]bucket, 3), []uint64{0, 3}) }) || !panics(func() { touchRecords(make([]Record, 3), []Ref{0, ref(3, FromClient)}) }) {
		t.Error("the last one is not read")
	}
}
