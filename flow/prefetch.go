package flow

// What comes from memory is asked for before it is needed, for many tuples at once, so that the misses overlap. On amd64 this
// is done by an instruction (prefetch_amd64.s), elsewhere by loops that load and do nothing else: in a loop that also
// compared, a mispredicted branch on a missing line would end the overlap.

// farFrom is how many connections make a table far: so many that its lines mostly come from beyond the second-level cache. The first-level one has
// some 16 lines under way and no more, the second three times as many: so those of a far table are asked for to be brought there, with a hint
// that says so (PREFETCHT1), and are a few cycles further when they are needed. With a million connections that saves a tenth of
// the whole path, with a thousand it would cost 3% (IPv6) or nothing.
const farFrom = 128 << 10

func (t *Table) far() bool { return t.live >= farFrom }

// touchBuckets loads the line of each bucket in index.
func touchBuckets(buckets []bucket, index []uint64) {
	sum := uint64(0)
	for _, b := range index {
		sum += buckets[b].tags[0]
	}
	keep(sum)
}

// touchRecords loads both lines of the records that refs name.
func touchRecords(records []Record, refs []Ref) {
	sum := uint64(0)
	for _, r := range refs {
		sum += records[r.Index()].state + uint64(records[r.Index()].VS)
	}
	keep(sum)
}

// keep makes the compiler believe that sum is used.
//
//go:noinline
func keep(sum uint64) { _ = sum }
