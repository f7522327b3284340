package engine

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// namePointer is the address of a zero-terminated name for prctl.
func namePointer(name []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(name))) }

// procPin keeps the scheduler from taking the goroutine off its thread until procUnpin (runtime/proc.go). The runtime keeps both
// for packages outside it, by name.
//
//go:linkname procPin runtime.procPin
func procPin() int

//go:linkname procUnpin runtime.procUnpin
func procUnpin()

// readEvent and writeEvent are for eventfds that do not block. RawSyscall: a worker that holds on must not tell the runtime.
func readEvent(fd int, b *[8]byte) {
	_, _, _ = unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(b)), 8)
}

func writeEvent(fd int, b *[8]byte) {
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(b)), 8)
}
