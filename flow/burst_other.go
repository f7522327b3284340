//go:build !amd64

package flow

func hashKeys(secret *Secret, buckets []bucket, keys []Key, s *scratch, from int) {
	hashEach(secret, buckets, keys, s, from)
}

func confirm(records []Record, nodes []Addr, keys []Key, s *scratch, refs []Ref) uint64 {
	return confirmEach(records, nodes, keys, s, refs)
}
