package flow

import "testing"

// Of connections with the same tick the oldest goes first. Otherwise, where a whole table turns over within a tick, each
// SYN of a flood would take the place of the one before it, and a client's would be gone before its answer is there.
func TestEvictOldestOfTick(t *testing.T) {
	const n = 400
	tab := newTable(t, n, testNodes)
	fill(t, tab, 0, n, 0, TCPSynSent)
	for i := range uint32(n) {
		want := begun(i)
		done := tab.Evict(0, pressureDeadline(0), func(r *Record) {
			if r.Client != want.Client || r.CPort != want.CPort {
				t.Fatalf("eviction %d took %v port %d, the oldest is %v port %d", i, r.Client, r.CPort, want.Client, want.CPort)
			}
		})
		if !done {
			t.Fatalf("eviction %d found nothing", i)
		}
		if err := tab.Check(); err != nil {
			t.Fatal(err)
		}
	}
}
