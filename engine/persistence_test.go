package engine

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"

	"sluice/flow"
)

// shop is the persistence of most tests.
func shop() PersistenceSpec {
	return PersistenceSpec{Name: "shop", Bits4: 32, Bits6: 128, Timeout: 60_000, Entries: 4000}
}

// persistentSpec is the figure with persistence at its web server.
func persistentSpec(workers int, p PersistenceSpec) Spec {
	s := a4(workers)
	s.Persistences = []PersistenceSpec{p}
	s.Virtuals[0].Persistence = p.Name
	return s
}

func clientAt(i int) netip.Addr { return netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)}) }

// synOf is the first packet of client i's connection from a port.
func synOf(i int, port uint16) packet {
	p := fromClient(port, "S")
	p.src = clientAt(i)
	return p
}

// open sends p by a worker's outside queue and is the number of the server that gets it, or 0 if it is dropped.
func (b *bench) open(worker int, p packet) int {
	b.t.Helper()
	out := b.sendTo(worker, outside, p.build(b.t))
	switch {
	case len(out[inside]) == 0:
		return 0
	case len(out[inside]) != 1 || len(out[outside])+len(out[host]) != 0:
		b.t.Fatalf("%d packets came out inside, %d outside, %d at the host", len(out[inside]), len(out[outside]), len(out[host]))
	case p.src.Is6():
		return int(out[inside][0][53])
	}
	return int(out[inside][0][33])
}

// persisted are the counters of a persistence over all workers.
func (b *bench) persisted(id int) (s PersistenceStats) {
	b.t.Helper()
	for _, n := range snapshots(b.t.(*testing.T), b) {
		if id < len(n.Persistence) {
			s.Add(&n.Persistence[id])
		}
	}
	return s
}

// soundEntries checks the tables of entries, and that every entry is where it is owned.
func (b *bench) soundEntries() {
	b.t.Helper()
	cfg := b.Config()
	for _, w := range b.workers {
		if w.persist == nil || w.persist.table == nil {
			continue
		}
		if err := w.persist.table.Check(); err != nil {
			b.t.Fatalf("worker %d: %v", w.id, err)
		}
		w.persist.table.Each(1, w.persist.table.Cap(), func(_ uint32, e *flow.PersistenceEntry) {
			if owner := int(cfg.owners.worker[cfg.owners.bin(e.Client, 0)]); owner != w.id {
				b.t.Fatalf("the entry of %v is worker %d's, not %d's", e.Client.Netip(), w.id, owner)
			}
		})
	}
}

