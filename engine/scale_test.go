package engine

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"sluice/flow"
	"sluice/rings"
)

// scaleBench is an engine whose ports have more queues than it has workers.
type scaleBench struct {
	*bench
	queues int
	byPort [][]PortQueue // port, queue
	spec   Spec
}

const scaleQueues = 4

// newScaleBench makes one whose engine reads clock. nil is the time of the bench's own steps: Scale steps by the engine's
// clock, and by another one than that of the packets connections are over in the middle, as soon as a tick of it passes.
func newScaleBench(t testing.TB, workers, capacity int, clock func(b *scaleBench) uint64) *scaleBench {
	t.Helper()
	return newScaleBenchOf(t, a4(workers), capacity, clock)
}

func newScaleBenchOf(t testing.TB, spec Spec, capacity int, clock func(b *scaleBench) uint64) *scaleBench {
	t.Helper()
	workers := spec.Workers
	s := &scaleBench{queues: scaleQueues, spec: spec}
	region := rings.NewHeapRegion(scaleQueues*3*512+8*1024, 2048)
	s.bench = &bench{t: t, dict: NewDictionary(), n: scaleQueues, now: 1000}
	cfg, err := NewConfig(spec, s.dict)
	if err != nil {
		t.Fatal(err)
	}
	s.byPort = make([][]PortQueue, len(spec.Ports))
	s.wires = make([]*rings.Wire, scaleQueues*len(spec.Ports))
	for q := range scaleQueues {
		for p := range spec.Ports {
			queue, wire := rings.NewMem(region, 256)
			s.wires[q*len(spec.Ports)+p] = wire
			s.byPort[p] = append(s.byPort[p], PortQueue{Port: p, Queue: queue, TxOnly: p == host})
		}
	}
	opt := s.seats(workers, capacity)
	opt.Region = region
	opt.Secret = flow.Secret{0x8f3a1d5b7c9e2046, 0x1b873593cc9e2d51, 0xe6546b64a5b2c3d7, 0x2545f4914f6cdd1d}
	if clock == nil {
		clock = func(s *scaleBench) uint64 { return s.now }
	}
	opt.Clock = func() uint64 { return clock(s) }
	if s.Engine, err = New(opt, cfg, s.dict); err != nil {
		t.Fatal(err)
	}
	s.Step(s.now) // fill rings
	return s
}

// realTime is the clock for workers that run by themselves; s.now follows from it.
func realTime() func(*scaleBench) uint64 {
	clock := MonotonicClock()
	return func(*scaleBench) uint64 { return clock() }
}

func (s *scaleBench) seats(workers, capacity int) Options {
	opt := Options{Capacity: capacity, Workers: make([][]PortQueue, workers), Persistence: PersistenceCapacity(s.spec.Persistences, workers)}
	for p := range s.byPort {
		for q, pq := range s.byPort[p] {
			opt.Workers[q%workers] = append(opt.Workers[q%workers], pq)
		}
	}
	for range workers {
		opt.Tables = append(opt.Tables, alignedMemory(flow.TableSize(capacity, opt.Persistence)))
	}
	return opt
}

