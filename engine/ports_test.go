package engine

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"sluice/rings"
)

// replace gives a port n new queues, by queue q of worker q mod workers, or none.
func (s *scaleBench) replace(port, n int) []rings.Queue {
	s.t.Helper()
	s.byPort[port] = nil
	for q := range scaleQueues {
		s.wires[q*len(s.spec.Ports)+port] = nil
		if q < n {
			queue, wire := rings.NewMem(s.opt.Region, 256)
			s.wires[q*len(s.spec.Ports)+port] = wire
			s.byPort[port] = append(s.byPort[port], PortQueue{Port: port, Queue: queue, TxOnly: port == host})
		}
	}
	return s.setQueues(port)
}

func (s *scaleBench) setQueues(port int) []rings.Queue {
	s.t.Helper()
	closed, err := s.SetQueues(s.t.Context(), port, s.share(port))
	if err != nil {
		s.t.Fatal(err)
	}
	return closed
}

// share gives queue q of a port to worker q mod workers.
func (s *scaleBench) share(port int) [][]PortQueue {
	out := make([][]PortQueue, len(s.workers))
	for q, pq := range s.byPort[port] {
		out[q%len(out)] = append(out[q%len(out)], pq)
	}
	return out
}

func (s *scaleBench) down(port int, down bool) {
	s.t.Helper()
	s.spec.Ports[port].Down = down
	s.spec.Generation++
	cfg, err := NewConfig(s.spec, s.dict)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.Apply(s.t.Context(), cfg); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scaleBench) audited() {
	s.t.Helper()
	s.check()
	if err := s.Audit(); err != nil {
		s.t.Fatal(err)
	}
}

// fromClient sends a segment of every connection and returns how many came out at the members, and which.
func (s *scaleBench) fromClient(servers map[uint16]int) (arrived int) {
	s.t.Helper()
	for port, server := range servers {
		wire := s.wire(int(port)%scaleQueues, outside)
		if wire == nil {
			wire = s.wire(0, outside)
		}
		if !wire.Send(ackOf(port).build(s.t)) {
			s.t.Fatal("the wire is full")
		}
		for range 4 {
			s.Step(s.now)
		}
		for q := range scaleQueues {
			if w := s.wire(q, inside); w != nil {
				arrived += w.Recv(func(p []byte) {
					if int(p[33]) != server {
						s.t.Errorf("port %d went to member %d, not %d", port, p[33], server)
					}
				})
			}
		}
	}
	return arrived
}

// A port loses all its queues, gets others, in other numbers: connections stay, what cannot leave is dropped by name, and
// no frame is lost, whatever was in the rings.
func TestSetQueues(t *testing.T) {
	s := newScaleBench(t, 3, 400, nil)
	servers := map[uint16]int{}
	for port := uint16(1); port <= 100; port++ {
		servers[port] = s.established(port)
	}
	dropped := uint64(0)
	for round, n := range []int{1, 4, 2, 3, 1} {
		// Rings with something in them: sent and not taken by the wire, received and not taken by the worker.
		held := 0
		for port := range servers {
			if port%3 == 0 && s.wire(int(port)%scaleQueues, outside) != nil {
				s.wire(int(port)%scaleQueues, outside).Send(ackOf(port).build(t))
				held++
			}
		}
		for range 3 {
			s.Step(s.now)
		}
		s.audited()
		for _, q := range s.replace(inside, 0) {
			if h := q.Held(); h.Sum() != 0 {
				t.Errorf("round %d: a closed queue holds %+v", round, h)
			}
		}
		s.audited()
		if got := s.fromClient(servers); got != 0 {
			t.Errorf("round %d: %d packets left on a port without queues", round, got)
		}
		dropped += uint64(len(servers))
		if st := s.stats(); st.Drops[PortDown] != dropped || st.Dropped() != dropped {
			t.Errorf("round %d: dropped %v, want %d port_down", round, st.Drops, dropped)
		}
		s.audited()
		if closed := s.replace(inside, n); len(closed) != 0 {
			t.Errorf("round %d: %d queues were closed where there were none", round, len(closed))
		}
		s.Step(s.now)
		s.audited()
		if got := s.fromClient(servers); got != len(servers) {
			t.Errorf("round %d: with %d new queues %d of %d packets arrive; dropped %v", round, n, got, len(servers), s.stats().Drops)
		}
		// The port that packets come from, replaced in one step while they wait in its rings.
		if n == 4 {
			for _, port := range []uint16{1, 2, 3, 4} {
				s.wire(int(port)%scaleQueues, outside).Send(ackOf(port).build(t))
			}
			if closed := s.replace(outside, 2); len(closed) != scaleQueues {
				t.Errorf("%d queues were closed", len(closed))
			}
			s.Step(s.now)
			s.audited()
		}
	}
	if st := s.stats(); st.Closed != 0 {
		t.Errorf("%d connections were lost", st.Closed)
	}
	s.close()
}

