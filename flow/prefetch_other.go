//go:build !amd64

package flow

func prefetchBuckets(buckets []bucket, index []uint64) { touchBuckets(buckets, index) }

func prefetchRecords(records []Record, refs []Ref) { touchRecords(records, refs) }
