package sched

import (
	"fmt"
	"testing"
)

// BenchmarkPick is the choice alone: filling in the candidates is the caller's.
func BenchmarkPick(b *testing.B) {
	for _, name := range Names() {
		for _, n := range []int{4, 100, 4000} {
			members := equal(n)
			for i := range members {
				members[i].Weight = uint32(1 + i%3)
			}
			s, err := New(name, members, Options{})
			if err != nil {
				b.Fatal(err)
			}
			for _, missing := range []int{0, 10} {
				in := inputOf(members)
				for i := range in.Candidates {
					x := Mix(uint64(i))
					in.Candidates[i].Active, in.Candidates[i].Latency, in.Candidates[i].Age = uint32(x%50), uint32(200+x>>8%1000), uint32(x>>32%5000)
				}
				if missing > 0 {
					in.Available = without(n)
					for k := range max(1, n*missing/100) {
						in.Available.Clear(scale(Mix(uint64(k)), n))
					}
				}
				b.Run(fmt.Sprintf("scheduler=%s/members=%d/missing=%d%%", name, n, missing), func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						in.Turn++
						in.Hash = Mix(in.Turn)
						in.Random = in.Hash
						s.Pick(&in)
					}
				})
			}
		}
	}
}

// BenchmarkNew is what a change of a pool's members costs.
func BenchmarkNew(b *testing.B) {
	for _, name := range Names() {
		for _, n := range []int{4, 100, 1000, 4000} {
			members := equal(n)
			for i := range members {
				members[i].Weight = 1 + uint32(Mix(uint64(i))%256)
			}
			b.Run(fmt.Sprintf("scheduler=%s/members=%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := New(name, members, Options{}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