// A port gets more queues and fewer again; those that stay keep what is in them.
func TestSetQueuesGrows(t *testing.T) {
	s := newScaleBench(t, 2, 400, nil)
	servers := map[uint16]int{}
	for port := uint16(1); port <= 50; port++ {
		servers[port] = s.established(port)
	}
	all, wires := s.byPort[inside], map[int]*rings.Wire{}
	for q := range scaleQueues {
		wires[q] = s.wire(q, inside)
	}
	for _, n := range []int{1, 3, 2, 4, 1} {
		have := len(s.byPort[inside])
		for q := have; q < n; q++ { // a closed queue is not opened again
			queue, wire := rings.NewMem(s.opt.Region, 256)
			all[q], wires[q] = PortQueue{Port: inside, Queue: queue}, wire
		}
		for q := range scaleQueues {
			if s.wires[q*len(s.spec.Ports)+inside] = wires[q]; q >= n {
				s.wires[q*len(s.spec.Ports)+inside] = nil
			}
		}
		answer := fromServer(servers[7], 7, "A")
		answer.seq, answer.ack = 9001, 1001
		wires[0].Send(answer.build(t)) // waits in a queue that stays
		s.byPort[inside] = all[:n:n]
		if closed := s.setQueues(inside); len(closed) != max(0, have-n) {
			t.Errorf("from %d to %d queues: %d were closed", have, n, len(closed))
		}
		for range 4 {
			s.Step(s.now)
		}
		got := 0
		for q := range scaleQueues {
			got += s.wire(q, outside).Recv(nil)
		}
		if got != 1 {
			t.Errorf("%d packets came from the queue that stays, want 1", got)
		}
		s.audited()
		if got := s.fromClient(servers); got != len(servers) {
			t.Errorf("with %d queues %d of %d packets arrive; dropped %v", n, got, len(servers), s.stats().Drops)
		}
	}
	// Scaling works with what there is now, also with a port that has none.
	s.scale(3, 400)
	s.replace(inside, 0)
	s.scale(2, 400)
	s.replace(inside, 2)
	s.Step(s.now)
	if got := s.fromClient(servers); got != len(servers) {
		t.Errorf("after scaling %d of %d packets arrive; dropped %v", got, len(servers), s.stats().Drops)
	}
	s.audited()
	s.close()
}

// What is wrong is refused, and nothing has changed.
func TestSetQueuesRefused(t *testing.T) {
	s := newScaleBench(t, 2, 100, nil)
	s.established(1)
	moved := s.share(inside)
	moved[0], moved[1] = moved[1], moved[0]
	twice := s.share(inside)
	twice[0] = append(twice[0], twice[0][0])
	for what, c := range map[string]struct {
		port   int
		queues [][]PortQueue
	}{
		"moved":            {inside, moved},
		"twice":            {inside, twice},
		"of another port":  {inside, s.share(outside)},
		"for no worker":    {inside, make([][]PortQueue, 3)},
		"of no port":       {7, nil},
		"of no port below": {-1, nil},
	} {
		if _, err := s.SetQueues(t.Context(), c.port, c.queues); err == nil {
			t.Errorf("queues %s are accepted", what)
		}
	}
	s.established(2)
	s.audited()
	s.close()
}

