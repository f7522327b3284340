package rewrite

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"sluice/flow"
)

// changeSeeds are fuzzSeeds and what the changes beyond nat are for: queries, errors with 8 bytes to all of a packet,
// parts of datagrams, packets of tunnels, SYNs with options.
func changeSeeds(t testing.TB) (seeds [][]byte) {
	r := rand.New(rand.NewPCG(6, 6))
	seeds = fuzzSeeds(t)
	small := func() testPacket {
		p := randomAny(r)
		p.payload = p.payload[:min(len(p.payload), 64)&^3]
		return p
	}
	for range 40 {
		seeds = append(seeds, small().build(t))
		e := randomError(t, r)
		if frame := e.build(t); len(frame) < 700 {
			seeds = append(seeds, frame)
		}
		p := small()
		p.ext, p.payload = nil, randomBytes(r, 100)
		seeds = append(seeds, cut(t, p, 64, r.Uint32())...)
		tun := randomTunnel(r)
		p = small()
		p.tags, p.padding = nil, 0
		seeds = append(seeds, tun.outer(t, p.build(t)[etherLen:], p.tos, true, 7, 9, 50000))
		if options, _ := synOptions(r, 1460); len(options) <= 40 {
			seeds = append(seeds, withOptions(t, basicPacket(r.IntN(2) == 0, flow.TCP).with(func(p *testPacket) { p.flags = flow.FlagSYN }), options))
		}
	}
	return seeds
}

// fuzzEnds are of a family; both are addresses that a fuzzer does not come upon.
func fuzzEnds(v6 bool, kind ICMPKind, ports bool) Ends {
	e := Ends{Src: flow.AddrFrom4(0xc6336407), Dst: flow.AddrFrom4(0xcb007109), SrcPort: 4242, DstPort: 8080}
	if v6 {
		e.Src, e.Dst = flow.AddrFrom(netip.MustParseAddr("2001:db8:7::42:43")), flow.AddrFrom(netip.MustParseAddr("2001:db8:9::17:18"))
	}
	switch {
	case !ports:
		e.SrcPort, e.DstPort = 0, 0
	case kind == ICMPRequest:
		e.DstPort = 0
	case kind == ICMPReply:
		e.SrcPort = 0
	}
	return e
}

func hasPorts(proto uint8, kind ICMPKind) bool {
	return proto == flow.TCP || proto == flow.UDP || proto == flow.SCTP || kind == ICMPRequest || kind == ICMPReply
}

// naiveICMP tells whether the checksum of an ICMP message is right, naively.
func naiveICMP(b []byte, p *Packet) bool {
	var pseudo []byte
	if p.V6 {
		size := p.End - p.L4
		pseudo = append(slices.Clone(b[p.L3+8:p.L3+40]), 0, 0, byte(size>>8), byte(size), 0, 0, 0, flow.ICMPv6)
	}
	return naiveSum(pseudo, b[p.L4:p.End]) == 0
}

// onlyZeros: the sum of a message of zeros is wrong as 0 and right as 0xffff, which are the same to an update.
func onlyZeros(b []byte, p *Packet) bool {
	return isICMP(p) && !p.V6 && len(bytes.Trim(b[p.L4:p.End], "\x00")) == 0
}

// rightSums are the checksums of a packet as they are found without the code under test.
func rightSums(b []byte, p *Packet) (l3, l4 bool) {
	if isICMP(p) {
		l3 := p.V6 || naiveSum(b[p.L3:p.L3+uint16(b[p.L3]&15)*4]) == 0
		return l3, naiveICMP(b, p)
	}
	if p.Proto != flow.TCP && p.Proto != flow.UDP && p.Proto != flow.SCTP {
		return p.V6 || naiveSum(b[p.L3:p.L3+uint16(b[p.L3]&15)*4]) == 0, true
	}
	return sumsValid(b, p)
}

// blankSums zeroes checksums and TTL, which may be written in two ways or change.
func blankSums(b []byte, p *Packet) {
	if p.V6 {
		b[p.L3+7] = 0
	} else {
		b[p.L3+8], b[p.L3+10], b[p.L3+11] = 0, 0, 0
	}
	blankTransport(b[p.L4:p.End], p.Proto)
}

func blankTransport(t []byte, proto uint8) {
	at, n := 0, 2
	switch proto {
	case flow.TCP:
		at = 16
	case flow.UDP:
		at = 6
	case flow.SCTP:
		at, n = 8, 4
	case flow.ICMP, flow.ICMPv6:
		at = 2
	default:
		return
	}
	if len(t) >= at+n {
		clear(t[at : at+n])
	}
}

