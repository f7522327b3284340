//go:build !amd64

package flow

import "sync/atomic"

func prefetchBuckets(buckets []bucket, index []uint64) { touchBuckets(buckets, index) }

func candidates(buckets []bucket, records []Record, s *scratch, n int, _ bool) {
	findCandidates(buckets, s, n)
	touchRecords(records, s.cand[:n])
}

// A load would wait for what prefetch instructions only ask for.
func prefetchRecord(*Record) {}
func prefetchLinks(*link)    {}
func prefetchWord(*uint32)   {}
func prefetchSet(*portSet)   {}

func storeInOrder(p *uint64, v uint64) { atomic.StoreUint64(p, v) }

func prefetchRecords(records []Record, refs []Ref) { touchRecords(records, refs) }
