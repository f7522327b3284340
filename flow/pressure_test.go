package flow

import (
	"math/rand/v2"
	"testing"
)

// Timeouts of these tests, in milliseconds.
func pressureDeadline(now uint64) func(*Record) uint64 {
	return func(r *Record) uint64 {
		switch {
		case r.TCPState() >= TCPFinWait:
			return r.End(now, 10_000)
		case r.HalfOpen():
			return r.End(now, 30_000)
		}
		return r.End(now, 600_000)
	}
}

// settleAs makes record i a connection in the given state, as tracking would.
func settleAs(tab *Table, i uint32, s TCPState) {
	r := tab.Record(i)
	r.setTCPState(s)
	r.Settle()
}

func fill(t *testing.T, tab *Table, from, to uint32, now uint64, state TCPState) {
	t.Helper()
	for n := from; n < to; n++ {
		rec := begun(n)
		r, res := tab.Insert(&rec, TCP, now, now+30_000)
		if res != Inserted {
			t.Fatal(n, res)
		}
		settleAs(tab, r.Index(), state)
		if state >= TCPFinWait {
			tab.Rearm(r.Index(), now+10_000)
		}
	}
}

// Half-open and closing connections go in the order in which they would expire; established ones never.
func TestEvictOrder(t *testing.T) {
	tab := newTable(t, 400, testNodes)
	fill(t, tab, 0, 100, 0, TCPEstablished)
	fill(t, tab, 100, 200, 0, TCPSynSent)          // would end at 30 s
	fill(t, tab, 200, 300, 15_000, TCPFinWait)     // at 25 s
	fill(t, tab, 300, 400, 16_000, TCPEstablished) // armed for 46 s, end much later
	now := uint64(20_000)
	var order []TCPState
	for range 600 {
		tab.Evict(now, pressureDeadline(now), func(r *Record) { order = append(order, r.TCPState()) })
	}
	if len(order) != 200 {
		t.Fatalf("%d evicted, want the 200 that are not established", len(order))
	}
	for i, s := range order {
		if want := [2]TCPState{TCPFinWait, TCPSynSent}[i/100]; s != want {
			t.Fatalf("eviction %d took %v, want %v", i, s, want)
		}
	}
	if tab.Len() != 200 {
		t.Fatalf("%d left", tab.Len())
	}
	if err := tab.Check(); err != nil {
		t.Fatal(err)
	}
}

// Evict looks at a bounded number of records, and arms the established ones that it meets for their end, so that a table
// full of them is not searched again and again, and a half-open one behind them is found by a later call.
func TestEvictBudget(t *testing.T) {
	const n = 1000
	tab := newTable(t, n+1, testNodes)
	fill(t, tab, 0, n, 0, TCPEstablished)
	fill(t, tab, n, n+1, 2000, TCPSynSent)
	now, calls, looked := uint64(3000), 0, 0
	deadline := func(r *Record) uint64 { looked++; return pressureDeadline(now)(r) }
	for found := false; !found; calls++ {
		before := looked
		found = tab.Evict(now, deadline, func(r *Record) {
			if !r.HalfOpen() {
				t.Fatalf("%v evicted", r.TCPState())
			}
		})
		if looked-before > evictBudget {
			t.Fatalf("%d records looked at in a call", looked-before)
		}
		if calls > n {
			t.Fatal("the half-open connection is never found")
		}
	}
	if looked != n || calls != (n+1+evictBudget-1)/evictBudget {
		t.Errorf("%d looked at in %d calls: each of the %d established ones was to be met once", looked, calls, n)
	}
	for range 3 {
		if tab.Evict(now, deadline, func(*Record) { t.Fatal("an established connection is evicted") }) {
			t.Fatal("evicted")
		}
	}
	if err := tab.Check(); err != nil {
		t.Fatal(err)
	}
}