// FuzzTranslate: full NAT there and back is the identity but for TTL, checksums that were right stay right and wrong ones
// wrong, and nothing outside the packet changes.
func FuzzTranslate(f *testing.F) {
	for _, b := range changeSeeds(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		b := exact(input)
		var p Packet
		var k flow.Key
		if v := Parse(b, &p, &k); v != OK && v != NoPorts || p.TTL <= 2 {
			return
		}
		right3, right4 := rightSums(b, &p)
		right4 = right4 || onlyZeros(b, &p)
		from := EndsOf(&k)
		kind := p.ICMP
		if !isICMP(&p) {
			kind = ICMPOther
		}
		to := fuzzEnds(p.V6, kind, hasPorts(p.Proto, kind))
		l3, l4 := EndsDiff(&from, &to, k.Proto)
		l2, back := L2{2}, L2(input)
		Translate(b, &p, &l2, &to, l3, l4)
		var p2 Packet
		var k2 flow.Key
		if v := Parse(b, &p2, &k2); v != OK && v != NoPorts || EndsOf(&k2) != to || p2.TTL != p.TTL-1 {
			t.Fatalf("verdict %d, %+v %+v", v, p2, k2)
		}
		if got3, got4 := rightSums(b, &p2); got3 != right3 || got4 != right4 {
			t.Fatalf("checksums right before: %v %v, after: %v %v\n% x\n% x", right3, right4, got3, got4, input, b)
		}
		Translate(b, &p2, &back, &from, ^l3, ^l4)
		if got3, got4 := rightSums(b, &p2); got3 != right3 || got4 != right4 {
			t.Fatalf("checksums right before: %v %v, back: %v %v\n% x\n% x", right3, right4, got3, got4, input, b)
		}
		want := slices.Clone(input)
		blankSums(b, &p)
		blankSums(want, &p)
		if !bytes.Equal(b, want) {
			t.Fatalf("there and back\n% x\n% x", want, b)
		}
	})
}

// FuzzQuote: an error is translated inside and out and back, with the same properties; and whatever ReadQuote accepts
// lies within the message.
func FuzzQuote(f *testing.F) {
	for _, b := range changeSeeds(f) {
		f.Add(b, false)
		f.Add(b, true)
	}
	f.Fuzz(func(t *testing.T, input []byte, hide bool) {
		b := exact(input)
		var p Packet
		var k flow.Key
		if v := Parse(b, &p, &k); v != NoPorts || p.TTL <= 2 {
			return
		}
		var q Quote
		why := ReadQuote(b, &p, &q, &k)
		if !bytes.Equal(b, input) {
			t.Fatal("ReadQuote changed the frame")
		}
		if why != Done {
			return
		}
		if q.L3 < p.L4+icmpLen || q.L4 < q.L3+ipv4Len || q.End < q.L4+8 || q.End > p.End {
			t.Fatalf("%+v in %+v", q, p)
		}
		right3, right4 := rightSums(b, &p)
		back := EndsOf(&k)
		from := back.Reverse()
		to := fuzzEnds(p.V6, q.ICMP, hasPorts(q.Proto, q.ICMP))
		l2, l2back := L2{2}, L2(input)
		source, _ := addresses(b[p.L3:], p.V6)
		speaks := source == from.Dst
		TranslateError(b, &p, &q, &l2, &to, hide)
		var p2 Packet
		var k2 flow.Key
		var q2 Quote
		if v := Parse(b, &p2, &k2); v != NoPorts {
			t.Fatalf("verdict %d", v)
		}
		src, dst := k2.Src, k2.Dst
		if why := ReadQuote(b, &p2, &q2, &k2); why != Done || q2 != q || EndsOf(&k2) != to.Reverse() || dst != to.Src {
			t.Fatalf("%q %+v %+v", why, q2, k2)
		}
		if want := to.Dst; (speaks || hide) && src != want || !speaks && !hide && src != source {
			t.Fatalf("source %v of an error from %v", src, source)
		}
		if got3, got4 := rightSums(b, &p2); got3 != right3 || got4 != right4 {
			t.Fatalf("checksums right before: %v %v, after: %v %v\n% x\n% x", right3, right4, got3, got4, input, b)
		}
		TranslateError(b, &p2, &q2, &l2back, &from, false)
		if got3, got4 := rightSums(b, &p2); got3 != right3 || got4 != right4 {
			t.Fatalf("checksums right before: %v %v, back: %v %v", right3, right4, got3, got4)
		}
		want := slices.Clone(input)
		for _, frame := range [][]byte{b, want} {
			blankSums(frame, &p)
			if !p.V6 {
				frame[q.L3+10], frame[q.L3+11] = 0, 0
			}
			blankTransport(frame[q.L4:q.End], q.Proto)
			if hide && !speaks {
				putAddresses(frame[p.L3:], p.V6, to.Dst, from.Src)
			}
		}
		if !bytes.Equal(b, want) {
			t.Fatalf("there and back\n% x\n% x", want, b)
		}
	})
}

