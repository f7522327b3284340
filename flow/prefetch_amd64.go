package flow

// prefetchBuckets asks for the lines of the buckets with the given numbers. Unlike a load, the instruction does not keep
// those that follow from completing, and a burst is so long that a processor cannot hold all of it back.
//
//go:noescape
func prefetchBuckets(buckets []bucket, index []uint64)

// prefetchRecords asks for both lines of the records that refs name.
//
//go:noescape
func prefetchRecords(records []Record, refs []Ref)
