package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/flow"
	"sluice/rings"
)

// heir is an engine over the rings, frames and tables of b that has nothing else of it yet.
func (b *bench) heir(spec Spec) *bench {
	b.t.Helper()
	dict := restored(b.t.(*testing.T), b.dict)
	cfg, err := NewConfig(spec, dict)
	if err != nil {
		b.t.Fatal(err)
	}
	next := &bench{t: b.t, dict: dict, n: b.n, now: b.now, wires: b.wires}
	opt := Options{Region: b.opt.Region, Tables: b.opt.Tables, Capacity: b.opt.Capacity, Persistence: b.opt.Persistence, Secret: b.opt.Secret, Successor: true,
		Polling: b.opt.Polling, Clock: func() uint64 { return next.now }}
	for _, qs := range b.opt.Workers {
		list := append([]PortQueue(nil), qs...)
		for i := range list {
			list[i].Queue = list[i].Queue.(*rings.Mem).Successor()
		}
		opt.Workers = append(opt.Workers, list)
	}
	if next.Engine, err = New(opt, cfg, dict); err != nil {
		b.t.Fatal(err)
	}
	return next
}

// takenOver is the engine that goes on for b, neither of them started.
func (b *bench) takenOver(spec Spec) *bench {
	b.t.Helper()
	next := b.heir(spec)
	p, err := b.Pause(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	state, err := p.Export(nil)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := next.newPause(false).Import(state); err != nil {
		b.t.Fatal(err)
	}
	if err := p.Leave(); err != nil {
		b.t.Fatal(err)
	}
	next.check()
	return next
}

// A successor has all that its predecessor had: connections with their members, timers, counters, half-open counts, turns.
func TestTakeoverKeepsState(t *testing.T) {
	for _, workers := range []int{1, 3} {
		spec := a4(workers)
		spec.Sources = SourceLimit{HalfOpen: 1000, Bits4: 24, Bits6: 64}
		spec.Virtuals[2].OnePacket = true
		b := newBench(t, spec, 500, 1024)
		servers := map[uint16]int{}
		for port := uint16(100); port < 160; port++ {
			if port%3 == 0 {
				servers[port] = b.serverOf(port)
			} else {
				servers[port] = b.established(port)
			}
		}
		question := packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: clientIP, dst: vip, sport: 777, dport: 53, udp: true, payload: "?"}
		at := int(only(t, b.send(outside, question.build(t)), inside)[33])
		before := snapshots(t, b)
		for round := range 3 {
			b = b.takenOver(spec)
			if after := snapshots(t, b); !reflect.DeepEqual(before, after) {
				t.Fatalf("%d workers, round %d: the successor has\n%+v\nnot\n%+v", workers, round, after, before)
			}
			for _, w := range b.workers {
				if err := w.table.Check(); err != nil {
					t.Fatal(err)
				}
			}
		}
		answer := packet{srcMAC: serverMAC(at), dstMAC: insideMAC, src: serverIP(at), dst: clientIP, sport: 5353, dport: 777, udp: true, payload: "!"}
		only(t, b.send(inside, answer.build(t)), outside) // the way back to a client of a one-packet server is known
		for port, server := range servers {
			if port%3 == 0 {
				continue
			}
			if out := only(t, b.send(outside, ackOf(port).build(t)), inside); int(out[33]) != server {
				t.Fatalf("port %d went to server %d, was with %d", port, out[33], server)
			}
		}
		// The round goes on where it was.
		last := servers[159]
		if next := b.serverOf(160); next != last%4+1 {
			t.Errorf("server %d after %d", next, last)
		}
		b.now += uint64(DefaultTimeouts.Established) + 2000
		for range 400 {
			b.Step(b.now)
		}
		b.check()
		for id, active := range b.dict.shared {
			if n := active.active.Load(); n != 0 {
				t.Errorf("node %d has %d connections at the end", id, n)
			}
		}
		b.close()
	}
}

func snapshots(t *testing.T, b *bench) []Snapshot {
	t.Helper()
	s, err := b.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range s {
		for j := range s[i].Queues {
			s[i].Queues[j].Queue = nil // another object over the same rings
		}
	}
	return s
}

