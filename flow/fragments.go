package flow

import "errors"

// Fragments is the table of fragmented datagrams that are passing: it gives every part of a datagram the value that was
// found for the first one, whose ports decide, and keeps parts that come before it. Nothing is put together.
//
//	(source, destination, protocol, id) ──hash──▶ datagram ──▶ value of its first part
//	                                                 │  └────▶ byte ranges seen, to refuse overlaps
//	                                                 └───────▶ descriptors that wait for the first part, oldest first
//
// A Fragments belongs to one worker. All of its memory is taken when it is made. A datagram leaves when all of its bytes
// have passed, when its time is over, or when it is the oldest and room is needed: one that flows takes milliseconds, so
// under a flood of parts that lead nowhere the honest ones are the last to suffer. A descriptor that was kept comes back
// exactly once, from First or from Release.
type Fragments struct {
	secret  Secret
	timeout uint64
	perWait int
	mask    uint64
	heads   []uint32   // datagram indexes by hash
	all     []datagram // index 0 ends lists
	free    uint32
	oldest  uint32 // in order of their first part to arrive, all have the same time
	newest  uint32
	wait    []waiting // index 0 ends lists
	waitTop uint32    // free ones
	dead    uint32    // descriptors that Release is to give back
	live    int
	held    int
}

// FragmentKey names a datagram as its parts do (RFC 791 section 3.2, RFC 8200 section 4.5). In IPv6 Proto is 44, that of the
// fragment header: parts may differ in what follows it.
type FragmentKey struct {
	Src, Dst Addr
	ID       uint32
	Proto    uint8
}

// maxRanges is how many separate ranges of a datagram may have been seen: 64 KB in parts of 1,232 bytes, shuffled in the
// worst way, are 27.
const maxRanges = 32

type datagram struct {
	key        FragmentKey
	started    uint64
	value      uint64
	chain      uint32 // next of the same hash, or next free one
	prev, next uint32 // by age
	first      uint32 // waiting, oldest first
	last       uint32
	size       uint32 // of the whole, known from its last part; 0 before
	ranges     uint8
	waits      uint16
	known      bool                 // the first part was seen
	refused    bool                 // what comes is refused
	seen       [maxRanges][2]uint32 // from and behind, in bytes, ascending and not touching
}

type waiting struct {
	desc uint64
	next uint32
}

// FragmentsConfig is the size of a Fragments.
type FragmentsConfig struct {
	Datagrams   int    // passing at a time
	Waiting     int    // descriptors kept, of all datagrams
	PerDatagram int    // descriptors kept, of one
	Timeout     uint64 // milliseconds from the first part to arrive; RFC 8200 section 4.5 gives a receiver 60 s
	Secret      Secret
}

// FragmentResult is what becomes of a part.
type FragmentResult uint8

// The results.
const (
	FragmentKnown     FragmentResult = iota // the value is that of the first part
	FragmentWaits                           // kept until the first part comes
	FragmentDuplicate                       // its bytes have been seen: drop it, the datagram goes on
	FragmentOverlaps                        // some of its bytes have been seen, or it goes beyond the end: the datagram is refused from now on
	FragmentRefused                         // the datagram is refused
	FragmentTooMany                         // no room to keep it, or the datagram is in too many pieces
)

// ErrFragments is returned for sizes that cannot be.
var ErrFragments = errors.New("a fragment table has 1 to 2^20 datagrams, 0 to 2^20 waiting descriptors, at most 65535 of them for one datagram, and a timeout")

// NewFragments makes an empty table: about 350 bytes a datagram, 16 a waiting descriptor.
func NewFragments(cfg FragmentsConfig) (*Fragments, error) {
	const most = 1 << 20
	if cfg.Datagrams < 1 || cfg.Datagrams > most || cfg.Waiting < 0 || cfg.Waiting > most ||
		cfg.PerDatagram < 0 || cfg.PerDatagram > 0xffff || cfg.Timeout == 0 {
		return nil, ErrFragments
	}
	size := 1
	for size < cfg.Datagrams {
		size *= 2
	}
	f := &Fragments{
		secret: cfg.Secret, timeout: cfg.Timeout, perWait: cfg.PerDatagram, mask: uint64(size - 1),
		heads: make([]uint32, size), all: make([]datagram, cfg.Datagrams+1), wait: make([]waiting, cfg.Waiting+1),
	}
	for i := range cfg.Datagrams {
		f.all[i+1].chain, f.free = f.free, uint32(i+1)
	}
	for i := range cfg.Waiting {
		f.wait[i+1].next, f.waitTop = f.waitTop, uint32(i+1)
	}
	return f, nil
}

