package flow

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"
)

func persistenceMemory(capacity int) []byte {
	words := make([]uint64, (PersistenceSize(capacity)+7)/8)
	return unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), PersistenceSize(capacity))
}

func newPersistence(t testing.TB, capacity int, rules ...PersistenceRule) (*Persistence, []byte) {
	t.Helper()
	mem := persistenceMemory(capacity)
	p, err := NewPersistence(mem, PersistenceConfig{Capacity: capacity, Secret: Secret{1, 2, 3, 4}})
	if err != nil {
		t.Fatal(err)
	}
	p.Configure(rules)
	return p, mem
}

// persistenceModel is what a Persistence should do, done with a map and a slice.
type persistenceModel struct {
	rules    []PersistenceRule
	capacity int
	order    []PersistenceEntry // the least recently used first
}

func (m *persistenceModel) find(client Addr, kind uint32) int {
	return slices.IndexFunc(m.order, func(e PersistenceEntry) bool { return e.Client == client && e.Kind == kind })
}

func (m *persistenceModel) over(e *PersistenceEntry, now uint64) bool {
	return e.Used+m.rules[e.Kind].Timeout <= now
}

func (m *persistenceModel) count(kind uint32) (n int) {
	for i := range m.order {
		if m.order[i].Kind == kind {
			n++
		}
	}
	return n
}

func (m *persistenceModel) evict(kind uint32) bool {
	for _, again := range []bool{false, true} {
		if i := slices.IndexFunc(m.order, func(e PersistenceEntry) bool { return e.Kind == kind && e.Again == again }); i >= 0 {
			m.order = slices.Delete(m.order, i, i+1)
			return true
		}
	}
	return false
}

// The table does what a map with lists does, over random operations, with clients that come and go, several kinds, time that
// passes, reloads and takeovers.
func TestPersistenceModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	const capacity = 60
	rules := []PersistenceRule{{}, {Timeout: 1000, Limit: 30}, {Timeout: 300, Limit: 20}, {Timeout: 5000, Limit: 20}}
	p, mem := newPersistence(t, capacity, rules...)
	m := &persistenceModel{rules: rules, capacity: capacity}
	now := uint64(10_000)
	for step := range 200_000 {
		client, kind := Addr{Hi: uint64(rng.IntN(2)), Lo: uint64(rng.IntN(60))}, uint32(1+rng.IntN(3))
		at := m.find(client, kind)
		switch op := rng.IntN(100); {
		case op < 60: // as the engine: find, else insert, with eviction
			if at >= 0 && m.over(&m.order[at], now) {
				m.order, at = slices.Delete(m.order, at, at+1), -1
			}
			i := p.Find(client, kind, now)
			if (i != 0) != (at >= 0) {
				t.Fatalf("step %d: found %d, the model has %d", step, i, at)
			}
			if at >= 0 {
				if p.Node(i) != m.order[at].Node {
					t.Fatalf("step %d: node %d, want %d", step, p.Node(i), m.order[at].Node)
				}
				e := m.order[at]
				e.Used, e.Again = now, true
				m.order = append(slices.Delete(m.order, at, at+1), e)
				p.Use(i, now)
				break
			}
			room := m.count(kind) < m.rules[kind].Limit && len(m.order) < capacity
			if p.Room(kind) != room {
				t.Fatalf("step %d: room %t, want %t", step, p.Room(kind), room)
			}
			if !room && rng.IntN(4) > 0 {
				if had := m.evict(kind); p.Evict(kind) != had {
					t.Fatalf("step %d: eviction differs", step)
				}
				room = m.count(kind) < m.rules[kind].Limit && len(m.order) < capacity
			}
			e := PersistenceEntry{Client: client, Kind: kind, Node: uint32(1 + rng.IntN(5)), Used: now}
			if (p.Insert(e) != 0) != room {
				t.Fatalf("step %d: inserted, room %t", step, room)
			}
			if room {
				m.order = append(m.order, e)
			}
		case op < 70:
			e, ok := p.Peek(client, kind, now)
			if ok != (at >= 0 && !m.over(&m.order[at], now)) || ok && e != m.order[at] {
				t.Fatalf("step %d: peek %+v %t", step, e, ok)
			}
		case op < 78:
			if at >= 0 && !m.over(&m.order[at], now) {
				node := uint32(1 + rng.IntN(5))
				p.Assign(p.Find(client, kind, now), node)
				m.order[at].Node = node
			}
		case op < 84:
			if at >= 0 && !m.over(&m.order[at], now) {
				p.Remove(p.Find(client, kind, now))
				m.order = slices.Delete(m.order, at, at+1)
			}
		case op < 97:
			now += uint64(rng.IntN(40))
		case op < 98: // time passes, and all that is over goes
			now += uint64(rng.IntN(400))
			n := p.Expire(now, 1000)
			gone := 0
			m.order = slices.DeleteFunc(m.order, func(e PersistenceEntry) bool {
				if m.over(&e, now) {
					gone++
					return true
				}
				return false
			})
			for kind := range m.rules {
				for m.count(uint32(kind)) > m.rules[kind].Limit {
					m.evict(uint32(kind))
					gone++
				}
			}
			if n != gone || p.Len() != len(m.order) {
				t.Fatalf("step %d: %d expired, want %d; %d left, want %d", step, n, gone, p.Len(), len(m.order))
			}
		case op < 99: // a reload
			m.rules = slices.Clone(m.rules)
			m.rules[kind].Limit = 5 + rng.IntN(30)
			m.rules[kind].Timeout = uint64(100 + rng.IntN(3000))
			p.Configure(m.rules)
		default: // a takeover
			state := append(p.AppendState(nil), 7, 7)
			q, err := AttachPersistence(mem, PersistenceConfig{Capacity: capacity, Secret: p.secret})
			if err != nil {
				t.Fatal(err)
			}
			q.Configure(m.rules)
			rest, err := q.Resume(state)
			if err != nil || len(rest) != 2 {
				t.Fatalf("step %d: resume: %v, %d bytes left", step, err, len(rest))
			}
			p = q
		}
		if step%97 == 0 {
			if err := p.Check(); err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
		}
	}
	var all []PersistenceEntry
	for from := uint32(1); from != 0; {
		from = p.Each(from, 7, func(_ uint32, e *PersistenceEntry) { all = append(all, *e) })
	}
	sortPersistence(all)
	read, unsound, err := ReadPersistence(mem, 100)
	if err != nil || unsound != 0 || len(all) != len(m.order) || len(read) != len(m.order) {
		t.Fatalf("%d entries listed, %d read, %d unsound (%v), want %d", len(all), len(read), unsound, err, len(m.order))
	}
	for _, e := range m.order {
		if !slices.Contains(all, e) || !slices.Contains(read, e) {
			t.Fatalf("%+v is not listed", e)
		}
	}
}