// FuzzTunnel: what goes into a tunnel comes out with a TTL less by one; and nothing that Decapsulate accepts is more than
// what was carried.
func FuzzTunnel(f *testing.F) {
	for i, b := range changeSeeds(f) {
		f.Add(b, uint8(i), uint32(i)*0x9e3779b9)
	}
	f.Fuzz(func(t *testing.T, input []byte, way uint8, entropy uint32) {
		b := exact(input)
		var p Packet
		var k flow.Key
		v := Parse(b, &p, &k)
		if v != OK && v != NoPorts && v != Fragment {
			return
		}
		if v != Fragment {
			start, end, why := Decapsulate(b, 0, &p, 0)
			if why == Done && (start < 0 || end > int(p.End) || end-start < etherLen+ipv4Len) || why != Done && !bytes.Equal(b, input) {
				t.Fatalf("%q: %d to %d of %d", why, start, end, len(b))
			}
		}
		if p.TTL <= 1 {
			return
		}
		ends := fuzzEnds(way&1 != 0, ICMPOther, false)
		tun := Tunnel{Src: ends.Src, Dst: ends.Dst, Kind: TunnelKind(way >> 1 & 1), DF: DFPolicy(way >> 2 & 3 % 3), ZeroSum: way&17 == 16, MTU: 0xffff}
		const head = 66 // 14 + 40 + 8 + 4
		b = exact(append(make([]byte, head), input...))
		start, why := tun.Encapsulate(b, head, &p, entropy, 1)
		if why == TooBig && int(p.End-p.L3)+tun.Overhead() > 0xffff {
			return
		}
		frame := exact(b[start : head+int(p.End)])
		var o Packet
		if v := Parse(frame, &o, &k); why != Done || v != OK && v != NoPorts || int(o.End) != len(frame) || Verify(frame, &o, false) != SumsRight {
			t.Fatalf("%q, verdict %d, %+v\n% x", why, v, o, frame)
		}
		start, end, why := Decapsulate(frame, 0, &o, 0)
		want := exact(input[p.L3:p.End])
		wrong := !p.V6 && naiveSum(want[:int(want[0]&15)*4]) != 0
		if wrong || p.V6 && why == TunnelInner {
			if why != TunnelSum {
				t.Fatalf("%q of a wrong header", why)
			}
			return
		}
		if why != Done {
			t.Fatal(why)
		}
		inner := frame[start+etherLen : end]
		if p.V6 {
			want[7]--
		} else {
			want[8]--
			want[10], want[11], inner[10], inner[11] = 0, 0, 0, 0
		}
		if !bytes.Equal(inner, want) {
			t.Fatalf("through the tunnel\n% x\n% x", want, inner)
		}
	})
}

// FuzzAnswers: errors and replies that are made of any frame are whole packets with right checksums.
func FuzzAnswers(f *testing.F) {
	for i, b := range changeSeeds(f) {
		f.Add(b, uint8(i), uint16(i*20))
	}
	f.Fuzz(func(t *testing.T, input []byte, problem uint8, room uint16) {
		b := exact(input)
		var p Packet
		var k flow.Key
		v := Parse(b, &p, &k)
		if v != OK && v != NoPorts && v != Fragment {
			return
		}
		a := ErrorAnswer{Src: fuzzEnds(p.V6, ICMPOther, false).Src, Problem: Problem(problem % 5), MTU: uint32(room)}
		may := MayAnswer(b, &p, a.Problem)
		for i, dst := range [][]byte{make([]byte, room), exact(append(slices.Clone(input), make([]byte, a.Size(&p))...))} {
			src := b
			if i == 1 { // in place
				src = dst[:len(input)]
			}
			if len(dst) < int(p.L3) {
				continue
			}
			n := a.Build(dst, src, &p)
			if n == 0 {
				if len(dst) >= a.Size(&p) {
					t.Fatal("no error in a frame with room for it")
				}
				continue
			}
			var e Packet
			if v := Parse(dst[:n], &e, new(flow.Key)); v != NoPorts || e.ICMP != ICMPError || int(e.End) != n || Verify(dst[:n], &e, false) != SumsRight || n > a.Size(&p) {
				t.Fatalf("verdict %d, %+v of %d bytes", v, e, n)
			}
			if may && MayAnswer(dst[:n], &e, a.Problem) {
				t.Fatal("an error about an error")
			}
		}
		if !bytes.Equal(b, input) {
			t.Fatal("the packet was changed")
		}
		if v == Fragment {
			return
		}
		_, right := rightSums(b, &p)
		right = right || onlyZeros(b, &p)
		n := AnswerEcho(b, &p)
		if n == 0 {
			if !bytes.Equal(b, input) {
				t.Fatal("the packet was changed, and not answered")
			}
			return
		}
		var e Packet
		if v := Parse(b[:n], &e, &k); v != NoPorts || e.ICMP != ICMPReply || int(e.End) != n {
			t.Fatalf("verdict %d, %+v of %d bytes", v, e, n)
		}
		if l3, l4 := rightSums(b[:n], &e); !l3 || l4 != right {
			t.Fatalf("checksums %v %v of a reply to %v", l3, l4, right)
		}
	})
}

