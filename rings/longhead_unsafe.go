package rings

import "unsafe"

// LongHead is Head for the first LongHeadLen bytes.
func (r *Region) LongHead(addr uint64) *[LongHeadLen]byte {
	if addr+LongHeadLen > uint64(len(r.mem)) {
		panic("rings: a packet outside the region")
	}
	return (*[LongHeadLen]byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(r.mem)), addr))
}
