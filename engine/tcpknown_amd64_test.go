package engine

import (
	"slices"
	"testing"
)

// Which packets are of TCP is not known of those that come where dropped ones were.
func TestKnownEndsWithBurst(t *testing.T) {
	if !vectors || !wide {
		t.Skip("this processor has no AVX-512")
	}
	b := newTwin(t)
	defer b.close()
	const n, wrong = 32, 4
	var burst [][]byte
	for i := range n {
		f := slices.Clone(b.frames[i%len(b.frames)][0])
		if i >= n-wrong {
			f[24] ^= 1 // of the header's sum
		}
		burst = append(burst, f)
	}
	q := b.w.rx[outside].Queue
	q.Refill(b.w.pool)
	if b.wire(0, outside).SendBurst(burst) != n {
		t.Fatal("the wire is full")
	}
	b.w.now = b.now
	b.w.take(outside, q.Receive(b.w.descs[:]))
	if b.w.n != n || b.w.tcpKnown != n {
		t.Fatalf("%d packets, %d known, not %d", b.w.n, b.w.tcpKnown, n)
	}
	b.w.checked = make([]SumPolicy, len(b.w.tx))
	b.w.checked[outside] = SumVerify
	b.w.checkSums(0)
	if b.w.n != n-wrong || b.w.tcpKnown != n-wrong {
		t.Errorf("%d packets, %d known, not %d", b.w.n, b.w.tcpKnown, n-wrong)
	}
	b.w.checked = nil
	b.w.process()
	b.w.transmit()
	b.wire(0, inside).Recv(nil)
	b.w.reclaim()
}
