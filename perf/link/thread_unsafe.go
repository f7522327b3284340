package link

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// setThreadName names the calling thread, at most 15 characters.
func setThreadName(name string) error {
	b := append([]byte(name), 0)
	return unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&b[0])), 0, 0, 0)
}
