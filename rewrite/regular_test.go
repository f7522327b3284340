package rewrite

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"sluice/flow"
)

// sameRegular holds ParseRegular and what follows from it against Parse, Translate and Forward, and reports whether the packet is
// regular and not plain.
func sameRegular(t *testing.T, r *rand.Rand, b []byte) bool {
	t.Helper()
	var p, q Packet
	var k, l flow.Key
	mem := randomBytes(r, max(len(b), LongHeadLen)+8)
	copy(mem, b)
	v := Parse(mem[:len(b):len(b)], &p, &k)
	regular := ParseRegular((*LongHead)(mem), uint32(len(b)), &q, &l)
	tagged, more := false, false
	if len(b) >= etherLen+vlanLen {
		tagged, more = HasTags((*Head)(mem))
	}
	// A few addresses are left to Parse, which takes some of them.
	zeros := p.V6 && (k.Src.Hi == 0 || k.Dst.Hi == 0)
	want := v == OK && !more && (tagged || p.V6) && p.Regular() && (p.Proto == flow.UDP || p.TCP.Flags&flow.FlagSYN == 0) && !zeros
	if regular != want {
		t.Fatalf("%x: regular is %v, Parse says %v %+v", b, regular, v, p)
	}
	if !regular {
		return false
	}
	was := q.TCP
	q.TCP.Scale, q.ICMP, q.SCTP = p.TCP.Scale, p.ICMP, p.SCTP // not for these
	if p.Proto == flow.UDP {
		q.TCP = p.TCP
	}
	if p != q || k != l {
		t.Fatalf("%x: %+v %+v, Parse says %+v %+v", b, q, l, p, k)
	}
	if p.Proto == flow.TCP && was.Len != uint32(p.End-p.Payload) {
		t.Fatalf("%x: %d bytes of payload", b, was.Len)
	}
	return true
}

// changedAlike holds the changes of a regular packet, plain or not, against the general ones.
func changedAlike(t *testing.T, r *rand.Rand, b []byte, p *Packet, k *flow.Key) {
	t.Helper()
	to := Ends{Src: flow.Addr{Hi: r.Uint64(), Lo: r.Uint64()}, Dst: flow.Addr{Hi: r.Uint64(), Lo: r.Uint64()}, SrcPort: randomWord(r), DstPort: randomWord(r)}
	if !p.V6 {
		to.Src, to.Dst = flow.AddrFrom4(r.Uint32()), flow.AddrFrom4(r.Uint32())
	}
	l2 := randomMAC(r)
	// The TTL is the caller's affair, and so are the Diffs, so that any will do; those that are right bring sums of 0 about.
	l3, l4 := randomWord(r), randomWord(r)
	if r.IntN(2) == 0 {
		from := EndsOf(k)
		l3, l4 = EndsDiff(&from, &to, p.Proto)
	}
	for name, change := range map[string]struct{ fast, slow func(b []byte, ip *Head) }{
		"translated": {
			func(b []byte, ip *Head) {
				ports := flow.Ports(to.SrcPort, to.DstPort)
				if p.V6 {
					TranslateRegular6(ip, p.Proto, &to.Src, &to.Dst, ports, l4)
				} else {
					TranslateRegular4(ip, p.Proto, to.Src.V4(), to.Dst.V4(), ports, l3, l4)
				}
			},
			func(b []byte, _ *Head) { Translate(b, p, &l2, &to, l3, l4) },
		},
		"forwarded": {
			func(_ []byte, ip *Head) { ForwardRegular(ip, p.V6) },
			func(b []byte, _ *Head) { Forward(b, p, &l2) },
		},
	} {
		mem := randomBytes(r, len(b)+LongHeadLen)
		copy(mem, b)
		slow := slices.Clone(mem)
		change.slow(slow[:len(b)], nil)
		*(*L2)(mem) = l2
		change.fast(mem, (*Head)(mem[p.L3:]))
		if !bytes.Equal(mem, slow) {
			t.Fatalf("%x %s is\n%x, not\n%x", b, name, mem, slow)
		}
	}
}

// What is regular is read and changed as by the general functions: packets at random, whole, cut off, and with bytes of their
// headers changed.
func TestRegular(t *testing.T) {
	r := seeded(t)
	regular, others, changed := 0, 0, 0
	count := func(b []byte) {
		if sameRegular(t, r, b) {
			regular++
		} else {
			others++
		}
		var p Packet
		var k flow.Key
		if Parse(b, &p, &k) == OK && p.Regular() {
			changedAlike(t, r, b, &p, &k)
			changed++
		}
	}
	for range 6000 {
		p := randomAny(r)
		if r.IntN(4) > 0 {
			p = randomPacket(r)
			p.options = 0
			if r.IntN(2) == 0 {
				p.ext = nil
			}
		}
		b := p.build(t)
		count(b)
		count(b[:r.IntN(len(b)+1)])
		for range 4 {
			c := bytes.Clone(b)
			for range 1 + r.IntN(2) {
				at := r.IntN(min(len(c), etherLen+vlanLen+ipv6Len+tcpLen))
				if r.IntN(2) == 0 {
					c[at] ^= 1 << r.IntN(8)
				} else {
					c[at] = uint8(r.Uint32())
				}
			}
			count(c)
		}
	}
	if t.Logf("%d regular, %d others, %d changed", regular, others, changed); regular < 1000 || others < 1000 || changed < 2000 {
		t.Error("too few of a kind")
	}
}

func FuzzRegular(f *testing.F) {
	for _, b := range fuzzSeeds(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := rand.New(rand.NewPCG(1, uint64(len(b))))
		sameRegular(t, r, b)
		var p Packet
		var k flow.Key
		if Parse(b, &p, &k) == OK && p.Regular() {
			changedAlike(t, r, b, &p, &k)
		}
	})
}
