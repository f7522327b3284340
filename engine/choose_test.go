package engine

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"sluice/flow"
)

// finish closes a connection from both ends, so that its place is free when its short linger is over.
func (b *bench) finish(server int, port uint16) {
	b.t.Helper()
	rst := fromClient(port, "R")
	rst.seq = 1001
	only(b.t, b.send(outside, rst.build(b.t)), inside)
	b.now += uint64(DefaultTimeouts.Closed) + 1000
	for range 10 {
		b.Step(b.now)
	}
}

// to opens a connection and says which member has it; 0 if none.
func (b *bench) to(port uint16) int {
	b.t.Helper()
	out := b.send(outside, fromClient(port, "S").build(b.t))
	if len(out[inside]) == 0 {
		return 0
	}
	return int(out[inside][0][33])
}

func sequence(b *bench, from uint16, n int) (s string) {
	for i := range n {
		s += fmt.Sprint(b.to(from + uint16(i)))
	}
	return s
}

// Two servers with a limit and a sorry server: exactly what the limits allow goes to the two, the rest to the third.
func TestLimitsAndPriorities(t *testing.T) {
	for _, workers := range []int{1, 3} {
		spec := a4(workers)
		m := spec.Pools[0].Members[:3]
		m[0].Priority, m[0].Limit = 10, 5
		m[1].Priority, m[1].Limit = 10, 5
		spec.Pools[0].Members = m
		b := newBench(t, spec, 1000, 2048)
		got := map[int]int{}
		for port := uint16(1); port <= 14; port++ {
			got[b.established(port)]++
		}
		if got[1] != 5 || got[2] != 5 || got[3] != 4 {
			t.Errorf("%v", got)
		}
		b.check()
		b.finish(1, 1) // was the first of server 1
		if s := b.to(100); s != 1 {
			t.Errorf("a place with server 1 is free, and the next connection went to %d", s)
		}
		if s := b.to(101); s != 3 {
			t.Errorf("all are full again, and the next connection went to %d", s)
		}
		b.check()
		b.close()
	}
}

// A limit without a group below it is a refusal that is counted, or answered.
func TestLimitRefused(t *testing.T) {
	for _, reset := range []bool{false, true} {
		spec := a4(1)
		spec.Pools[0].Members = spec.Pools[0].Members[:1]
		spec.Pools[0].Members[0].Limit = 2
		spec.Virtuals[0].ResetRefused = reset
		b := newBench(t, spec, 1000, 2048)
		b.established(1)
		b.established(2)
		out := b.send(outside, fromClient(3, "S").build(t))
		if s := b.stats(); reset && (len(out[outside]) != 1 || s.Refused[MemberLimit] != 1 || s.Dropped() != 0) || !reset && s.Drops[MemberLimit] != 1 {
			t.Errorf("reset %v: %d answers, %+v", reset, len(out[outside]), s)
		}
		b.check()
		b.close()

		spec = a4(1)
		spec.Virtuals[0].Limit, spec.Virtuals[0].ResetRefused = 3, reset
		b = newBench(t, spec, 1000, 2048)
		if s := sequence(b, 1, 5); s != "12300" {
			t.Errorf("with a limit of 3: %s", s)
		}
		if s := b.stats(); s.Drops[VirtualLimit]+s.Refused[VirtualLimit] != 2 {
			t.Errorf("%+v", s)
		}
		b.check()
		b.close()
	}
}

// So many new connections a second, of a member and of a virtual server.
func TestRates(t *testing.T) {
	spec := a4(1)
	for i := range spec.Pools[0].Members {
		spec.Pools[0].Members[i].Rate = 1
	}
	b := newBench(t, spec, 1000, 2048)
	if s := sequence(b, 1, 6); s != "123400" {
		t.Errorf("%s", s)
	}
	b.now += 1000
	if s := sequence(b, 11, 5); s != "34120" && s != "12340" {
		t.Errorf("a second later: %s", s)
	}
	if n := b.stats().Drops[MemberLimit]; n != 3 {
		t.Errorf("%d refused", n)
	}
	b.close()
	spec = a4(1)
	spec.Virtuals[0].Rate = 2
	b = newBench(t, spec, 1000, 2048)
	if s := sequence(b, 1, 3); s != "120" {
		t.Errorf("%s", s)
	}
	b.now += 1000
	if s := sequence(b, 11, 3); s != "340" {
		t.Errorf("%s", s)
	}
	b.check()
	b.close()
}

