package flow

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A table's memory outlives its process when it is a file: a header, then the table. Buckets, timers and the list of free
// records in it are never trusted: only records are, each by itself, and everything else is made anew from them.

// HeaderSize is the bytes of a file in front of the table's memory.
const HeaderSize = 4096

// layoutVersion changes whenever Record, or the place of the records in the memory, does.
const layoutVersion = 1

const magic = "sluicetb"

// Header says what a file holds. In the file it is little-endian: magic, version, ready, capacity, secret, boot id.
type Header struct {
	Ready    bool // the table is complete; a file of an adoption that was interrupted is not
	Capacity int
	Secret   Secret
	Boot     [16]byte // of the kernel: another boot has another clock, and its connections are long over
}

// Put writes the header into the first HeaderSize bytes of a file.
func (h *Header) Put(b []byte) {
	copy(b, magic)
	binary.LittleEndian.PutUint32(b[8:], layoutVersion)
	ready := uint32(0)
	if h.Ready {
		ready = 1
	}
	binary.LittleEndian.PutUint32(b[readyAt:], ready)
	binary.LittleEndian.PutUint64(b[16:], uint64(h.Capacity))
	for i, s := range h.Secret {
		binary.LittleEndian.PutUint64(b[24+8*i:], s)
	}
	copy(b[56:72], h.Boot[:])
}

// readyAt is where the word is that makes a file count.
const readyAt = 12

// IsReady reports whether the header of a file says that it is complete.
func IsReady(b []byte) bool { return binary.LittleEndian.Uint32(b[readyAt:]) == 1 }

// SetReady marks a file as complete.
func SetReady(b []byte) { binary.LittleEndian.PutUint32(b[readyAt:], 1) }

// The reasons not to read a file.
var (
	ErrNotTable = errors.New("not a connection table")
	ErrLayout   = errors.New("a connection table of a layout that this version does not read")
	ErrSize     = errors.New("a connection table whose size does not fit its header")
)

// ReadFile reads the header of a file and lays its records over the rest.
func ReadFile(b []byte) (Header, []Record, error) {
	if len(b) < HeaderSize || string(b[:8]) != magic {
		return Header{}, nil, ErrNotTable
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != layoutVersion {
		return Header{}, nil, fmt.Errorf("%w: %d", ErrLayout, v)
	}
	h := Header{Ready: IsReady(b)}
	capacity := binary.LittleEndian.Uint64(b[16:])
	if capacity < 1 || capacity > MaxCapacity || len(b) < HeaderSize+Size(int(capacity)) {
		return Header{}, nil, ErrSize
	}
	h.Capacity = int(capacity)
	for i := range h.Secret {
		h.Secret[i] = binary.LittleEndian.Uint64(b[24+8*i:])
	}
	copy(h.Boot[:], b[56:72])
	var t Table
	if err := t.lay(b[HeaderSize:], bucketsFor(h.Capacity), h.Capacity+1); err != nil {
		return Header{}, nil, err
	}
	return h, t.records, nil
}

// Sound reports whether a record that was found in memory is a connection, and whether it can be believed: ids below
// nodes, a known state, a checksum that fits.
func (r *Record) Sound(nodes int) (live, sound bool) {
	if !r.Live() {
		return false, false
	}
	s := r.TCPState()
	tracked := r.Proto() == TCP || r.Proto() == SCTP
	return true, uint16(r.state>>checkShift) == r.immutable(r.state) && s <= TCPClosed &&
		int64(r.Node) < int64(nodes) && int64(r.SNAT) < int64(nodes) && tracked == (s != TCPNone)
}

// Adopt enters a connection that an earlier table held. Only its buckets and timer are new. The result is Collision when
// another connection has one of its tuples.
func (t *Table) Adopt(rec *Record, now, deadline uint64) (uint32, InsertResult) {
	ck, sk := rec.ClientKey(), t.ServerKey(rec)
	if t.Lookup(&ck) != 0 || t.Lookup(&sk) != 0 {
		return 0, Collision
	}
	i := t.take()
	if i == 0 {
		return 0, Full
	}
	state, part := rec.state, *rec
	part.state = 0 // not there yet
	t.records[i] = part
	step()
	if !t.enter(i, t.placeOf(&ck), t.placeOf(&sk)) {
		t.give(i)
		return 0, Full
	}
	t.wheel.arm(t.links, i, max(deadline, now))
	t.publish(i, state)
	return i, Inserted
}
