package flow

// confirmWays are the ways of confirm that this processor has.
func confirmWays() map[string]func([]Record, []Addr, []Key, *scratch, []Ref) uint64 {
	ways := map[string]func([]Record, []Addr, []Key, *scratch, []Ref) uint64{"confirm": confirm}
	if vectors {
		ways["AVX"] = confirmVectors
	}
	if wide {
		ways["AVX-512"] = confirmWide
	}
	return ways
}

// candidateWays are those of candidates.
func candidateWays() map[string]func([]bucket, []Record, *scratch, int) {
	ways := map[string]func([]bucket, []Record, *scratch, int){"SSE": candidatesVectors}
	if wide {
		ways["AVX-512"], ways["AVX-512, far"] = candidatesWide, candidatesFar
	}
	return ways
}
