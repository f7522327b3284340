package engine

import "unsafe"

// namePointer is the address of a zero-terminated name for prctl.
func namePointer(name []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(name))) }
