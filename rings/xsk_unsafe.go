package rings

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// ringOffsets are the layouts of a socket's four rings (struct xdp_mmap_offsets).
type ringOffsets struct{ rx, tx, fill, completion offsets }

func registerUMEM(fd int, r *Region) error {
	reg := unix.XDPUmemReg{
		Addr: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(r.mem)))),
		Len:  uint64(len(r.mem)),
		Size: uint32(r.frameSize),
	}
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, unix.XDP_UMEM_REG,
		uintptr(unsafe.Pointer(&reg)), unsafe.Sizeof(reg), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func mmapOffsets(fd int) (ringOffsets, error) {
	var o unix.XDPMmapOffsets
	if err := getXDP(fd, unix.XDP_MMAP_OFFSETS, unsafe.Pointer(&o), unsafe.Sizeof(o)); err != nil {
		return ringOffsets{}, err
	}
	conv := func(r unix.XDPRingOffset) offsets {
		return offsets{producer: r.Producer, consumer: r.Consumer, desc: r.Desc, flags: r.Flags}
	}
	return ringOffsets{rx: conv(o.Rx), tx: conv(o.Tx), fill: conv(o.Fr), completion: conv(o.Cr)}, nil
}

func statistics(fd int) (unix.XDPStatistics, error) {
	var s unix.XDPStatistics
	err := getXDP(fd, unix.XDP_STATISTICS, unsafe.Pointer(&s), unsafe.Sizeof(s))
	return s, err
}

func getXDP(fd, opt int, p unsafe.Pointer, size uintptr) error {
	n := uint32(size)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(opt),
		uintptr(p), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// wakeTx enters the kernel so that it looks at the tx ring. RawSyscall: it does not block, and telling the Go
// scheduler about it would cost more than the call.
func wakeTx(fd int) unix.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	return errno
}

// wakeRx enters the kernel so that it refills its receive ring or, with busy polling, runs its receive loop.
func wakeRx(fd int) unix.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	return errno
}
