package gen

import (
	"math"
	"unsafe"

	"golang.org/x/sys/unix"
)

// testRun is the part of union bpf_attr that BPF_PROG_TEST_RUN reads (include/uapi/linux/bpf.h).
type testRun struct {
	program, retval       uint32
	sizeIn, sizeOut       uint32
	in, out               uint64
	repeat, duration      uint32
	contextIn, contextOut uint32
	inContext, outContext uint64
	flags, cpu, batch, _  uint32
}

// runLive runs the program on live frames of the size of frame until a signal comes. The library's own call begins again
// after each signal, and so never ends.
func runLive(program int, frame []byte) error {
	attr := testRun{
		program: uint32(program), sizeIn: uint32(len(frame)), in: uint64(uintptr(unsafe.Pointer(&frame[0]))),
		repeat: math.MaxInt32, flags: liveFrames,
	}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return interrupted(errno)
	}
	return nil
}