// A configuration that no longer has a member and a virtual server: their connections go on, new ones do not come.
func TestTakeoverDrains(t *testing.T) {
	b := newBench(t, a4(1), 500, 1024)
	servers := map[uint16]int{}
	for port := uint16(100); port < 108; port++ {
		servers[port] = b.established(port)
	}
	refs, err := b.References(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	spec := a4(1)
	gone := spec.Pools[0].Members[1]
	spec.Pools[0].Members = append(spec.Pools[0].Members[:1:1], spec.Pools[0].Members[2:]...)
	spec.Virtuals = spec.Virtuals[:3] // without dns6
	spec.Draining = Draining{Nodes: map[uint32]DrainingNode{}}
	for id := range refs.Nodes {
		if e, ok := b.dict.Node(id); ok && e.Pool == "web" && e.Addr == gone.Addr {
			spec.Draining.Nodes[id] = DrainingNode{Pool: "web", Name: gone.Name, Hop: gone.Hop}
		}
	}
	if len(spec.Draining.Nodes) != 1 || len(refs.Virtuals) != 4 {
		t.Fatalf("references: %+v", refs)
	}
	b = b.takenOver(spec)
	for port, server := range servers {
		if out := only(t, b.send(outside, ackOf(port).build(t)), inside); int(out[33]) != server {
			t.Errorf("port %d went to server %d, was with %d", port, out[33], server)
		}
	}
	for port := uint16(200); port < 206; port++ {
		if b.serverOf(port) == 2 {
			t.Error("a new connection to a member that drains")
		}
	}
	b.close()
}

// udpStream sends numbered datagrams of several clients to every worker and notes which come out, and how often.
type udpStream struct {
	b    *bench
	seen []atomic.Uint32
	sent int
	lost atomic.Int64 // no frame to receive into
}

func (s *udpStream) run(t *testing.T, stop <-chan struct{}) (wait func()) {
	var wg sync.WaitGroup
	wg.Go(func() {
		templates := make([][]byte, 16)
		for i := range templates {
			p := packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: clientIP, dst: vip, sport: uint16(1000 + i), dport: 53, udp: true, payload: "0123", noChecksum: true}
			templates[i] = p.build(t)
		}
		for ; s.sent < len(s.seen); s.sent++ {
			select {
			case <-stop:
				return
			default:
			}
			frame := templates[s.sent%len(templates)]
			binary.BigEndian.PutUint32(frame[42:], uint32(s.sent))
			// Any worker's queue: two thirds are handed over.
			if !s.b.wire(s.sent/16%s.b.n, outside).Send(frame) {
				s.lost.Add(1)
			}
			if s.sent%32 == 31 {
				time.Sleep(200 * time.Microsecond)
			}
		}
		<-stop
	})
	wg.Go(func() {
		var ending time.Time
		for ending.IsZero() || time.Now().Before(ending) {
			for w := range s.b.n {
				s.b.wire(w, inside).Recv(func(p []byte) { s.seen[binary.BigEndian.Uint32(p[42:])].Add(1) })
				s.b.wire(w, outside).Recv(func([]byte) { t.Error("a packet to the client") })
			}
			select {
			case <-stop:
				if ending.IsZero() {
					ending = time.Now().Add(200 * time.Millisecond)
				}
			default:
			}
			time.Sleep(50 * time.Microsecond)
		}
	})
	return wg.Wait
}

