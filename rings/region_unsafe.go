package rings

import "unsafe"

// HeadLen is the length of a frame's head: headers without options, and the whole of a 64-byte frame.
const HeadLen = 64

// Head is the first HeadLen bytes from addr on, the address of a packet: whatever its length, they are within its frame. It
// panics when they lie outside the region. A slice that is made an array costs four times as much.
func (r *Region) Head(addr uint64) *[HeadLen]byte {
	if addr+HeadLen > uint64(len(r.mem)) {
		panic("rings: a packet outside the region")
	}
	return (*[HeadLen]byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(r.mem)), addr))
}
