package flow

// What comes from memory is asked for before it is needed, for many tuples at once, so that the misses overlap. On amd64 this
// is done by an instruction (prefetch_amd64.s), elsewhere by loops that load and do nothing else: in a loop that also
// compared, a mispredicted branch on a missing line would end the overlap.

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
