package flow

import (
	"errors"
	"fmt"
	"math/bits"
)

// Burst is the largest number of packets that are looked up together.
const Burst = 64

// Ref names a record as seen from one side: index<<1 | side. 0 names none.
type Ref uint32

// Side is the side whose packets find the record by this reference.
func (r Ref) Side() Side { return Side(r & 1) }

// Index is the record's index.
func (r Ref) Index() uint32 { return uint32(r >> 1) }

func ref(index uint32, side Side) Ref { return Ref(index<<1 | uint32(side)) }

// slots is how many entries a bucket has; with the tags they fill one cache line.
const slots = 10

// bucket is one cache line: ten 16-bit tags (0 is an empty slot) and the references they stand for. Tag i is lane i&3 of
// word i>>2; the last two lanes of the last word hold two counts instead.
//
// A tuple lives in its primary bucket or, when that was full, in its secondary one. Lane 2 of the last word, overflow,
// counts the tuples whose primary bucket this is and which live in their secondary, so that a look-up that finds nothing
// nearly always ends after one line. Lane 3, second, has a bit per slot whose tuple is here as in its secondary bucket.
type bucket struct {
	tags [3]uint64
	refs [slots]Ref
}

const (
	overflowShift = 32
	secondShift   = 48
	lastTags      = 1<<overflowShift - 1 // the part of the last word that is tags
)

func (b *bucket) overflow() uint16 { return uint16(b.tags[2] >> overflowShift) }
func (b *bucket) addOverflow(n int) {
	b.tags[2] = b.tags[2]&^(0xffff<<overflowShift) | uint64(b.overflow()+uint16(n))<<overflowShift
}
func (b *bucket) second() uint16 { return uint16(b.tags[2] >> secondShift) }

// link chains a record in its timer list, or in the list of free records.
type link struct{ next, prev uint32 }

// load is the share of slots that are in use when the table is full: 2 tuples a connection, 55% of the slots. More would
// save a little memory and send more tuples than the present 1 in 200 to their secondary bucket, which costs a look-up
// another cache line.
const loadNum, loadDen = 55, 100

const (
	recordSize = 128
	bucketSize = 64
	linkSize   = 8
)

// Config is the geometry of a table.
type Config struct {
	Capacity int // connections
	Secret   Secret
	// Nodes resolves the ids of server and SNAT addresses; id 0 is none. The slice may grow between bursts.
	Nodes []Addr
}

// Table is the connections of one worker.
type Table struct {
	secret  Secret
	buckets []bucket
	records []Record // index 0 is never used
	links   []link
	nodes   []Addr
	free    uint32 // head of the list of free records that are not in spare
	spare   spare
	fresh   uint32 // records from here on have never been used
	live    int
	hand    uint32 // of Sweep
	wheel   wheel
	scratch scratch // of the burst in hand, until the next one's
	placing Placing // into scratch
	second  scratch // of what goes to its secondary bucket, of drafts, and of what expires
	// chase is where fetchNext goes on, chased where it began.
	chase, chased uint32
	ports         *SourcePorts // nil, or what fetchExpiring looks ahead in
	// expected are the buckets in second that Fetch will ask for.
	expected int
	mixed    MixedPlacing // into scratch
}

// scratch is the look-ups of a burst under way.
type scratch struct {
	bucket [Burst]uint64
	cand   [Burst]Ref
	tag    [Burst]uint16
	again  [Burst]uint8 // what goes to the secondary bucket
}

// MaxCapacity is the largest number of connections in one table: references have 31 bits.
const MaxCapacity = 1<<31 - 2

func bucketsFor(capacity int) int {
	n := (2*capacity*loadDen + slots*loadNum - 1) / (slots * loadNum)
	return max(n+n&1, 2) // even, so that the records behind them begin at 128 bytes
}

// Size is how many bytes of memory a table for capacity connections needs.
func Size(capacity int) int {
	return bucketsFor(capacity)*bucketSize + (capacity+1)*(recordSize+linkSize)
}