// A group takes over when the one above has fewer usable members than the minimum, and gives back after a while.
func TestMinimumAndReturn(t *testing.T) {
	spec := a4(1)
	p := &spec.Pools[0]
	p.Members[0].Priority, p.Members[1].Priority = 1, 1
	p.Minimum, p.ReturnAfter = 2, 5000
	b := newBench(t, spec, 1000, 2048)
	set := func(kinds ...MemberKind) {
		t.Helper()
		for i, k := range kinds {
			p.Members[i].State.Kind = k
		}
		cfg, err := NewConfig(spec, b.dict)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Apply(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	if s := sequence(b, 1, 4); s != "1212" {
		t.Errorf("%s", s)
	}
	set(MemberDown)
	if s := sequence(b, 11, 4); s != "3434" {
		t.Errorf("one of two is down: %s", s)
	}
	set(MemberUp)
	if s := sequence(b, 21, 2); s != "34" {
		t.Errorf("back up: %s", s)
	}
	b.now += 5000
	if s := sequence(b, 31, 2); s != "12" && s != "21" {
		t.Errorf("back up for 5 s: %s", s)
	}
	set(MemberDown, MemberUp, MemberDown, MemberUp) // nobody has two
	if s := sequence(b, 41, 2); s != "22" {
		t.Errorf("no group has the minimum: %s", s)
	}
	set(MemberDisabled, MemberDraining, MemberDown, MemberDown)
	if s := sequence(b, 51, 1); s != "0" || b.stats().Drops[NoMember] != 1 {
		t.Errorf("nobody takes connections: %s", s)
	}
	b.close()
}

// A member that has just come up takes part in a growing share of the choices.
func TestSlowStart(t *testing.T) {
	spec := a4(1)
	spec.Pools[0].SlowStart = 10_000
	spec.Pools[0].Members[3].State.Since = 1000
	b := newBench(t, spec, 50_000, 2048)
	share := func(at uint64) int {
		b.now = at
		n := 0
		for range 2000 {
			port := uint16(b.stats().Opened + 1)
			if b.to(port) == 4 {
				n++
			}
		}
		return n
	}
	first, half, full := share(1500), share(6000), share(11_500)
	if first > 100 || half < 150 || half > 350 || full < 480 || full > 520 {
		t.Errorf("of 2,000 connections after 5%%, 50%% and all of the time: %d, %d, %d", first, half, full)
	}
	b.close()
}

// Limits hold when all workers open connections at the same time, and every place that was reserved and not used is free again.
func TestReserveConcurrently(t *testing.T) {
	const limit, each, workers = 100, 20_000, 4
	var s shared
	var wg sync.WaitGroup
	held := make([]int, workers)
	over := make([]int64, workers)
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				if s.reserve(limit, 0, 1000) {
					held[w]++
					over[w] = max(over[w], s.active.Load())
					if i%2 == 0 || held[w] > limit/workers {
						s.cancel(0, 1000)
						held[w]--
					}
				}
			}
		})
	}
	wg.Wait()
	sum := 0
	for _, n := range held {
		sum += n
	}
	if s.active.Load() != int64(sum) || sum > limit {
		t.Errorf("%d places are held and %d counted; the limit is %d", sum, s.active.Load(), limit)
	}
	var r shared
	taken := make([]int, workers)
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				if r.takeRate(50, uint64(1000+i/1000*1000)) {
					taken[w]++
				}
			}
		})
	}
	wg.Wait()
}

// Explain names the member that the next connection goes to, with limits, priorities and states.
func TestExplainChoice(t *testing.T) {
	spec := a4(1)
	spec.Pools[0].Scheduler = "least-connections"
	spec.Pools[0].Members[0].Priority, spec.Pools[0].Members[0].Limit = 5, 2
	spec.Pools[0].Members[1].State.Kind = MemberDown
	b := newBench(t, spec, 1000, 2048)
	for port := uint16(1); port < 9; port++ {
		syn := fromClient(port, "S")
		e := b.Config().Explain(flow.TCP, netip.AddrPortFrom(syn.src, syn.sport), netip.AddrPortFrom(syn.dst, syn.dport))
		if got := serverIP(b.to(port)).String(); got != e.Member {
			t.Errorf("port %d went to %s, explained was %q", port, got, e.Member)
		}
	}
	b.close()
}

// Fastest goes by the handshakes that workers see: a server that answers 20 ms later than the others gets next to nothing, and
// its part again when it has recovered.
func TestFastest(t *testing.T) {
	spec := a4(1)
	spec.Pools[0].Scheduler = "fastest"
	spec.Virtuals[0].Timeouts = DefaultTimeouts
	spec.Virtuals[0].Timeouts.Closed = 1
	b := newBench(t, spec, 5000, 2048)
	port := uint16(0)
	serve := func(n int, slow uint64) (got [5]int) {
		for range n {
			port++
			s := b.to(port)
			got[s]++
			delay := uint64(1)
			if s == 3 {
				delay += slow
			}
			b.now += delay
			sa := fromServer(s, port, "SA")
			sa.ack = 1001
			only(t, b.send(inside, sa.build(t)), outside)
			rst := fromClient(port, "R")
			rst.seq = 1001
			only(t, b.send(outside, rst.build(t)), inside)
			b.now += 5
		}
		return got
	}
	serve(40, 20)
	if got := serve(2000, 20); got[3] > 60 || got[1] < 300 || got[2] < 300 || got[4] < 300 {
		t.Errorf("with server 3 slow: %v", got)
	}
	serve(3000, 0) // at 6 ms each: the old figure has halved often enough to be tried
	if got := serve(2000, 0); got[3] < 300 {
		t.Errorf("after it has recovered: %v", got)
	}
	if n := b.stats(); n.Dropped() != 0 {
		t.Errorf("%+v", n)
	}
	var answered uint64
	snaps, err := b.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range snaps[0].Node {
		answered += s.Answered
	}
	if answered != uint64(port) {
		t.Errorf("%d handshakes are counted as answered, there were %d", answered, port)
	}
	b.close()
}