// Len is how many datagrams are passing.
func (f *Fragments) Len() int { return f.live }

// Held is how many descriptors are kept, those for Release included.
func (f *Fragments) Held() int { return f.held }

// First notes the first part of a datagram, n bytes from offset 0, whose value the caller has found. more says that
// others follow. The descriptors that waited for it, in the order of their arrival, are to be taken with Next.
func (f *Fragments) First(k *FragmentKey, n int, more bool, value, now uint64) (FragmentResult, Waiters) {
	i := f.find(k, now)
	d := &f.all[i]
	if r := d.enter(0, uint32(n), more); r != FragmentKnown {
		if r == FragmentOverlaps {
			f.refuse(d)
		}
		return r, Waiters{}
	}
	d.value, d.known = value, true
	w := Waiters{f, d.first}
	d.first, d.last, d.waits = 0, 0, 0
	f.finish(i)
	return FragmentKnown, w
}

// Later notes another part, n bytes from offset. With FragmentKnown value is that of the first one; with FragmentWaits
// the table keeps desc. With any other result desc stays with the caller.
func (f *Fragments) Later(k *FragmentKey, offset, n int, more bool, desc, now uint64) (value uint64, r FragmentResult) {
	i := f.find(k, now)
	d := &f.all[i]
	waits := !d.known && !d.refused
	if waits && (f.waitTop == 0 || int(d.waits) == f.perWait) {
		return 0, FragmentTooMany
	}
	if r = d.enter(uint32(offset), uint32(offset+n), more); r != FragmentKnown {
		if r == FragmentOverlaps {
			f.refuse(d)
		}
		return 0, r
	}
	value = d.value
	if !waits {
		f.finish(i)
		return value, FragmentKnown
	}
	w := f.waitTop
	f.waitTop = f.wait[w].next
	f.wait[w] = waiting{desc: desc}
	if d.last == 0 {
		d.first = w
	} else {
		f.wait[d.last].next = w
	}
	d.last = w
	d.waits++
	f.held++
	return 0, FragmentWaits
}

// Refuse has all parts of a datagram refused, for as long as it would have passed: its first part was dropped. What
// waited is for Release.
func (f *Fragments) Refuse(k *FragmentKey, now uint64) { f.refuse(&f.all[f.find(k, now)]) }

func (f *Fragments) refuse(d *datagram) {
	d.refused = true
	f.abandon(d)
}

// Waiters are descriptors that First has handed over. The caller takes all of them before it uses the table again.
type Waiters struct {
	f  *Fragments
	at uint32
}

// Next takes one; ok is false when there are no more.
func (w *Waiters) Next() (desc uint64, ok bool) {
	if w.at == 0 {
		return 0, false
	}
	desc, w.at = w.f.pop(w.at)
	return desc, true
}

// Expire ends at most budget datagrams whose time is over and returns how many. What waited is for Release.
func (f *Fragments) Expire(now uint64, budget int) (n int) {
	for ; n < budget && f.oldest != 0 && f.all[f.oldest].started+f.timeout <= now; n++ {
		f.remove(f.oldest)
	}
	return n
}

// Release gives back a descriptor that was kept in vain, of a datagram that was refused, displaced or has expired, for
// its frame to be freed. ok is false when there are no more.
func (f *Fragments) Release() (desc uint64, ok bool) {
	if f.dead == 0 {
		return 0, false
	}
	desc, f.dead = f.pop(f.dead)
	return desc, true
}

// ReleaseAll abandons every datagram, as when the worker ends: Release then gives back all that is kept.
func (f *Fragments) ReleaseAll() {
	for f.oldest != 0 {
		f.remove(f.oldest)
	}
}

// pop frees a waiting entry and returns its descriptor and the next one.
func (f *Fragments) pop(w uint32) (desc uint64, next uint32) {
	e := &f.wait[w]
	desc, next = e.desc, e.next
	*e = waiting{next: f.waitTop}
	f.waitTop = w
	f.held--
	return desc, next
}