// The same client, many ports, by whatever queue: always the same member. Clients are spread as the scheduler says, and a packet
// makes one bounce at most: to the owner of the entry and on.
func TestPersistence(t *testing.T) {
	for _, workers := range []int{1, 2, 5} {
		for _, end := range []ClientEnd{ClientAddrPort, ClientAddr} {
			t.Run(fmt.Sprintf("workers=%d/end=%d", workers, end), func(t *testing.T) {
				spec := persistentSpec(workers, shop())
				spec.ClientEnd = end
				b := newBench(t, spec, 4000, 1024)
				rng := rand.New(rand.NewPCG(1, 2))
				const clients, rounds = 40, 12
				at, spread := map[int]int{}, map[int]int{}
				for round := range rounds {
					for i := range clients {
						queue := rng.IntN(workers)
						before := b.stats().HandedOut
						got := b.open(queue, synOf(i, uint16(1000+round)))
						if round == 0 {
							at[i] = got
							spread[got]++
						}
						if got != at[i] {
							t.Fatalf("client %d went to server %d, was with %d", i, got, at[i])
						}
						k := flow.Key{Src: flow.AddrFrom(clientAt(i)), Dst: flow.AddrFrom(vip), Ports: flow.Ports(uint16(1000+round), 80), Proto: flow.TCP}
						cfg := b.Config()
						entry, owner := cfg.entryWorker(&cfg.persistences[0], k.Src), cfg.owner(&k, outside)
						want := 0 // to the owner of the entry, unless it is there, and on to that of the connection
						if queue != entry {
							want++
						}
						if entry != owner {
							want++
						}
						if end == ClientAddr && entry != owner {
							t.Fatalf("entry of worker %d, connection of %d", entry, owner)
						}
						if n := int(b.stats().HandedOut - before); n != want {
							t.Fatalf("received by %d, entry of %d, connection of %d: handed over %d times, want %d", queue, entry, owner, n, want)
						}
					}
				}
				for server := 1; server <= 4; server++ {
					if spread[server] != clients/4 {
						t.Errorf("clients by server: %v, want %d each", spread, clients/4)
					}
				}
				s := b.persisted(1)
				want := PersistenceStats{Entries: clients, Misses: clients, Hits: clients * (rounds - 1)}
				if s != want {
					t.Errorf("%+v, want %+v", s, want)
				}
				if st := b.stats(); st.Dropped() != 0 || st.Opened != clients*rounds {
					t.Errorf("opened %d, dropped %v", st.Opened, st.Drops)
				}
				b.check()
				b.soundEntries()
				// Nothing of it stays: places are given back, entries end.
				b.now += 3_700_000
				for range 400 {
					b.Step(b.now)
				}
				b.check()
				if s := b.persisted(1); s.Entries != 0 || b.stats().Opened != b.stats().Closed {
					t.Errorf("%d entries, opened %d, closed %d", s.Entries, b.stats().Opened, b.stats().Closed)
				}
				for id, n := range b.dict.shared {
					if n.active.Load() != 0 {
						t.Errorf("node %d has %d connections, there are none", id, n.active.Load())
					}
				}
				b.close()
			})
		}
	}
}

// An entry lives for its time from the client's last new connection on.
func TestPersistenceTimeout(t *testing.T) {
	b := newBench(t, persistentSpec(2, shop()), 1000, 1024)
	first := b.open(0, synOf(1, 100))
	for port := uint16(101); port < 110; port++ {
		b.now += 50_000
		if got := b.open(1, synOf(1, port)); got != first {
			t.Fatalf("after 50 s: server %d, was %d", got, first)
		}
	}
	b.now += 60_000
	if got := b.open(0, synOf(1, 200)); got == first {
		t.Fatalf("after its time it went on with server %d, whose turn it is not", got)
	}
	if s := b.persisted(1); s.Misses != 2 || s.Hits != 9 || s.Entries != 1 {
		t.Errorf("%+v", s)
	}
	b.close()
}

// Prefixes: clients of one network go together, in both families.
func TestPersistencePrefix(t *testing.T) {
	p := shop()
	p.Bits4, p.Bits6 = 24, 56
	spec := persistentSpec(3, p)
	spec.Virtuals[1].Persistence = "shop"
	b := newBench(t, spec, 2000, 1024)
	seen := map[int]bool{}
	for net := range 8 {
		first := b.open(0, synOf(net<<8|1, 1))
		seen[first] = true
		for i := range 10 {
			if got := b.open(i%3, synOf(net<<8|(i*7+2), uint16(2+i))); got != first {
				t.Fatalf("a client of network %d went to %d, others to %d", net, got, first)
			}
		}
		six := packet{srcMAC: clientMAC, dstMAC: outsideMAC, dst: vip6, sport: 1, dport: 80, flags: "S", seq: 1}
		at := 0
		for i := range 10 {
			a := netip.MustParseAddr("2001:db8::1").As16()
			a[6], a[7], a[15] = byte(net), byte(i), byte(i)
			six.src = netip.AddrFrom16(a)
			switch got := b.open(i%3, six); {
			case i == 0:
				at = got
			case got != at:
				t.Fatalf("IPv6 network %d: %d and %d", net, got, at)
			}
		}
	}
	if len(seen) != 4 {
		t.Errorf("networks went to servers %v", seen)
	}
	b.soundEntries()
	b.close()
}

