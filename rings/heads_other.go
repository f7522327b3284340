//go:build !amd64

package rings

func (r *Region) writeHeads(fill []uint64, rx []Desc, heads []byte, size int, lengths []uint16, longest uint16) int {
	return r.writeEach(fill, rx, heads, size, lengths, longest)
}

func addresses(from []Desc, to []uint64) { addressEach(from, to) }
