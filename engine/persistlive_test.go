package engine

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"sluice/flow"
)

// savedEntries reads the entries from the tables' memory as a start finds them after a kill.
func (b *bench) savedEntries(nodes int) (all []flow.PersistenceEntry) {
	b.t.Helper()
	for _, mem := range b.opt.Tables {
		list, unsound, err := flow.ReadPersistence(flow.PersistenceMemory(mem, b.opt.Capacity), nodes)
		if err != nil || unsound != 0 {
			b.t.Fatalf("%d unsound, %v", unsound, err)
		}
		all = append(all, list...)
	}
	return all
}

// After a kill, a start with any number of workers, and another order of members, goes on with the entries; those whose time is
// over meanwhile, and those of what is no longer configured, are left behind.
func TestPersistenceAdopt(t *testing.T) {
	for _, workers := range [][2]int{{1, 3}, {3, 1}, {3, 3}} {
		old := newBench(t, persistentSpec(workers[0], shop()), 2000, 1024)
		at := map[int]int{}
		for i := range 60 {
			if i == 30 {
				old.now += 40_000
			}
			at[i] = old.open(0, synOf(i, 1))
		}
		spec := persistentSpec(workers[1], shop())
		m := spec.Pools[0].Members
		m[0], m[3] = m[3], m[0]
		next := newBenchFrom(t, spec, 2000, 1024, restored(t, old.dict), old.now+25_000)
		var a Adoption
		next.AdoptPersistence(old.savedEntries(len(next.Config().addrs)), &a)
		if a.Entries != 30 {
			t.Errorf("workers %v: %d entries were adopted", workers, a.Entries)
		}
		for i := 59; i >= 30; i-- {
			if got := next.open(i%workers[1], synOf(i, 9)); got != at[i] {
				t.Fatalf("workers %v: client %d went to server %d, was with %d", workers, i, got, at[i])
			}
		}
		if s := next.persisted(1); s.Hits != 30 || s.Misses != 0 {
			t.Errorf("%+v", s)
		}
		next.soundEntries()
		// Without persistence in its file a start has nothing to do with them.
		plain := newBenchFrom(t, a4(1), 2000, 1024, restored(t, old.dict), old.now+25_000)
		a = Adoption{}
		plain.AdoptPersistence(old.savedEntries(100), &a)
		if a != (Adoption{}) {
			t.Errorf("%+v", a)
		}
		for _, b := range []*bench{old, next, plain} {
			b.close()
		}
	}
}

// Where a restart brings persistence, the connections that are adopted say where their clients are.
func TestPersistenceFromConnections(t *testing.T) {
	old := newBench(t, a4(2), 2000, 1024)
	at := map[int]int{}
	for i := range 40 {
		at[i] = old.open(0, synOf(i, 1))
	}
	next, a := old.successor(t, persistentSpec(3, shop()), 2000, samePorts)
	if a.Adopted != 40 {
		t.Fatalf("%+v", a)
	}
	for i := 39; i >= 0; i-- {
		if got := next.open(i%3, synOf(i, 2)); got != at[i] {
			t.Fatalf("client %d went to server %d, its connection is with %d", i, got, at[i])
		}
	}
	next.soundEntries()
	old.close()
	next.close()
}

