package engine

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"sluice/flow"
	"sluice/rewrite"
	"sluice/rings"
)

var (
	burstTwinCapacity = 160
)

func newBurstTwin(t testing.TB, region *rings.Region, specs []Spec, capacity int) *fuzzRun {
	dict := NewDictionary()
	for _, s := range specs {
		if _, err := NewConfig(s, dict); err != nil {
			t.Fatal(err)
		}
	}
	r := &fuzzRun{bench: newBenchOver(t, region, specs[0], capacity, dict, 1<<32-30_000)}
	for _, s := range specs {
		cfg, err := NewConfig(s, r.dict)
		if err != nil {
			t.Fatal(err)
		}
		r.configs = append(r.configs, cfg)
	}
	return r
}

// errorAbout is an ICMP error about a packet that has come out, from who received it.
func errorAbout(rng *rand.Rand, got []byte) []byte {
	if len(got) < 54 {
		return nil
	}
	var p rewrite.Packet
	var k flow.Key
	if v := rewrite.Parse(got, &p, &k); !v.IsPacket() {
		return nil
	}
	f := slices.Clone(got)
	copy(f, got[6:12])
	copy(f[6:], got[:6])
	frame := f[:p.L3]
	quote := got[p.L3:p.End]
	quote = quote[:min(len(quote), int(p.L4-p.L3)+8+rng.IntN(60))]
	v6 := p.V6
	if v6 {
		h := make([]byte, 40+8)
		h[0], h[6], h[7] = 0x60, 58, 64
		h[4], h[5] = byte((8+len(quote))>>8), byte(8+len(quote))
		copy(h[8:24], quote[24:40])
		copy(h[24:40], quote[8:24])
		h[40] = []byte{1, 2, 3, 4}[rng.IntN(4)]
		frame = append(frame, h...)
	} else {
		h := make([]byte, 28)
		h[0], h[8], h[9] = 0x45, byte(1+rng.IntN(64)), 1
		n := 28 + len(quote)
		h[2], h[3] = byte(n>>8), byte(n)
		copy(h[12:16], quote[16:20])
		copy(h[16:20], quote[12:16])
		if rng.IntN(2) == 0 {
			h[12] = 99
		}
		h[20] = []byte{3, 11, 4, 12}[rng.IntN(4)]
		h[21] = byte(rng.IntN(6))
		frame = append(frame, h...)
	}
	frame = append(frame, quote...)
	if v := rewrite.Parse(frame, &p, &k); v.IsPacket() {
		rewrite.Recompute(frame, &p, v == rewrite.Fragment)
	}
	return frame
}

func burstTwinSpecs(mtus bool) []Spec {
	specs := fuzzSpecs()
	for i := range specs {
		s := &specs[i]
		for p := range s.Ports {
			s.Ports[p].Checksum = []SumPolicy{SumAuto, SumTrust, SumVerify, SumRecompute, SumAuto}[(i+p)%5]
			if mtus {
				s.Ports[p].MTU = []int{1500, 120, 9000}[(i+p)%3]
			}
		}
		if i == 1 || i == 0 {
			s.Persistences = nil
			for v := range s.Virtuals {
				s.Virtuals[v].Persistence = ""
				s.Virtuals[v].HalfOpenLimit = 0
			}
			s.Sources = SourceLimit{}
		}
	}
	return specs
}

// burstTwinRounds is how many bursts a run has.
const burstTwinRounds = 400

