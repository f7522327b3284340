package flow

import "golang.org/x/sys/cpu"

// vectors says whether the processor has the instructions of confirmVectors: all since 2011.
var vectors = cpu.X86.HasAVX

// hashKeys is hashEach.
//
//go:noescape
func hashKeys(secret *Secret, buckets []bucket, keys []Key, s *scratch, from int)

// confirmVectors is confirmEach.
//
//go:noescape
func confirmVectors(records []Record, nodes []Addr, keys []Key, s *scratch, refs []Ref) (sure uint64)

func confirm(records []Record, nodes []Addr, keys []Key, s *scratch, refs []Ref) uint64 {
	if vectors {
		return confirmVectors(records, nodes, keys, s, refs)
	}
	return confirmEach(records, nodes, keys, s, refs)
}
