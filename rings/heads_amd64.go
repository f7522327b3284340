package rings

import "golang.org/x/sys/cpu"

// wideHeads says whether the processor has the instructions of heads_amd64.s.
var wideHeads = cpu.X86.HasAVX512F

// writeWide is writeHeads for as many as can be done by eights. A line of a head is one move. Heads that come 64 packets later are asked for, as the
// processor itself does not look beyond a page, which is a burst of them. It ends before eight of which one is too long or outside mem, and
// returns how many it has done.
//
//go:noescape
func writeWide(mem []byte, fill []uint64, rx *Desc, heads *byte, size int, lengths *uint16, longest uint16) (n int)

// addressesWide is addresses for as many as can be done by eights. It returns how many it has done.
//
//go:noescape
func addressesWide(from []Desc, to *uint64) (n int)

func (r *Region) writeHeads(fill []uint64, rx []Desc, heads []byte, size int, lengths []uint16, longest uint16) int {
	done := 0
	if wideHeads && len(fill) >= 8 {
		if done = writeWide(r.mem, fill, &rx[0], &heads[0], size, &lengths[0], longest); done == len(fill) {
			return done
		}
	}
	return done + r.writeEach(fill[done:], rx[done:], heads[done*size:], size, lengths[done:], longest)
}

func addresses(from []Desc, to []uint64) {
	done := 0
	if wideHeads && len(from) >= 8 {
		if done = addressesWide(from, &to[0]); done == len(from) {
			return
		}
	}
	addressEach(from[done:], to[done:])
}
