package flow

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

// resumed is a table that goes on with tab's memory as another process would.
func resumed(t testing.TB, tab *Table, mem []byte) *Table {
	t.Helper()
	next, err := Attach(mem, Config{Capacity: tab.Cap(), Secret: tab.secret, Nodes: tab.nodes})
	if err != nil {
		t.Fatal(err)
	}
	rest, err := next.Resume(append(tab.AppendState(nil), "rest"...))
	if err != nil || string(rest) != "rest" {
		t.Fatal(string(rest), err)
	}
	return next
}

// A table that goes on in another process again and again is, byte by byte, the one that never did.
func TestResumeAgainstTwin(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	const capacity = 2000
	cfg := Config{Capacity: capacity, Secret: Secret{1, 2, 3, 4}, Nodes: testNodes}
	memA, memB := memory(Size(capacity)), memory(Size(capacity))
	a, errA := New(memA, cfg, 0)
	b, errB := New(memB, cfg, 0)
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	now, takeovers, expired := uint64(0), 0, 0
	for step := range 60_000 {
		now += rng.Uint64N(8)
		n := rng.Uint32N(capacity * 3 / 2)
		timeout := uint32(1 + rng.IntN(20_000))
		sweep, expire := rng.IntN(50) == 0, rng.IntN(10) == 0
		remove := rng.IntN(3) == 0
		for _, tab := range []*Table{a, b} {
			rec := conn(n)
			rec.state = uint64(UDP) << protoShift
			key := rec.ClientKey()
			deadline := func(r *Record) uint64 { return r.End(now, 5000) }
			count := func(*Record) { expired++ }
			switch r := tab.Lookup(&key); {
			case r == 0:
				if _, res := tab.Insert(&rec, UDP, now, now+uint64(timeout)); res == Full {
					tab.Evict(now, deadline, count)
				}
			case remove:
				tab.Remove(r.Index())
			default:
				tab.Record(r.Index()).Seen = uint32(now)
			}
			if sweep {
				tab.Sweep(now, 20, deadline, count)
			}
			if expire {
				tab.Expire(now, 50, deadline, count)
			}
		}
		if rng.IntN(200) == 0 {
			b = resumed(t, b, memB)
			takeovers++
			if err := b.Check(); err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
			stateA, stateB := a.AppendState(nil), b.AppendState(nil) // which puts both to rest
			if !bytes.Equal(memA, memB) || !bytes.Equal(stateA, stateB) {
				t.Fatalf("step %d: the tables differ after %d takeovers", step, takeovers)
			}
		}
	}
	if takeovers < 100 || expired == 0 || b.Len() == 0 {
		t.Errorf("%d takeovers, %d expired, %d connections", takeovers, expired, b.Len())
	}
}

// A state that does not fit, or is not one, is refused and leaves the table as it was.
func TestResumeRefused(t *testing.T) {
	const capacity = 100
	mem := memory(Size(capacity))
	tab, err := New(mem, Config{Capacity: capacity, Secret: Secret{1, 2, 3, 4}, Nodes: testNodes}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for n := range uint32(50) {
		rec := conn(n)
		tab.Insert(&rec, UDP, 0, 1000*uint64(n))
	}
	good := tab.AppendState(nil)
	if len(good) != stateSize {
		t.Fatalf("%d bytes, not %d", len(good), stateSize)
	}
	next, err := Attach(mem, Config{Capacity: capacity, Secret: Secret{1, 2, 3, 4}, Nodes: testNodes})
	if err != nil {
		t.Fatal(err)
	}
	put32 := func(at int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint32(b[at:], v); return b }
	}
	for name, change := range map[string]func([]byte) []byte{
		"short":               func(b []byte) []byte { return b[:len(b)-1] },
		"empty":               func([]byte) []byte { return nil },
		"version":             put32(0, tableVersion+1),
		"capacity":            put32(8, capacity+1),
		"secret":              put32(16, 77),
		"free beyond":         put32(48, 51),
		"fresh beyond":        put32(52, capacity+2),
		"no fresh":            put32(52, 0),
		"more live than used": put32(56, 51),
		"hand beyond":         put32(60, 1000),
		"head beyond":         put32(72, 1000),
		"tail without head":   put32(72+4+8*3000, 1),
		"bit without list":    put32(stateSize-4, 1),
	} {
		if _, err := next.Resume(change(append([]byte(nil), good...))); !errors.Is(err, ErrState) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, capacity := range []int{0, MaxCapacity + 1} {
		if _, err := Attach(mem, Config{Capacity: capacity}); err == nil {
			t.Errorf("a capacity of %d is accepted", capacity)
		}
	}
	if _, err := Attach(mem[:len(mem)-64], Config{Capacity: capacity}); !errors.Is(err, ErrMemory) {
		t.Errorf("too little memory: %v", err)
	}
	if rest, err := next.Resume(good); err != nil || len(rest) != 0 || next.Check() != nil {
		t.Errorf("%d bytes, %v, %v", len(rest), err, next.Check())
	}
}

// BenchmarkResume is the part of a takeover's pause that a table takes: the same for any number of connections.
func BenchmarkResume(b *testing.B) {
	for _, n := range []int{1_000, 1_000_000} {
		b.Run(fmt.Sprintf("connections=%d", n), func(b *testing.B) {
			tab := newTable(b, 1_000_000, testNodes)
			for i := range uint32(n) {
				rec := conn(i)
				tab.Insert(&rec, UDP, 0, uint64(i))
			}
			state := make([]byte, 0, stateSize)
			b.ResetTimer()
			for range b.N {
				state = tab.AppendState(state[:0])
				if _, err := tab.Resume(state); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
