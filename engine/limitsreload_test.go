package engine

import (
	"math/rand/v2"
	"testing"
)

// A limit that a reload lowers below what there is ends nothing, and nobody new comes until there is less than the new one.
func TestLimitLowered(t *testing.T) {
	spec := a4(2)
	spec.Pools[0].Members = spec.Pools[0].Members[:1]
	spec.Virtuals[0].Limit = 100
	b := newBench(t, spec, 1000, 2048)
	for port := uint16(100); port < 110; port++ {
		if b.established(port) != 1 {
			t.Fatal("refused below the limit")
		}
	}
	lowered := a4(2)
	lowered.Pools[0].Members = lowered.Pools[0].Members[:1]
	lowered.Pools[0].Members[0].Limit = 4
	lowered.Generation = 1
	b.put(lowered)
	next := uint16(200)
	for port := uint16(100); port < 110; port++ {
		left := 110 - int(port)
		next++
		if s := b.to(next); (s == 1) != (left < 4) {
			t.Fatalf("with %d connections and a limit of 4, a new one went to server %d", left, s)
		} else if s == 1 { // and it goes again
			b.segment(true, 1, next, "RA", 0, 1001)
		}
		b.check()
		closings["FINs"](b, 1, port)
		b.check()
	}
	b.close()
}

// Places are what connections have that are not closed, whatever reloads do meanwhile: limits go up and down, members leave with
// their connections and come back, and tuples are used again in every way.
func TestPlacesOverReloads(t *testing.T) {
	for seed := range uint64(4) {
		rng := rand.New(rand.NewPCG(seed, 7))
		spec := func(generation uint64) Spec {
			s := a4(1 + int(seed%3))
			s.Generation = generation
			var members []MemberSpec
			for i, m := range s.Pools[0].Members {
				if m.Limit = 1 + rng.IntN(4); i == 0 || rng.IntN(3) > 0 {
					members = append(members, m)
				}
			}
			s.Pools[0].Members = members
			s.Virtuals[0].Limit = 3 + rng.IntN(9)
			return s
		}
		now := spec(0)
		b := newBench(t, now, 300, 2048)
		servers := map[uint16]int{}
		opened := 0
		for step := range 3000 {
			port := uint16(100 + rng.IntN(24))
			s := servers[port]
			switch n := rng.IntN(12); {
			case n < 4:
				if got := b.to(port); got != 0 {
					servers[port] = got
					opened++
					b.segment(true, got, port, "SA", 9000, 1001)
					b.segment(false, got, port, "A", 1001, 9001)
				}
			case n < 7 && s != 0:
				for _, finish := range closings {
					finish(b, s, port)
					break
				}
			case n == 7 && s != 0: // both at once
				b.segment(false, s, port, "FA", 1001, 9001)
				b.segment(true, s, port, "FA", 9001, 1001)
				b.segment(false, s, port, "A", 1002, 9002)
				b.segment(true, s, port, "A", 9002, 1002)
			case n == 8 && s != 0: // a RST, a SYN at once, and the late answer to the one before
				b.segment(false, s, port, "R", 1001, 0)
				b.segment(false, s, port, "S", 80_000, 0)
				b.segment(true, s, port, "SA", 50_000, 80_001)
				b.segment(true, s, port, "RA", 9001, 1001)
			case n == 9:
				now = spec(uint64(step + 1))
				b.put(now)
			default:
				b.now += uint64(rng.IntN(1500))
				b.Step(b.now)
			}
			b.check()
			if t.Failed() {
				t.Fatalf("seed %d, step %d", seed, step)
			}
		}
		if opened < 100 {
			t.Errorf("seed %d: only %d connections", seed, opened)
		}
		b.now += 3_600_000
		for range 300 {
			b.Step(b.now)
		}
		b.check()
		for id, s := range b.dict.shared {
			if n := s.active.Load(); n != 0 {
				t.Errorf("seed %d: in the end node %d has %d places taken", seed, id, n)
			}
		}
		b.close()
	}
}
