package link

import (
	"fmt"
	"time"
	"unsafe"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

// The loops of the client and the server of a measurement are one long system call each, as far as Go's runtime is told. While
// it knows of a running thread its monitor (sysmon) wakes a hundred times a second, on one of two cores, and at each
// return from a call: an answer that is due then waits for it. In such a loop nothing may split the stack, allocate,
// store a pointer or panic, as in what the runtime itself does between the two.

//go:linkname entersyscallblock runtime.entersyscallblock
func entersyscallblock()

//go:linkname exitsyscall runtime.exitsyscall
func exitsyscall()

//go:linkname nanotime runtime.nanotime
func nanotime() int64

// trips are the round trips of one client. Times are nanoseconds. From one to the next is half an interval to one and a half, at
// random: what the kernel does at its ticks, thousandths of a second apart, would meet all probes of an even rate or none.
type trips struct {
	fd             int
	interval, long int64
	out, in        []byte
	got            int     // bytes in in of an answer that has not come whole
	took           []int64 // from when it was due, for each that was sent
	sent, lost     int
	err            unix.Errno
}

// mostLost answers in a row, 3 s, are those of a carrier that has died; all that were to be sent would take minutes.
const mostLost = 15

func newTrips(fd, rate int, long time.Duration) *trips {
	interval := int64(time.Second) / int64(rate)
	return &trips{fd: fd, interval: interval, long: int64(long), out: make([]byte, probeSize), in: make([]byte, 2048),
		took: make([]int64, 1+2*int64(long)/interval)}
}

// first is a round trip that does not count.
func (t *trips) first() {
	if _, e := rawWrite(t.fd, t.out); e == 0 {
		t.receive()
	}
}

// stop ends a run.
func (t *trips) stop() { _ = unix.Shutdown(t.fd, unix.SHUT_RDWR) }

func (t *trips) run(b *bed) error {
	if err := b.ownThread(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return err
	}
	for i := range t.took { // its pages are there when they are needed
		t.took[i] = 0
	}
	t.loop()
	if t.err != 0 {
		return fmt.Errorf("probe: %w", t.err)
	}
	return nil
}

//go:norace
func (t *trips) loop() {
	entersyscallblock()
	begin, answered := nanotime(), int64(0)
	due, random, lostInRow := begin, uint64(begin)|1, 0
	for i := range t.took {
		random ^= random << 13 // xorshift64 (Marsaglia, 2003)
		random ^= random >> 7
		random ^= random << 17
		due += t.interval/2 + int64(random>>32)*t.interval>>32
		if due-begin >= t.long {
			break
		}
		now := nanotime()
		for ; now < due; now = nanotime() {
			rawSleep(due - now)
		}
		// The client's own oversleep is none of the carrier's; a wait for its answer is.
		from := due
		if answered < due {
			from = now
		}
		t.out[0], t.out[1], t.out[2], t.out[3] = byte(i), byte(i>>8), byte(i>>16), byte(i>>24)
		if _, e := rawWrite(t.fd, t.out); e != 0 && e != unix.ECONNREFUSED {
			t.err = e
			break
		}
		if lostInRow++; t.receive() {
			lostInRow = 0
		} else if t.lost++; lostInRow == mostLost {
			t.err = unix.ETIMEDOUT
			break
		}
		answered = nanotime()
		t.took[i] = answered - from
		t.sent++
	}
	exitsyscall()
}

// receive waits for the answer to what was sent, and passes over late ones of others. It reports whether it came in time.
//
//go:nosplit
//go:norace
func (t *trips) receive() bool {
	began := nanotime()
	for {
		n, e := rawRead(t.fd, t.in[t.got:])
		switch {
		case e == unix.EAGAIN, e == unix.EINTR, e == unix.ECONNREFUSED:
			if nanotime()-began >= int64(probeLimit) { // signals may come more often than the socket's own limit
				return false
			}
			if e == unix.EAGAIN { // it polls; else the socket has waited so long
				_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) // to the server, which has the same priority
			}
			continue
		case e != 0 || n <= 0:
			return false
		}
		for t.got += n; t.got >= probeSize; { // a stream gives several at once, or a part
			found := [4]byte(t.in[:4]) == [4]byte(t.out[:4])
			t.got -= probeSize
			for i := range t.got { // for the race detector, copy is a function that may split the stack
				t.in[i] = t.in[probeSize+i]
			}
			if found {
				return true
			}
		}
	}
}

// probe is what was measured.
func (t *trips) probe() (*probe, error) {
	p := &probe{hist: hdrhistogram.New(nanosecond, int64(10*time.Second), 3), sent: t.sent, lost: t.lost}
	for _, took := range t.took[:t.sent] {
		if err := p.hist.RecordValue(took); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// returnDatagrams sends what comes to a socket back, until it is shut down.
//
//go:norace
func returnDatagrams(fd int) {
	var from unix.RawSockaddrInet6 // the largest of both families
	payload := make([]byte, 2048)
	entersyscallblock()
	for {
		fromLen := uint32(unsafe.Sizeof(from))
		n, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(payload))), uintptr(len(payload)), 0,
			uintptr(unsafe.Pointer(&from)), uintptr(unsafe.Pointer(&fromLen)))
		switch {
		case e == unix.EINTR:
			continue
		case e != 0 || fromLen == 0: // of no one: shut down
			exitsyscall()
			return
		}
		_, _, _ = unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(payload))), n, 0,
			uintptr(unsafe.Pointer(&from)), uintptr(fromLen)) // what cannot be answered is lost, and counted so
	}
}

// returnStream sends what comes on a connection back, until it ends.
//
//go:norace
func returnStream(fd int) {
	buf := make([]byte, 2048)
	entersyscallblock()
	for {
		n, e := rawRead(fd, buf)
		if e == unix.EINTR {
			continue
		}
		if e != 0 || n <= 0 {
			break
		}
		if _, e := rawWrite(fd, buf[:n]); e != 0 {
			break
		}
	}
	exitsyscall()
}

// spin uses a core until an event file that does not wait can be read (eventfd(2)).
//
//go:norace
func spin(end int, buf []byte) {
	entersyscallblock()
	for {
		if _, e := rawRead(end, buf); e != unix.EAGAIN {
			break
		}
	}
	exitsyscall()
}

//go:nosplit
//go:norace
func rawSleep(ns int64) {
	ts := unix.Timespec{Sec: ns / int64(time.Second), Nsec: ns % int64(time.Second)}
	_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0) // who calls looks at the clock again
}

//go:nosplit
//go:norace
func rawRead(fd int, p []byte) (int, unix.Errno) { return rawIO(unix.SYS_READ, fd, p) }

//go:nosplit
//go:norace
func rawWrite(fd int, p []byte) (int, unix.Errno) { return rawIO(unix.SYS_WRITE, fd, p) }

//go:nosplit
//go:norace
func rawIO(call uintptr, fd int, p []byte) (int, unix.Errno) {
	n, _, e := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	return int(n), e
}
