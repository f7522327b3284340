package rings

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

// The loops in assembly do what those in Go do: for any number of packets, for one too long at any place, and nothing beyond.
func TestWideHeads(t *testing.T) {
	if !wideHeads {
		t.Skip("the processor has no AVX-512")
	}
	random := rand.New(rand.NewPCG(1, 2))
	const frames = 64
	region, twin := NewHeapRegion(frames, 2048), NewHeapRegion(frames, 2048)
	fill := make([]uint64, frames)
	for i, f := range random.Perm(frames) {
		fill[i] = uint64(f) * 2048
	}
	for _, size := range []int{HeadLen, LongHeadLen} {
		heads := make([]byte, frames*size)
		for n := range frames + 1 {
			for long := range n + 1 { // n: none is too long
				for i := range heads {
					heads[i] = byte(random.Uint32())
				}
				lengths := make([]uint16, n)
				for i := range lengths {
					lengths[i] = uint16(random.IntN(1793))
				}
				if long < n {
					lengths[long] = uint16(1793 + random.IntN(1<<16-1793))
				}
				got, want := make([]Desc, n+1), make([]Desc, n+1)
				for i := range got {
					got[i].Options, want[i].Options = 7, 7
				}
				a := region.writeHeads(fill[:n], got[:n], heads[:n*size], size, lengths, 1792)
				b := twin.writeEach(fill[:n], want[:n], heads[:n*size], size, lengths, 1792)
				if a != long || b != long || !slices.Equal(got, want) || !bytes.Equal(region.Bytes(), twin.Bytes()) {
					t.Fatalf("%d packets with heads of %d bytes, number %d too long: %d and %d were written, or not the same", n, size, long, a, b)
				}
			}
		}
	}
	for n := range frames + 1 {
		from, got := make([]Desc, n), make([]uint64, n+1)
		for i := range from {
			from[i] = Desc{random.Uint64(), random.Uint32(), random.Uint32()}
		}
		addresses(from, got[:n])
		for i, d := range from {
			if got[i] != d.Addr {
				t.Fatalf("address %d of %d is %#x, not %#x", i, n, got[i], d.Addr)
			}
		}
		if got[n] != 0 {
			t.Fatalf("more than %d addresses were written", n)
		}
	}
}

// A frame outside the region is never written to, wherever it stands among the others.
func TestWideHeadsOutside(t *testing.T) {
	const frames = 16
	region := NewHeapRegion(frames, 2048)
	for _, size := range []int{HeadLen, LongHeadLen} {
		for at := range frames {
			fill := make([]uint64, frames)
			for i := range fill {
				fill[i] = uint64(i) * 2048
			}
			fill[at] = uint64(len(region.Bytes())-Headroom-size) + 1
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("heads of %d bytes: frame %d lies outside, and nobody has noticed", size, at)
					}
				}()
				region.writeHeads(fill, make([]Desc, frames), make([]byte, frames*size), size, make([]uint16, frames), 1500)
			}()
		}
	}
}