// What is to leave on a port without a link is dropped by name and leaves the rings alone.
func TestPortDown(t *testing.T) {
	s := newScaleBench(t, 2, 100, nil)
	servers := map[uint16]int{1: s.established(1), 2: s.established(2)}
	s.down(inside, true)
	if got := s.fromClient(servers); got != 0 || s.stats().Drops[PortDown] != 2 {
		t.Errorf("%d packets left on a port that is down, dropped %v", got, s.stats().Drops)
	}
	s.down(inside, false)
	got := s.fromClient(servers)
	if st := s.stats(); got != 2 || st.Dropped() != 2 {
		t.Errorf("%d packets arrived, dropped %v", got, st.Drops)
	}
	s.audited()
	s.close()
}

// Queues come and go, with links that flap and workers that are scaled, while packets pass: each is sent or has a reason.
func TestSetQueuesRunning(t *testing.T) {
	const conns = 500
	rounds := 150
	if testing.Short() {
		rounds = 40
	}
	s := newScaleBench(t, 2, 2*conns, realTime())
	s.now = s.Now()
	servers, frames := map[uint16]int{}, map[uint16][]byte{}
	for port := uint16(1); port <= conns; port++ {
		servers[port] = s.established(port)
		frames[port] = ackOf(port).build(t)
	}
	before := s.stats()
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var rest sync.Mutex // held while a wire must be at rest
	sent := make(chan int)
	go func() {
		n := 0
		rng := rand.New(rand.NewPCG(7, 8))
		for ctx.Err() == nil {
			for range 16 {
				if s.wires[rng.IntN(scaleQueues)*len(s.spec.Ports)+outside].Send(frames[uint16(1+rng.IntN(conns))]) {
					n++
				}
			}
			rest.Lock()
			for q := range scaleQueues {
				if w := s.wires[q*len(s.spec.Ports)+inside]; w != nil {
					w.Recv(func(p []byte) {
						if port := uint16(p[34])<<8 | uint16(p[35]); int(p[33]) != servers[port] {
							t.Errorf("port %d went to member %d, not %d", port, p[33], servers[port])
						}
					})
				}
			}
			rest.Unlock()
		}
		sent <- n
	}()
	transmitted := uint64(0)
	rng := rand.New(rand.NewPCG(9, 10))
	for i := range rounds {
		rest.Lock()
		for _, q := range s.replace(inside, i%(scaleQueues+1)) {
			transmitted += q.Stats().TxPackets
		}
		rest.Unlock()
		switch rng.IntN(4) {
		case 0:
			s.down(inside, true)
			s.down(inside, false)
		case 1:
			s.spec.Generation++
			s.scale(1+rng.IntN(3), 2*conns)
		}
		time.Sleep(time.Millisecond)
	}
	rest.Lock()
	for _, q := range s.replace(inside, 0) {
		transmitted += q.Stats().TxPackets
	}
	rest.Unlock()
	cancel()
	n := <-sent
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if st := s.stats(); int(st.RxPackets-before.RxPackets) == n || time.Now().After(deadline) {
			break
		}
	}
	if err := s.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		s.Step(s.Now())
	}
	st := s.stats()
	// What was sent before Start is in the queues' counters as well.
	transmitted -= before.TxPackets - s.txOf(outside, host)
	if st.Drops[PortDown] == 0 || transmitted == 0 || uint64(n) != transmitted+st.Dropped() {
		t.Errorf("%d packets, %d sent, dropped %v", n, transmitted, st.Drops)
	}
	t.Logf("%d packets, %d sent, dropped %d port_down of %d in %d rounds", n, transmitted, st.Drops[PortDown], st.Dropped(), rounds)
	if st.Closed != 0 {
		t.Errorf("%d connections were lost", st.Closed)
	}
	s.audited()
	s.close()
}

// txOf is what the queues of ports have sent.
func (s *scaleBench) txOf(ports ...int) (n uint64) {
	for _, p := range ports {
		for _, q := range s.byPort[p] {
			n += q.Queue.Stats().TxPackets
		}
	}
	return n
}