// ErrMemory is returned for memory that does not fit the geometry.
var ErrMemory = errors.New("memory does not fit the table")

// New makes a table in mem, which must be zeroed, at least Size bytes, and aligned to 64 bytes. now is the
// current time in milliseconds.
func New(mem []byte, cfg Config, now uint64) (*Table, error) {
	if cfg.Capacity < 1 || cfg.Capacity > MaxCapacity {
		return nil, fmt.Errorf("a table holds 1 to %d connections, not %d", MaxCapacity, cfg.Capacity)
	}
	t := &Table{secret: cfg.Secret, nodes: cfg.Nodes, fresh: 1}
	if err := t.lay(mem, bucketsFor(cfg.Capacity), cfg.Capacity+1); err != nil {
		return nil, err
	}
	t.wheel.reset(now)
	return t, nil
}

// Len is the number of connections.
func (t *Table) Len() int { return t.live }

// Cap is how many connections fit.
func (t *Table) Cap() int { return len(t.records) - 1 }

// SetNodes replaces the dictionary of node and SNAT addresses; ids that records use must keep their value.
func (t *Table) SetNodes(nodes []Addr) { t.nodes = nodes }

// Record is the record with the given index. It stays valid until Remove.
func (t *Table) Record(index uint32) *Record { return &t.records[index] }

// Records are all of them, by index, for loops.
func (t *Table) Records() []Record { return t.records }

// ServerKey is the tuple of packets from the server.
func (t *Table) ServerKey(r *Record) Key {
	dst := r.Client
	if r.SNAT != 0 {
		dst = t.nodes[r.SNAT]
	}
	src := r.Virtual
	if r.toNode() {
		src = t.nodes[r.Node]
	}
	return Key{Src: src, Dst: dst, Ports: Ports(r.NPort, r.SPort), Proto: r.Proto()}
}

// matches compares a packet's tuple with the side of the record that r names.
func (t *Table) matches(r Ref, k *Key) bool {
	rec := &t.records[r.Index()]
	if r.Side() == FromClient {
		return rec.Client == k.Src && rec.Virtual == k.Dst && Ports(rec.CPort, rec.VPort) == k.Ports && rec.Proto() == k.Proto
	}
	if Ports(rec.NPort, rec.SPort) != k.Ports || rec.Proto() != k.Proto {
		return false
	}
	dst := rec.Client
	if rec.SNAT != 0 {
		dst = t.nodes[rec.SNAT]
	}
	src := rec.Virtual
	if rec.toNode() {
		src = t.nodes[rec.Node]
	}
	return dst == k.Dst && src == k.Src
}

// place is where a tuple belongs: its primary bucket, and the tag that it has there and in its secondary one.
type place struct {
	bucket uint64
	tag    uint16
}

// placeOf is the place of a tuple.
func (t *Table) placeOf(k *Key) place {
	b, tag := t.place(t.secret.Hash(k))
	return place{b, tag}
}

// place splits a hash: the bucket comes from its upper bits, the tag from the lower, never 0.
func (t *Table) place(h uint64) (primary uint64, tag uint16) {
	return placeIn(h, uint64(len(t.buckets)))
}

func placeIn(h, buckets uint64) (primary uint64, tag uint16) {
	primary, _ = bits.Mul64(h, buckets)
	tag = uint16(h)
	if tag == 0 {
		tag = 1
	}
	return primary, tag
}

// other is the secondary bucket of a primary one and the reverse: it depends on the tag alone, so that an entry
// can be moved without reading its record.
func (t *Table) other(b uint64, tag uint16) uint64 {
	n := uint64(len(t.buckets))
	m, _ := bits.Mul64(uint64(tag)*0x9e3779b97f4a7c15, n)
	if m >= b {
		return m - b
	}
	return m + n - b
}

const lanes = 0x0001000100010001

