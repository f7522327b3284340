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

// threadTime is the processor time of the calling thread, in nanoseconds.
func threadTime() uint64 {
	var ts unix.Timespec
	_, _, _ = unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_THREAD_CPUTIME_ID, uintptr(unsafe.Pointer(&ts)), 0)
	return uint64(ts.Nano())
}

// setNice reports whether the calling thread has the priority now.
func setNice(v int) bool {
	_, _, e := unix.RawSyscall(unix.SYS_SETPRIORITY, unix.PRIO_PROCESS, 0, uintptr(v))
	return e == 0
}

// yieldCore lets another thread that is ready run on this core, if there is one (sched_yield(2)).
func yieldCore() { _, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }
