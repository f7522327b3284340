package flow

import (
	"fmt"
	"unsafe"
)

// The sizes that Size and the layout of mem rest on.
var (
	_ [recordSize]byte = [unsafe.Sizeof(Record{})]byte{}
	_ [bucketSize]byte = [unsafe.Sizeof(bucket{})]byte{}
	_ [linkSize]byte   = [unsafe.Sizeof(link{})]byte{}
	// and those that prefetch_amd64.s knows
	_ [24]byte  = [unsafe.Offsetof(bucket{}.refs)]byte{}
	_ [512]byte = [unsafe.Offsetof(scratch{}.cand)]byte{}
	_ [768]byte = [unsafe.Offsetof(scratch{}.tag)]byte{}
	_ [40]byte  = [unsafe.Sizeof(Key{})]byte{} // burst_amd64.s
)

// lay puts the table's arrays over mem: buckets, records, links, in this order. They hold no Go pointers, so mem
// may lie outside the Go heap; the caller keeps it mapped while the table is in use.
func (t *Table) lay(mem []byte, buckets, records int) error {
	need := buckets*bucketSize + records*(recordSize+linkSize)
	base := unsafe.Pointer(unsafe.SliceData(mem))
	if len(mem) < need || uintptr(base)%64 != 0 {
		return fmt.Errorf("%w: %d bytes at %p, needed %d aligned to 64", ErrMemory, len(mem), base, need)
	}
	t.buckets = unsafe.Slice((*bucket)(base), buckets)
	base = unsafe.Add(base, buckets*bucketSize)
	t.records = unsafe.Slice((*Record)(base), records)
	base = unsafe.Add(base, records*recordSize)
	t.links = unsafe.Slice((*link)(base), records)
	return nil
}
