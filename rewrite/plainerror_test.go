package rewrite

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"sluice/flow"
)

// samePlainError holds ParsePlainError and what follows from it against Parse, ReadQuote and TranslateError, and reports whether
// the frame is a plain error.
func samePlainError(t *testing.T, r *rand.Rand, b []byte) bool {
	t.Helper()
	var p, fp Packet
	var q, fq Quote
	var k, fk flow.Key
	v := Parse(b, &p, &k)
	plain := ParsePlainError(b, &fp, &fq, &fk)
	read := v == NoPorts && p.ICMP == ICMPError && ReadQuote(b, &p, &q, &k) == Done
	want := read && !p.V6 && p.VLAN == 0 && p.L3 == etherLen && p.L4 == plainL4 && q.L4 == errorL4 &&
		(q.Proto == flow.TCP || q.Proto == flow.UDP) && b[errorFragment]&0x20 == 0 && (q.Type == icmpQuench || b[plainL4+5] == 0)
	if plain != want {
		t.Fatalf("%x: plain is %v, ReadQuote says %v %+v %+v", b, plain, read, p, q)
	}
	if !plain {
		return false
	}
	if q.Plain || !fq.Plain {
		t.Fatal("Plain is marked wrongly")
	}
	fq.Plain = false
	fp.TCP, fp.SCTP = p.TCP, p.SCTP // not for these
	if p != fp || q != fq || k != fk {
		t.Fatalf("%x:\n%+v %+v %+v, ReadQuote says\n%+v %+v %+v", b, fp, fq, fk, p, q, k)
	}
	var l2 L2
	copy(l2[:], randomBytes(r, len(l2)))
	from := Ends{Src: k.Dst, Dst: k.Src, SrcPort: k.DstPort(), DstPort: k.SrcPort()} // as it is quoted
	for _, toServer := range []bool{true, false} {
		to := from
		addr, port := flow.AddrFrom4(r.Uint32()), randomWord(r)
		if r.IntN(4) == 0 { // nothing changes: sums of all bits
			addr, port = from.Dst, from.DstPort
			if toServer {
				addr, port = from.Src, from.SrcPort
			}
		}
		if toServer {
			to.Src, to.SrcPort = addr, port
		} else {
			to.Dst, to.DstPort = addr, port
		}
		l3, l4 := EndsDiff(&from, &to, q.Proto)
		if r.IntN(2) == 0 { // the way back has the complement of the way there
			l3, l4 = EndsDiff(&to, &from, q.Proto)
			l3, l4 = ^l3, ^l4
		}
		fast, slow := bytes.Clone(b), bytes.Clone(b)
		if toServer {
			PlainErrorToServer(fast, &q, &l2, addr.V4(), port, l3, l4)
		} else {
			PlainErrorToClient(fast, &q, (*[6]byte)(l2[:]), (*[6]byte)(l2[6:]), addr.V4(), port, l3, l4)
		}
		TranslateError(slow, &p, &q, &l2, &to, false)
		if !bytes.Equal(fast, slow) {
			t.Fatalf("%x, to the server %v, becomes\n%x, not\n%x", b, toServer, fast, slow)
		}
	}
	return true
}

// Errors that are plain are read and changed as by the general functions: at random, whole, cut off, with bytes changed.
func TestPlainError(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	plain, others := 0, 0
	count := func(b []byte) {
		if samePlainError(t, r, b) {
			plain++
		} else {
			others++
		}
	}
	for range 10000 {
		e := randomError(t, r)
		if r.IntN(2) == 0 { // plainer
			e.outer.tags, e.outer.options, e.inner.options, e.inner.mf, e.extension = nil, 0, 0, false, nil
			e.quoted = min(e.quoted, len(e.inner.build(t))-etherLen)
		}
		b := e.build(t)
		count(b)
		count(b[:r.IntN(len(b)+1)])
		for range 4 {
			c := bytes.Clone(b)
			for range 1 + r.IntN(2) {
				at := r.IntN(min(len(c), errorL4+tcpLen))
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

func FuzzPlainError(f *testing.F) {
	for _, b := range changeSeeds(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { samePlainError(t, rand.New(rand.NewPCG(1, uint64(len(b)))), b) })
}
