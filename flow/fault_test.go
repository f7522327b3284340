package flow

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"
)

// file is a table in memory laid out as a file.
type file struct {
	mem []byte
	tab *Table
}

var fileSecret = Secret{0x8f3a1d5b7c9e2046, 0x1b873593cc9e2d51, 0xe6546b64a5b2c3d7, 0x2545f4914f6cdd1d}

func newFile(t testing.TB, capacity int, now uint64) *file {
	t.Helper()
	f := &file{mem: memory(HeaderSize + Size(capacity))}
	h := Header{Capacity: capacity, Secret: fileSecret, Boot: [16]byte{1, 2, 3}}
	h.Put(f.mem)
	tab, err := New(f.mem[HeaderSize:], Config{Capacity: capacity, Secret: fileSecret, Nodes: testNodes}, now)
	if err != nil {
		t.Fatal(err)
	}
	f.tab = tab
	return f
}

// begun is connection n with its SYN seen.
func begun(n uint32) Record {
	r := conn(n)
	r.state = uint64(TCP) << protoShift
	r.BeginTCP(&Segment{Seq: n * 7919, Flags: FlagSYN, Window: 64000, Scale: 7})
	return r
}

// number is the reverse of conn.
func number(r *Record) uint32 {
	a := uint32(r.Client.Lo) - 0xac100000
	if !r.Client.Is4() {
		a = uint32(r.Client.Lo)
	}
	return a<<14 | uint32(r.CPort-1024)
}

// adoptAll enters what is sound in a file into a fresh table and returns the numbers of its connections; it fails when
// anything is unsound or found by one tuple only.
func adoptAll(t testing.TB, mem []byte, capacity int, now uint64) (map[uint32]bool, *Table) {
	t.Helper()
	hook := faultStep
	faultStep = nil
	defer func() { faultStep = hook }()
	_, records, err := ReadFile(mem)
	if err != nil {
		t.Fatal(err)
	}
	fresh, got := newFile(t, capacity, now).tab, map[uint32]bool{}
	for i := range records {
		live, sound := records[i].Sound(len(testNodes))
		if live && !sound {
			t.Fatalf("record %d is unsound: %+v", i, records[i])
		}
		if !live {
			continue
		}
		if _, res := fresh.Adopt(&records[i], now, now+1000); res != Inserted {
			t.Fatalf("record %d: result %d", i, res)
		}
		n := number(&records[i])
		if want := begun(n); records[i].ClientKey() != want.ClientKey() || records[i].Node != want.Node {
			t.Fatalf("record %d is not connection %d: %+v", i, n, records[i])
		}
		got[n] = true
	}
	if err := fresh.Check(); err != nil {
		t.Fatal(err)
	}
	return got, fresh
}

// At every store of an insertion and a removal the process is killed. What it leaves holds all connections but the one in
// flight, and that one whole or not at all.
func TestKilledAtEveryStore(t *testing.T) {
	const capacity = 40
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	f := newFile(t, capacity, 0)
	model := map[uint32]uint32{} // number to index
	var flying uint32
	kills, present := 0, 0
	snapshot := memory(len(f.mem))
	faultStep = func() {
		kills++
		copy(snapshot, f.mem)
		got, _ := adoptAll(t, snapshot, capacity, 0)
		for n := range model {
			if !got[n] && n != flying {
				t.Fatalf("kill %d: connection %d is lost", kills, n)
			}
			delete(got, n)
		}
		for n := range got {
			if n != flying {
				t.Fatalf("kill %d: connection %d comes from nowhere", kills, n)
			}
			present++
		}
	}
	t.Cleanup(func() { faultStep = nil })
	for range 1500 {
		flying = rng.Uint32N(capacity * 5 / 4)
		if i, ok := model[flying]; ok {
			f.tab.Remove(i)
			delete(model, flying)
			continue
		}
		rec := begun(flying)
		if r, res := f.tab.Insert(&rec, TCP, 0, 1000); res == Inserted {
			model[flying] = r.Index()
		}
	}
	if kills < 4000 || present == 0 {
		t.Fatalf("%d kills, %d of them after the connection was there", kills, present)
	}
	t.Logf("%d kills, %d with the new connection already there", kills, present)
}

