package engine

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"sluice/flow"
	"sluice/rewrite"
)

// twin is a worker with connections. Of two twins one does with changeVectors and changeWide, in turns, what the other does with trackPlain and changeOne.
type twin struct {
	*bench
	w      *worker
	frames [][2][]byte // of each connection, by side
	saved  []flow.Record
}

const twinConnections = 12

func newTwin(t *testing.T) *twin {
	spec := a4(1)
	for i := range spec.Ports {
		spec.Ports[i].Checksum = SumTrust // sums are random here
		spec.Ports[i].MTU = 1000
	}
	spec.Virtuals[0].MidStream = MidStreamDrop
	b := &twin{bench: newBench(t, spec, 64, 2048)}
	b.w = b.workers[0]
	for i := range twinConnections {
		c, udp := fromClient(uint16(2000+i), "S"), i&1 == 1
		if c.payload = ""; udp {
			c.udp, c.dport = true, 53
		}
		s := fromServer(int(b.send(outside, c.build(t))[inside][0][33]), c.sport, "SA")
		if s.ack = 1001; udp {
			s.udp, s.sport = true, 5353
		}
		b.send(inside, s.build(t))
		c.flags, c.seq, c.ack, s.flags, s.seq = "A", 1001, 9001, "A", 9001
		b.send(outside, c.build(t))
		b.frames = append(b.frames, [2][]byte{pad(c.build(t)), pad(s.build(t))})
	}
	b.saved = slices.Clone(b.w.table.Records())
	return b
}

// prepare makes records of all kinds of windows, with counters that are about to carry.
func (b *twin) prepare(r *rand.Rand) {
	records := b.w.table.Records()
	copy(records, b.saved)
	for i := range records {
		rec := &records[i]
		if !rec.Live() {
			continue
		}
		rec.Scale = uint8(r.Uint32())
		for side := range rec.Win {
			rec.MaxWin[side] = uint16(r.Uint32() >> r.IntN(16))
			rec.Win[side] = flow.Window{End: r.Uint32(), Ack: r.Uint32()}
		}
		for side := range rec.Win { // what was acknowledged is about what was sent
			rec.Win[side].Ack = rec.Win[side^1].End - r.Uint32N(3000)
		}
		at := func(offset uintptr, side int) *uint32 {
			return (*uint32)(unsafe.Add(unsafe.Pointer(rec), offset+4*uintptr(side)))
		}
		for side := range 2 {
			*at(flow.OffsetPacketsLo, side) = -r.Uint32N(4)
			*at(flow.OffsetBytesLo, side) = -r.Uint32N(400)
		}
		if r.IntN(8) == 0 {
			rec.L4Diff, rec.L3Diff = uint16(r.Uint32()), uint16(r.Uint32())
		}
		if r.IntN(16) == 0 {
			rec.SNAT = 2 // not plain
		}
		if r.IntN(16) == 0 {
		}
	}
	for i := range b.w.cfg.nodes {
		b.w.cfg.nodes[i].ok = b.w.cfg.nodes[i].exists && r.IntN(10) > 0
	}
}

