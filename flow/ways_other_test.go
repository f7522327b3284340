//go:build !amd64

package flow

// confirmWays are the ways of confirm that this processor has.
func confirmWays() map[string]func([]Record, []Addr, []Key, *scratch, []Ref) uint64 {
	return map[string]func([]Record, []Addr, []Key, *scratch, []Ref) uint64{"Go": confirm}
}

// candidateWays are those of candidates.
func candidateWays() map[string]func([]bucket, []Record, *scratch, int) {
	return map[string]func([]bucket, []Record, *scratch, int){"Go": func(b []bucket, r []Record, s *scratch, n int) { candidates(b, r, s, n, false) }}
}