// Virtual servers that share a persistence send a client to the same server, each by its own pool; UDP as well.
func TestPersistenceShared(t *testing.T) {
	spec := persistentSpec(3, shop())
	spec.Virtuals[2].Persistence = "shop" // dns, of another pool with the same addresses
	b := newBench(t, spec, 2000, 1024)
	for i := range 20 {
		at := b.open(i%3, synOf(i, 1000))
		u := packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: clientAt(i), dst: vip, dport: 53, udp: true, payload: "?"}
		for sport := uint16(1); sport < 6; sport++ {
			u.sport = sport
			for range 3 { // the first of a connection, and more of it
				if got := b.open(int(sport)%3, u); got != at {
					t.Fatalf("client %d: UDP went to server %d, TCP to %d", i, got, at)
				}
			}
		}
	}
	// Datagrams of connections that are there ask no owner of an entry: 100 connections, 300 datagrams.
	if s := b.persisted(1); s.Misses != 20 || s.Hits != 100 || s.Moved != 0 {
		t.Errorf("%+v", s)
	}
	b.check()
	b.close()
}

// What happens when the client's member does not take it.
func TestPersistencePolicies(t *testing.T) {
	for _, workers := range []int{1, 3} {
		for _, c := range []struct {
			name    string
			set     func(p *PersistenceSpec)
			kind    MemberKind
			full    bool
			during  string // same | other | refused
			back    string // same | other: when the member takes again
			counted func(s PersistenceStats) uint64
		}{
			{name: "down, move", kind: MemberDown, during: "other", back: "other", counted: func(s PersistenceStats) uint64 { return s.Moved }},
			{name: "down, keep", kind: MemberDown, set: func(p *PersistenceSpec) { p.OnDown = PersistenceKeep }, during: "other", back: "same", counted: func(s PersistenceStats) uint64 { return s.Elsewhere }},
			{name: "down, refuse", kind: MemberDown, set: func(p *PersistenceSpec) { p.OnDown = PersistenceStay }, during: "refused", back: "same", counted: func(s PersistenceStats) uint64 { return s.Refused }},
			{name: "disabled, move", kind: MemberDisabled, during: "other", back: "other", counted: func(s PersistenceStats) uint64 { return s.Moved }},
			{name: "draining, placed", kind: MemberDraining, during: "same", back: "same", counted: func(s PersistenceStats) uint64 { return s.Hits }},
			{name: "draining, move", kind: MemberDraining, set: func(p *PersistenceSpec) { p.MoveDraining, p.OnDown = true, PersistenceStay }, during: "other", back: "other", counted: func(s PersistenceStats) uint64 { return s.Moved }},
			{name: "full, move", full: true, during: "other", back: "other", counted: func(s PersistenceStats) uint64 { return s.Moved }},
			{name: "full, keep", full: true, set: func(p *PersistenceSpec) { p.OnFull = PersistenceKeep }, during: "other", back: "same", counted: func(s PersistenceStats) uint64 { return s.Elsewhere }},
			{name: "full, refuse", full: true, set: func(p *PersistenceSpec) { p.OnFull = PersistenceStay }, during: "refused", back: "same", counted: func(s PersistenceStats) uint64 { return s.Refused }},
		} {
			t.Run(fmt.Sprintf("%s/workers=%d", c.name, workers), func(t *testing.T) {
				p := shop()
				if c.set != nil {
					c.set(&p)
				}
				spec := persistentSpec(workers, p)
				b := newBench(t, spec, 2000, 1024)
				at := b.open(0, synOf(7, 1))
				id := b.Config().Pools()[0].Members[at-1].ID
				limit := func(n int) {
					spec.Pools[0].Members[at-1].Limit = n
					b.put(spec)
				}
				set := func(kind MemberKind) {
					if _, err := b.SetMembers(t.Context(), []MemberChange{{ID: id, State: MemberState{Kind: kind}}}); err != nil {
						t.Fatal(err)
					}
				}
				if c.full {
					limit(1)
				} else {
					set(c.kind)
				}
				word := func(got int) string {
					switch got {
					case 0:
						return "refused"
					case at:
						return "same"
					}
					return "other"
				}
				other := 0
				for port := uint16(10); port < 14; port++ {
					got := b.open(int(port)%workers, synOf(7, port))
					if word(got) != c.during {
						t.Fatalf("during it: %s (server %d), want %s", word(got), got, c.during)
					}
					if c.back == "other" {
						if other != 0 && got != other {
							t.Fatalf("it moved to server %d, then to %d", other, got)
						}
						other = got
					}
				}
				if n := c.counted(b.persisted(1)); n == 0 {
					t.Errorf("not counted: %+v", b.persisted(1))
				}
				if c.full {
					limit(0)
				} else {
					set(MemberUp)
				}
				for port := uint16(20); port < 24; port++ {
					if got := b.open(int(port)%workers, synOf(7, port)); word(got) != c.back || c.back == "other" && got != other {
						t.Fatalf("when it takes again: server %d, was with %d, then %d, want %s", got, at, other, c.back)
					}
				}
				if st := b.stats(); st.Drops[PersistenceRefused] != uint64(4*btoi(c.during == "refused")) || st.Dropped() != st.Drops[PersistenceRefused] {
					t.Errorf("dropped %v", st.Drops)
				}
				b.check()
				b.close()
			})
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// A weight of 0 is a drain; a member that a reload takes away has no client any more; one that comes back finds those that kept it.
func TestPersistenceReload(t *testing.T) {
	spec := persistentSpec(2, shop())
	b := newBench(t, spec, 2000, 1024)
	at := map[int]int{}
	for i := range 16 {
		at[i] = b.open(i%2, synOf(i, 1))
	}
	spec.Pools[0].Members[0].Weight = 0
	spec.Generation++
	b.put(spec)
	for i := range 16 {
		if got := b.open(i%2, synOf(i, 2)); got != at[i] {
			t.Fatalf("client %d moved from %d to %d: a weight of 0 is a drain", i, at[i], got)
		}
	}
	if got := b.open(0, synOf(99, 2)); got == 1 {
		t.Error("a new client went to a member with weight 0")
	}
	gone := spec
	gone.Pools = slices.Clone(spec.Pools)
	gone.Pools[0].Members = slices.Clone(spec.Pools[0].Members[1:])
	b.put(gone)
	for i := range 16 {
		got := b.open(i%2, synOf(i, 3))
		if got == 1 || at[i] != 1 && got != at[i] {
			t.Fatalf("client %d went from %d to %d when server 1 was taken away", i, at[i], got)
		}
		at[i] = got
	}
	spec.Pools[0].Members[0].Weight = 1
	b.put(spec)
	for i := range 16 {
		if got := b.open(i%2, synOf(i, 4)); got != at[i] {
			t.Fatalf("client %d moved from %d to %d when server 1 came back", i, at[i], got)
		}
	}
	// Other prefix lengths make other clients: the old entries are no longer used, and go.
	spec.Persistences[0].Bits4 = 24
	b.put(spec)
	for range 200 {
		b.Step(b.now)
	}
	first := b.open(0, synOf(1, 5))
	for i := range 16 {
		if got := b.open(i%2, synOf(i, 6)); got != first {
			t.Fatalf("with /24, client %d went to %d, another to %d", i, got, first)
		}
	}
	if s := b.persisted(1); s.Entries != 0 {
		t.Errorf("%d entries of the former prefix are left", s.Entries)
	}
	// Without persistence turns go round again; with it again there are no old entries.
	none := spec
	none.Virtuals = slices.Clone(spec.Virtuals)
	none.Virtuals[0].Persistence, none.Persistences = "", nil
	b.put(none)
	seen := map[int]bool{}
	for port := uint16(50); port < 58; port++ {
		seen[b.open(0, synOf(1, port))] = true
	}
	if len(seen) != 4 {
		t.Errorf("without persistence a client went to %v", seen)
	}
	b.check()
	b.close()
}

// A client that a lower priority took goes back with its next connection, or stays if the persistence says so.
func TestPersistencePriority(t *testing.T) {
	for _, keep := range []bool{false, true} {
		p := shop()
		p.KeepLower = keep
		spec := persistentSpec(2, p)
		for i := range spec.Pools[0].Members {
			spec.Pools[0].Members[i].Priority = 10
		}
		spec.Pools[0].Members[3].Priority = 0
		b := newBench(t, spec, 2000, 1024)
		set := func(kind MemberKind) {
			var c []MemberChange
			for _, m := range b.Config().Pools()[0].Members {
				if m.Priority == 10 {
					c = append(c, MemberChange{ID: m.ID, State: MemberState{Kind: kind}})
				}
			}
			if _, err := b.SetMembers(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
		set(MemberDown)
		for port := uint16(1); port < 5; port++ {
			if got := b.open(0, synOf(1, port)); got != 4 {
				t.Fatalf("server %d", got)
			}
		}
		set(MemberUp)
		first := b.open(1, synOf(1, 10))
		if (first == 4) != keep {
			t.Errorf("keep %t: went to server %d when the others were back", keep, first)
		}
		for port := uint16(11); port < 15; port++ {
			if got := b.open(int(port)%2, synOf(1, port)); got != first {
				t.Errorf("server %d, then %d", first, got)
			}
		}
		b.check()
		b.close()
	}
}

// Persistence goes before every scheduler.
func TestPersistenceSchedulers(t *testing.T) {
	for _, name := range []string{"round-robin", "weighted-round-robin", "least-connections", "weighted-least-connections", "fastest",
		"two-choices", "source-hash", "maglev", "first", "random"} {
		spec := persistentSpec(2, shop())
		spec.Pools[0].Scheduler = name
		spec.Pools[0].Hash.Ports = true // without persistence a client would be spread
		spec.Pools[0].SlowStart = 1000
		b := newBench(t, spec, 2000, 1024)
		seen := map[int]bool{}
		for i := range 24 {
			at := b.open(i%2, synOf(i, 1))
			seen[at] = true
			for port := uint16(2); port < 10; port++ {
				if got := b.open(int(port)%2, synOf(i, port)); got != at {
					t.Fatalf("%s: client %d went to %d, then %d", name, i, at, got)
				}
			}
		}
		if want := 4; name != "first" && len(seen) != want {
			t.Errorf("%s: clients went to %v", name, seen)
		}
		b.check()
		b.close()
	}
}

// A table without room.
func TestPersistenceTableFull(t *testing.T) {
	for _, full := range []PersistenceFull{PersistenceEvict, PersistencePass, PersistenceRefuse} {
		p := shop()
		p.Entries, p.Full = 8, full
		b := newBench(t, persistentSpec(1, p), 2000, 1024)
		at := map[int]int{}
		for i := range 8 {
			at[i] = b.open(0, synOf(i, 1))
		}
		for i := range 4 { // these come again
			b.open(0, synOf(i, 2))
		}
		for i := 8; i < 20; i++ {
			if got := b.open(0, synOf(i, 1)); (got == 0) != (full == PersistenceRefuse) {
				t.Errorf("full %d: server %d", full, got)
			}
		}
		for i := range 4 {
			if got := b.open(0, synOf(i, 3)); got != at[i] {
				t.Errorf("full %d: client %d is forgotten", full, i)
			}
		}
		want := PersistenceStats{Entries: 8, Hits: 8, Misses: 20, Full: 12}
		switch full {
		case PersistenceEvict:
			want.Evicted = 12
		case PersistenceRefuse:
			want.Refused = 12
		}
		if s := b.persisted(1); s != want {
			t.Errorf("full %d: %+v, want %+v", full, s, want)
		}
		b.soundEntries()
		b.close()
	}
}

// Parts of a datagram that opens a connection keep their order on the way by the owner of the entry, and none is lost.
func TestPersistenceFragments(t *testing.T) {
	spec := persistentSpec(4, shop())
	spec.Virtuals[2].Persistence = "shop"
	b := newBench(t, spec, 2000, 1024)
	for i := range 60 {
		at := b.open(i%4, synOf(i, 1))
		u := packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: clientAt(i), dst: vip, sport: uint16(5000 + i), dport: 53, udp: true, payload: string(make([]byte, 1000))}
		parts := cut(u.build(t), uint32(i), 256)
		for n, part := range parts {
			if !b.wire((i+n)%4, outside).Send(part) {
				t.Fatal("the wire is full")
			}
		}
		var got [][]byte
		for range 8 {
			b.Step(b.now)
		}
		for w := range 4 {
			b.wire(w, inside).Recv(func(p []byte) { got = append(got, append([]byte(nil), p...)) })
		}
		if len(got) != len(parts) {
			t.Fatalf("client %d: %d of %d parts; dropped %v", i, len(got), len(parts), b.stats().Drops)
		}
		for _, p := range got {
			if int(p[33]) != at {
				t.Fatalf("client %d: a part went to server %d, not %d", i, p[33], at)
			}
		}
	}
	b.Step(b.now)
	if err := b.Audit(); err != nil {
		t.Error(err)
	}
	b.check()
	b.close()
}

// What is refused gives the place with the member back, wherever it was taken.
func TestPersistencePlaces(t *testing.T) {
	spec := persistentSpec(3, shop())
	spec.Virtuals[0].Limit = 5
	spec.Sources = SourceLimit{HalfOpen: 3000, Bits4: 32, Bits6: 64}
	b := newBench(t, spec, 200, 1024)
	for i := range 40 {
		b.open(i%3, synOf(i, 1))
	}
	for i := range 5 { // repeated: of connections that are there
		b.open((i+1)%3, synOf(i, 1))
	}
	expired := synOf(50, 1)
	expired.ttl = 1
	b.open(1, expired)
	multicast := synOf(51, 1)
	multicast.srcMAC = net.HardwareAddr{1, 0, 0x5e, 0, 0, 1}
	b.open(1, multicast)
	active := int64(0)
	for _, m := range b.Config().Pools()[0].Members {
		active += m.Active
	}
	if st := b.stats(); active != 5 || st.Opened != 5 || st.Drops[VirtualLimit] != 35 {
		t.Errorf("%d places taken, %d opened, dropped %v", active, st.Opened, st.Drops)
	}
	for i := 50; i < 52; i++ {
		k := flow.Key{Src: flow.AddrFrom(clientAt(i)), Dst: flow.AddrFrom(vip), Ports: flow.Ports(1, 80), Proto: flow.TCP}
		if _, ok, err := b.PersistenceEntry(t.Context(), &k, outside); ok || err != nil {
			t.Errorf("a packet that nobody can answer to has left an entry (%v)", err)
		}
	}
	b.check()
	b.close()
}

// A full ring drops the packet, counts it, and gives its place back.
func TestPersistenceRingFull(t *testing.T) {
	spec := persistentSpec(2, shop())
	b := newBench(t, spec, 4000, 4096)
	sent := 0
	for i := range 2000 {
		if b.wire(0, outside).Send(synOf(i, uint16(1+i)).build(t)) {
			sent++
		}
		b.workers[0].step(b.now) // the other does not take what it is given
	}
	for range 100 {
		b.Step(b.now)
	}
	st := b.stats()
	if st.Drops[HandoffFull] == 0 || int(st.Opened+st.Drops[HandoffFull]) != sent {
		t.Errorf("%d sent, %d opened, dropped %v", sent, st.Opened, st.Drops)
	}
	active := int64(0)
	for _, m := range b.Config().Pools()[0].Members {
		active += m.Active
	}
	if active != int64(st.Opened) {
		t.Errorf("%d places for %d connections", active, st.Opened)
	}
	b.check()
	for w := range 2 {
		b.wire(w, inside).Recv(func([]byte) {})
	}
	b.close()
}