// Clients that come back stay when as many as there is room for come once.
func TestPersistenceFlood(t *testing.T) {
	p, _ := newPersistence(t, 100, PersistenceRule{}, PersistenceRule{Timeout: 1e6, Limit: 100})
	for c := range uint64(60) {
		p.Insert(PersistenceEntry{Client: Addr{Lo: c}, Kind: 1, Node: 1, Used: c})
		p.Use(p.Find(Addr{Lo: c}, 1, c), c)
	}
	for c := uint64(1000); c < 20_000; c++ {
		if !p.Room(1) && !p.Evict(1) {
			t.Fatal("nothing gives way")
		}
		if p.Insert(PersistenceEntry{Client: Addr{Lo: c}, Kind: 1, Node: 2, Used: c}) == 0 {
			t.Fatal("no room")
		}
	}
	for c := range uint64(60) {
		if i := p.Find(Addr{Lo: c}, 1, 20_000); i == 0 || p.Node(i) != 1 {
			t.Errorf("client %d is forgotten", c)
		}
	}
	if err := p.Check(); err != nil || p.Len() != 100 {
		t.Errorf("%d entries, %v", p.Len(), err)
	}
}

// Wherever a process is killed, what is read afterwards is an entry as it was before or after the operation, never a mixture.
func TestPersistenceKilled(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	p, mem := newPersistence(t, 40, PersistenceRule{}, PersistenceRule{Timeout: 1e6, Limit: 40})
	may := map[Addr]map[uint32]bool{} // nodes that a client may be found with; 0: not at all
	seen := 0
	faultStep = func() {
		seen++
		list, unsound, err := ReadPersistence(slices.Clone(mem), 100)
		if err != nil || unsound != 0 {
			t.Fatalf("%d unsound, %v", unsound, err)
		}
		found := map[Addr]uint32{}
		for _, e := range list {
			if found[e.Client] != 0 || e.Kind != 1 {
				t.Fatalf("%+v is there twice", e)
			}
			found[e.Client] = e.Node
		}
		for client, nodes := range may {
			if !nodes[found[client]] {
				t.Fatalf("client %v is found with node %d, may have %v", client, found[client], nodes)
			}
		}
	}
	defer func() { faultStep = nil }()
	for range 3000 {
		client, node := Addr{Lo: uint64(rng.IntN(30))}, uint32(1+rng.IntN(9))
		i := p.Find(client, 1, 0)
		before := uint32(0)
		if i != 0 {
			before = p.Node(i)
		}
		switch {
		case i == 0:
			may[client] = map[uint32]bool{0: true, node: true}
			p.Insert(PersistenceEntry{Client: client, Kind: 1, Node: node})
			may[client] = map[uint32]bool{node: true}
		case rng.IntN(3) == 0:
			may[client] = map[uint32]bool{0: true, before: true}
			p.Remove(i)
			may[client] = map[uint32]bool{0: true}
		case rng.IntN(2) == 0:
			may[client] = map[uint32]bool{before: true, node: true}
			p.Assign(i, node)
			may[client] = map[uint32]bool{node: true}
		default:
			p.Use(i, 1)
		}
	}
	if seen < 3000 {
		t.Fatalf("looked %d times", seen)
	}
}

