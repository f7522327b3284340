package engine

import (
	"encoding/binary"
	"sync/atomic"
)

// captureRing carries records of different lengths from a worker to whoever reads the capture, in a piece of memory that is taken
// once. The worker writes records and tail, the reader head. A record that does not fit is not written: nobody waits.
//
//	| length | record … padding to 8 | length | record … | wrap |        wrap: the next one is at the start
type captureRing struct {
	buf  []byte // a power of two
	_    [64]byte
	tail atomic.Uint64 // the worker's
	_    [56]byte
	head atomic.Uint64 // the reader's
	_    [56]byte
}

const (
	captureWrap  = 1<<32 - 1
	captureAlign = 8
)

func newCaptureRing(size int) *captureRing {
	n := 1 << 12
	for n < size {
		n *= 2
	}
	return &captureRing{buf: make([]byte, n)}
}

// claim is room for a record of n bytes, which publish then hands over, or nil.
func (r *captureRing) claim(n int) []byte {
	need := uint64(8+n+captureAlign-1) &^ (captureAlign - 1)
	tail, size := r.tail.Load(), uint64(len(r.buf))
	at, skip := tail&(size-1), uint64(0)
	if at+need > size {
		skip = size - at
	}
	if tail+skip+need-r.head.Load() > size {
		return nil
	}
	if skip > 0 {
		binary.LittleEndian.PutUint32(r.buf[at:], captureWrap)
		r.tail.Store(tail + skip) // the reader may pass it already
		at = 0
	}
	binary.LittleEndian.PutUint32(r.buf[at:], uint32(n))
	return r.buf[at+8 : at+8+uint64(n)]
}

// publish hands the record over that was claimed last, of n bytes.
func (r *captureRing) publish(n int) {
	r.tail.Store(r.tail.Load() + uint64(8+n+captureAlign-1)&^(captureAlign-1))
}

// next is the oldest record, or nil. It stays valid until release.
func (r *captureRing) next() []byte {
	size := uint64(len(r.buf))
	for {
		head := r.head.Load()
		if head == r.tail.Load() {
			return nil
		}
		at := head & (size - 1)
		n := binary.LittleEndian.Uint32(r.buf[at:])
		if n == captureWrap {
			r.head.Store(head + size - at)
			continue
		}
		return r.buf[at+8 : at+8+uint64(n)]
	}
}

// release gives the room of record b, which next has returned, back to the worker.
func (r *captureRing) release(b []byte) {
	r.head.Store(r.head.Load() + uint64(8+len(b)+captureAlign-1)&^(captureAlign-1))
}
