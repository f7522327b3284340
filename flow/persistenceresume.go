package flow

import (
	"encoding/binary"
	"fmt"
)

// A persistence table goes on in another process that has its memory mapped, as a connection table does (resume.go): the
// predecessor gave its state at rest, so slots and lists are trusted.

// AttachPersistence lays a table over memory in which another process has one. It reads and writes nothing of it; the table
// must not be used before Resume.
func AttachPersistence(mem []byte, cfg PersistenceConfig) (*Persistence, error) {
	return layPersistence(mem, cfg)
}

// AppendState appends what the table keeps outside its memory, little-endian: layout, capacity, free, fresh, live, the number of
// kinds, and for each the ends of both lists and its count. Rules are not among it: Configure sets them.
func (p *Persistence) AppendState(b []byte) []byte {
	le := binary.LittleEndian
	for _, v := range []uint32{persistenceLayout, uint32(p.Cap()), p.free, p.fresh, uint32(p.live), uint32(len(p.lists))} {
		b = le.AppendUint32(b, v)
	}
	for i := range p.lists {
		l := &p.lists[i]
		for _, v := range []uint32{l.ends[0].first, l.ends[0].last, l.ends[1].first, l.ends[1].last, uint32(l.count)} {
			b = le.AppendUint32(b, v)
		}
	}
	return b
}

// Resume takes over what AppendState wrote and returns what follows it in b. It checks what can be checked without reading
// entries.
func (p *Persistence) Resume(b []byte) (rest []byte, err error) {
	fail := func(format string, args ...any) ([]byte, error) {
		return nil, fmt.Errorf("%w: persistence: %w", ErrState, fmt.Errorf(format, args...))
	}
	le := binary.LittleEndian
	if len(b) < 24 {
		return fail("%d bytes", len(b))
	}
	layout, capacity, free, fresh, live, kinds := le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:]), le.Uint32(b[16:]), le.Uint32(b[20:])
	b = b[24:]
	switch {
	case layout != persistenceLayout || int64(capacity) != int64(p.Cap()):
		return fail("layout %d with %d entries, want %d with %d", layout, capacity, persistenceLayout, p.Cap())
	case fresh < 1 || int64(fresh) > int64(len(p.entries)) || free >= fresh || live >= fresh:
		return fail("first free entry %d, %d used, %d live of %d", free, fresh-1, live, p.Cap())
	case uint64(kinds) > uint64(len(b))/20:
		return fail("%d kinds in %d bytes", kinds, len(b))
	}
	lists := make([]persistenceLists, max(int(kinds), len(p.lists)))
	sum := 0
	for i := range lists {
		if i < len(p.lists) {
			lists[i].rule = p.lists[i].rule
		}
		if i >= int(kinds) {
			continue
		}
		l := &lists[i]
		l.ends = [2]persistenceEnds{{le.Uint32(b), le.Uint32(b[4:])}, {le.Uint32(b[8:]), le.Uint32(b[12:])}}
		l.count = int(le.Uint32(b[16:]))
		b, sum = b[20:], sum+l.count
		for _, e := range l.ends {
			if e.first >= fresh || e.last >= fresh || (e.first == 0) != (e.last == 0) {
				return fail("a list from %d to %d of %d entries", e.first, e.last, fresh-1)
			}
		}
	}
	if sum != int(live) {
		return fail("%d entries in lists, %d live", sum, live)
	}
	p.free, p.fresh, p.live, p.lists = free, fresh, int(live), lists
	return b, nil
}

// Check compares everything that the table keeps about its entries, for tests: every live entry is found by its client and is in
// exactly one list of its kind, and nothing else is. It reads the whole table.
func (p *Persistence) Check() error {
	live, slots := 0, 0
	for i := uint32(1); i < p.fresh; i++ {
		e := &p.entries[i]
		if e.state&persistenceLive == 0 {
			continue
		}
		live++
		if at, _, found := p.slot(e.client, e.kind); !found || p.slots[at]&persistenceIndexMask != i {
			return fmt.Errorf("entry %d is not found by its client", i)
		}
		if uint16(e.state>>persistenceCheck) != e.check(p.Node(i)) {
			return fmt.Errorf("entry %d: wrong check", i)
		}
	}
	for _, s := range p.slots {
		if s != 0 {
			slots++
		}
	}
	listed := 0
	for kind := range p.lists {
		l, n := &p.lists[kind], 0
		for which, ends := range l.ends {
			prev := uint32(0)
			for i := ends.first; i != 0; prev, i = i, p.entries[i].next {
				e := &p.entries[i]
				if n++; n > p.live || e.prev != prev || int(e.kind) != kind || e.state&persistenceLive == 0 || int(e.state/persistenceAgain&1) != which {
					return fmt.Errorf("entry %d does not belong where list %d of kind %d has it", i, which, kind)
				}
			}
			if prev != ends.last {
				return fmt.Errorf("list %d of kind %d ends with %d, not %d", which, kind, prev, ends.last)
			}
		}
		if n != l.count {
			return fmt.Errorf("%d entries of kind %d in lists, %d counted", n, kind, l.count)
		}
		listed += n
	}
	if live != p.live || slots != p.live || listed != p.live {
		return fmt.Errorf("%d live entries, %d slots, %d in lists; %d counted", live, slots, listed, p.live)
	}
	free := 0
	for i := p.free; i != 0; i = p.entries[i].next {
		if free++; free > p.Cap() {
			return fmt.Errorf("the free entries lead round in a circle")
		}
	}
	if free+live != int(p.fresh)-1 {
		return fmt.Errorf("%d free and %d live entries, %d were used", free, live, p.fresh-1)
	}
	return nil
}
