//go:build !amd64

package flow

func prefetchBuckets(buckets []bucket, index []uint64) { touchBuckets(buckets, index) }

func candidates(buckets []bucket, records []Record, s *scratch, n int) {
	findCandidates(buckets, s, n)
	touchRecords(records, s.cand[:n])
}

func prefetchRecords(records []Record, refs []Ref) { touchRecords(records, refs) }
