package rewrite

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"sluice/flow"
)

// mixedPlaced is placed for both families.
func mixedPlaced(t *testing.T, seed uint64) *flow.MixedPlacing {
	t.Helper()
	const capacity = 500 // so large that its memory begins with a page
	r := rand.New(rand.NewPCG(seed, 1))
	table, err := flow.New(make([]byte, flow.Size(capacity)), flow.Config{Capacity: capacity, Secret: flow.Secret{r.Uint64(), r.Uint64(), r.Uint64(), r.Uint64()}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := table.MixedPlacing()
	p.Far = r.IntN(2) == 0
	return p
}

// mixedKinds is how many packets of each kind were read.
type mixedKinds struct{ plain, tagged4, tagged6, six, stops int }

// sameMixed holds ParseAndPlaceMixed against its counterpart in Go, from a packet of the burst on.
func sameMixed(t *testing.T, r *rand.Rand, packets [][]byte, kinds *mixedKinds) {
	t.Helper()
	var mem []byte
	frames := make([]Frame, len(packets))
	for i, b := range packets {
		frames[i] = Frame{Addr: uint64(len(mem)), Len: uint32(len(b)), Options: r.Uint32()}
		mem = append(mem, b...)
		mem = append(mem, randomBytes(r, max(0, LongHeadLen-len(b)))...)
	}
	most := uint32(1500)
	if r.IntN(8) == 0 {
		most = 40 + uint32(r.IntN(60))
	}
	seed, from := r.Uint64(), r.IntN(flow.Burst+1)
	fast, slow := mixedPlaced(t, seed), mixedPlaced(t, seed)
	var pkts, pkts2 [flow.Burst]Packet
	var keys, keys2 [flow.Burst]flow.Key
	n := ParseAndPlaceMixed(mem, frames, most, &pkts, &keys, from, fast)
	in := frames[:min(len(frames), flow.Burst-from)]
	want := 0
	if len(in) > 0 {
		want = placeMixedEach(mem, in, most, &pkts2, &keys2, from, slow)
	}
	if n != want {
		t.Fatalf("%d packets are read, not %d: %x", n, want, packets[min(n, want)])
	}
	for i := range flow.Burst {
		if i >= from && i < from+n {
			p, q := pkts[i], pkts2[i]
			if p.Proto == flow.UDP {
				p.TCP, q.TCP = flow.Segment{}, flow.Segment{}
			}
			if p.Plain && q.Plain {
				p.ICMP, q.ICMP = 0, 0
			}
			if p != q || keys[i] != keys2[i] || fast.Bucket[i] != slow.Bucket[i] || fast.Tag[i] != slow.Tag[i] {
				t.Fatalf("%x: %+v %+v at %d %d, not %+v %+v at %d %d", packets[i-from], p, keys[i], fast.Bucket[i], fast.Tag[i], q, keys2[i], slow.Bucket[i], slow.Tag[i])
			}
			switch {
			case p.Plain:
				kinds.plain++
			case p.V6 && p.L3 == etherLen:
				kinds.six++
			case p.V6:
				kinds.tagged6++
			default:
				kinds.tagged4++
			}
		} else if (i < from || i > from+n) && (pkts[i] != (Packet{}) || keys[i] != (flow.Key{})) {
			t.Fatal("what is not its own is written")
		}
	}
	if n < len(in) {
		kinds.stops++
	}
	if len(in) > 0 { // a frame that ends outside the memory ends it
		bad := r.IntN(len(in))
		frames[bad].Addr = uint64(len(mem)-LongHeadLen+1) + uint64(r.IntN(100))
		if r.IntN(4) == 0 {
			frames[bad].Addr = ^uint64(0) - uint64(r.IntN(100))
		}
		if got := ParseAndPlaceMixed(mem, frames, most, &pkts, &keys, from, fast); got != min(n, bad) {
			t.Fatalf("%d packets with number %d outside the memory, and %d read", got, bad, n)
		}
	}
}

// Packets that are read and placed in one loop are those that are plain or regular, with what ParsePlain, ParseRegular and the
// table's hash say: of both families, with tags and without, whole, cut off, and with bits of their headers changed.
func TestParseAndPlaceMixed(t *testing.T) {
	if !vectors {
		t.Skip("this processor has no AVX")
	}
	r := seeded(t)
	var kinds mixedKinds
	for range 1500 {
		burst := make([][]byte, 0, flow.Burst+8)
		odd := r.IntN(120)
		for n := r.IntN(cap(burst)); len(burst) < n; {
			p := randomPacket(r)
			p.options = 0
			if r.IntN(8) > 0 {
				p.ext = nil
			}
			b := p.build(t)
			if r.IntN(4) == 0 {
				b[r.IntN(min(len(b), etherLen+vlanLen+ipv6Len+tcpLen))] ^= 1 << r.IntN(8)
			}
			if r.IntN(16) == 0 {
				b = b[:r.IntN(len(b)+1)]
			}
			mem := append(bytes.Clone(b), randomBytes(r, LongHeadLen)...)
			h, size := (*LongHead)(mem), uint32(len(b))
			if len(burst) == odd || ParsePlain((*Head)(h[:]), size, 1500, &Packet{}, &flow.Key{}) || ParseRegular(h, size, &Packet{}, &flow.Key{}) {
				burst = append(burst, b)
			}
		}
		sameMixed(t, r, burst, &kinds)
	}
	if t.Logf("%+v", kinds); min(kinds.plain, kinds.tagged4, kinds.tagged6, kinds.six) < 500 || kinds.stops < 30 {
		t.Error("too few of a kind")
	}
}

// A packet may end where its offsets still fit 16 bits, and not behind that, however long the frame is said to be.
func TestMixedLongest(t *testing.T) {
	if !vectors {
		t.Skip("this processor has no AVX")
	}
	r := seeded(t)
	for _, six := range []bool{false, true} {
		l3 := etherLen + vlanLen
		for end := maxFrame - 3; end <= maxFrame+8; end++ {
			b := make([]byte, LongHeadLen)
			copy(b[12:], []byte{0x81, 0, 0, 7})
			length, l4 := end-l3, l3+ipv4Len
			if six {
				length, l4 = end-l3-ipv6Len, l3+ipv6Len
				copy(b[16:], []byte{0x86, 0xdd, 0x60, 0, 0, 0, byte(length >> 8), byte(length), flow.TCP, 64, 1, 2})
				b[l3+dst6] = 9
			} else {
				copy(b[16:], []byte{8, 0, 0x45, 0, byte(length >> 8), byte(length), 0, 0, 0, 0, 64, flow.TCP})
			}
			if length > 0xffff {
				continue
			}
			b[l4+12], b[l4+13] = 5<<4, flow.FlagACK
			var pkts, pkts2 [flow.Burst]Packet
			var keys [flow.Burst]flow.Key
			frames, seed := []Frame{{Len: maxFrame + 100}}, r.Uint64()
			got := ParseAndPlaceMixed(b, frames, 1500, &pkts, &keys, 0, mixedPlaced(t, seed))
			want := placeMixedEach(b, frames, 1500, &pkts2, &keys, 0, mixedPlaced(t, seed))
			if right := end <= maxFrame; got != want || (got == 1) != right || right && pkts[0] != pkts2[0] {
				t.Errorf("IPv6 %v, end %d: %d %+v, not %d %+v", six, end, got, pkts[0], want, pkts2[0])
			}
		}
	}
}

func FuzzParseAndPlaceMixed(f *testing.F) {
	if !vectors {
		f.Skip("this processor has no AVX")
	}
	for _, b := range fuzzSeeds(f) {
		f.Add(b, uint64(0))
	}
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		r := rand.New(rand.NewPCG(1, seed))
		burst := make([][]byte, 1+r.IntN(4))
		for i := range burst {
			burst[i] = bytes.Clone(b)
			if i > 0 && len(b) > 0 {
				burst[i][r.IntN(min(len(b), etherLen+vlanLen+ipv6Len+tcpLen))] ^= 1 << r.IntN(8)
			}
		}
		sameMixed(t, r, burst, &mixedKinds{})
	})
}
