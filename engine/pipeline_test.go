package engine

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"net/netip"
)

// BenchmarkPipeline is the whole nat path on memory rings, one worker, 64-byte UDP and established TCP packets,
// both directions mixed: wire to ring, parse, look up, track, rewrite, ring to wire. The generator is included:
// it copies prepared frames in random order. floor is the same rings with the frames passed on unchanged.
func BenchmarkPipeline(b *testing.B) {
	for _, flows := range []int{1, 1000, 1_000_000} {
		b.Run(fmt.Sprintf("nat/flows=%d", flows), func(b *testing.B) { benchPipeline(b, flows) })
	}
	b.Run("floor/flows=1000000", benchFloor)
}

// establish opens connection i and returns its packets in both directions.
func establish(tb testing.TB, bn *bench, i int) (c2s, s2c []byte) {
	src := clientIP.As4()
	src[0], src[1], src[2], src[3] = 10, byte(100+i>>22), byte(i>>14), byte(i>>6)
	p := fromClient(uint16(1024+i&63), "S")
	p.src, p.payload = netip.AddrFrom4(src), ""
	if i&1 == 1 {
		p.udp, p.dport = true, 53
	}
	toServer := func(p packet) []byte {
		var got []byte
		if !bn.wire(0, outside).Send(p.build(tb)) {
			tb.Fatal("wire full")
		}
		bn.Step(bn.now)
		bn.wire(0, inside).Recv(func(f []byte) { got = append(got, f...) })
		return got
	}
	out := toServer(p)
	if len(out) == 0 {
		tb.Fatal("not forwarded")
	}
	ans := fromServer(int(out[33]), p.sport, "SA")
	ans.dst = p.src
	if p.udp {
		ans.udp, ans.sport = true, 5353
	}
	frame := ans.build(tb)
	if !bn.wire(0, inside).Send(frame) {
		tb.Fatal("wire full")
	}
	bn.Step(bn.now)
	if bn.wire(0, outside).Recv(nil) != 1 {
		tb.Fatal("not answered")
	}
	p.flags, p.seq, p.ack = "A", 1001, 9001
	c2s = p.build(tb)
	if !p.udp {
		toServer(p)
		ans.flags, ans.seq, ans.ack = "A", 9001, 1001
		frame = ans.build(tb)
	}
	return pad(c2s), pad(frame)
}

func pad(f []byte) []byte { return append(f, make([]byte, max(0, 60-len(f)))...) }

func benchPipeline(b *testing.B, flows int) {
	bn := newBench(b, a4(1), flows+flows/4+16, 2048) // below the high-water mark
	defer bn.close()
	// Prepared frames, both directions; with many flows each is sent once before any is sent again.
	frames := [2][][]byte{make([][]byte, flows), make([][]byte, flows)}
	arena := make([]byte, 2*flows*64) // as a NIC would lay them out: a cache line each
	for i := range flows {
		c2s, s2c := establish(b, bn, i)
		for d, f := range [2][]byte{c2s, s2c} {
			at := (2*i + d) * 64
			frames[d][i] = arena[at : at+copy(arena[at:at+64], f)]
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for d := range frames {
		rng.Shuffle(flows, func(i, j int) { frames[d][i], frames[d][j] = frames[d][j], frames[d][i] })
	}
	before := bn.stats()
	run := func(n int) {
		var batch [burstSize][]byte
		at := [2]int{}
		for sent := 0; sent < n; sent += burstSize {
			for d := range frames {
				half := batch[:burstSize/2]
				for i := range half {
					half[i] = frames[d][at[d]]
					if at[d]++; at[d] == flows {
						at[d] = 0
					}
				}
				if bn.wire(0, d).SendBurst(half) != len(half) {
					b.Fatal("the wire is full")
				}
			}
			bn.Step(bn.now)
			bn.wire(0, inside).Recv(nil)
			bn.wire(0, outside).Recv(nil)
		}
	}
	run(4 * burstSize)
	b.ReportAllocs()
	b.ResetTimer()
	run(b.N)
	b.StopTimer()
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N), "ns/packet")
	after := bn.stats()
	if done := after.ToServer + after.ToClient - before.ToServer - before.ToClient; done < uint64(b.N) || after.Dropped() != 0 {
		b.Fatalf("%d of %d packets were forwarded, %d dropped", done, b.N, after.Dropped())
	}
}

func benchFloor(b *testing.B) {
	const flows = 1_000_000
	bn := newBench(b, a4(1), 16, 2048)
	defer bn.close()
	frames := make([][]byte, flows)
	arena := make([]byte, flows*64)
	for i := range frames {
		frames[i] = arena[i*64 : i*64+60]
	}
	rand.Shuffle(flows, func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })
	w := bn.workers[0]
	at := 0
	b.ReportAllocs()
	b.ResetTimer()
	for sent := 0; sent < b.N; sent += burstSize {
		if at+burstSize > flows {
			at = 0
		}
		bn.wire(0, outside).SendBurst(frames[at : at+burstSize])
		at += burstSize
		q := w.rx[outside].Queue
		q.Refill(w.pool)
		n := q.Receive(w.in[:])
		w.tx[inside].queue.Transmit(w.in[:n])
		w.tx[inside].queue.Flush()
		w.reclaim()
		bn.wire(0, inside).Recv(nil)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N), "ns/packet")
}

// No packet may cost an allocation: hits, new connections, drops and packets for the host, mixed in a burst.
func TestNoAllocations(t *testing.T) {
	bn := newBench(t, a4(1), 20_000, 2048)
	defer bn.close()
	c2s, s2c := establish(t, bn, 0)
	udpC, udpS := establish(t, bn, 1)
	stray := fromServer(4, 77, "A").build(t)
	old := fromClient(9, "A").build(t)
	fresh := make([][]byte, 2000)
	for i := range fresh {
		fresh[i] = fromClient(uint16(2000+i), "S").build(t)
	}
	fromOutside, fromInside := [][]byte{c2s, udpC, old, nil, nil}, [][]byte{s2c, udpS, stray}
	next := 0
	if got := testing.AllocsPerRun(500, func() {
		fromOutside[3], fromOutside[4] = fresh[next], fresh[next+1]
		next += 2
		bn.wire(0, outside).SendBurst(fromOutside)
		bn.wire(0, inside).SendBurst(fromInside)
		bn.now += 300
		bn.Step(bn.now)
		for p := range 3 {
			bn.wire(0, p).Recv(nil)
		}
	}); got != 0 {
		t.Errorf("%v allocations a step", got)
	}
	if s := bn.stats(); s.Opened < 1000 || s.Drops[NoConnection] == 0 || s.ToHost == 0 || s.Closed == 0 {
		t.Errorf("the mix did not happen: %+v", s)
	}
}
