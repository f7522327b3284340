package engine

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sluice/flow"
)

// id is the node id of the member of a pool whose address ends with last.
func (b *bench) id(pool, last int) uint32 {
	for _, m := range b.Config().Pools()[pool].Members {
		if a := m.Addr.AsSlice(); a[len(a)-1] == byte(last) {
			return m.ID
		}
	}
	return 0
}

// set changes the state of members of a pool, by the last byte of their addresses.
func (b *bench) set(pool int, kind MemberKind, end EndPolicy, members ...int) {
	b.t.Helper()
	var changes []MemberChange
	for _, i := range members {
		changes = append(changes, MemberChange{ID: b.id(pool, i), State: MemberState{Kind: kind, Since: b.Now()}, End: end})
	}
	if _, err := b.SetMembers(b.t.Context(), changes); err != nil {
		b.t.Fatal(err)
	}
}

// A change of state moves new connections at once and no others, outlives a configuration that is put in force after it, and
// nothing is compiled for it.
func TestSetMembers(t *testing.T) {
	for _, workers := range []int{1, 3} {
		spec := a4(workers)
		b := newBench(t, spec, 1000, 1024)
		before := b.Config()
		if s := sequence(b, 1, 4); s != "1234" {
			t.Fatalf("%s", s)
		}
		for kind, word := range map[MemberKind]string{MemberDown: "down", MemberDraining: "draining", MemberDisabled: "disabled"} {
			b.set(0, kind, EndNone, 2, 3)
			got := sequence(b, 10+100*uint16(kind), 8)
			if strings.ContainsAny(got, "023") || strings.Count(got, "1") != 4 {
				t.Errorf("2 and 3 are %s: %s", word, got)
			}
			if m := b.Config().Pools()[0].Members[1]; m.State.Kind != kind {
				t.Errorf("%s is listed as %s", word, m.State.Kind)
			}
			e := b.Config().Explain(flow.TCP, netip.AddrPortFrom(clientIP, 9999), netip.AddrPortFrom(vip, 80))
			if e.Candidates[1].Note != word {
				t.Errorf("explained as %q, want %q", e.Candidates[1].Note, word)
			}
			b.set(0, MemberUp, EndNone, 2, 3)
		}
		if b.Config() != before {
			t.Error("a configuration was compiled")
		}
		if got := sequence(b, 1000, 8); strings.Count(got, "2") != 2 {
			t.Errorf("all are up again: %s", got)
		}
		// Whoever compiles gives the states; the last word holds even if it is spoken between compiling and putting in force.
		cfg, err := NewConfig(spec, b.dict)
		if err != nil {
			t.Fatal(err)
		}
		b.set(0, MemberDown, EndNone, 1)
		if _, err := b.Apply(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		if got := sequence(b, 2000, 6); strings.Contains(got, "1") {
			t.Errorf("1 is down, %s", got)
		}
		if _, err := b.SetMembers(t.Context(), []MemberChange{{ID: 9999}, {ID: 0}}); err != nil {
			t.Error(err)
		}
		b.check()
		b.close()
	}
}

// A member that flaps in slow start is held back once, not as often as it has flapped.
func TestFlapInSlowStart(t *testing.T) {
	spec := a4(1)
	spec.Pools[0].SlowStart = 10_000
	b := newBench(t, spec, 1000, 1024)
	for range 100 {
		b.set(0, MemberDown, EndNone, 1)
		b.set(0, MemberUp, EndNone, 1)
	}
	if n := len(b.workers[0].runtime.choice.pools[0].groups[0].rising); n != 1 {
		t.Errorf("%d entries for one member", n)
	}
	if s := sequence(b, 1, 8); strings.Contains(s, "1") {
		t.Errorf("at the beginning of its slow start: %s", s)
	}
	b.close()
}

// What becomes of a dead member's connections, looked for a few at a step beside the traffic.
func TestEndConnections(t *testing.T) {
	for _, c := range []struct {
		policy   EndPolicy
		tcp, udp bool // stay
		resets   uint64
	}{
		{EndNone, true, true, 0}, {EndMove, true, false, 0}, {EndReset, false, false, 2},
	} {
		spec := a4(1)
		b := newBench(t, spec, 4000, 4096)
		const conns = 200
		of := map[uint16]int{}
		for port := uint16(1); port <= conns; port++ {
			of[port] = b.established(port)
		}
		for port := uint16(1); port <= conns; port++ {
			p := fromClient(port, "")
			p.udp, p.dport = true, 53
			only(t, b.send(outside, p.build(t)), inside)
		}
		b.now += 10
		b.Step(b.now)
		b.set(0, MemberDown, c.policy, 2)
		b.set(2, MemberDown, c.policy, 2)
		out := 0
		steps := 0
		for busy := true; busy && steps < 1000; steps++ {
			before := b.stats().Ended
			busy = b.Step(b.now)
			if n := b.stats().Ended - before; n > endChunk {
				t.Fatalf("%d connections ended in a step", n)
			}
			for p := range 2 {
				b.wire(0, p).Recv(func(f []byte) {
					if f[47]&4 == 0 { // RST
						t.Errorf("sent % x", f)
					}
					out++
				})
			}
		}
		if c.policy != EndNone && steps < 2*conns/endChunk {
			t.Errorf("%d connections were looked at in %d steps", 2*conns, steps)
		}
		tcp, udp := 0, 0
		left, err := b.Connections(t.Context(), 2*conns, func(c *Conn) bool { return c.Member == "192.168.20.2" })
		if err != nil {
			t.Fatal(err)
		}
		for i := range left {
			if left[i].Proto() == flow.TCP {
				tcp++
			} else {
				udp++
			}
		}
		mine := conns / 4
		if (tcp == mine) != c.tcp || tcp != mine && tcp != 0 || (udp == mine) != c.udp || udp != mine && udp != 0 {
			t.Errorf("policy %d: %d TCP and %d UDP of %d stay", c.policy, tcp, udp, mine)
		}
		ended := uint64(2*mine - tcp - udp)
		if s := b.stats(); s.Ended != ended || s.Resets != c.resets*uint64(mine) || out != int(s.Resets) || s.Closed != ended {
			t.Errorf("policy %d: %d ended, %d resets, %d sent, want %d ended", c.policy, s.Ended, s.Resets, out, ended)
		}
		for port, server := range of { // all others go on
			if server != 2 || c.tcp {
				only(t, b.send(outside, ackOf(port).build(t)), inside)
			}
		}
		if c.policy == EndMove { // the next datagram goes to another member
			for port := uint16(1); port <= conns; port++ {
				p := fromClient(port, "")
				p.udp, p.dport = true, 53
				if f := only(t, b.send(outside, p.build(t)), inside); f[33] == 2 {
					t.Fatalf("port %d: a datagram still goes to the dead member", port)
				}
			}
		}
		b.check()
		b.close()
	}
}

// Connections that began after the order are none of its business: with fail-open a down member gets new ones.
func TestEndSparesTheNew(t *testing.T) {
	spec := a4(1)
	spec.Pools[0].AllDown = AllDownFailOpen
	b := newBench(t, spec, 1000, 1024)
	b.established(1)
	b.now++
	b.Step(b.now)
	w := b.workers[0]
	b.set(0, MemberDown, EndReset, 1, 2, 3, 4)
	w.runtime.ending.walking = false // the walk waits
	b.now++
	if s := b.to(2); s == 0 {
		t.Fatal("fail-open is closed")
	}
	w.runtime.ending.walking = true
	for range 10 {
		b.Step(b.now)
	}
	left, err := b.Connections(t.Context(), 10, nil)
	if err != nil || len(left) != 1 || left[0].CPort != 2 {
		t.Errorf("%v %+v", err, left)
	}
	b.close()
}

// An order that comes while workers change reaches the connections wherever they are.
func TestEndWhileScaling(t *testing.T) {
	const conns = 400
	for round := range 20 {
		rng := rand.New(rand.NewPCG(uint64(round), 3))
		moving, at, n := false, rng.IntN(30), 0
		s := newScaleBench(t, 1, conns*2, func(s *scaleBench) uint64 {
			if moving {
				if n++; n == at {
					s.set(0, MemberDown, EndReset, 3)
				}
				for _, w := range s.wires {
					w.Recv(func([]byte) {})
				}
			}
			return s.now
		})
		mine := 0
		for port := uint16(1); port <= conns; port++ {
			if s.established(port) == 3 {
				mine++
			}
		}
		s.now += 100
		s.Step(s.now)
		moving = true
		s.scale(3, conns)
		moving = false
		if n < at {
			s.set(0, MemberDown, EndReset, 3)
		}
		for range 50 {
			s.Step(s.now)
			s.take()
			for _, w := range s.wires {
				w.Recv(func([]byte) {})
			}
		}
		left, err := s.Connections(t.Context(), conns, func(c *Conn) bool { return c.Member == "192.168.20.3" })
		if err != nil || len(left) > 0 {
			t.Errorf("round %d: %d connections of %d stay (%v)", round, len(left), mine, err)
		}
		if e := s.stats().Ended; e != uint64(mine) {
			t.Errorf("round %d: %d ended, want %d", round, e, mine)
		}
		if err := s.consistent(); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		s.close()
	}
}

// What a pool without a usable member does.
func TestAllDown(t *testing.T) {
	for _, workers := range []int{1, 3} {
		for _, policy := range []AllDown{AllDownRefuse, AllDownReset, AllDownFailOpen, AllDownPool} {
			spec := a4(workers)
			spec.Pools[0].AllDown, spec.Pools[0].Fallback = policy, 3
			spec.Pools[0].Members[3].Priority = 5 // groups make no difference
			sorry := spec.Pools[0].Members[0]
			sorry.Name, sorry.Addr = "sorry", serverIP(9)
			spec.Pools = append(spec.Pools, PoolSpec{Name: "sorry", Scheduler: "round-robin", Members: []MemberSpec{sorry}})
			b := newBench(t, spec, 1000, 1024)
			down := []int{1, 2, 3, 4}
			b.set(0, MemberDown, EndNone, down[:3]...)
			if b.to(1) == 0 {
				t.Fatal("one member is up and gets nothing")
			}
			b.set(0, MemberDown, EndNone, down...)
			out := b.send(outside, fromClient(2, "S").build(t))
			s := b.stats()
			e := b.Config().Explain(flow.TCP, netip.AddrPortFrom(clientIP, 3), netip.AddrPortFrom(vip, 80))
			switch policy {
			case AllDownRefuse:
				if len(out[inside])+len(out[outside]) != 0 || s.Drops[NoMember] != 1 || e.Decision != DecideDrop {
					t.Errorf("drop: %v, %+v", s.Drops, e)
				}
			case AllDownReset:
				if len(out[outside]) != 1 || out[outside][0][47] != 0x14 || s.Refused[NoMember] != 1 {
					t.Errorf("reset: %d answers, %v", len(out[outside]), s.Refused)
				}
			case AllDownFailOpen:
				if len(out[inside]) != 1 || e.Decision != DecideConnect || s.Dropped() != 0 {
					t.Errorf("fail-open: %d, %+v", len(out[inside]), e)
				}
				b.set(0, MemberDisabled, EndNone, 1, 2, 3) // an operator's word holds all the same
				if got := sequence(b, 100, 4); got != "4444" {
					t.Errorf("fail-open, of which 4 is not disabled: %s", got)
				}
			case AllDownPool:
				if len(out[inside]) != 1 || out[inside][0][33] != 9 || e.Member != "sorry" || e.Pool != "sorry" || len(e.Candidates) != 5 {
					t.Errorf("pool: %d, %+v", len(out[inside]), e)
				}
				b.set(3, MemberDown, EndNone, 9)
				if b.to(50) != 0 {
					t.Error("all are down in both pools")
				}
			}
			b.set(0, MemberUp, EndNone, 2)
			if got := sequence(b, 200, 3); got != "222" {
				t.Errorf("2 is back: %s", got)
			}
			b.check()
			b.close()
		}
	}
}

// With a limit reached the pool is full, not down.
func TestFullIsNotDown(t *testing.T) {
	spec := a4(1)
	spec.Pools[0].AllDown = AllDownFailOpen
	for i := range spec.Pools[0].Members {
		spec.Pools[0].Members[i].Limit = 1
	}
	b := newBench(t, spec, 1000, 1024)
	b.set(0, MemberDown, EndNone, 1, 2)
	if s := sequence(b, 1, 4); s != "3400" && s != "4300" {
		t.Errorf("%s", s)
	}
	if n := b.stats().Drops[MemberLimit]; n != 2 {
		t.Errorf("%d over the limit", n)
	}
	b.close()
}

// Pools that fall back to one another in a circle are refused.
func TestFallbackCircle(t *testing.T) {
	for _, to := range [][]int{{0}, {2, 0, 0}, {7}} {
		spec := a4(1)
		for i, f := range to {
			if i != 1 {
				spec.Pools[i].AllDown, spec.Pools[i].Fallback = AllDownPool, f
			}
		}
		if _, err := NewConfig(spec, NewDictionary()); err == nil {
			t.Errorf("%v was accepted", to)
		}
	}
}

// Handshakes that stay unanswered are counted when the client repeats itself, once each, and not again at their end.
func TestUnansweredSoon(t *testing.T) {
	b := newBench(t, a4(1), 1000, 1024)
	count := func() (s ServiceStats) {
		snaps, err := b.Snapshots(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i := range snaps[0].Node {
			s.Add(&snaps[0].Node[i])
		}
		return s
	}
	for port := uint16(1); port <= 10; port++ {
		b.to(port)
	}
	if n := count().Unanswered; n != 0 {
		t.Errorf("%d unanswered at once", n)
	}
	b.now += 1000
	for range 3 {
		for port := uint16(1); port <= 6; port++ {
			only(t, b.send(outside, fromClient(port, "S").build(t)), inside)
		}
	}
	if n := count().Unanswered; n != 6 {
		t.Errorf("%d unanswered after 6 were repeated", n)
	}
	b.now += uint64(DefaultTimeouts.Handshake) * 2
	for range 100 {
		b.Step(b.now)
		b.now += 100
	}
	if s := count(); s.Unanswered != 10 || s.Answered != 0 || s.Active != 0 {
		t.Errorf("at the end: %+v", s)
	}
	b.established(100)
	if s := count(); s.Answered != 1 || s.Unanswered != 10 {
		t.Errorf("%+v", s)
	}
	b.close()
}

// Changes from several goroutines while workers run: the last word holds with every worker.
func TestSetMembersConcurrently(t *testing.T) {
	spec := a4(3)
	b := newBench(t, spec, 1000, 1024)
	start := time.Now()
	b.opt.Clock = func() uint64 { return 1000 + uint64(time.Since(start).Milliseconds()) }
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	ids := []uint32{b.id(0, 1), b.id(0, 2), b.id(0, 3), b.id(0, 4)}
	var wg sync.WaitGroup
	var took []time.Duration
	for g, id := range ids {
		wg.Go(func() {
			for i := range 300 {
				kind := MemberDown
				if i%2 == 1 {
					kind = MemberUp
				}
				d, err := b.SetMembers(t.Context(), []MemberChange{{ID: id, State: MemberState{Kind: kind, Since: 1000}, End: EndPolicy(i % 3)}})
				if err != nil {
					t.Error(err)
				}
				if g == 0 {
					took = append(took, d)
				}
			}
		})
	}
	wg.Go(func() {
		for range 50 {
			cfg := b.Config()
			if _, err := b.Apply(t.Context(), cfg); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	if _, err := b.SetMembers(t.Context(), []MemberChange{{ID: ids[1], State: MemberState{Kind: MemberDown}}}); err != nil {
		t.Fatal(err)
	}
	if err := b.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, w := range b.workers {
		got := fmt.Sprintf("%b", w.runtime.choice.pools[0].groups[0].available[0])
		if got != "1101" {
			t.Errorf("worker %d goes by %s", i, got)
		}
	}
	slices.Sort(took)
	t.Logf("until the last of 3 workers went by a change: p50 %v, p99 %v, max %v", took[len(took)/2], took[len(took)*99/100], took[len(took)-1])
	b.close()
}

// A worker that comes to a change wakes those that sleep and have it before them, because whoever was to wake them may have lost its
// core to this one; it wakes no other.
func TestWorkersWakeEachOther(t *testing.T) {
	b := newBench(t, a4(3), 1000, 1024)
	defer b.close()
	p := &PostedMembers{engine: b.Engine, start: time.Now(), workers: b.workers, took: make([]atomic.Int64, 3)}
	woken := func(i int) bool {
		var eight [8]byte
		n, err := unix.Read(b.workers[i].runtime.waker.fd, eight[:])
		return err == nil && n == 8
	}
	b.workers[1].runtime.waker.sleeping.Store(true)
	b.workers[2].runtime.waker.sleeping.Store(true)
	p.took[2].Store(1)
	p.apply(b.workers[0], 0)
	if woken(0) || !woken(1) || woken(2) {
		t.Error("want the one woken that sleeps and has not come to the change")
	}
	if p.took[0].Load() == 0 || p.took[1].Load() != 0 {
		t.Errorf("worker 0 took %d ns, worker 1 %d", p.took[0].Load(), p.took[1].Load())
	}
	b.workers[1].runtime.waker.sleeping.Store(false)
	p.apply(b.workers[1], 1)
	if woken(0) || woken(1) || woken(2) {
		t.Error("nobody is left to be woken")
	}
	b.workers[2].runtime.waker.sleeping.Store(false)
}
