package flow

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
)

// chained is the hash table of the textbooks, the naive reference: a list of entries per bucket, looked up one by one.
type chained struct {
	secret  Secret
	heads   []uint32
	entries []chainedEntry // index 0 ends a list
}

type chainedEntry struct {
	key  Key
	ref  Ref
	next uint32
}

func newChained(n int) *chained {
	size := 1
	for size < n {
		size *= 2
	}
	return &chained{secret: fileSecret, heads: make([]uint32, size), entries: make([]chainedEntry, 1, n+1)}
}

func (c *chained) insert(k *Key, r Ref) {
	h := c.secret.Hash(k) & uint64(len(c.heads)-1)
	c.entries = append(c.entries, chainedEntry{*k, r, c.heads[h]})
	c.heads[h] = uint32(len(c.entries) - 1)
}

func (c *chained) lookup(k *Key) Ref {
	for i := c.heads[c.secret.Hash(k)&uint64(len(c.heads)-1)]; i != 0; i = c.entries[i].next {
		if c.entries[i].key == *k {
			return c.entries[i].ref
		}
	}
	return 0
}

// packets is a sequence of client-side tuples of n connections, as they would come; long enough that it is no help.
func packets(tab *Table, n int, pattern string) []Key {
	rng := rand.New(rand.NewPCG(uint64(n), 7))
	next := func() uint32 { return rng.Uint32N(uint32(n)) }
	if pattern == "zipf" {
		z := rand.NewZipf(rng, 1.1, 1, uint64(n-1))
		// The busy connections lie anywhere in the table: an odd factor and a remainder shuffle well enough.
		next = func() uint32 { return uint32(z.Uint64() * 7_368_787 % uint64(n)) }
	}
	keys := make([]Key, 1<<21)
	for i := range keys {
		rec := conn(next())
		rec.state = TCP << protoShift
		keys[i] = rec.ClientKey()
	}
	if tab.Lookup(&keys[0]) == 0 {
		panic("not a hit")
	}
	return keys
}

// BenchmarkLookup is hits only, per packet, on the same connections in the same order: the table in bursts, the table one
// by one, a chained hash table, and a Go map.
func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{1000, 1_000_000, 10_000_000} {
		b.Run(fmt.Sprintf("flows=%d", n), func(b *testing.B) { benchLookup(b, n) })
	}
}

func heapInUse() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

func benchLookup(b *testing.B, n int) {
	tab := newTable(b, n, testNodes)
	before := heapInUse()
	gomap := make(map[Key]Ref, n)
	for i := range uint32(n) {
		rec := conn(i)
		r, res := tab.Insert(&rec, TCP, 0, 1000)
		if res != Inserted {
			b.Fatal(res)
		}
		gomap[tab.Record(r.Index()).ClientKey()] = r
	}
	perMap := (heapInUse() - before) / float64(n)
	before = heapInUse()
	naive := newChained(n)
	for k, r := range gomap {
		naive.insert(&k, r)
	}
	perNaive := (heapInUse() - before) / float64(n)
	for _, pattern := range []string{"uniform", "zipf"} {
		keys := packets(tab, n, pattern)
		one := func(name string, bytes float64, lookup func(k *Key) Ref) {
			b.Run(fmt.Sprintf("pattern=%s/%s", pattern, name), func(b *testing.B) {
				b.ReportAllocs()
				at, missed := 0, 0
				for range b.N {
					if lookup(&keys[at]) == 0 {
						missed++
					}
					at = (at + 1) & (len(keys) - 1)
				}
				b.ReportMetric(bytes, "B/connection")
				if missed > 0 {
					b.Fatalf("%d misses", missed)
				}
			})
		}
		b.Run(fmt.Sprintf("pattern=%s/burst", pattern), func(b *testing.B) {
			b.ReportAllocs()
			var refs [Burst]Ref
			at, missed := 0, 0
			for i := 0; i < b.N; i += Burst {
				tab.LookupBurst(keys[at:at+Burst], refs[:])
				at = (at + Burst) & (len(keys) - 1)
				for _, r := range refs {
					if r == 0 {
						missed++
					}
				}
			}
			b.ReportMetric(float64(Size(n))/float64(n), "B/connection")
			if missed > 0 {
				b.Fatalf("%d misses", missed)
			}
		})
		one("one-by-one", float64(Size(n))/float64(n), tab.Lookup)
		one("chained", perNaive, naive.lookup)
		one("gomap", perMap, func(k *Key) Ref { return gomap[*k] })
	}
}

