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

// candidatesFar is candidatesWide for tables that are far away (Table.far).
//
//go:noescape
func candidatesFar(buckets []bucket, records []Record, s *scratch, n int)

func candidates(buckets []bucket, records []Record, s *scratch, n int, far bool) {
	switch {
	case !wide:
		candidatesVectors(buckets, records, s, n)
	case far:
		candidatesFar(buckets, records, s, n)
	default:
		candidatesWide(buckets, records, s, n)
	}
}

// prefetchRecord asks for both lines of a record.
//
//go:noescape
func prefetchRecord(r *Record)

// prefetchLinks asks for a link and for what lies before and after it: records that were taken one after the other often have indexes that follow
// one another, and end one after the other.
//
//go:noescape
func prefetchLinks(l *link)

//go:noescape
func prefetchWord(p *uint32)

//go:noescape
func prefetchSet(s *portSet)

// storeInOrder stores v after everything that was stored before, and before what follows. Processors of this kind make stores visible
// in their order; what an atomic store adds to that is to wait until all of them are done.
//
//go:noescape
func storeInOrder(p *uint64, v uint64)

// prefetchRecords asks for both lines of the records that refs name.
//
//go:noescape
func prefetchRecords(records []Record, refs []Ref)
