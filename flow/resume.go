package flow

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A table goes on in another process that has its memory mapped: Attach lays the table over it, and Resume takes over the
// rest, which is small and of one size whatever the number of connections. Unlike an adoption (adopt.go) this trusts buckets,
// timers and lists: the predecessor gave the state at rest, it was not killed.

// Layout describes how a table lies in memory. Only a table of the same layout can be resumed.
func Layout() string {
	return fmt.Sprintf("record layout %d, table layout %d (%d-byte records, %d-byte buckets of %d at %d%%, %d ticks of %d ms), persistence layout %d",
		layoutVersion, tableVersion, recordSize, bucketSize, slots, loadNum*100/loadDen, wheelSlots, 1<<tickShift, persistenceLayout)
}

// tableVersion changes whenever the meaning of buckets, links, the wheel or State does; layoutVersion, of records, is beside it.
const tableVersion = 1

// stateSize is the bytes of a state: table version, capacity, secret; free, fresh, live, hand; cursor, heads, tails, filled.
const stateSize = 8 + 8 + 32 + 4*4 + 8 + 2*4*wheelSlots + wheelSlots/8

// ErrState is returned for a state that does not fit the table or contradicts itself.
var ErrState = errors.New("the state of a connection table")

// Attach lays a table over memory in which another process has one. It reads and writes nothing of it, so that may go on; the
// table must not be used before Resume.
func Attach(mem []byte, cfg Config) (*Table, error) {
	if cfg.Capacity < 1 || cfg.Capacity > MaxCapacity {
		return nil, fmt.Errorf("a table holds 1 to %d connections, not %d", MaxCapacity, cfg.Capacity)
	}
	t := &Table{secret: cfg.Secret, nodes: cfg.Nodes, fresh: 1}
	return t, t.lay(mem, bucketsFor(cfg.Capacity), cfg.Capacity+1)
}

// AppendState appends what the table keeps outside its memory, little-endian. The table must rest until it is resumed
// elsewhere, for good, or not at all.
func (t *Table) AppendState(b []byte) []byte {
	t.spillAll()
	le := binary.LittleEndian
	b = le.AppendUint64(b, tableVersion)
	b = le.AppendUint64(b, uint64(t.Cap()))
	for _, s := range t.secret {
		b = le.AppendUint64(b, s)
	}
	for _, v := range []uint32{t.free, t.fresh, uint32(t.live), t.hand} {
		b = le.AppendUint32(b, v)
	}
	b = le.AppendUint64(b, t.wheel.cursor)
	for i := range t.wheel.heads {
		b = le.AppendUint32(b, t.wheel.heads[i])
		b = le.AppendUint32(b, t.wheel.tails[i])
	}
	for _, f := range t.wheel.filled {
		b = le.AppendUint64(b, f)
	}
	return b
}

// Resume takes over what AppendState wrote and returns what follows it in b. It checks all that can be checked without
// reading connections.
func (t *Table) Resume(b []byte) (rest []byte, err error) {
	fail := func(format string, args ...any) ([]byte, error) {
		return nil, fmt.Errorf("%w: %w", ErrState, fmt.Errorf(format, args...))
	}
	if len(b) < stateSize {
		return fail("%d bytes, want %d", len(b), stateSize)
	}
	le := binary.LittleEndian
	if v := le.Uint64(b); v != tableVersion {
		return fail("layout %d, want %d", v, tableVersion)
	}
	if c := le.Uint64(b[8:]); c != uint64(t.Cap()) {
		return fail("capacity %d, want %d", c, t.Cap())
	}
	for i, s := range t.secret {
		if le.Uint64(b[16+8*i:]) != s {
			return fail("another secret")
		}
	}
	rest, b = b[stateSize:], b[48:]
	free, fresh, live, hand := le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:])
	if fresh < 1 || uint64(fresh) > uint64(len(t.records)) || free >= fresh || live >= fresh || hand >= max(fresh, 2) {
		return fail("first free record %d, %d used, %d connections of %d, hand at %d", free, fresh-1, live, t.Cap(), hand)
	}
	w := wheel{cursor: le.Uint64(b[16:])}
	b = b[24:]
	for i := range w.heads {
		w.heads[i], w.tails[i] = le.Uint32(b[8*i:]), le.Uint32(b[8*i+4:])
	}
	b = b[8*wheelSlots:]
	for i := range w.filled {
		w.filled[i] = le.Uint64(b[8*i:])
	}
	for i := range w.heads {
		head, tail, filled := w.heads[i], w.tails[i], w.filled[i>>6]>>(i&63)&1 != 0
		if head >= fresh || tail >= fresh || (head != 0) != filled || (tail != 0) != filled {
			return fail("tick %d begins with record %d, ends with %d, bit %t", i, head, tail, filled)
		}
	}
	t.free, t.spare, t.fresh, t.live, t.hand, t.wheel = free, spare{}, fresh, int(live), hand, w
	return rest, nil
}
