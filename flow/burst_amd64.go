package flow

import "golang.org/x/sys/cpu"

// vectors says whether the processor has the instructions of confirmVectors: all since 2011.
var vectors = cpu.X86.HasAVX

// wide says whether it also has those of wide_amd64.s: Intel's since 2019, AMD's since 2022.
var wide = cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL && cpu.X86.HasAVX512VBMI && cpu.X86.HasBMI1

// hashKeys is hashEach.
//
//go:noescape
func hashKeys(secret *Secret, buckets []bucket, keys []Key, s *scratch, from int)

// confirmVectors is confirmEach.
//
//go:noescape
func confirmVectors(records []Record, nodes []Addr, keys []Key, s *scratch, refs []Ref) (sure uint64)

// confirmWide is confirmEach.
//
//go:noescape
func confirmWide(records []Record, nodes []Addr, keys []Key, s *scratch, refs []Ref) (sure uint64)

func confirm(records []Record, nodes []Addr, keys []Key, s *scratch, refs []Ref) uint64 {
	if wide {
		return confirmWide(records, nodes, keys, s, refs)
	}
	if vectors {
		return confirmVectors(records, nodes, keys, s, refs)
	}
	return confirmEach(records, nodes, keys, s, refs)
}
