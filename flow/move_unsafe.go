package flow

import "unsafe"

// Records lays n records over the first bytes of b, so that connections can be handed on in a frame. b must be aligned to
// 8 bytes and long enough.
func Records(b []byte, n int) []Record {
	if len(b) < n*RecordSize || uintptr(unsafe.Pointer(unsafe.SliceData(b)))&7 != 0 {
		panic("flow: records over memory that is too short or not aligned")
	}
	return unsafe.Slice((*Record)(unsafe.Pointer(unsafe.SliceData(b))), n)
}

// RecordSize is the bytes of a Record.
const RecordSize = int(unsafe.Sizeof(Record{}))
