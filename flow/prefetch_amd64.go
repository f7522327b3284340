package flow

// prefetchBuckets asks for the lines of the buckets with the given numbers. Unlike a load, the instruction does not keep
// those that follow from completing, and a burst is so long that a processor cannot hold all of it back.
//
//go:noescape
func prefetchBuckets(buckets []bucket, index []uint64)

// candidatesVectors is findCandidates, and asks for both lines of the records found.
//
//go:noescape
func candidatesVectors(buckets []bucket, records []Record, s *scratch, n int)

// candidatesWide is candidatesVectors.
//
//go:noescape
func candidatesWide(buckets []bucket, records []Record, s *scratch, n int)

func candidates(buckets []bucket, records []Record, s *scratch, n int) {
	if wide {
		candidatesWide(buckets, records, s, n)
		return
	}
	candidatesVectors(buckets, records, s, n)
}

// prefetchRecords asks for both lines of the records that refs name.
//
//go:noescape
func prefetchRecords(records []Record, refs []Ref)
