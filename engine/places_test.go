package engine

import (
	"math/rand/v2"
	"testing"

	"sluice/flow"
)

// segment sends a segment of a connection between port and a server.
func (b *bench) segment(fromServerSide bool, server int, port uint16, flags string, seq, ack uint32) (out [3][][]byte) {
	b.t.Helper()
	p, at := fromClient(port, flags), outside
	if fromServerSide {
		p, at = fromServer(server, port, flags), inside
	}
	p.seq, p.ack = seq, ack
	return b.send(at, p.build(b.t))
}

// closings are the ways in which a connection that established has made ends.
var closings = map[string]func(b *bench, server int, port uint16){
	"FINs": func(b *bench, server int, port uint16) {
		b.segment(false, server, port, "FA", 1001, 9001)
		b.segment(true, server, port, "FA", 9001, 1002)
		b.segment(false, server, port, "A", 1002, 9002)
	},
	"the server's FIN first": func(b *bench, server int, port uint16) {
		b.segment(true, server, port, "FA", 9001, 1001)
		b.segment(false, server, port, "FA", 1001, 9002)
		b.segment(true, server, port, "A", 9002, 1002)
	},
	"the client's RST": func(b *bench, server int, port uint16) { b.segment(false, server, port, "R", 1001, 0) },
	"the server's RST": func(b *bench, server int, port uint16) { b.segment(true, server, port, "R", 9001, 0) },
}

// pair is a pool of two servers with a place each, and one that takes the rest.
func pair(workers int) Spec {
	spec := a4(workers)
	m := spec.Pools[0].Members[:3]
	m[0].Priority, m[0].Limit = 10, 1
	m[1].Priority, m[1].Limit = 10, 1
	spec.Pools[0].Members = m
	return spec
}

// A place is free as soon as its connection is closed, not when its record goes, and once only.
func TestPlaceIsFreeWhenClosed(t *testing.T) {
	for how, finish := range closings {
		for _, workers := range []int{1, 3} {
			b := newBench(t, pair(workers), 1000, 2048)
			for port, want := range []int{1, 2, 3, 3} {
				if got := b.established(uint16(100 + port)); got != want {
					t.Fatalf("connection %d is with server %d, want %d", port, got, want)
				}
			}
			b.segment(false, 1, 100, "FA", 1001, 9001)
			if s := b.to(200); s != 3 {
				t.Errorf("%s, %d workers: one end has closed, and the place was given to another: server %d", how, workers, s)
			}
			finish(b, 2, 101)
			b.check()
			if s := b.to(201); s != 2 {
				t.Errorf("%s, %d workers: the connection with server 2 is closed, and the next one is with %d", how, workers, s)
			}
			for range 2 { // what comes late gives nothing back
				finish(b, 2, 101)
				b.check()
			}
			if s := b.to(202); s != 3 {
				t.Errorf("%s, %d workers: all places are taken, and the next connection is with %d", how, workers, s)
			}
			// The tuple is used again: its old record goes, and takes no place with it.
			if s := b.to(101); s != 3 {
				t.Errorf("%s, %d workers: the tuple begins anew with server %d", how, workers, s)
			}
			b.check()
			b.now += uint64(DefaultTimeouts.Closing + DefaultTimeouts.Handshake + DefaultTimeouts.Established)
			for range 200 {
				b.Step(b.now)
			}
			b.check()
			if n := b.workers[0].table.Len(); n != 0 {
				t.Errorf("%d connections are left", n)
			}
			b.close()
		}
	}
}

// A refused handshake takes no place.
func TestRefusedTakesNoPlace(t *testing.T) {
	b := newBench(t, pair(1), 1000, 2048)
	defer b.close()
	for port := uint16(100); port < 110; port++ {
		if s := b.to(port); s != 1 && s != 2 {
			t.Fatalf("port %d: server %d", port, s)
		} else {
			b.segment(true, s, port, "RA", 0, 1001)
		}
		b.check()
	}
}

// A server that answers a SYN which began a closed connection anew takes a place again, and is not heard if there is none.
func TestPlaceOfReopened(t *testing.T) {
	b := newBench(t, pair(1), 1000, 2048)
	defer b.close()
	b.established(100)
	b.established(101)
	if out := b.segment(false, 1, 100, "S", 70_000, 0); len(out[inside]) != 1 { // noted: the connection is open
		t.Fatal("the SYN was not forwarded")
	}
	b.segment(false, 1, 100, "R", 1001, 0)
	b.check()
	if s := b.to(102); s != 1 {
		t.Fatalf("the place went to server %d", s)
	}
	answer := func() int { return len(b.segment(true, 1, 100, "SA", 50_000, 70_001)[outside]) }
	if n := answer(); n != 0 || b.stats().Drops[MemberLimit] != 1 {
		t.Errorf("the answer was forwarded although the place is taken: %d, %v", n, b.stats().Drops)
	}
	b.check()
	b.segment(true, 1, 102, "RA", 0, 1001)
	if n := answer(); n != 1 {
		t.Error("the answer was not forwarded although there is a place")
	}
	b.check()
	if s := b.to(103); s != 3 {
		t.Errorf("the connection that has begun anew has no place: the next one went to %d", s)
	}
	b.check()
}

