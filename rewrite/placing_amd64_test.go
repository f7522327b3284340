package rewrite

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"sluice/flow"
)

// placed is a table's Placing, to note tuples in.
func placed(t *testing.T, r *rand.Rand) *flow.Placing {
	t.Helper()
	const capacity = 500 // so large that its memory begins with a page
	table, err := flow.New(make([]byte, flow.Size(capacity)), flow.Config{Capacity: capacity, Secret: flow.Secret{r.Uint64(), r.Uint64(), r.Uint64(), r.Uint64()}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := table.Placing()
	p.Far = r.IntN(2) == 0
	return p
}

// samePlaced holds ParseAndPlace against its counterpart in Go, and reports how many packets are plain, and whether one is not.
func samePlaced(t *testing.T, r *rand.Rand, packets [][]byte, fast, slow *flow.Placing) (plain int, stopped bool) {
	t.Helper()
	var mem []byte
	frames := make([]Frame, len(packets))
	for i, b := range packets {
		frames[i] = Frame{Addr: uint64(len(mem)), Len: uint32(len(b)), Options: r.Uint32()}
		mem = append(mem, b...)
		mem = append(mem, randomBytes(r, max(0, HeadLen-len(b)))...)
	}
	most := uint32(1500)
	if r.IntN(8) == 0 {
		most = 40 + uint32(r.IntN(60))
	}
	m := len(frames) &^ (abreast - 1)
	pkts, keys := make([]Packet, m+1), make([]flow.Key, m+1)
	pkts2, keys2 := make([]Packet, m), make([]flow.Key, m)
	n, tcp := ParseAndPlace(mem, frames, most, pkts[:m], keys[:m], fast)
	if want, wantTCP := placeEach(mem, frames[:m], most, pkts2, keys2, slow); n != want || (tcp^wantTCP)<<(flow.Burst-n) != 0 {
		t.Fatalf("%d of %d packets are plain, not %d, of TCP %b, not %b: %x", n, m, want, tcp, wantTCP, packets[min(n, want)])
	}
	if pkts[m] != (Packet{}) || keys[m] != (flow.Key{}) {
		t.Fatal("too much is written")
	}
	for i := range n {
		p, q := pkts[i], pkts2[i]
		if p.Proto == flow.UDP {
			p.TCP, q.TCP = flow.Segment{}, flow.Segment{}
		}
		if p != q || keys[i] != keys2[i] || fast.Bucket[i] != slow.Bucket[i] || fast.Tag[i] != slow.Tag[i] {
			t.Fatalf("%x: %+v %+v at %d %d, not %+v %+v at %d %d", packets[i], p, keys[i], fast.Bucket[i], fast.Tag[i], q, keys2[i], slow.Bucket[i], slow.Tag[i])
		}
	}
	if m > 0 { // a frame outside the memory ends it before anything is read of its batch
		bad := r.IntN(m)
		frames[bad].Addr = uint64(len(mem)-HeadLen+1) + uint64(r.IntN(100))
		if r.IntN(4) == 0 {
			frames[bad].Addr = ^uint64(0) - uint64(r.IntN(100))
		}
		if got, _ := ParseAndPlace(mem, frames, most, pkts[:m], keys[:m], fast); got != min(n, bad&^(abreast-1)) {
			t.Fatalf("%d packets with number %d outside the memory, and %d plain", got, bad, n)
		}
	}
	return n, n < m
}

// Packets of a burst that are read and placed at once are those that are plain, with what ParsePlain and the table's hash say.
func TestParseAndPlace(t *testing.T) {
	if !wide {
		t.Skip("this processor has no AVX-512 with VBMI")
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 6))
	plain, stops := 0, 0
	for range 300 {
		secret := r.Uint64()
		fast, slow := placed(t, rand.New(rand.NewPCG(secret, 1))), placed(t, rand.New(rand.NewPCG(secret, 1)))
		burst := make([][]byte, 0, flow.Burst+8)
		odd := r.IntN(120)
		for n := r.IntN(cap(burst)); len(burst) < n; {
			b := randomPacket(r).build(t)
			if r.IntN(4) == 0 && len(b) >= plainL4+tcpLen {
				b[r.IntN(plainL4+tcpLen)] ^= 1 << r.IntN(8)
			}
			if h, _ := head(r, b); len(burst) == odd || ParsePlain(h, uint32(len(b)), 1500, &Packet{}, &flow.Key{}) {
				burst = append(burst, bytes.Clone(b))
			}
		}
		n, stopped := samePlaced(t, r, burst, fast, slow)
		if plain += n; stopped {
			stops++
		}
	}
	if t.Logf("%d plain, %d bursts have another", plain, stops); plain < 2000 || stops < 30 {
		t.Error("too few of a kind")
	}
}

func FuzzParseAndPlace(f *testing.F) {
	if !wide {
		f.Skip("this processor has no AVX-512 with VBMI")
	}
	for _, b := range fuzzSeeds(f) {
		f.Add(b, uint64(0))
	}
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		r := rand.New(rand.NewPCG(1, seed))
		good, _ := head(r, b)
		burst := make([][]byte, 2*abreast)
		for i := range burst {
			c := bytes.Clone(b)
			if i > 0 && len(c) > 0 && ParsePlain(good, uint32(len(b)), 1500, &Packet{}, &flow.Key{}) {
				c[r.IntN(min(len(c), plainL4+tcpLen))] ^= 1 << r.IntN(8)
			}
			burst[i] = c
		}
		samePlaced(t, r, burst, placed(t, rand.New(rand.NewPCG(seed, 1))), placed(t, rand.New(rand.NewPCG(seed, 1))))
	})
}
