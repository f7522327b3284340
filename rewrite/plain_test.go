package rewrite

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"sluice/flow"
)

// head puts a frame into memory whose first bytes behind it are somebody's old ones.
func head(r *rand.Rand, b []byte) (*Head, []byte) {
	mem := randomBytes(r, max(len(b), HeadLen)+8)
	copy(mem, b)
	return (*Head)(mem), mem[:len(b):len(b)]
}

// samePlain holds ParsePlain and what follows from it against Parse, ToServer and ToClient, and reports whether the packet is
// plain.
func samePlain(t *testing.T, r *rand.Rand, b []byte) bool {
	t.Helper()
	var p, q Packet
	var k, l flow.Key
	h, f := head(r, b)
	v := Parse(f, &p, &k)
	most := uint32(len(b))
	if r.IntN(8) == 0 {
		most -= min(most, uint32(r.IntN(3*etherLen)))
	}
	plain := ParsePlain(h, uint32(len(b)), most, &q, &l)
	want := v == OK && p.TTL > 1 && uint32(p.End-p.L3) <= most && p.VLAN == 0 && p.L3 == etherLen && p.L4 == plainL4 && !p.V6 && (p.Proto == flow.TCP && p.TCP.Flags&flow.FlagSYN == 0 || p.Proto == flow.UDP)
	if plain != want {
		t.Fatalf("%x: plain is %v, Parse says %v %+v", b, plain, v, p)
	}
	if !plain {
		return false
	}
	if p.Plain || !q.Plain || q.Opens {
		t.Fatal("Plain or Opens is marked wrongly")
	}
	was := q.TCP
	q.TCP.Scale, q.Plain, q.ICMP, q.SCTP = p.TCP.Scale, false, p.ICMP, p.SCTP // not for these
	if p.Proto == flow.UDP {
		q.TCP = p.TCP
	}
	if p != q || k != l {
		t.Fatalf("%x: %+v %+v, Parse says %+v %+v", b, q, l, p, k)
	}
	if p.Proto == flow.TCP && was.Len != uint32(p.End-p.Payload) {
		t.Fatalf("%x: %d bytes of payload", b, was.Len)
	}
	var l2 L2
	copy(l2[:], randomBytes(r, len(l2)))
	addr, port := flow.AddrFrom4(r.Uint32()), randomWord(r)
	// The TTL is the caller's affair, and so are the Diffs, so that any will do.
	l3, l4 := randomWord(r), randomWord(r)
	fast, mem := head(r, b)
	slow := bytes.Clone(f)
	PlainToServer(fast, &l2, p.Proto == flow.TCP, addr.V4(), port, l3, l4)
	ToServer(slow, &p, &l2, addr, port, l3, l4)
	if !bytes.Equal(mem, slow) {
		t.Fatalf("%x to the server becomes\n%x, not\n%x", b, mem, slow)
	}
	fast, mem = head(r, b)
	slow = bytes.Clone(f)
	PlainToClient(fast, (*[6]byte)(l2[:]), (*[6]byte)(l2[6:]), p.Proto == flow.TCP, addr.V4(), port, l3, l4)
	ToClient(slow, &p, &l2, addr, port, l3, l4)
	if !bytes.Equal(mem, slow) {
		t.Fatalf("%x to the client becomes\n%x, not\n%x", b, mem, slow)
	}
	return true
}

// What is plain is read and changed as by the general functions: packets at random, whole, cut off, and with bytes of their
// headers changed.
func TestPlain(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	plain, others := 0, 0
	count := func(b []byte) {
		if samePlain(t, r, b) {
			plain++
		} else {
			others++
		}
	}
	for range 10000 {
		p := randomAny(r)
		if r.IntN(4) > 0 {
			p = randomPacket(r)
		}
		b := p.build(t)
		count(b)
		count(b[:r.IntN(len(b)+1)])
		for range 4 {
			c := bytes.Clone(b)
			for range 1 + r.IntN(2) {
				at := r.IntN(min(len(c), plainL4+tcpLen))
				if r.IntN(2) == 0 {
					c[at] ^= 1 << r.IntN(8)
				} else {
					c[at] = uint8(r.Uint32())
				}
			}
			count(c)
		}
	}
	if t.Logf("%d plain, %d others", plain, others); plain < 1000 || others < 1000 {
		t.Error("too few of a kind")
	}
}

func FuzzPlain(f *testing.F) {
	for _, b := range fuzzSeeds(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := rand.New(rand.NewPCG(1, uint64(len(b))))
		samePlain(t, r, b)
	})
}
