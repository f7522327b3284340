package engine

import (
	"encoding/binary"
	"fmt"
	"reflect"
)

// encoder writes a state, little-endian: numbers of 8 bytes, texts and byte strings behind their length, and values of fixed
// size as encoding/binary lays them out.
type encoder struct{ b []byte }

func (e *encoder) u64(v uint64) { e.b = binary.LittleEndian.AppendUint64(e.b, v) }
func (e *encoder) count(n int)  { e.u64(uint64(n)) }
func (e *encoder) text(s string) {
	e.count(len(s))
	e.b = append(e.b, s...)
}
func (e *encoder) bytes(v []byte) {
	e.count(len(v))
	e.b = append(e.b, v...)
}
func (e *encoder) fixed(v any) {
	b, err := binary.Append(e.b, binary.LittleEndian, v)
	if err != nil {
		panic(err) // the type has no fixed size: the code is wrong, not the data
	}
	e.b = b
}

// decoder reads what encoder wrote. After its first error it gives zeros.
type decoder struct {
	b    []byte
	err  error
	maps map[reflect.Type]counterMap // of the predecessor's counters
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
	}
	d.b = nil
}

func (d *decoder) take(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.fail("it ends early")
		return nil
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) u64() uint64 {
	b := d.take(8)
	if b == nil {
		return 0
	}
	return binary.LittleEndian.Uint64(b)
}

// count is a number that may be one of things in memory.
func (d *decoder) count() int {
	n := d.u64()
	if n > 1<<40 {
		d.fail("a count of %d", n)
		return 0
	}
	return int(n)
}

// limited is n if that many things of size bytes can still follow.
func (d *decoder) limited(n, size int) int {
	if n > len(d.b)/size {
		d.fail("it ends early")
		return 0
	}
	return n
}

func (d *decoder) bytes() []byte { return d.take(d.count()) }
func (d *decoder) text() string  { return string(d.bytes()) }

func (d *decoder) fixed(v any) {
	n := binary.Size(v)
	b := d.take(n)
	if d.err != nil {
		return
	}
	if _, err := binary.Decode(b, binary.LittleEndian, v); err != nil {
		d.fail("%v", err)
	}
}