// packet is one of a connection's, changed in ways that may matter.
func (b *twin) packet(r *rand.Rand) (f []byte, side int) {
	i := r.IntN(len(b.frames))
	side = r.IntN(2)
	f = slices.Clone(b.frames[i][side])
	be := binary.BigEndian
	l4, udp := 34, f[23] == flow.UDP
	for range r.IntN(3) * r.IntN(100) {
		f = append(f, uint8(r.Uint32()))
	}
	be.PutUint16(f[16:], uint16(len(f)-14))
	be.PutUint16(f[24:], uint16(r.Uint32()))
	k := flow.Key{Src: flow.AddrFrom4(be.Uint32(f[26:])), Dst: flow.AddrFrom4(be.Uint32(f[30:])), Ports: be.Uint32(f[l4:]), Proto: f[23]}
	rec := b.w.table.Record(b.w.table.Lookup(&k).Index())
	sum := uint16(r.Uint32())
	if r.IntN(4) == 0 {
		sum = []uint16{0, 0xffff, rec.L4Diff, ^rec.L4Diff}[r.IntN(4)] // with the last ones it becomes 0
	}
	if f[22] = 64; r.IntN(20) == 0 {
		f[22] = uint8(r.IntN(4))
	}
	copy(f[6:12], []byte{2, 0, 0, 0, 1, uint8(r.Uint32())}) // the client has another MAC
	if udp {
		be.PutUint16(f[l4+4:], uint16(len(f)-l4))
		be.PutUint16(f[l4+6:], sum)
		return f, side
	}
	edge := func(window int) uint32 {
		return []uint32{0, 0, 1, ^uint32(0), uint32(window), uint32(-window), uint32(window) + flow.WindowSlack, -uint32(window) - flow.WindowSlack, r.Uint32() >> r.IntN(32)}[r.IntN(9)] +
			uint32(r.IntN(5)) - 2
	}
	own := int(rec.MaxWin[side]) << (rec.Scale >> (4 * side) & 0xf)
	other := int(rec.MaxWin[side^1]) << (rec.Scale >> (4 * (side ^ 1)) & 0xf)
	be.PutUint32(f[l4+4:], rec.Win[side].End+edge(other))
	be.PutUint32(f[l4+8:], rec.Win[side^1].End-edge(own))
	if r.IntN(3) == 0 {
		be.PutUint32(f[l4+4:], rec.Win[side].End)
		be.PutUint32(f[l4+8:], rec.Win[side^1].End)
	}
	if r.IntN(8) == 0 { // about where the receiver's window ends
		be.PutUint32(f[l4+4:], rec.Win[side^1].Ack+uint32(other)+1+uint32(r.IntN(4)))
	}
	f[l4+13] = []byte{0x10, 0x10, 0x10, 0x18, 0x50, 0x11, 0x14, 0x12, 0}[min(r.IntN(40), 8)]
	if r.IntN(4) > 0 {
		f[l4+13] = flow.FlagACK
	}
	be.PutUint16(f[l4+14:], uint16(r.Uint32()))
	be.PutUint16(f[l4+16:], sum)
	return f, side
}

// run puts bursts through the worker without a flush in between, so that egress ports fill up.
func (b *twin) run(bursts [][][]byte, ports []int) (out [3][][]byte) {
	for i, burst := range bursts {
		q := b.w.rx[ports[i]].Queue
		q.Refill(b.w.pool)
		if b.wire(0, ports[i]).SendBurst(burst) != len(burst) {
			b.t.Fatal("the wire is full")
		}
		b.w.now = b.now
		b.w.take(uint16(ports[i]), q.Receive(b.w.descs[:]))
		b.w.process()
	}
	b.w.transmit()
	for p := range out {
		b.wire(0, p).Recv(func(packet []byte) { out[p] = append(out[p], slices.Clone(packet)) })
	}
	b.w.reclaim()
	return out
}

// What is done in assembly to plain packets is what is done in Go: to frames, records, counters, and which packets they are.
func TestChangeVectors(t *testing.T) {
	if !vectors {
		t.Skip("this processor has neither AVX nor BMI2")
	}
	hasWide := wide
	defer func() { vectors, wide = true, hasWide }()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	fast, slow := newTwin(t), newTwin(t)
	defer fast.close()
	defer slow.close()
	many := uint64(0)
	steady := 0
	for round := range 1500 {
		same := r.Uint64()
		fast.prepare(rand.New(rand.NewPCG(same, 2)))
		slow.prepare(rand.New(rand.NewPCG(same, 2)))
		ports := []int{outside, inside, outside, inside}
		bursts := make([][][]byte, len(ports))
		for i := range bursts {
			for n := r.IntN(burstSize + 1); len(bursts[i]) < n; {
				f, side := fast.packet(r)
				if p := (rewrite.Packet{}); side == ports[i] && f[23] == flow.TCP {
					k := flow.Key{}
					rewrite.Parse(f, &p, &k)
					rec := *fast.w.table.Record(fast.w.table.Lookup(&k).Index())
					if rec.TrackSteady(flow.Side(side), &p.TCP) {
						steady++
					}
				}
				if side == ports[i] || r.IntN(100) == 0 {
					bursts[i] = append(bursts[i], f)
				}
			}
		}
		fast.now += 7
		slow.now += 7
		vectors, wide = true, hasWide && round&1 == 0
		got := fast.run(bursts, ports)
		vectors = false
		want := slow.run(bursts, ports)
		for p := range got {
			if len(got[p]) != len(want[p]) {
				t.Fatalf("round %d: %d packets leave on port %d, not %d", round, len(got[p]), p, len(want[p]))
			}
			for i := range got[p] {
				if !slices.Equal(got[p][i], want[p][i]) {
					t.Fatalf("round %d, port %d, packet %d becomes\n%x, not\n%x", round, p, i, got[p][i], want[p][i])
				}
			}
		}
		for i := range fast.w.table.Records() {
			if a, b := fast.w.table.Records()[i], slow.w.table.Records()[i]; a != b {
				t.Fatalf("round %d: record %d becomes\n%+v, not\n%+v", round, i, a, b)
			}
		}
		if fast.w.stats != slow.w.stats || !fast.w.virtual.equal(&slow.w.virtual) || !fast.w.node.equal(&slow.w.node) {
			t.Fatalf("round %d: counters are\n%+v\n%+v\n%+v, not\n%+v\n%+v\n%+v", round, fast.w.stats, fast.w.virtual, fast.w.node, slow.w.stats, slow.w.virtual, slow.w.node)
		}
		many = fast.w.stats.ToServer + fast.w.stats.ToClient
	}
	t.Logf("%d packets, %d of them steady segments", many, steady)
	if s := fast.stats(); many < 30_000 || steady < 10_000 || s.Outside < 1000 || s.Drops[TTLExpired] == 0 && s.ICMPSent == 0 || s.Drops[NoNeighbour] == 0 {
		t.Errorf("the mix did not happen: %+v", s)
	}
}