// Sweep goes round all records and removes those whose deadline has come, whatever their timer says.
func TestSweep(t *testing.T) {
	const n = 500
	tab := newTable(t, 2*n, testNodes)
	tab.Sweep(0, 10, pressureDeadline(0), func(*Record) { t.Fatal("a record in an empty table") })
	for i := range uint32(n) {
		rec := begun(i)
		r, _ := tab.Insert(&rec, TCP, 0, 1<<30)
		settleAs(tab, r.Index(), TCPEstablished)
		tab.Record(r.Index()).Seen = i * 1000
	}
	now := uint64(n * 1000)
	short := func(r *Record) uint64 { return r.End(now, 100_000) }
	swept := 0
	for step := range n/32 + 1 {
		tab.Sweep(now, 32, short, func(r *Record) {
			if swept++; number(r) > n-100 {
				t.Fatalf("connection %d was seen %d ms ago", number(r), now-uint64(r.Seen))
			}
		})
		if step == 1 && swept == n {
			t.Fatal("all in one step")
		}
	}
	if swept != n-100+1 || tab.Len() != 99 {
		t.Errorf("%d swept, %d left", swept, tab.Len())
	}
	if err := tab.Check(); err != nil {
		t.Fatal(err)
	}
}

// Up to the mark timeouts are whole; then they fall with every connection, never below a sixteenth.
func TestShrink(t *testing.T) {
	for _, capacity := range []int{1, 2, 7, 8, 100, 8000, 10_000_000} {
		tab := newTable(t, capacity, nil) // memory that is never touched
		last := uint32(256)
		for _, live := range []int{0, capacity / 2, capacity - capacity/8, capacity - capacity/8 + 1, capacity - capacity/10, capacity - capacity/16, capacity - capacity/100, capacity - 1, capacity} {
			if live < tab.live || live > capacity {
				continue
			}
			tab.live = live
			got := tab.Shrink()
			if mark := capacity - capacity/8; live <= mark && got != 256 {
				t.Errorf("%d of %d: %d, want whole timeouts", live, capacity, got)
			}
			if got > last || got < 16 {
				t.Errorf("%d of %d: %d after %d", live, capacity, got, last)
			}
			last = got
		}
		if last != 16 && capacity >= 8 {
			t.Errorf("a full table of %d has %d", capacity, last)
		}
	}
	tab := newTable(t, 8000, nil)
	tab.live = 7500 // half of the last eighth
	if got := tab.Shrink(); got != 128 {
		t.Errorf("half way: %d of 256, want 128", got)
	}
}

// The search over the bitmap of ticks against one that looks at each.
func TestWheelNext(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var w wheel
	links := make([]link, 64)
	w.reset(rng.Uint64N(1 << 40))
	armed := map[uint32]bool{}
	for range 20_000 {
		i := 1 + rng.Uint32N(uint32(len(links)-1))
		if armed[i] {
			w.disarm(links, i)
			delete(armed, i)
		} else if len(armed) < 3 || rng.IntN(4) == 0 {
			w.arm(links, i, (w.cursor+rng.Uint64N(2*wheelSlots))<<tickShift)
			armed[i] = true
		}
		if rng.IntN(50) == 0 && len(armed) == 0 {
			w.cursor += rng.Uint64N(10_000)
		}
		from := w.cursor + rng.Uint64N(wheelSlots)
		want, found := uint64(0), false
		for off := range uint64(wheelSlots) {
			if w.heads[(from+off)&(wheelSlots-1)] != 0 {
				want, found = from+off, true
				break
			}
		}
		if got, ok := w.next(from); ok != found || ok && got != want {
			t.Fatalf("from %d: %d %t, want %d %t", from, got, ok, want, found)
		}
	}
}

// Being half open ends once: for TCP when it is established or beyond, for others with the first answer.
func TestSettle(t *testing.T) {
	for s := TCPSynSent; s <= TCPClosed; s++ {
		r := Record{state: liveBit | halfOpenBit | TCP<<protoShift}
		r.setTCPState(s)
		want := s >= TCPEstablished
		if got := r.Settle(); got != want || r.HalfOpen() == want {
			t.Errorf("%v: settled %t", s, got)
		}
		if r.Settle() {
			t.Errorf("%v: settled twice", s)
		}
	}
	r := Record{state: liveBit | halfOpenBit | UDP<<protoShift}
	if r.Settle() || !r.HalfOpen() {
		t.Error("an unanswered datagram settles")
	}
	if r.MarkReplied(); !r.Settle() || r.HalfOpen() || r.Settle() {
		t.Error("an answer does not settle once")
	}
}