func (f *Fragments) head(k *FragmentKey) *uint32 {
	h := f.secret.Hash(&Key{Src: k.Src, Dst: k.Dst, Ports: k.ID, Proto: k.Proto})
	return &f.heads[h&f.mask]
}

// find returns the datagram of a key; one that is not there, or whose time is over, begins.
func (f *Fragments) find(k *FragmentKey, now uint64) uint32 {
	head := f.head(k)
	for i := *head; i != 0; i = f.all[i].chain {
		if f.all[i].key != *k {
			continue
		}
		if f.all[i].started+f.timeout > now {
			return i
		}
		f.remove(i) // its id is used again
		break
	}
	if f.free == 0 {
		f.remove(f.oldest)
	}
	i := f.free
	d := &f.all[i]
	f.free = d.chain
	d.key, d.started, d.value, d.size, d.ranges, d.known, d.refused = *k, now, 0, 0, 0, false, false
	d.chain, *head = *head, i
	d.prev, d.next = f.newest, 0
	if f.newest == 0 {
		f.oldest = i
	} else {
		f.all[f.newest].next = i
	}
	f.newest = i
	f.live++
	return i
}

// remove ends a datagram.
func (f *Fragments) remove(i uint32) {
	d := &f.all[i]
	f.abandon(d)
	at := f.head(&d.key)
	for *at != i {
		at = &f.all[*at].chain
	}
	*at = d.chain
	if d.prev == 0 {
		f.oldest = d.next
	} else {
		f.all[d.prev].next = d.next
	}
	if d.next == 0 {
		f.newest = d.prev
	} else {
		f.all[d.next].prev = d.prev
	}
	d.chain, f.free = f.free, i
	f.live--
}

// abandon puts what waits into the list of Release.
func (f *Fragments) abandon(d *datagram) {
	if d.last != 0 {
		f.wait[d.last].next, f.dead = f.dead, d.first
		d.first, d.last, d.waits = 0, 0, 0
	}
}

// finish ends a datagram all of whose bytes have passed.
func (f *Fragments) finish(i uint32) {
	if d := &f.all[i]; d.size != 0 && d.ranges == 1 && d.seen[0] == [2]uint32{0, d.size} {
		f.remove(i)
	}
}

// enter notes the bytes [from, to). FragmentKnown says that they are new.
func (d *datagram) enter(from, to uint32, more bool) FragmentResult {
	if d.refused {
		return FragmentRefused
	}
	at := 0 // the first range that ends at from or later
	for at < int(d.ranges) && d.seen[at][1] < from {
		at++
	}
	here := d.seen[at:d.ranges]
	if len(here) > 0 && here[0][1] == from && (len(here) == 1 || here[1][0] >= to) && from != to {
		return d.extend(at, to, more)
	}
	if len(here) > 0 && here[0][0] < to {
		if here[0][0] <= from && to <= here[0][1] {
			return FragmentDuplicate
		}
		return FragmentOverlaps
	}
	joins := len(here) > 0 && here[0][0] == to
	if !joins && d.ranges == maxRanges {
		return FragmentTooMany
	}
	if r := d.end(to, more); r != FragmentKnown {
		return r
	}
	if joins {
		d.seen[at][0] = from
		return FragmentKnown
	}
	copy(d.seen[at+1:d.ranges+1], d.seen[at:d.ranges])
	d.seen[at] = [2]uint32{from, to}
	d.ranges++
	return FragmentKnown
}

// extend makes range at, which ends where the bytes begin, longer, and joins it with the next if it reaches that.
func (d *datagram) extend(at int, to uint32, more bool) FragmentResult {
	if r := d.end(to, more); r != FragmentKnown {
		return r
	}
	d.seen[at][1] = to
	if at+1 < int(d.ranges) && d.seen[at+1][0] == to {
		d.seen[at][1] = d.seen[at+1][1]
		copy(d.seen[at+1:], d.seen[at+2:d.ranges])
		d.ranges--
	}
	return FragmentKnown
}

// end holds a part against what is known of the datagram's end.
func (d *datagram) end(to uint32, more bool) FragmentResult {
	if more {
		if d.size != 0 && to >= d.size {
			return FragmentOverlaps
		}
		return FragmentKnown
	}
	if d.size != 0 || d.ranges > 0 && d.seen[d.ranges-1][1] > to {
		return FragmentOverlaps
	}
	d.size = to
	return FragmentKnown
}