// match returns the lanes of a word that carry tag: bit 16*i+15 for lane i. Lanes above a true match may be false ones; the
// caller compares the record anyway.
func match(word uint64, tag uint16) uint64 {
	x := word ^ uint64(tag)*lanes
	return (x - lanes) & ^x & (lanes << 15)
}

// match is the lanes of word w that carry tag.
func (b *bucket) match(w int, tag uint16) uint64 {
	m := match(b.tags[w], tag)
	if w == 2 {
		m &= lastTags
	}
	return m
}

// find looks a tuple up in one bucket.
func (t *Table) find(b uint64, tag uint16, k *Key) Ref {
	bk := &t.buckets[b]
	for w := range bk.tags {
		for m := bk.match(w, tag); m != 0; m &= m - 1 {
			r := bk.refs[w*4+bits.TrailingZeros64(m)>>4]
			if r != 0 && t.matches(r, k) {
				return r
			}
		}
	}
	return 0
}

// Lookup finds the record of one tuple.
func (t *Table) Lookup(k *Key) Ref {
	primary, tag := t.place(t.secret.Hash(k))
	if r := t.find(primary, tag, k); r != 0 || t.buckets[primary].overflow() == 0 {
		return r
	}
	return t.find(t.other(primary, tag), tag, k)
}

// LookupBurst finds the records of up to Burst tuples; refs[i] is 0 where there is none, and missed is how often.
func (t *Table) LookupBurst(keys []Key, refs []Ref) (missed int) {
	t.Hash(keys, 0)
	return t.Find(keys, refs)
}

// Hash is the first half of LookupBurst: for the tuples of a burst from from on it asks for the buckets, which come while the
// caller works on the next tuples.
func (t *Table) Hash(keys []Key, from int) { hashKeys(&t.secret, t.buckets, keys, &t.scratch, from) }

// Find is the second half, for the whole burst. It leaves both lines of every record that it found in the cache, or on their
// way there.
func (t *Table) Find(keys []Key, refs []Ref) (missed int) {
	n := len(keys)
	refs = refs[:n]
	s := &t.scratch
	candidates(t.buckets, t.records, s, n, t.far())
	sure := confirm(t.records, t.nodes, keys, s, refs)
	again := 0
	for rest := ^sure & (1<<n - 1); rest != 0; rest &= rest - 1 {
		i := bits.TrailingZeros64(rest)
		j := i & (Burst - 1)
		r, k := s.cand[j], &keys[i]
		if r != 0 && t.matches(r, k) {
			refs[i] = r
			continue
		}
		refs[i] = 0
		if r != 0 { // another tuple with this tag stands before ours
			refs[i] = t.find(s.bucket[j], s.tag[j], k)
		}
		if refs[i] != 0 {
			continue
		}
		if t.buckets[s.bucket[j]].overflow() != 0 {
			s.again[again&(Burst-1)] = uint8(i)
			again++
			continue
		}
		missed++
	}
	if again > 0 {
		missed += t.lookupSecondary(keys, refs, again)
	}
	return missed
}

// lookupSecondary repeats the stages in the secondary buckets for the first n tuples of scratch.again.
func (t *Table) lookupSecondary(keys []Key, refs []Ref, n int) (missed int) {
	first, s := &t.scratch, &t.second
	for i, k := range first.again[:n] {
		s.bucket[i&(Burst-1)], s.tag[i&(Burst-1)] = t.other(first.bucket[k&(Burst-1)], first.tag[k&(Burst-1)]), first.tag[k&(Burst-1)]
	}
	prefetchBuckets(t.buckets, s.bucket[:n])
	candidates(t.buckets, t.records, s, n, t.far())
	for i, k := range first.again[:n] {
		r := s.cand[i&(Burst-1)]
		if r != 0 && !t.matches(r, &keys[k]) {
			r = t.find(s.bucket[i&(Burst-1)], s.tag[i&(Burst-1)], &keys[k])
		}
		refs[k] = r
		if r == 0 {
			missed++
		}
	}
	return missed
}