// runBurstTwins gives two engines the same bursts: in one the loops in assembly, and unless slow is false all that reads packets at a glance, are off.
// They must do the same, and all counts must be right.
func runBurstTwins(t *testing.T, twins, chains, mtus, slow, lanes bool) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	specs := burstTwinSpecs(mtus)
	if lanes {
		for i := range specs {
			specs[i].Ports = slices.Clone(specs[i].Ports)
			for n, ids := range [][]uint16{{10}, {20}, {30, 40}, {11}} {
				p := PortSpec{Name: fmt.Sprint("lane", n), MAC: vlanMACs[3+n], MTU: specs[i].Ports[n%2].MTU, Checksum: specs[i].Ports[n%2].Checksum}
				p.VLAN = VLANSpec{Parent: []int{outside, inside, inside, outside}[n], Tags: rewrite.VLANTags{N: uint8(len(ids))}}
				copy(p.VLAN.Tags.IDs[:], ids)
				specs[i].Ports = append(specs[i].Ports, p)
			}
			for j := range specs[i].Pools {
				specs[i].Pools[j].Members = slices.Clone(specs[i].Pools[j].Members)
				for m := range specs[i].Pools[j].Members {
					if h := &specs[i].Pools[j].Members[m].Hop; h.Port == inside && i%2 == 0 {
						h.Port = []int{inside, blue, qinq, blue}[m&3]
					}
				}
			}
		}
	}
	if slow { // the other one reads everything in the general way
		for i := range specs {
			specs[i].Ports = slices.Clone(specs[i].Ports)
			for p := range specs[i].Ports {
				specs[i].Ports[p].Checksum = SumTrust
			}
		}
	}
	make1 := func() *fuzzRun {
		region := rings.NewHeapRegion(6000, 2048)
		if chains {
			region = chainRegion(6000)
		}
		return newBurstTwin(t, region, specs, burstTwinCapacity)
	}
	runs := []*fuzzRun{make1()}
	if twins {
		runs = append(runs, make1())
	}
	was, wasWide := vectors, wide
	defer func() { vectors, wide = was, wasWide }()
	r := runs[0]

	firsts := []int{1, 64, 100, 200, 1400}
	if slow { // ParseChain wants more of the head than ParsePlain
		firsts = firsts[2:]
	}
	rounds := 0
	var last Stats
	for ; rounds < burstTwinRounds; rounds++ {
		type sent struct {
			worker, port int
			frame        []byte
			cuts         []int
		}
		var burst []sent
		step := uint64(0)
		apply := -1
		switch rng.IntN(12) {
		case 0:
			step = uint64(rng.IntN(256)) << rng.IntN(8)
		case 1:
			apply = rng.IntN(len(specs))
		}
		for range 1 + rng.IntN(60) {
			x := rng.Uint32()
			b := [4]byte{byte(x), byte(x >> 8), byte(x >> 16), byte(x >> 24)}
			var port int
			var frame []byte
			switch rng.IntN(12) {
			case 0:
				port, frame = r.frame(b)
				frame[int(b[1])%len(frame)] ^= b[2] | 1
				frame = frame[:max(14, len(frame)-int(b[3]&63))]
			case 1, 2, 3, 4:
				port, frame = r.reply(b)
			case 5, 6:
				port = rng.IntN(2)
				if n := len(r.seen[port]); n > 0 {
					frame = errorAbout(rng, r.seen[port][rng.IntN(n)])
				}
			case 7:
				port, frame = r.frame(b)
				if rng.IntN(2) == 0 {
					frame = append(append(slices.Clone(frame[:12]), 0x81, 0, byte(rng.IntN(8))<<5, byte(rng.IntN(3))), frame[12:]...)
				}
			case 8: // many new connections
				b[1], b[2] = byte(rng.IntN(2))<<1|byte(rng.IntN(2))<<2, 0
				port, frame = r.frame(b)
				var p rewrite.Packet
				var k flow.Key
				if rewrite.Parse(frame, &p, &k) == rewrite.OK {
					frame[p.L4], frame[p.L4+1] = byte(8+rng.IntN(4)), byte(rng.IntN(40))
					rewrite.Recompute(frame, &p, false)
				}
			default:
				port, frame = r.frame(b)
			}
			if frame == nil {
				continue
			}
			if rng.IntN(6) == 0 {
				most := 600
				if chains {
					most = 8500
				}
				frame = inflated(rng, frame, rng.IntN(most))
				if len(frame) > 54 && frame[12] == 8 && rng.IntN(2) == 0 {
					frame[20] |= 0x40
					var p rewrite.Packet
					var k flow.Key
					if v := rewrite.Parse(frame, &p, &k); v.IsPacket() {
						rewrite.Recompute(frame, &p, v == rewrite.Fragment)
					}
				}
			}
			if len(frame) > 1600 && !chains || len(frame) > 20000 {
				continue
			}
			if lanes && len(frame) > 14 && frame[12] != 0x81 && rng.IntN(3) > 0 {
				tags := [][]byte{{0x81, 0, byte(rng.IntN(8)) << 5, 10}, {0x81, 0, byte(rng.IntN(8)) << 5, 20}}[port]
				if port == inside && rng.IntN(3) == 0 {
					tags = []byte{0x88, 0xa8, 0, 30, 0x81, 0, 0, 40}
				} else if rng.IntN(20) == 0 {
					tags[3] = byte(rng.IntN(50))
				}
				frame = slices.Concat(frame[:12], tags, frame[12:])
			}
			frames := [][]byte{frame}
			if rng.IntN(10) == 0 && len(frame) > 60 {
				var p rewrite.Packet
				var k flow.Key
				if v := rewrite.Parse(frame, &p, &k); v == rewrite.OK && p.Payload < p.End {
					tags := slices.Clone(frame[12 : p.L3-2])
					frames = cut(slices.Concat(frame[:12], frame[p.L3-2:]), rng.Uint32(), 32+8*rng.IntN(8))
					for n := range frames {
						frames[n] = slices.Concat(frames[n][:12], tags, frames[n][12:])
					}
					if len(frames) > 5 {
						frames = frames[:5]
					}
					if rng.IntN(2) == 0 {
						rng.Shuffle(len(frames), func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })
					}
				}
			}
			w := rng.IntN(2)
			for _, f := range frames {
				s := sent{worker: w, port: port, frame: f}
				if chains {
					s.cuts = pieces(rng, len(f), firsts[rng.IntN(len(firsts))])
				}
				burst = append(burst, s)
			}
		}
		burst = burst[:min(len(burst), 60)]
		var out [2][3][][]byte
		var st [2]Stats
		for i, r := range runs {
			vectors, wide = was && i == 0, wasWide && step&1 == 0
			r.now += step
			if apply >= 0 {
				if _, err := r.Engine.Apply(t.Context(), r.configs[apply]); err != nil {
					t.Fatal(err)
				}
			}
			if slow && i == 1 {
				for _, w := range r.workers {
					w.checked = slices.Repeat([]SumPolicy{SumTrust}, len(r.Config().Ports))
					if w.capture == nil {
						w.capture = newCapture(w, captureMatch{reason: -1, port: -1}, 64, 1, 1<<16)
					}
				}
			}
			for _, s := range burst {
				ok := false
				if s.cuts != nil {
					ok = r.wire(s.worker, s.port).SendChain(s.frame, s.cuts)
				} else {
					ok = r.wire(s.worker, s.port).Send(s.frame)
				}
				if !ok {
					t.Fatal("the wire is full")
				}
			}
			for range 5 {
				r.Step(r.now)
				for w := range r.n {
					for p := range 3 {
						r.wire(w, p).Recv(func(f []byte) { out[i][p] = append(out[i][p], slices.Clone(f)) })
					}
				}
			}
			r.Step(r.now)
			for p := range 2 {
				for _, f := range out[i][p] {
					for lanes && len(f) > 18 && (f[12] == 0x81 || f[12] == 0x88) {
						f = slices.Concat(f[:12], f[16:])
					}
					r.seen[p] = append(r.seen[p][max(0, len(r.seen[p])-15):], f)
				}
			}
			if err := r.burstTwinSums(); err != nil {
				d := r.stats()
				t.Fatalf("round %d, engine %d: %v\nbefore %+v\nafter %+v", rounds, i, err, last, d)
			}
			st[i] = r.stats()
			if i == 0 {
				last = st[0]
			}
			for _, w := range r.workers {
				for x := range w.ahead.of {
					if w.ahead.of[x].member != nil {
						t.Fatalf("round %d: a proposal is left", rounds)
					}
				}
			}
		}
		if twins {
			for p := range 3 {
				if len(out[0][p]) != len(out[1][p]) {
					t.Fatalf("round %d port %d: %d and %d packets", rounds, p, len(out[0][p]), len(out[1][p]))
				}
				for i := range out[0][p] {
					if !bytes.Equal(out[0][p][i], out[1][p][i]) {
						for e := range 2 {
							for _, f := range out[e][p] {
								t.Logf("%d: %x", e, f[:min(len(f), 58)])
							}
						}
						for _, f := range burst {
							t.Logf("in %d %x", f.port, f.frame[:min(len(f.frame), 58)])
						}
						t.Logf("%+v", st[0])
						t.Logf("%+v", st[1])
						t.Fatalf("round %d port %d packet %d:\n%x\n%x", rounds, p, i, out[0][p][i], out[1][p][i])
					}
				}
			}
			a, b := fmt.Sprintf("%+v", st[0]), fmt.Sprintf("%+v", st[1])
			if a != b {
				t.Fatalf("round %d:\n%s\n%s", rounds, a, b)
			}
		}
	}
	s := r.stats()
	t.Logf("%d rounds, opened %d closed %d errors %d split %d toserver %d toclient %d handed %d recomputed %d drops %v", rounds, s.Opened, s.Closed, s.Errors, s.Split, s.ToServer, s.ToClient, s.HandedIn, s.Recomputed, dropsOf(r.bench))
	for _, r := range runs {
		r.close()
	}
}

