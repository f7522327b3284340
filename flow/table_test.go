package flow

import (
	"math/rand/v2"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// memory is zeroed and aligned to a cache line, as a mapping would be.
func memory(size int) []byte {
	b := make([]byte, size+64)
	off := int(-uintptr(unsafe.Pointer(&b[0])) & 63)
	return b[off : off+size]
}

// mapped is memory as the engine gives it: outside the heap, in huge pages if the kernel has them.
func mapped(t testing.TB, size int) []byte {
	t.Helper()
	b, err := unix.Mmap(-1, 0, size+2<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(b) })
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	off := int(-uintptr(unsafe.Pointer(&b[0])) & (2<<20 - 1))
	return b[off : off+size]
}

func newTable(t testing.TB, capacity int, nodes []Addr) *Table {
	t.Helper()
	tab, err := New(mapped(t, Size(capacity)), Config{Capacity: capacity, Secret: Secret{0x8f3a1d5b7c9e2046, 0x1b873593cc9e2d51, 0xe6546b64a5b2c3d7, 0x2545f4914f6cdd1d}, Nodes: nodes}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

var testNodes = func() []Addr {
	n := make([]Addr, 9)
	for i := range n {
		n[i] = AddrFrom4(0xc0a81400 + uint32(i))
	}
	n[8] = Addr{0xfd00 << 48, 8}
	return n
}()

// conn makes the record of connection number n; different n have different tuples on both sides.
func conn(n uint32) Record {
	r := Record{
		Client: AddrFrom4(0xac100000 + n>>14), Virtual: AddrFrom4(0x0a0a0164),
		CPort: uint16(n&0x3fff) + 1024, VPort: 80, NPort: 8080, Node: 1 + n%7, VS: 1,
	}
	if n%5 == 0 {
		r.Client, r.Virtual, r.Node = Addr{0xfd00 << 48, uint64(n >> 14)}, Addr{0xfd00 << 48, 100}, 8
	}
	r.SPort = r.CPort
	return r
}

func checkTable(t *testing.T, tab *Table, model map[uint32]Ref) {
	t.Helper()
	if err := tab.Check(); err != nil || tab.Len() != len(model) {
		t.Fatalf("%d connections for %d in the model; %v", tab.Len(), len(model), err)
	}
}

// The table against a plain map: random insertions, lookups from both sides, removals, up to full.
func TestTableAgainstMap(t *testing.T) {
	steps := 400_000
	if testing.Short() {
		steps = 50_000
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	const capacity = 4000
	tab := newTable(t, capacity, testNodes)
	model := map[uint32]Ref{}
	full := 0
	for step := range steps {
		n := rng.Uint32N(capacity * 3 / 2)
		rec := conn(n)
		rec.state = uint64(TCP) << protoShift
		ck, sk := rec.ClientKey(), tab.ServerKey(&rec)
		want, known := model[n]
		if got := tab.Lookup(&ck); got != want {
			t.Fatalf("step %d: client side of %d: %v, want %v", step, n, got, want)
		}
		got := tab.Lookup(&sk)
		if known && got != want|1 || !known && got != 0 {
			t.Fatalf("step %d: server side of %d: %v, want %v", step, n, got, want)
		}
		switch {
		case !known:
			r, res := tab.Insert(&rec, TCP, uint64(step), uint64(step)+1000)
			switch {
			case res == Inserted:
				model[n] = r
			case len(model) < capacity:
				t.Fatalf("step %d: %v with %d of %d", step, res, len(model), capacity)
			default:
				full++
			}
		case rng.IntN(3) != 0:
			tab.Remove(want.Index())
			delete(model, n)
		}
		if step%20_000 == 0 {
			checkTable(t, tab, model)
		}
	}
	if full == 0 {
		// Two thirds of a random walk over 1.5 times the capacity must have met a full table; fill it by hand.
		for n := uint32(0); len(model) < capacity; n++ {
			if _, ok := model[n]; ok {
				continue
			}
			rec := conn(n)
			r, res := tab.Insert(&rec, TCP, 0, 1000)
			if res != Inserted {
				t.Fatalf("result %v with %d of %d connections", res, len(model), capacity)
			}
			model[n] = r
		}
		rec := conn(capacity * 2)
		if _, res := tab.Insert(&rec, TCP, 0, 1000); res != Full {
			t.Fatalf("result %v on a full table", res)
		}
	}
	checkTable(t, tab, model)
	for n, r := range model {
		tab.Remove(r.Index())
		delete(model, n)
	}
	checkTable(t, tab, model)
}

// LookupBurst must agree with Lookup, for hits, misses and colliding tags.
func TestLookupBurst(t *testing.T) {
	tab := newTable(t, 3000, testNodes)
	for n := range uint32(3000) {
		rec := conn(n)
		if _, res := tab.Insert(&rec, TCP, 0, 1000); res != Inserted {
			t.Fatal(n, res)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	keys, refs := make([]Key, Burst), make([]Ref, Burst)
	hits := 0
	for range 2000 {
		size := 1 + rng.IntN(Burst)
		for i := range size {
			rec := conn(rng.Uint32N(4500))
			rec.state = uint64(TCP) << protoShift
			if keys[i] = rec.ClientKey(); rng.IntN(2) == 0 {
				keys[i] = tab.ServerKey(&rec)
			}
		}
		tab.LookupBurst(keys[:size], refs)
		for i := range size {
			if want := tab.Lookup(&keys[i]); refs[i] != want {
				t.Fatalf("burst finds %v, Lookup %v", refs[i], want)
			}
			if refs[i] != 0 {
				hits++
			}
		}
	}
	if hits == 0 {
		t.Fatal("no hits")
	}
}

func TestServerSideCollision(t *testing.T) {
	tab := newTable(t, 10, testNodes)
	a, b := conn(1), conn(1)
	b.Virtual = AddrFrom4(0x0a0a0165) // another virtual server, the same member and client port
	if _, res := tab.Insert(&a, TCP, 0, 1000); res != Inserted {
		t.Fatal(res)
	}
	if _, res := tab.Insert(&b, TCP, 0, 1000); res != Collision {
		t.Fatalf("got %v, want a collision", res)
	}
	if b.Node++; true {
		if _, res := tab.Insert(&b, TCP, 0, 1000); res != Inserted {
			t.Fatal(res)
		}
	}
}

// Every record expires when it has been idle for its timeout, not before, and at most a tick late.
func TestExpiry(t *testing.T) {
	const n = 2000
	tab := newTable(t, n, testNodes)
	rng := rand.New(rand.NewPCG(3, 4))
	// Start near the wrap of the 32-bit clock that records keep.
	start := uint64(1)<<32 - 50_000
	tab.wheel.reset(start)
	end := map[uint32]uint64{}
	timeout := map[uint32]uint32{}
	for i := range uint32(n) {
		rec := conn(i)
		to := uint32(rng.IntN(3_000_000)) + 1
		r, res := tab.Insert(&rec, UDP, start, start+uint64(to))
		if res != Inserted {
			t.Fatal(res)
		}
		end[r.Index()], timeout[r.Index()] = start+uint64(to), to
	}
	index := func(r *Record) uint32 {
		return uint32((uintptr(unsafe.Pointer(r)) - uintptr(unsafe.Pointer(&tab.records[0]))) / recordSize)
	}
	for now := start; len(end) > 0; now += uint64(rng.IntN(2000)) {
		if now > start+6_000_000 {
			t.Fatalf("%d never expired", len(end))
		}
		if len(end) > n/2 { // some are seen again
			for i, e := range end {
				if e > now+1 {
					tab.Record(i).Seen = uint32(now)
					end[i] = now + uint64(timeout[i])
				}
				break
			}
		}
		for tab.Expire(now, 16, func(r *Record) uint64 { return r.End(now, timeout[index(r)]) }, func(r *Record) {
			i := index(r)
			if now < end[i] {
				t.Fatalf("record %d expired %d ms early", i, end[i]-now)
			}
			if late := now - end[i]; late > 2000+2<<tickShift {
				t.Fatalf("record %d expired %d ms late", i, late)
			}
			delete(end, i)
		}) == 16 {
		}
	}
	if tab.Len() != 0 {
		t.Fatalf("%d left", tab.Len())
	}
}

func TestEach(t *testing.T) {
	tab := newTable(t, 5000, testNodes)
	for n := range uint32(5000) {
		rec := conn(n)
		r, _ := tab.Insert(&rec, TCP, 0, 1000)
		if n%7 != 0 {
			tab.Remove(r.Index())
		}
	}
	seen := map[uint32]bool{}
	for from := uint32(1); from != 0; {
		from = tab.Each(from, 10, func(i uint32, _ *Record) { seen[i] = true })
	}
	if len(seen) != tab.Len() {
		t.Fatalf("%d of %d seen", len(seen), tab.Len())
	}
}

func TestMemoryRefused(t *testing.T) {
	if _, err := New(memory(Size(100)-1), Config{Capacity: 100}, 0); err == nil {
		t.Error("too little memory was accepted")
	}
	if _, err := New(memory(Size(100) + 64)[8:], Config{Capacity: 100}, 0); err == nil {
		t.Error("unaligned memory was accepted")
	}
	if per := float64(Size(1_000_000)) / 1e6; per > 160 {
		t.Errorf("%.1f bytes a connection", per)
	}
}