// FuzzFrame: tags, MSS, parts and checksums of any frame.
func FuzzFrame(f *testing.F) {
	for i, b := range changeSeeds(f) {
		f.Add(b, uint16(i*37))
	}
	f.Fuzz(func(t *testing.T, input []byte, word uint16) {
		b := exact(input)
		var p Packet
		var k flow.Key
		v := Parse(b, &p, &k)
		if v != OK && v != NoPorts && v != Fragment {
			return
		}
		if v == Fragment {
			fuzzFragment(t, b, &p, &k)
			return
		}
		right3, right4 := rightSums(b, &p)
		sums := Verify(b, &p, false)
		if (sums == SumsRight) != (right3 && right4) || (sums == SumsWrongIP) != !right3 {
			t.Fatalf("verified as %d, it is %v %v", sums, right3, right4)
		}
		if ClampMSS(b, &p, word) {
			if got3, got4 := rightSums(b, &p); got3 != right3 || got4 != right4 || ClampMSS(b, &p, word) {
				t.Fatalf("with another MSS: %v %v", got3, got4)
			}
		}
		Recompute(b, &p, false)
		if got3, got4 := rightSums(b, &p); !got3 || !got4 || Verify(b, &p, false) != SumsRight {
			t.Fatalf("recomputed: %v %v", got3, got4)
		}
		b = exact(append(make([]byte, 4), input...))
		q := p
		start, why := SetVLAN(b, 4, &q, word&vlanMask)
		tags, n := Tags(b[start:])
		if _, before := Tags(input); why != Done || word&vlanMask != 0 && tags[0]&vlanMask != word&vlanMask || before == 0 && n != min(int(word&vlanMask), 1) {
			t.Fatalf("%q: tags %x", why, tags)
		}
		var q2 Packet
		if v2 := Parse(b[start:], &q2, &k); v2 != v {
			t.Fatalf("with a tag: verdict %d, not %d", v2, v)
		}
		q2.TCP, q2.SCTP, q.TCP, q.SCTP = flow.Segment{}, flow.Chunks{}, flow.Segment{}, flow.Chunks{}
		q.ICMP = q2.ICMP
		if q != q2 {
			t.Fatalf("%+v, not %+v", q, q2)
		}
	})
}

func fuzzFragment(t *testing.T, b []byte, p *Packet, k *flow.Key) {
	t.Helper()
	var f FragmentPart
	if why := f.Read(b, p); why != Done {
		t.Fatal(why)
	}
	if f.Len != p.End-p.L4 || f.Offset == 0 && !f.More {
		t.Fatalf("%+v of %+v", f, p)
	}
	checked := f.Check(p)
	if f.Offset != 0 || checked != Done {
		return
	}
	q := *p
	if why := ReadFirst(b, &q, k); why != Done {
		return
	}
	if q.L4 < p.L4 || q.Payload < q.L4 || q.Payload > q.End || q.End != p.End || q.Proto != k.Proto {
		t.Fatalf("%+v of %+v", q, p)
	}
	from := EndsOf(k)
	kind := q.ICMP
	if !isICMP(&q) {
		kind = ICMPOther
	}
	if CanTranslate(&q, true, true) != Done || q.TTL <= 2 {
		return
	}
	input := slices.Clone(b)
	to := fuzzEnds(q.V6, kind, hasPorts(q.Proto, kind))
	l3, l4 := EndsDiff(&from, &to, q.Proto)
	l2, back := L2{2}, L2(b)
	Translate(b, &q, &l2, &to, l3, l4)
	Translate(b, &q, &back, &from, ^l3, ^l4)
	blankSums(b, &q)
	blankSums(input, &q)
	if !bytes.Equal(b, input) {
		t.Fatalf("there and back\n% x\n% x", input, b)
	}
}
