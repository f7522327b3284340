package engine

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"sluice/flow"
)

// What comes together is dealt with as what comes one packet after the other. Where the client decides on the member, the same frames
// leave, and connections and counters are the same. Where turns do, as many were taken, and every member has had as many connections:
// which ones, depends on the order in which they were chosen. Alone a packet is neither proposed for, nor sent as a first one.
func TestFirstPacketsTogether(t *testing.T) {
	for _, workers := range []int{1, 2} {
		for _, scheduler := range []string{"source-hash", "round-robin"} {
			t.Run(fmt.Sprintf("workers=%d/%s", workers, scheduler), func(t *testing.T) { firstTogether(t, workers, scheduler) })
		}
	}
}

func firstTogether(t *testing.T, workers int, scheduler string) {
	hashed := scheduler == "source-hash"
	spec := a4(workers)
	spec.Virtuals = append(spec.Virtuals,
		VirtualSpec{Name: "clamped", Addr: vip.Next(), Port: 80, Proto: flow.TCP, Pool: 0, MSSClamp: 900},
		VirtualSpec{Name: "dns of others", Addr: vip.Next(), Port: 53, Proto: flow.UDP, Pool: 2})
	spec.Ports[inside].MTU = 1400
	for i := range spec.Pools {
		spec.Pools[i].Scheduler = scheduler
	}
	spec.Pools[2].Members[1].Hop.OK = false
	together, alone := newBench(t, spec, 3000, 2048), newBench(t, spec, 3000, 2048)
	defer together.close()
	defer alone.close()
	rng := rand.New(rand.NewPCG(uint64(workers), 4))
	for round := range 120 {
		frames := make([][][]byte, workers)
		for range 2 + rng.IntN(burstSize-2) {
			p := fromClient(uint16(2000+rng.IntN(8_000)), "S")
			p.seq = rng.Uint32()
			switch rng.IntN(10) {
			case 0, 1, 2:
				p.udp, p.dport = true, 53
			case 3:
				p.payload = string(make([]byte, 1+rng.IntN(30)))
			case 4:
				p.payload = string(make([]byte, 1390)) // too big for the other side
			case 5:
				p.flags = []string{"SA", "SF", "SP", "A", "R"}[rng.IntN(5)]
			case 6:
				p.ttl = uint8(1 + rng.IntN(3))
			case 7:
				p.src = []netip.Addr{vip, vip.Next(), netip.AddrFrom4([4]byte{127, 1, 1, 1})}[rng.IntN(3)]
			case 8:
				p.dport = 81
			}
			if rng.IntN(3) == 0 && hashed { // two virtual servers of one client may want one tuple, and then take more turns
				p.dst = vip.Next()
			}
			f := p.build(t)
			if !p.udp && rng.IntN(2) == 0 {
				f = withMSS(f, uint16(rng.IntN(2000)))
			}
			if rng.IntN(16) == 0 {
				f[6] |= 1
			}
			at := rng.IntN(workers)
			frames[at] = append(frames[at], f)
			if rng.IntN(30) == 0 {
				frames[at] = append(frames[at], f) // sent again
			}
		}
		var got, want [][]byte
		for at := range workers {
			together.wire(at, outside).SendBurst(frames[at])
			together.Step(together.now)
			got = append(got, out(together, workers)...)
			for _, f := range frames[at] {
				alone.wire(at, outside).SendBurst([][]byte{f})
				alone.Step(alone.now)
				want = append(want, out(alone, workers)...)
			}
			order(got)
			order(want)
			if len(got) != len(want) {
				t.Fatalf("round %d: %d frames left, not %d", round, len(got), len(want))
			}
			for i := range got {
				if hashed && !bytes.Equal(got[i], want[i]) {
					t.Fatalf("round %d:\n %x left, not\n %x", round, got[i], want[i])
				}
			}
		}
		for i := range together.Config().pools {
			a, b := &together.Config().pools[i].groups[0], &alone.Config().pools[i].groups[0]
			if x, y := a.turn.Load(), b.turn.Load(); x != y {
				t.Fatalf("round %d: pool %d has had %d turns, not %d", round, i, x, y)
			}
		}
		if a, b := records(together), records(alone); hashed && !slices.Equal(a, b) {
			t.Fatalf("round %d: the connections differ", round)
		}
		ms := uint64(rng.IntN(200))
		together.now += ms
		alone.now += ms
		for range 3000/expiryBudget + 1 { // what has ended has gone before the next packet, at both
			together.Step(together.now)
			alone.Step(alone.now)
		}
	}
	a, b := together.stats(), alone.stats()
	a.Bursts, b.Bursts, a.Sleeps, b.Sleeps = 0, 0, 0, 0
	if a != b || a.Opened < 1000 || a.Closed == 0 {
		t.Errorf("together %+v\nalone %+v", a, b)
	}
	for i, w := range together.workers {
		v := alone.workers[i]
		if hashed && !w.node.equal(&v.node) || !w.virtual.equal(&v.virtual) {
			t.Error("counters of members or virtual servers differ")
		}
		if err := w.table.Check(); err != nil {
			t.Error(err)
		}
	}
	for id := range together.workers[0].node.len() {
		x, y := uint64(0), uint64(0)
		for i := range together.workers {
			x, y = x+together.workers[i].node.connections[id].Opened, y+alone.workers[i].node.connections[id].Opened
		}
		if x != y {
			t.Errorf("member %d has had %d connections, not %d", id, x, y)
		}
	}
}

// withMSS gives a segment over IPv4 the option with its maximum segment size (RFC 9293 section 3.1); nobody looks at its checksums.
func withMSS(f []byte, mss uint16) []byte {
	const l4 = 14 + 20
	f = slices.Insert(slices.Clone(f), l4+20, 2, 4, byte(mss>>8), byte(mss))
	binary.BigEndian.PutUint16(f[16:], binary.BigEndian.Uint16(f[16:])+4)
	f[l4+12] += 1 << 4
	return f
}

// out is what has left on all ports.
func out(b *bench, workers int) (frames [][]byte) {
	b.Step(b.now)
	for w := range workers {
		for port := range 3 {
			b.wire(w, port).Recv(func(f []byte) { frames = append(frames, append([]byte{byte(port)}, f...)) })
		}
	}
	return frames
}

func order(frames [][]byte) { slices.SortFunc(frames, bytes.Compare) }

// records are all connections, in an order of their own.
func records(b *bench) (all []string) {
	for _, w := range b.workers {
		w.table.Each(1, w.table.Cap()+1, func(_ uint32, r *flow.Record) { all = append(all, fmt.Sprintf("%+v", *r)) })
	}
	slices.Sort(all)
	return all
}
