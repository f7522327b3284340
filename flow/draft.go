package flow

// A connection whose tuples are not in memory's caches costs four misses one after the other when it is inserted. So those of a
// burst are drafted first: each gets its record at once, which is filled in where it will stay, and the place of its
// server-side tuple is known and asked for while the next are drafted. Until Open has published it a draft is nothing that
// anybody could find; Discard gives its record back.

// Draft is a connection to be.
type Draft struct {
	index          uint32
	client, server place
}

// Draft takes a free record for the packet that was number i of those that Hash and Find have last been given. The caller fills it
// in and calls Expect. It is nil where there is none.
func (t *Table) Draft(d *Draft, i int) *Record {
	d.index = t.take()
	if d.index == 0 {
		return nil
	}
	i &= Burst - 1
	d.client = place{t.scratch.bucket[i], t.scratch.tag[i]}
	r := &t.records[d.index]
	*r = Record{}
	return r
}

// Moved says that packet from of a burst has become packet to.
func (t *Table) Moved(to, from int) {
	s := &t.scratch
	to, from = to&(Burst-1), from&(Burst-1)
	s.bucket[to], s.tag[to] = s.bucket[from], s.tag[from]
}

// Expect notes what Open of a draft will read, all else of which has been filled in, for Fetch to ask for.
func (t *Table) Expect(d *Draft, proto uint8) {
	r := &t.records[d.index]
	sk := t.ServerKey(r)
	t.ExpectFrom(d, proto, sk.Src, sk.Dst, sk.Ports)
}

// ExpectFrom is Expect for a caller who has the server-side tuple, src being the server. To read it from the record where it has just
// been written, in other units, would make the processor wait until all of that is in the cache.
func (t *Table) ExpectFrom(d *Draft, proto uint8, src, dst Addr, ports uint32) {
	r := &t.records[d.index]
	r.state = r.state&^(liveBit|0xff<<protoShift) | uint64(proto)<<protoShift
	d.server.bucket, d.server.tag = t.place(t.secret.hash(src, dst, uint64(ports)<<8|uint64(proto)))
	s := &t.second
	s.bucket[t.expected&(Burst-1)] = d.server.bucket
	if t.expected++; t.expected == fetchAtOnce {
		t.Fetch()
	}
}

// fetchAtOnce is how many lines are asked for together: no more than a processor has under way.
const fetchAtOnce = 8

// Fetch asks memory for what has been noted.
func (t *Table) Fetch() {
	prefetchBuckets(t.buckets, t.second.bucket[:t.expected])
	t.expected = 0
}

// Drafted is the record of a draft.
func (t *Table) Drafted(d *Draft) *Record { return &t.records[d.index] }

// Discard gives back what a draft has taken.
func (t *Table) Discard(d *Draft) { t.give(d.index) }

// MayHave reports whether a tuple that looks like the draft's client-side one is in the table.
func (t *Table) MayHave(d *Draft) bool { return t.mayHave(d.client) }

func (t *Table) mayHave(at place) bool {
	b := &t.buckets[at.bucket]
	return match(b.tags[0], at.tag)|match(b.tags[1], at.tag)|match(b.tags[2], at.tag)&lastTags|uint64(b.overflow()) != 0
}

// Open is Insert of a draft, which stays one when it cannot be inserted.
func (t *Table) Open(d *Draft, now, deadline uint64) (Ref, InsertResult) {
	if t.mayHave(d.server) {
		if sk := t.ServerKey(&t.records[d.index]); t.Lookup(&sk) != 0 {
			return 0, Collision
		}
	}
	return t.insert(d.index, d.client, d.server, now, deadline)
}