func (r *fuzzRun) burstTwinSums() error {
	s, live := r.stats(), 0
	for _, w := range r.workers {
		live += w.table.Len()
	}
	if s.Opened-s.Closed != uint64(live) {
		return fmt.Errorf("%d opened, %d closed, %d there", s.Opened, s.Closed, live)
	}
	waiting := uint64(0)
	for _, w := range r.workers {
		waiting += uint64(w.fragments.table.Held())
	}
	twice := s.Drops[TooBig] + s.Drops[TxFull] + s.Drops[HandoffFull]
	if in, out := s.RxPackets+s.HandedIn, s.ToServer+s.ToClient+s.ToHost+s.HandedOut+s.Answered+s.Dropped()+waiting; in > out || in+twice < out {
		return fmt.Errorf("%d packets in, %d have an end or wait", in, out)
	}
	return r.consistent()
}

func TestBurstTwins(t *testing.T) {
	for _, chains := range []bool{false, true} {
		for _, mtus := range []bool{false, true} {
			for _, slow := range []bool{true, false} {
				for _, lanes := range []bool{true, false} {
					t.Run(fmt.Sprintf("chains=%v,mtus=%v,slow=%v,lanes=%v", chains, mtus, slow, lanes), func(t *testing.T) { runBurstTwins(t, true, chains, mtus, slow, lanes) })
				}
			}
		}
	}
}

// With room for proposals, and every configuration.
func TestBurstTwinRoom(t *testing.T) {
	burstTwinCapacity = 1500
	defer func() { burstTwinCapacity = 160 }()
	runBurstTwins(t, true, true, true, false, true)
	runBurstTwins(t, true, false, true, false, false)
}