// A start that is killed while it adopts leaves the earlier file as it was and its own not ready; the next start adopts
// everything.
func TestKilledWhileAdopting(t *testing.T) {
	const capacity = 60
	old := newFile(t, capacity, 0)
	for n := range uint32(capacity) {
		rec := begun(n)
		if _, res := old.tab.Insert(&rec, TCP, 0, 1000); res != Inserted {
			t.Fatal(n, res)
		}
	}
	SetReady(old.mem)
	before := slices.Clone(old.mem)
	next := newFile(t, capacity+7, 0)
	snapshot := memory(len(next.mem))
	done, kills := 0, 0
	faultStep = func() {
		kills++
		if copy(snapshot, next.mem); IsReady(snapshot) {
			t.Fatal("a table is ready before its adoption is over")
		}
		// Even so, nothing in it is half.
		if got, _ := adoptAll(t, snapshot, capacity, 0); len(got) != done && len(got) != done+1 {
			t.Fatalf("%d connections after %d were adopted", len(got), done)
		}
	}
	t.Cleanup(func() { faultStep = nil })
	_, records, err := ReadFile(old.mem)
	if err != nil {
		t.Fatal(err)
	}
	for i := range records {
		if records[i].Live() {
			if _, res := next.tab.Adopt(&records[i], 0, 1000); res != Inserted {
				t.Fatal(i, res)
			}
			done++
		}
	}
	faultStep = nil
	if kills < 3*capacity || !bytes.Equal(before, old.mem) {
		t.Fatalf("%d kills, earlier file untouched: %t", kills, bytes.Equal(before, old.mem))
	}
	for name, mem := range map[string][]byte{"again": old.mem, "from the new": next.mem} {
		if got, _ := adoptAll(t, mem, capacity, 0); len(got) != capacity {
			t.Errorf("%s: %d of %d adopted", name, len(got), capacity)
		}
	}
}

// span is bits [from, to) of a record.
type span struct {
	name     string
	from, to uintptr
}

var immutableSpans = []span{
	{"protocol", protoShift, protoShift + 8}, {"kind", kindShift, kindShift + 3}, {"checksum", checkShift, 64},
	{"tuples", 8 * unsafe.Offsetof(Record{}.Client), 8 * unsafe.Offsetof(Record{}.Seen)},
	{"virtual server", 8 * unsafe.Offsetof(Record{}.VS), 8 * (unsafe.Offsetof(Record{}.VS) + 4)},
}

// A flipped bit in what does not change is found, but for the one in 65536 that a checksum of 16 bits misses.
func TestFlippedBits(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	flips, missed := 0, 0
	f := newFile(t, 400, 0)
	for range 400 {
		rec := begun(rng.Uint32N(1 << 22))
		ref, res := f.tab.Insert(&rec, TCP, 0, 1000)
		if res != Inserted {
			continue // the same twice
		}
		r := *f.tab.Record(ref.Index())
		b := (*[recordSize]byte)(unsafe.Pointer(&r))
		if live, sound := r.Sound(len(testNodes)); !live || !sound {
			t.Fatalf("%+v is unsound", r)
		}
		for _, s := range immutableSpans {
			for bit := s.from; bit < s.to; bit++ {
				b[bit/8] ^= 1 << (bit % 8)
				flips++
				if _, sound := r.Sound(1 << 31); sound { // not by the range of ids alone
					missed++
				}
				b[bit/8] ^= 1 << (bit % 8)
			}
		}
	}
	t.Logf("%d of %d missed", missed, flips)
	if limit := 10 + 4*flips/65536; missed > limit || flips < 100_000 {
		t.Errorf("%d of %d flipped bits were missed, at most %d would be chance", missed, flips, limit)
	}
}

// Memory full of anything yields no connections, even if it is made to look likely.
func TestGarbageIsUnsound(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var r Record
	words := (*[recordSize / 8]uint64)(unsafe.Pointer(&r))
	blind, likely := 0, 0
	const rounds = 1_000_000
	for range rounds {
		for i := range words {
			words[i] = rng.Uint64()
		}
		if _, sound := r.Sound(len(testNodes)); sound {
			blind++
		}
		r.Node, r.SNAT, r.VS = r.Node%9, r.SNAT%9, 1
		r.state = r.state&^(0xffff<<protoShift) | liveBit | TCP<<protoShift | uint64(TCPEstablished)<<tcpShift
		if live, sound := r.Sound(len(testNodes)); !live {
			t.Fatal("live bit not read")
		} else if sound {
			likely++
		}
	}
	// Blind: the ids alone make one in 2^55. Likely: the checksum makes one in 65536, here 15 +- 4.
	if blind > 0 || likely > 50 {
		t.Errorf("%d records out of noise, %d of %d with ids and state made right", blind, likely, rounds)
	}
	// A whole file of noise is read, or refused, without a panic.
	f := newFile(t, 100, 0)
	for range 300 {
		for i := HeaderSize; i < len(f.mem); i++ {
			f.mem[i] = byte(rng.Uint32())
		}
		if got, _ := adoptLenient(f.mem); got != 0 {
			t.Fatalf("%d connections out of noise", got)
		}
		g := slices.Clone(f.mem)
		for range 3 {
			g[rng.IntN(100)] ^= 1 << rng.IntN(8)
		}
		_, _ = adoptLenient(append(memory(len(g))[:0], g...))
	}
}

