package ctl

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// peerGroups are the supplementary groups that the other end of a unix socket had when it connected (SO_PEERGROUPS, Linux 4.13).
func peerGroups(fd int) ([]uint32, error) {
	groups := make([]uint32, 32)
	for {
		size := uint32(4 * len(groups))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == unix.ERANGE && int(size) > 4*len(groups): // size is what it takes
			groups = make([]uint32, size/4)
		case errno == unix.ENOPROTOOPT:
			return nil, nil // an older kernel: the primary group alone counts
		case errno != 0:
			return nil, errno
		default:
			return groups[:size/4], nil
		}
	}
}