// A takeover goes on with the very table, its counters and its ages.
func TestPersistenceTakeover(t *testing.T) {
	for _, workers := range []int{1, 3} {
		spec := persistentSpec(workers, shop())
		b := newBench(t, spec, 2000, 1024)
		at := map[int]int{}
		for i := range 50 {
			b.now += 1000
			at[i] = b.open(i%workers, synOf(i, 1))
		}
		before := snapshots(t, b)
		for range 3 {
			b = b.takenOver(spec)
			if after := snapshots(t, b); !reflect.DeepEqual(before, after) {
				t.Fatalf("the successor has\n%+v\nnot\n%+v", after, before)
			}
			b.soundEntries()
		}
		for i := 49; i >= 0; i-- {
			if got := b.open(i%workers, synOf(i, 2)); got != at[i] {
				t.Fatalf("client %d went to server %d, was with %d", i, got, at[i])
			}
		}
		b.now += 60_001
		for range 100 {
			b.Step(b.now)
		}
		if s := b.persisted(1); s.Entries != 0 || s.Hits != 50 {
			t.Errorf("%+v", s)
		}
		b.close()
	}
	// Another size of the table is another memory.
	b := newBench(t, persistentSpec(1, shop()), 2000, 1024)
	other := shop()
	other.Entries = 5000
	next := b.heir(persistentSpec(1, shop()))
	next.workers[0].persist.table, _ = flow.NewPersistence(alignedMemory(flow.PersistenceSize(77)), flow.PersistenceConfig{Capacity: 77})
	p, err := b.Pause(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	state, err := p.Export(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := next.newPause(false).Import(state); err == nil {
		t.Error("a table of another size is taken")
	}
	p.Resume()
	b.close()
}

// Workers are scaled while clients come, stepped by the test, so that packets come between any two steps of it: each goes where its
// client is, and none is lost.
func TestPersistenceScale(t *testing.T) {
	const clients = 300
	at := map[int]int{}
	rng := rand.New(rand.NewPCG(7, 8))
	moving, sent, arrived, port := false, 0, 0, uint16(1000)
	fresh := clients
	collect := func(s *scaleBench) {
		for _, w := range s.wires {
			w.Recv(func(p []byte) {
				arrived++
				client := int(binary.BigEndian.Uint16(p[28:])) // the last two bytes of the source
				if at[client] == 0 {
					at[client] = int(p[33])
				}
				if p[30] != 192 || int(p[33]) != at[client] {
					t.Errorf("client %d went to server %d, was with %d", client, p[33], at[client])
				}
			})
		}
	}
	spec := persistentSpec(1, shop())
	s := newScaleBenchOf(t, spec, 20_000, func(s *scaleBench) uint64 {
		if moving {
			for range 2 {
				client := rng.IntN(clients)
				if rng.IntN(8) == 0 {
					client = fresh
					fresh++
				}
				port++
				if s.wire(rng.IntN(scaleQueues), outside).Send(synOf(client, port).build(t)) {
					sent++
				}
			}
			collect(s)
		}
		return s.now
	})
	for i := range clients {
		at[i] = s.open(rng.IntN(scaleQueues), synOf(i, 1))
	}
	for _, workers := range []int{2, 4, 3, 1, 2, 2, 4, 1} {
		sent, arrived, moving = 0, 0, true
		done := s.scale(workers, 20_000)
		moving = false
		for range 40 {
			s.Step(s.now)
			collect(s)
		}
		if done.LostEntries != 0 || done.Lost != 0 {
			t.Errorf("%d workers: %+v", workers, done)
		}
		if sent != arrived || sent < 10 {
			t.Errorf("%d workers: %d packets were sent during the scaling, %d arrived; dropped %v", workers, sent, arrived, s.stats().Drops)
		}
		if n := s.persisted(1).Entries; int(n) != fresh {
			t.Errorf("%d workers: %d entries of %d clients", workers, n, fresh)
		}
		s.soundEntries()
		s.check()
		for i := range fresh {
			port++
			if got := s.open(rng.IntN(scaleQueues), synOf(i, port)); got != at[i] {
				t.Fatalf("%d workers: client %d went to server %d, was with %d", workers, i, got, at[i])
			}
		}
		s.now += 10
	}
	st := s.persisted(1)
	if st.Misses != uint64(fresh) || st.Moved+st.Elsewhere+st.Refused+st.Full != 0 {
		t.Errorf("%+v, %d clients", st, fresh)
	}
	s.close()
}

// Running workers, with clients of every kind, while workers are scaled, configurations are reloaded, a member flaps and entries are
// listed: a client leaves its member only if that was down, and then for good.
func TestPersistenceRunning(t *testing.T) {
	rounds := 25
	if testing.Short() {
		rounds = 6
	}
	const capacity, clients = 120_000, 600
	p := shop()
	p.Entries = 8000
	spec := persistentSpec(1, p)
	s := newScaleBenchOf(t, spec, capacity, realTime())
	s.now = s.Now()
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	flapping := s.Config().Pools()[0].Members[3].ID
	var contradictions, moves, passed atomic.Int64
	finished := make(chan struct{})
	go func() { // every client has one first packet under way at most
		defer close(finished)
		rng := rand.New(rand.NewPCG(3, 4))
		at := make([]int, 1<<16)
		fresh, port := clients, uint16(1)
		for ctx.Err() == nil && fresh < 7000 {
			n, got := 0, 0
			port++
			for range 32 {
				client := rng.IntN(clients/32)*32 + n
				if rng.IntN(32) == 0 {
					client = fresh
					fresh++
				}
				if s.wire(rng.IntN(scaleQueues), outside).Send(synOf(client, port).build(t)) {
					n++
				}
			}
			for deadline := time.Now().Add(30 * time.Second); got < n; {
				for _, w := range s.wires {
					w.Recv(func(p []byte) {
						got++
						client, server := int(binary.BigEndian.Uint16(p[28:])), int(p[33])
						switch was := at[client]; {
						case was == 0, was == server:
						case was == 4:
							moves.Add(1)
						default:
							contradictions.Add(1)
							t.Errorf("client %d went to server %d, was with %d", client, server, was)
						}
						at[client] = server
					})
				}
				if time.Now().After(deadline) {
					t.Errorf("%d of %d packets have arrived", got, n)
					cancel()
					return
				}
			}
			passed.Add(int64(n))
		}
	}()
	for _, f := range []func(i int){
		func(i int) { // a member that comes and goes
			kind := MemberUp
			if i%2 == 0 {
				kind = MemberDown
			}
			if _, err := s.SetMembers(ctx, []MemberChange{{ID: flapping, State: MemberState{Kind: kind}}}); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		},
		func(int) {
			if _, err := s.PersistenceEntries(ctx, 1<<20, nil); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			if _, err := s.Snapshots(ctx); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		},
	} {
		go func() {
			for i := 0; ctx.Err() == nil; i++ {
				f(i)
				time.Sleep(3 * time.Millisecond)
			}
		}()
	}
	for i := range rounds {
		done := s.scale(1+(i+1)%4, capacity)
		if done.Lost != 0 || done.LostEntries != 0 {
			t.Errorf("%+v", done)
		}
		// A reload: another order of the members and a new one that nobody is sent to, or none of that.
		spec := s.spec
		spec.Pools = append([]PoolSpec(nil), spec.Pools...)
		members := append([]MemberSpec(nil), spec.Pools[0].Members...)
		if i%2 == 0 {
			members[0], members[1] = members[1], members[0]
			extra := members[0]
			extra.Name, extra.Addr, extra.Weight = "extra", serverIP(100+i), 0
			members = append(members, extra)
		}
		spec.Pools[0].Members = members
		for j := range members {
			if members[j].Addr == serverIP(4) { // its state is the flap's, not the reload's
				members[j].State = unpackState(s.dict.member(flapping).state.Load())
			}
		}
		spec.Generation++
		cfg, err := NewConfig(spec, s.dict)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Apply(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	<-finished
	if err := s.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d connections, %d clients left a member that was down, %d contradictions", passed.Load(), moves.Load(), contradictions.Load())
	if st := s.stats(); st.Dropped() != 0 || passed.Load() < 100 || int64(st.Opened) != passed.Load() {
		t.Errorf("%d passed, opened %d, dropped %v", passed.Load(), st.Opened, st.Drops)
	}
	if st := s.persisted(1); int64(st.Moved) < moves.Load() || int64(st.Hits+st.Misses+st.Moved) < passed.Load() || st.Full != 0 {
		t.Errorf("%+v", st)
	}
	s.soundEntries()
	s.check()
	s.close()
}

// Listing and deleting.
func TestPersistenceEntries(t *testing.T) {
	b := newBench(t, persistentSpec(3, shop()), 2000, 1024)
	for i := range 30 {
		b.open(0, synOf(i, 1))
	}
	b.now += 1000
	b.Step(b.now)
	all, err := b.PersistenceEntries(t.Context(), 1000, nil)
	if err != nil || len(all) != 30 {
		t.Fatalf("%d entries, %v", len(all), err)
	}
	for _, e := range all {
		if e.Persistence != "shop" || e.Client.Bits() != 32 || e.Pool != "web" || e.Member != e.Server.String() || e.IdleMS < 1000 || e.LeftMS > 59_000 {
			t.Errorf("%+v", e)
		}
	}
	if some, _ := b.PersistenceEntries(t.Context(), 7, nil); len(some) != 7 {
		t.Errorf("%d of at most 7", len(some))
	}
	n, err := b.DeletePersistence(t.Context(), 1000, func(e *PersistenceEntry) bool { return e.Server == serverIP(2) })
	if left := b.persisted(1).Entries; err != nil || n == 0 || int(left) != 30-n {
		t.Errorf("%d deleted, %d left, %v", n, left, err)
	}
	k := flow.Key{Src: flow.AddrFrom(clientAt(0)), Dst: flow.AddrFrom(vip), Ports: flow.Ports(5, 80), Proto: flow.TCP}
	before := b.persisted(1)
	e, ok, err := b.PersistenceEntry(t.Context(), &k, outside)
	if !ok || err != nil || e.Server != serverIP(1) || b.persisted(1) != before {
		t.Errorf("%+v %t %v", e, ok, err)
	}
	b.soundEntries()
	b.close()
}

// First packets on their way by the owner of an entry allocate nothing.
func TestPersistenceBurstAllocations(t *testing.T) {
	b := newBench(t, persistentSpec(2, shop()), 60_000, 4096)
	frames := make([][]byte, 256)
	for i := range frames {
		frames[i] = synOf(i%50, uint16(1+i)).build(t)
	}
	n := testing.AllocsPerRun(400, func() {
		for i := range 32 {
			f := frames[(int(b.now)*32+i)%len(frames)]
			b.wire(i%2, outside).Send(f)
		}
		b.now++
		for range 4 {
			b.Step(b.now)
		}
		for w := range 2 {
			b.wire(w, inside).Recv(func([]byte) {})
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
	if s := b.persisted(1); s.Hits == 0 {
		t.Errorf("%+v", s)
	}
	b.close()
}

// An explanation says what the entry does, for each of its fates, and changes nothing.
func TestPersistenceExplained(t *testing.T) {
	p := shop()
	spec := persistentSpec(2, p)
	spec.Pools[0].Members[0].Priority = 10
	b := newBench(t, spec, 1000, 1024)
	if at := b.open(0, synOf(3, 1)); at != 1 {
		t.Fatalf("server %d", at)
	}
	k := flow.Key{Src: flow.AddrFrom(clientAt(3)), Dst: flow.AddrFrom(vip), Ports: flow.Ports(7, 80), Proto: flow.TCP}
	entry, ok, err := b.PersistenceEntry(t.Context(), &k, outside)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	src, dst := netip.AddrPortFrom(clientAt(3), 7), netip.AddrPortFrom(vip, 80)
	turns := b.stats().Opened
	explain := func() Explanation { return b.Config().ExplainEntry(outside, flow.TCP, src, dst, entry.Node) }
	for _, c := range []struct {
		what    string
		set     func(s *Spec)
		outcome string
		member  string
	}{
		{"as it is", func(*Spec) {}, "its member takes the connection", "192.168.20.1"},
		{"weight 0", func(s *Spec) { s.Pools[0].Members[0].Weight = 0 }, "its member takes the connection", "192.168.20.1"},
		{"down", func(s *Spec) { s.Pools[0].Members[0].State.Kind = MemberDown }, "its member does not take the connection; the entry moves", "192.168.20.2"},
		{"down, keep", func(s *Spec) {
			s.Pools[0].Members[0].State.Kind = MemberDown
			s.Persistences[0].OnDown = PersistenceKeep
		}, "its member does not take the connection; another does, and the entry stays", "192.168.20.2"},
		{"down, refuse", func(s *Spec) {
			s.Pools[0].Members[0].State.Kind = MemberDown
			s.Persistences[0].OnDown = PersistenceStay
		}, "its member does not take the connection, and no other may", ""},
		{"full", func(s *Spec) { s.Pools[0].Members[0].Limit = 1 }, "its member does not take the connection; the entry moves", "192.168.20.2"},
		{"lower", func(s *Spec) { s.Pools[0].Members[0].Priority = -1 }, "a higher priority takes connections again; the entry moves", "192.168.20.2"},
		{"gone", func(s *Spec) { s.Pools[0].Members = s.Pools[0].Members[1:] }, "its member is no longer of the pool; the entry moves", "192.168.20.2"},
		{"all down", func(s *Spec) {
			for i := range s.Pools[0].Members {
				s.Pools[0].Members[i].State.Kind = MemberDown
			}
		}, "no member takes the connection", ""},
	} {
		s := persistentSpec(2, p)
		s.Pools[0].Members[0].Priority = 10
		c.set(&s)
		b.put(s)
		e := explain()
		if e.Persistence == nil || e.Persistence.Outcome != c.outcome || e.Member != c.member {
			t.Errorf("%s: %+v, member %q, want %q, %q", c.what, e.Persistence, e.Member, c.outcome, c.member)
		}
	}
	if e := b.Config().Explain(flow.TCP, src, dst); e.Persistence.Entry != "" || e.Persistence.Client != clientAt(3).String() {
		t.Errorf("%+v", e.Persistence)
	}
	if again, ok, _ := b.PersistenceEntry(t.Context(), &k, outside); !ok || again.Node != entry.Node || b.stats().Opened != turns {
		t.Error("it has changed something")
	}
	b.check()
	b.close()
}