func adoptLenient(mem []byte) (sound int, err error) {
	_, records, err := ReadFile(mem)
	for i := range records {
		if live, ok := records[i].Sound(len(testNodes)); live && ok {
			sound++
		}
	}
	return sound, err
}

type sided struct {
	side Side
	Segment
}

// A connection is updated field by field. Whatever mixture of two moments is left, it is adopted, and the segment that was
// in hand, which its sender sends again, is judged to belong to it.
func TestTornUpdates(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for round := range 300 {
		f := newFile(t, 4, 0)
		rec := begun(uint32(round))
		ref, _ := f.tab.Insert(&rec, TCP, 0, 1000)
		r := f.tab.Record(ref.Index())
		client, server := r.Win[FromClient].End, rng.Uint32()
		segments := []sided{{FromServer, Segment{Seq: server, Ack: client, Flags: FlagSYN | FlagACK, Window: 64000, Scale: 7}}}
		server++
		for range 12 {
			side, n := Side(rng.IntN(2)), rng.Uint32N(1400)
			if len(segments) == 1 {
				side, n = FromClient, 0
			}
			s := Segment{Seq: client, Ack: server, Len: n, Flags: FlagACK, Window: uint16(500 + rng.IntN(60000))}
			if side == FromClient {
				client += n
			} else {
				s.Seq, s.Ack = server, client
				server += n
			}
			segments = append(segments, sided{side, s})
		}
		segments = append(segments,
			sided{FromServer, Segment{Seq: server, Ack: client, Flags: FlagACK | FlagFIN, Window: 500}},
			sided{FromClient, Segment{Seq: client, Ack: server + 1, Flags: FlagACK | FlagFIN, Window: 500}},
			sided{FromServer, Segment{Seq: server + 1, Ack: client + 1, Flags: FlagACK, Window: 500}})
		now := uint32(0)
		for k, s := range segments {
			before := *r
			now += rng.Uint32N(1000)
			if j := r.TrackTCP(s.side, &s.Segment); j == Outside {
				t.Fatalf("segment %d is outside", k)
			}
			r.Seen = now
			r.Account(s.side, int(s.Len))
			r.Settle()
			for range 20 {
				if err := tryTorn(rng, &before, r, s.side, &s.Segment); err != nil {
					t.Fatalf("round %d segment %d: %v", round, k, err)
				}
			}
		}
	}
}

// tryTorn adopts a mixture of two moments of a record. The state word is stored as a whole, and on the way to being
// established before anything else.
func tryTorn(rng *rand.Rand, a, b *Record, side Side, again *Segment) error {
	torn := *a
	from, to := (*[recordSize / 2]uint16)(unsafe.Pointer(b)), (*[recordSize / 2]uint16)(unsafe.Pointer(&torn))
	if rng.IntN(2) == 0 || a.TCPState() < TCPEstablished {
		torn.state = b.state
	}
	for i := 4; i < len(to); i++ {
		if rng.IntN(2) == 0 {
			to[i] = from[i]
		}
	}
	// Numbers of 32 bits are stored as a whole.
	for i := range torn.Win {
		torn.Win[i] = [2]Window{a.Win[i], b.Win[i]}[rng.IntN(2)]
	}
	if live, sound := torn.Sound(len(testNodes)); !live || !sound {
		return fmt.Errorf("a torn record is live %t, sound %t", live, sound)
	}
	tab, err := New(memory(Size(2)), Config{Capacity: 2, Secret: fileSecret, Nodes: testNodes}, 0)
	if err != nil {
		return err
	}
	i, res := tab.Adopt(&torn, 0, 1000)
	if res != Inserted {
		return fmt.Errorf("a torn record was not adopted: %d", res)
	}
	if j := tab.Record(i).TrackTCP(side, again); j == Outside {
		return fmt.Errorf("the segment in hand is outside after a tear:\n%+v\n%+v\n%+v", *a, *b, torn)
	}
	return tab.Check()
}