// Running engines take over from each other under a stream of datagrams, most of which are handed from worker to worker; in
// between a takeover is given up and the predecessor goes on. Every datagram comes out once, and every frame is accounted for.
func TestTakeoverRunning(t *testing.T) {
	spec := a4(3)
	first := newBench(t, spec, 500, 2048)
	b := first
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	s := &udpStream{b: first, seen: make([]atomic.Uint32, 200_000)}
	stop := make(chan struct{})
	wait := s.run(t, stop)
	var longest time.Duration
	for round := range 20 {
		next := b.heir(spec)
		rest, err := next.StartPaused()
		if err != nil {
			t.Fatal(err)
		}
		p, err := b.Pause(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		state, err := p.Export(nil)
		if err != nil {
			t.Fatal(err)
		}
		if round%4 == 3 { // given up
			p.Resume()
			if err := rest.Leave(); err != nil {
				t.Fatal(err)
			}
			p.Resume()
			if err := p.Leave(); err == nil {
				t.Error("a pause that is over is left")
			}
			time.Sleep(2 * time.Millisecond)
			continue
		}
		if err := rest.Import(state); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		rest.Resume()
		longest = max(longest, time.Since(p.Began()))
		if err := p.Leave(); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Snapshots(t.Context()); !errors.Is(err, ErrStopped) {
			t.Errorf("the predecessor answers: %v", err)
		}
		b = next
		time.Sleep(2 * time.Millisecond)
	}
	close(stop)
	wait()
	if err := b.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	first.emptyWires()
	missing, double := 0, 0
	for i := range s.sent {
		switch n := s.seen[i].Load(); {
		case n == 0:
			missing++
		case n > 1:
			double++
		}
	}
	t.Logf("%d datagrams, longest pause %s, %d handed over", s.sent, longest, b.stats().HandedIn)
	st := b.stats()
	if double != 0 || missing != int(s.lost.Load())+int(st.Dropped()) {
		t.Errorf("%d of %d datagrams are missing, %d came twice; %d found the wire full, %d were dropped", missing, s.sent, double, s.lost.Load(), st.Dropped())
	}
	if st.RxPackets != uint64(s.sent)-uint64(s.lost.Load()) || st.HandedIn == 0 || s.sent < 1000 {
		t.Errorf("%d sent, %+v", s.sent, st)
	}
	b.close()
}

// emptyWires takes what is left on the wires.
func (b *bench) emptyWires() {
	for _, w := range b.wires {
		w.Recv(nil)
	}
}

// A worker that does not come to rest does not keep the others: they go on, and so does it later.
func TestPauseTimeout(t *testing.T) {
	b := newBench(t, a4(2), 100, 1024)
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	stuck := make(chan struct{})
	if _, err := b.tell(t.Context(), b.workers[1], func(*worker) { <-stuck }); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := b.Pause(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 of 2") {
		t.Fatal(err)
	}
	close(stuck)
	p, err := b.Pause(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p.Resume()
	snapshots(t, b)
	if err := b.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.close()
}

// A start that fails leaves no worker behind.
func TestStartPausedFails(t *testing.T) {
	b := newBench(t, a4(3), 100, 1024)
	b.workers[2].runtime.core = 1 << 9
	if _, err := b.StartPaused(); err == nil {
		t.Fatal("pinned to a core that is not there")
	}
	b.close()
}

// A state that was damaged or belongs to another engine is refused, whatever is wrong with it: no panic, no engine that
// misses a frame.
func TestTakeoverRefused(t *testing.T) {
	spec := a4(2)
	b := newBench(t, spec, 100, 1024)
	for port := uint16(100); port < 120; port++ {
		b.established(port)
	}
	p, err := b.Pause(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	good, err := p.Export(nil)
	if err != nil {
		t.Fatal(err)
	}
	try := func(state []byte) error { return b.heir(spec).newPause(false).Import(state) }
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		if err := try(good[:rng.IntN(len(good))]); !errors.Is(err, ErrState) {
			t.Fatalf("cut off: %v", err)
		}
		bad := append([]byte(nil), good...)
		for range 1 + rng.IntN(3) {
			bad[rng.IntN(len(bad))] ^= 1 << rng.IntN(8)
		}
		_ = try(bad) // a counter may be anything; what matters is that it ends
	}
	if err := try(append(good[:len(good):len(good)], 0)); !errors.Is(err, ErrState) {
		t.Errorf("a byte too many: %v", err)
	}
	if err := try(nil); !errors.Is(err, ErrState) {
		t.Errorf("nothing: %v", err)
	}
	for what, change := range map[string]func(*Spec){
		"client end": func(s *Spec) { s.ClientEnd = ClientAddr },
		"sources":    func(s *Spec) { s.Sources.Bits4 = 8 },
	} {
		other := a4(2)
		change(&other)
		if err := b.heir(other).newPause(false).Import(good); !errors.Is(err, ErrState) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// A frame that is free twice, or not at all.
	for _, w := range b.workers {
		addr, _ := w.pool.Get()
		short, err := p.Export(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := try(short); !errors.Is(err, ErrState) {
			t.Errorf("a frame is missing: %v", err)
		}
		other, _ := w.pool.Get()
		w.pool.Put(addr)
		w.pool.Put(addr)
		double, err := p.Export(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := try(double); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), "two places") {
			t.Errorf("a frame is free twice: %v", err)
		}
		w.pool.Get()
		w.pool.Put(other)
	}
	if err := try(good); err != nil {
		t.Error(err)
	}
	p.Resume()
	b.established(200)
	b.close()
}

// The layout names what it must change with.
func TestLayout(t *testing.T) {
	if l := Layout(); !strings.Contains(l, flow.Layout()) {
		t.Error(l)
	}
}