// What another program left, or a damaged file, is refused or passed over.
func TestPersistenceUnsound(t *testing.T) {
	p, mem := newPersistence(t, 8, PersistenceRule{}, PersistenceRule{Timeout: 100, Limit: 8})
	for c := range uint64(5) {
		p.Insert(PersistenceEntry{Client: Addr{Lo: c}, Kind: 1, Node: uint32(c + 1), Used: 50 - c})
	}
	p.entries[2].client.Lo ^= 1 << 40
	p.entries[3].state ^= 1 << 50
	list, unsound, err := ReadPersistence(mem, 5) // node 5 is of no use
	if err != nil || unsound != 3 || len(list) != 2 || list[0].Used > list[1].Used {
		t.Errorf("%+v, %d unsound, %v", list, unsound, err)
	}
	for _, b := range [][]byte{mem[:40], mem[:len(mem)-1], make([]byte, len(mem))} {
		if _, _, err := ReadPersistence(b, 5); err == nil {
			t.Error("accepted")
		}
	}
	for at := range 24 {
		state := p.AppendState(nil)
		state[at] ^= 0x7f
		q, err := AttachPersistence(mem, PersistenceConfig{Capacity: 8})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := q.Resume(state); err == nil {
			t.Errorf("a state with a wrong byte %d is taken", at)
		}
	}
	if _, err := NewPersistence(mem, PersistenceConfig{Capacity: 9}); err == nil {
		t.Error("memory that is too small is taken")
	}
}

// No operation of the packet path allocates.
func TestPersistenceAllocations(t *testing.T) {
	p, _ := newPersistence(t, 1000, PersistenceRule{}, PersistenceRule{Timeout: 100, Limit: 1000})
	now := uint64(0)
	if n := testing.AllocsPerRun(2000, func() {
		now++
		c := Addr{Lo: now % 1500}
		if i := p.Find(c, 1, now); i != 0 {
			p.Assign(i, 3)
			p.Use(i, now)
		} else if p.Room(1) || p.Evict(1) {
			p.Insert(PersistenceEntry{Client: c, Kind: 1, Node: 2, Used: now})
		}
		p.Expire(now, 4)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPersistence(b *testing.B) {
	for _, clients := range []int{1000, 1_000_000} {
		p, _ := newPersistence(b, clients, PersistenceRule{}, PersistenceRule{Timeout: 1e9, Limit: clients})
		for c := range clients {
			p.Insert(PersistenceEntry{Client: AddrFrom4(uint32(c) * 2654435761), Kind: 1, Node: 1})
		}
		rng := rand.New(rand.NewPCG(1, 2))
		b.Run(fmt.Sprintf("find+use/entries=%d", clients), func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				p.Use(p.Find(AddrFrom4(uint32(rng.IntN(clients))*2654435761), 1, 1), 1)
			}
		})
	}
}