// BenchmarkBurst is what the engine asks of the table for a burst of 64 packets, from both sides mixed: look up, load the
// second lines, track, account.
func BenchmarkBurst(b *testing.B) {
	for _, n := range []int{1000, 1_000_000} {
		b.Run(fmt.Sprintf("flows=%d", n), func(b *testing.B) {
			tab := newTable(b, n, testNodes)
			for i := range uint32(n) {
				rec := begun(i)
				if _, res := tab.Insert(&rec, TCP, 0, 1000); res != Inserted {
					b.Fatal(res)
				}
			}
			keys := packets(tab, n, "uniform")
			for i := range keys {
				if i&1 != 0 {
					r := tab.Record(tab.Lookup(&keys[i]).Index())
					keys[i] = tab.ServerKey(r)
				}
			}
			var refs [Burst]Ref
			at := 0
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				tab.LookupBurst(keys[at:at+Burst], refs[:])
				for _, ref := range refs {
					r := tab.Record(ref.Index())
					s := Segment{Seq: r.Win[ref.Side()].End, Ack: r.Win[ref.Side()^1].End, Len: 100, Flags: FlagACK, Window: 1000}
					r.TrackTCP(ref.Side(), &s)
					r.Account(ref.Side(), 140)
				}
				at = (at + Burst) & (len(keys) - 1)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/Burst, "ns/packet")
		})
	}
}

// BenchmarkInsertExpire is the life of a connection, in a table that holds half a million others: a look-up that misses,
// the insertion, and the expiry; beside it insertion and deletion in a Go map, which has no timers.
func BenchmarkInsertExpire(b *testing.B) {
	const standing, short = 500_000, 100_000
	b.Run("table", func(b *testing.B) {
		tab := newTable(b, standing+2*short, testNodes)
		for i := range uint32(standing) {
			rec := conn(i)
			if _, res := tab.Insert(&rec, UDP, 0, 1<<40); res != Inserted {
				b.Fatal(res)
			}
		}
		expired := 0
		count := func(*Record) { expired++ }
		now := uint64(0)
		end := func(r *Record) uint64 {
			if r.VPort == 80 { // what stands never ends
				return now + 1<<30
			}
			return r.End(now, short)
		}
		b.ReportAllocs()
		b.ResetTimer()
		for i := range b.N {
			rec := conn(uint32(standing + i%(8*short)))
			rec.VPort, rec.NPort = 81, 8081
			rec.state = UDP << protoShift
			if k := rec.ClientKey(); tab.Lookup(&k) != 0 {
				b.Fatal("there already")
			}
			if _, res := tab.Insert(&rec, UDP, now, now+short); res != Inserted {
				b.Fatal(res)
			}
			if now++; now&63 == 0 { // a connection a millisecond
				for tab.Expire(now, 64, end, count) == 64 {
				}
			}
		}
		if b.N > 2*short && expired < b.N-2*short {
			b.Fatalf("%d of %d expired", expired, b.N)
		}
	})
	b.Run("gomap", func(b *testing.B) {
		m := make(map[Key]Ref, standing+2*short)
		key := func(i int) Key {
			rec := conn(uint32(i))
			return rec.ClientKey()
		}
		for i := range standing {
			m[key(i)] = Ref(i)
		}
		b.ReportAllocs()
		b.ResetTimer()
		for i := range b.N {
			m[key(standing+i%(8*short))] = Ref(i)
			if i >= short {
				delete(m, key(standing+(i-short)%(8*short)))
			}
		}
	})
}
