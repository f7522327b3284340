package rings

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Decision is one word that two processes share and that is decided once: by a compare-and-swap, so that they agree however
// late a message comes, and whoever of them is killed.
type Decision struct {
	mem  []byte
	word *atomic.Uint32
	fd   int
}

// NewDecision makes one that is undecided.
func NewDecision() (*Decision, error) {
	fd, err := unix.MemfdCreate("sluice-decision", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make shared memory: %w", err)
	}
	if err := unix.Ftruncate(fd, int64(unix.Getpagesize())); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return ImportDecision(fd)
}

// ImportDecision maps the one that another process made. It takes fd over, also when it fails.
func ImportDecision(fd int) (*Decision, error) {
	m, err := ImportMapping(fd, unix.Getpagesize())
	if err != nil {
		return nil, err
	}
	return &Decision{mem: m.Bytes, word: decisionOver(m.Bytes), fd: fd}, nil
}

// decisionOver is the first word of mem, which must be aligned to 4 bytes.
func decisionOver(mem []byte) *atomic.Uint32 {
	if len(mem) < 4 || uintptr(unsafe.Pointer(unsafe.SliceData(mem)))%4 != 0 {
		panic("rings: the memory of a decision is too small or not aligned")
	}
	return (*atomic.Uint32)(unsafe.Pointer(unsafe.SliceData(mem)))
}

// FD is the memory's descriptor.
func (d *Decision) FD() int { return d.fd }

// Decide makes v, which is not 0, the decision, and reports whether it is: it is not if another came first.
func (d *Decision) Decide(v uint32) bool { return d.word.CompareAndSwap(0, v) || d.word.Load() == v }

// Value is the decision, 0 while there is none.
func (d *Decision) Value() uint32 { return d.word.Load() }

// Close gives the memory back; the other process keeps its own.
func (d *Decision) Close() error { return errors.Join(unix.Munmap(d.mem), unix.Close(d.fd)) }