// What nearly all packets are is all changed by each way in assembly, in one go: nothing is left to Go.
func TestChangeWays(t *testing.T) {
	if !vectors {
		t.Skip("this processor has neither AVX nor BMI2")
	}
	ways := map[string]func(*worker, *changes, uint64) uint64{"AVX": changeVectors}
	if wide {
		ways["AVX-512"] = changeWide
	} else {
		t.Log("this processor has no AVX-512 with VBMI")
	}
	b := newTwin(t)
	defer b.close()
	w := b.w
	for name, change := range ways {
		for _, side := range []int{outside, inside} {
			q := w.rx[side].Queue
			q.Refill(w.pool)
			var burst [][]byte
			for range 3 {
				for i := range b.frames {
					burst = append(burst, b.frames[i][side])
				}
			}
			if b.wire(0, side).SendBurst(burst) != len(burst) {
				t.Fatal("the wire is full")
			}
			w.now = b.now
			w.take(uint16(side), q.Receive(w.descs[:]))
			if missed := w.table.Find(w.keys[:w.n], w.refs[:]); w.n != len(burst) || missed > 0 {
				t.Fatalf("%d of %d packets in hand, %d missed", w.n, len(burst), missed)
			}
			all := uint64(1)<<w.n - 1
			tcp := tcpOf(&w.pkts, 0, w.n) & all
			if tcp != tcpEach(&w.pkts, 0, w.n) || tcp == 0 || tcp == all {
				t.Fatalf("%b are of TCP", tcp)
			}
			for _, set := range []uint64{tcp, all &^ tcp} {
				c := w.changes(set == tcp)
				if rest := change(w, &c, set); rest != 0 {
					t.Errorf("%s leaves %b of %b from side %d", name, rest, set, side)
				}
			}
			w.transmit()
			for p := range w.tx {
				b.wire(0, p).Recv(func([]byte) {})
			}
			w.reclaim()
		}
	}
}

// Which packets are of TCP, from anywhere in a burst to anywhere.
func TestTCPOf(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	for range 1000 {
		var pkts [burstSize]rewrite.Packet
		for i := range pkts {
			pkts[i].Proto, pkts[i].Opens, pkts[i].Plain = []uint8{flow.TCP, flow.UDP, flow.SCTP, 0}[r.IntN(4)], r.IntN(2) == 0, r.IntN(2) == 0
		}
		from := r.IntN(burstSize)
		to := from + 1 + r.IntN(burstSize-from)
		all := ^uint64(0) >> (burstSize - (to - from)) << from
		if got, want := tcpOf(&pkts, from, to)&all, tcpEach(&pkts, from, to)&all; got != want {
			t.Fatalf("%b of [%d, %d), not %b", got, from, to, want)
		}
	}
}