func (s *scaleBench) scale(workers, capacity int) Scaled {
	s.t.Helper()
	s.spec.Workers = workers
	s.spec.Generation++
	cfg, err := NewConfig(s.spec, s.dict)
	if err != nil {
		s.t.Fatal(err)
	}
	done, err := s.Scale(s.t.Context(), s.seats(workers, capacity), cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	return done
}

// Connections move with every scaling, and packets that come in the middle of it find them.
func TestScale(t *testing.T) {
	const conns = 400
	moving, sent, arrived := false, 0, 0
	servers := map[uint16]int{}
	rng := rand.New(rand.NewPCG(1, 2))
	collect := func(s *scaleBench) {
		for _, w := range s.wires {
			w.Recv(func(p []byte) {
				arrived++
				if port := uint16(p[34])<<8 | uint16(p[35]); p[30] == 192 && int(p[33]) != servers[port] {
					t.Errorf("port %d: a packet for member %d went to member %d", port, servers[port], p[33])
				}
			})
		}
	}
	s := newScaleBench(t, 1, conns*2, func(s *scaleBench) uint64 {
		if moving { // between any two steps of a scaling
			port := uint16(1 + rng.IntN(conns))
			if s.wire(rng.IntN(scaleQueues), outside).Send(ackOf(port).build(t)) {
				sent++
			}
			ans := fromServer(servers[port], port, "A")
			ans.seq, ans.ack = 9001, 1001
			if s.wire(rng.IntN(scaleQueues), inside).Send(ans.build(t)) {
				sent++
			}
			collect(s)
		}
		return s.now
	})
	for port := uint16(1); port <= conns; port++ {
		servers[port] = s.established(port)
	}
	for port := uint16(2000); port < 2040; port++ { // half open
		s.serverOf(port)
	}
	opened := s.stats().Opened
	for _, workers := range []int{2, 4, 3, 1, 2, 2, 1} {
		t.Run(fmt.Sprint(workers), func(t *testing.T) {
			before := s.members()
			sent, arrived, moving = 0, 0, true
			done := s.scale(workers, conns*2)
			moving = false
			for range 20 {
				s.Step(s.now)
				collect(s)
			}
			if done.Moved != conns+40 || done.Lost != 0 {
				t.Errorf("%+v, want %d moved", done, conns+40)
			}
			if sent != arrived || sent < 10 {
				t.Errorf("%d packets were sent during the scaling and %d arrived; dropped %v", sent, arrived, s.stats().Drops)
			}
			if after := s.members(); after != before {
				t.Errorf("connections by member: %s, before %s", after, before)
			}
			if st := s.stats(); st.Opened != opened || st.Dropped() != 0 || len(s.workers) != workers || len(s.Beats()) != workers {
				t.Errorf("opened %d, want %d; dropped %v; %d workers", st.Opened, opened, st.Drops, len(s.workers))
			}
			s.check()
			if err := s.Audit(); err != nil {
				t.Error(err)
			}
			for port, server := range servers {
				if got := only(t, s.sendTo(rng.IntN(scaleQueues), outside, ackOf(port).build(t)), inside); int(got[33]) != server {
					t.Fatalf("port %d moved from member %d to %d", port, server, got[33])
				}
			}
		})
	}
	// Half-open connections are counted where they are now.
	s.now += uint64(DefaultTimeouts.Handshake) + 1000
	for range 100 {
		s.Step(s.now)
	}
	s.check()
	for _, w := range s.workers {
		for vs, n := range w.half.virtual {
			if n != 0 {
				t.Errorf("worker %d: %d half-open connections of virtual server %d are counted, there are none", w.id, n, vs)
			}
		}
	}
	s.close()
}

// members are the connections of each member over all workers.
func (s *scaleBench) members() string {
	var out []int64
	snaps, err := s.Snapshots(context.Background())
	if err != nil {
		s.t.Fatal(err)
	}
	for _, a := range s.dict.shared {
		out = append(out, a.active.Load())
	}
	sums := make([]int64, len(out))
	for i := range snaps {
		for id := range snaps[i].Node {
			sums[id] += snaps[i].Node[id].Active
		}
	}
	if fmt.Sprint(out) != fmt.Sprint(sums) {
		s.t.Errorf("members have %v connections, the workers count %v", out, sums)
	}
	return fmt.Sprint(out)
}

// A table that is too small for what moves in keeps what fits.
func TestScaleSmaller(t *testing.T) {
	s := newScaleBench(t, 2, 200, nil)
	for port := uint16(1); port <= 300; port++ {
		s.established(port)
	}
	done := s.scale(1, 128)
	s.members()
	s.check()
	// In a table that is full, idle times shrink: some more end.
	if n, st := s.workers[0].table.Len(), s.stats(); n < 100 || n+done.Lost > 300 || n+done.Lost < 260 || int(st.Opened-st.Closed) != n {
		t.Errorf("%+v, and %d connections in a table for 128; opened %d, closed %d", done, n, st.Opened, st.Closed)
	}
	s.close()
}

// What Scale cannot do is refused, and nothing changes.
func TestScaleRefused(t *testing.T) {
	s := newScaleBench(t, 2, 200, nil)
	s.established(1)
	one, err := NewConfig(a4(1), s.dict)
	if err != nil {
		t.Fatal(err)
	}
	two := s.seats(2, 200)
	missing := s.seats(1, 200)
	missing.Workers[0] = missing.Workers[0][1:]
	strange := s.seats(1, 200)
	strange.Workers[0][0].Queue, _ = rings.NewMem(s.opt.Region, 64)
	small := s.seats(1, 200)
	small.Tables[0] = small.Tables[0][:100]
	for _, opt := range []Options{two, missing, strange, small, {}} {
		if _, err := s.Scale(t.Context(), opt, one); err == nil {
			t.Error("accepted")
		}
	}
	if len(s.workers) != 2 {
		t.Errorf("%d workers", len(s.workers))
	}
	s.established(2)
	s.check()
	s.close()
}

// Running workers are scaled up and down, reloaded and asked while packets pass: none is lost.
func TestScaleRunning(t *testing.T) {
	const conns = 2000
	rounds := 40
	if testing.Short() {
		rounds = 10
	}
	s := newScaleBench(t, 1, 2*conns, realTime())
	s.now = s.Now()
	servers := map[uint16]int{}
	frames := map[uint16][]byte{}
	for port := uint16(1); port <= conns; port++ {
		servers[port] = s.established(port)
		frames[port] = ackOf(port).build(t)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	finished := make(chan int)
	go func() { // a burst at a time: the next goes when all of the last has arrived
		total := 0
		rng := rand.New(rand.NewPCG(3, 4))
		for ctx.Err() == nil {
			n, got := 0, 0
			for range 32 {
				if s.wire(rng.IntN(scaleQueues), outside).Send(frames[uint16(1+rng.IntN(conns))]) {
					n++
				}
			}
			for deadline := time.Now().Add(20 * time.Second); got < n; {
				for _, w := range s.wires {
					w.Recv(func(p []byte) {
						got++
						if port := uint16(p[34])<<8 | uint16(p[35]); int(p[33]) != servers[port] {
							t.Errorf("port %d went to member %d, not %d", port, p[33], servers[port])
						}
					})
				}
				if time.Now().After(deadline) {
					t.Errorf("%d of %d packets have arrived", got, n)
					cancel()
					break
				}
			}
			total += got
		}
		finished <- total
	}()
	go func() {
		for ctx.Err() == nil {
			if _, err := s.Snapshots(ctx); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			n := 0
			if err := s.EachConnection(ctx, nil, func(*Conn) bool { n++; return true }); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			time.Sleep(time.Millisecond)
		}
	}()
	rng := rand.New(rand.NewPCG(5, 6))
	var longest time.Duration
	for i := range rounds {
		workers := 1 + (i+1)%3
		done := s.scale(workers, 2*conns)
		longest = max(longest, done.Took)
		if done.Moved != conns {
			t.Errorf("%+v", done)
		}
		for j := range s.spec.Pools[0].Members { // a member's flap
			s.spec.Pools[0].Members[j].Weight = uint32(rng.IntN(3))
		}
		s.spec.Generation++
		cfg, err := NewConfig(s.spec, s.dict)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Apply(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	passed := <-finished
	if err := s.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d packets passed during %d scalings of %d connections, the longest took %s", passed, rounds, conns, longest)
	if st := s.stats(); st.Dropped() != 0 || passed == 0 {
		t.Errorf("dropped %v", st.Drops)
	}
	s.check()
	s.close()
}

// Connections of transparent modes move with every scaling, and packets of both directions find them, on whatever queue they
// arrive; SNAT ports go along.
func TestScaleTransparent(t *testing.T) {
	for name, spec := range map[string]Spec{"router": routed(1, Router, true), "forward": forwarding(1, false), "firewall": withRoutes(routed(1, Firewall, false))} {
		s := newScaleBenchOf(t, spec, 2000, nil)
		rng := rand.New(rand.NewPCG(3, 3))
		var there, back [][]byte
		for range 300 {
			p := randomOut(rng, "tcp", "udp")
			out := only(t, s.sendTo(rng.IntN(scaleQueues), inside, p.frame(t)), outside)
			src, dst, sport, dport := tuple(t, out)
			a := packet{srcMAC: routerMACs[0], dstMAC: outsideMAC, src: dst, dst: src, sport: dport, dport: sport, udp: p.kind == "udp", flags: "SA", seq: 9, ack: p.seq + 1 + uint32(len(p.payload))}
			only(t, s.sendTo(rng.IntN(scaleQueues), outside, a.build(t)), inside)
			p.flags, p.seq, p.ack = "A", a.ack, 10
			a.flags, a.seq = "A", 10
			there, back = append(there, p.frame(t)), append(back, a.build(t))
		}
		for _, workers := range []int{4, 2, 3, 1} {
			if done := s.scale(workers, 2000); done.Lost != 0 || done.Moved != 300 {
				t.Fatalf("%s: %+v", name, done)
			}
			for i := range there {
				only(t, s.sendTo(rng.IntN(scaleQueues), inside, there[i]), outside)
				only(t, s.sendTo(rng.IntN(scaleQueues), outside, back[i]), inside)
			}
		}
		if st := s.stats(); st.Dropped() != 0 || st.ToHost != 0 || st.Opened != 300 {
			t.Errorf("%s: %+v", name, st)
		}
		s.check()
	}
}