// Whatever happens to connections, places taken are connections that are not closed, never more than the limits; also after they
// were adopted, and when workers change.
func TestPlacesAtRandom(t *testing.T) {
	for seed := range uint64(4) {
		rng := rand.New(rand.NewPCG(seed, 21))
		spec := a4(1 + int(seed%3))
		for i := range spec.Pools[0].Members {
			spec.Pools[0].Members[i].Limit = 3
		}
		spec.Virtuals[0].Limit = 10
		b := newBench(t, spec, 300, 2048)
		servers, closed := map[uint16]int{}, 0
		for range 3000 {
			port := uint16(100 + rng.IntN(24))
			switch n := rng.IntN(8); {
			case n < 3:
				if s := b.to(port); s != 0 {
					servers[port] = s
					b.segment(true, s, port, "SA", 9000, 1001)
					b.segment(false, s, port, "A", 1001, 9001)
				}
			case n < 7 && servers[port] != 0:
				for _, finish := range closings { // in the map's order: any
					finish(b, servers[port], port)
					break
				}
			default:
				b.now += uint64(rng.IntN(1500))
				b.Step(b.now)
			}
			b.check()
			for id, s := range b.dict.shared {
				if n := s.active.Load(); n < 0 || n > 3 {
					t.Fatalf("seed %d: node %d has %d connections of 3", seed, id, n)
				}
			}
			for _, w := range b.workers {
				w.table.Each(1, w.table.Cap()+1, func(_ uint32, r *flow.Record) {
					if r.Closed() {
						closed++
					}
				})
			}
		}
		if closed == 0 {
			t.Error("no record was closed")
		}
		other := spec
		other.Workers = 2
		heir, a := b.successor(t, other, 300, samePorts)
		if a.Adopted == 0 || a.Unsound+a.Strange+a.NoRoom+a.Doubled != 0 {
			t.Errorf("%+v", a)
		}
		heir.check()
		heir.now += 3_600_000
		for range 300 {
			heir.Step(heir.now)
		}
		heir.check()
		for id, s := range heir.dict.shared {
			if n := s.active.Load(); n != 0 {
				t.Errorf("seed %d: in the end node %d has %d places taken", seed, id, n)
			}
		}
		heir.close()
		b.close()
	}
}

// Connections that are closed move between workers without a place.
func TestPlacesWhenScaled(t *testing.T) {
	s := newScaleBench(t, 1, 2000, nil)
	for port := uint16(100); port < 160; port++ {
		server := s.established(port)
		if port%2 == 0 {
			closings["FINs"](s.bench, server, port)
		}
	}
	s.check()
	for _, workers := range []int{3, 2, 4, 1} {
		if done := s.scale(workers, 2000); done.Moved == 0 && workers != 1 || done.Lost != 0 {
			t.Errorf("%+v", done)
		}
		s.check()
	}
	s.now += 10_000
	for range 100 {
		s.Step(s.now)
	}
	s.check()
}

// A closed connection that another worker sends takes no place with it when it is not wanted: a new one has its tuple, or its member
// has stopped serving meanwhile.
func TestPlacesOfUnwanted(t *testing.T) {
	for _, ended := range []bool{false, true} {
		b := newBench(t, pair(1), 1000, 2048)
		w := b.workers[0]
		if b.established(100) != 1 || b.established(101) != 2 {
			t.Fatal("other servers than expected")
		}
		closings["FINs"](b, 1, 100)
		var closed flow.Record
		w.table.Each(1, w.table.Cap()+1, func(_ uint32, r *flow.Record) {
			if r.Closed() {
				closed = *r
			}
		})
		if s := b.to(100); s != 1 {
			t.Fatalf("the tuple begins anew with server %d", s)
		}
		if ended {
			b.set(0, MemberDown, EndReset, 1)
			b.take()
		}
		stats := w.stats.Closed
		w.takeOver(&closed)
		if w.stats.Closed != stats+1 {
			t.Error("it was entered")
		}
		b.check()
		b.take()
		b.close()
	}
}

// Connections through a router that are closed move to another without a place.
func TestPlacesOfMoved(t *testing.T) {
	b := newBench(t, routed(2, Router, false), 1000, 1024)
	_, packets := b.hostsOut(t, 1000, 20)
	for i, p := range packets {
		if i%2 == 0 {
			p.flags, p.seq = "R", 101
			b.sendTo(i%2, inside, p.frame(t))
		}
	}
	b.check()
	if _, err := b.SetMembers(t.Context(), []MemberChange{{ID: b.member("router-1"), State: MemberState{Kind: MemberDown}, End: EndMove}}); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		b.Step(b.now)
	}
	b.check()
	closed := 0
	for _, w := range b.workers {
		w.table.Each(1, w.table.Cap()+1, func(_ uint32, r *flow.Record) {
			if r.Closed() {
				closed++
			}
		})
	}
	if s := b.stats(); s.Moved == 0 || closed != 10 {
		t.Errorf("%d moved, %d of 10 closed", s.Moved, closed)
	}
	b.take()
	b.close()
}
