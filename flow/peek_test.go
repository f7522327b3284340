package flow

import (
	"math/rand/v2"
	"testing"
)

// Victim names what Evict then removes, whatever mixture of connections is there and however often one was armed anew.
func TestVictimIsEvicted(t *testing.T) {
	const seed = 7
	rng := rand.New(rand.NewPCG(seed, 1))
	states := []TCPState{TCPSynSent, TCPSynReceived, TCPEstablished, TCPEstablished, TCPEstablished, TCPFinWait, TCPClosed}
	found, none := 0, 0
	for round := range 60 {
		n := uint32(1 + rng.IntN(120))
		tab := newTable(t, int(n), testNodes)
		now := uint64(0)
		for i := range n {
			now += uint64(rng.IntN(400))
			fill(t, tab, i, i+1, now, states[rng.IntN(2+rng.IntN(len(states)-1))])
		}
		for range 2 * n {
			now += uint64(rng.IntN(300))
			deadline := pressureDeadline(now)
			before := tab.Len()
			want, got := tab.Victim(now, deadline), uint32(0)
			if tab.Len() != before {
				t.Fatal("looking has changed the table")
			}
			tab.Evict(now, deadline, func(r *Record) {
				for i := range tab.records {
					if &tab.records[i] == r {
						got = uint32(i)
					}
				}
			})
			if got != want {
				t.Fatalf("seed %d, round %d: %d was evicted, foretold was %d", seed, round, got, want)
			}
			if got == 0 {
				none++
				continue
			}
			found++
		}
		if err := tab.Check(); err != nil {
			t.Fatal(err)
		}
	}
	if found < 1000 || none < 500 {
		t.Errorf("%d times one was evicted and %d times none: the test has not seen enough", found, none)
	}
}

// Peek names the port that Take then gives, with and without another one being given back before.
func TestPeekIsTaken(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 1))
	p := NewSourcePorts(2000, Secret{1, 2, 3, 4})
	type taken struct {
		d    Destination
		port uint16
	}
	var held []taken
	ranges := []PortRange{{1024, 65535}, {1024, 2047}, {40000, 40300}}
	kept, refused, afterFree := 0, 0, 0
	for range 60_000 {
		d := Destination{Server: AddrFrom4(uint32(1 + rng.IntN(3))), SNAT: 1, Port: 80, Proto: TCP}
		bin, prefer, r := uint8(rng.IntN(4)), uint16(1024+rng.IntN(2048)), ranges[int(d.Server.Lo)%len(ranges)]
		var freed *Freed
		if len(held) > 0 && rng.IntN(2) == 0 {
			i := rng.IntN(len(held))
			freed = &Freed{held[i].d, held[i].port}
			held[i] = held[len(held)-1]
			held = held[:len(held)-1]
			if rng.IntN(2) == 0 {
				d, bin = freed.Destination, uint8(freed.Port)
				r = ranges[int(d.Server.Lo)%len(ranges)]
			}
		}
		want, wantOK := p.Peek(d, bin, r, prefer, freed)
		if freed != nil {
			p.Free(freed.Destination, freed.Port)
			afterFree++
		}
		got, ok := p.Take(d, bin, r, prefer)
		if ok != wantOK || ok && got != want {
			t.Fatalf("took %d (%v), foretold was %d (%v); %+v bin %d, given back %+v", got, ok, want, wantOK, d, bin, freed)
		}
		switch {
		case !ok:
			refused++
		case got == prefer:
			kept++
		}
		if ok {
			held = append(held, taken{d, got})
		}
		for len(held) > 1900 || len(held) > 0 && rng.IntN(200) == 0 { // sometimes all of them
			p.Free(held[0].d, held[0].port)
			held = held[1:]
		}
	}
	if kept == 0 || refused == 0 || afterFree == 0 {
		t.Errorf("%d kept, %d refused, %d after one was given back: the test has not seen enough", kept, refused, afterFree)
	}
}
