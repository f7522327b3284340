package link

import (
	"errors"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setThreadName names the calling thread, at most 15 characters.
func setThreadName(name string) error {
	b := append([]byte(name), 0)
	return unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&b[0])), 0, 0, 0)
}

// The calls of client and server during a measurement. Go's runtime is not told of them: what it does about a thread that
// returns from a call (it wakes its monitor, sysmon) would take the same core just when an answer is due. A collection
// would wait for such a thread, so there is none meanwhile (Latency turns the collector off).

//go:linkname procPin runtime.procPin
func procPin() int

//go:linkname procUnpin runtime.procUnpin
func procUnpin()

// quiet keeps the runtime's requests to yield (SIGURG), which a thread without such calls gets every 10 ms, away.
func quiet() error {
	var set unix.Sigset_t
	set.Val[0] = 1 << (unix.SIGURG - 1)
	return unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil)
}

func rawSleep(d time.Duration) {
	ts := unix.NsecToTimespec(int64(d))
	_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0) // who calls looks at the clock again
}

func rawRead(fd int, p []byte) (int, error) { return rawIO(unix.SYS_READ, fd, p) }

func rawWrite(fd int, p []byte) (int, error) { return rawIO(unix.SYS_WRITE, fd, p) }

func rawIO(call uintptr, fd int, p []byte) (int, error) {
	n, _, e := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

// datagram is one buffer and the address that it came from.
type datagram struct {
	from    unix.RawSockaddrInet6 // the largest of both families
	fromLen uint32
	payload []byte
}

// rawEcho sends the next datagram of a socket back. It waits for it.
func rawEcho(fd int, d *datagram) error {
	d.fromLen = uint32(unsafe.Sizeof(d.from))
	n, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(d.payload))), uintptr(len(d.payload)), 0,
		uintptr(unsafe.Pointer(&d.from)), uintptr(unsafe.Pointer(&d.fromLen)))
	switch {
	case e != 0:
		return e
	case d.fromLen == 0:
		return errors.New("the socket is shut down")
	}
	_, _, _ = unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(d.payload))), n, 0,
		uintptr(unsafe.Pointer(&d.from)), uintptr(d.fromLen)) // what cannot be answered is lost, and counted so
	return nil
}
