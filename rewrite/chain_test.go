package rewrite

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"sluice/flow"
)

// Every change of a packet whose head alone is given is that of the whole packet, as far as the head goes, and nothing else is
// needed of it.
func TestChainChanges(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	cutoff := 0
	for range 20_000 {
		tp := randomAny(r)
		tp.payload = append(tp.payload, randomBytes(r, r.IntN(3000)&^3)...)
		if len(tp.payload) > 9000 {
			tp.payload = tp.payload[:9000]
		}
		whole := tp.build(t)
		var p Packet
		var k flow.Key
		v := Parse(whole, &p, &k)
		if v != OK && v != NoPorts {
			continue
		}
		n := int(p.Payload) + 8 + r.IntN(1+max(0, len(whole)-int(p.Payload)-8))
		if n = max(n, 82); n >= len(whole) {
			continue
		}
		cutoff++
		head := slices.Clone(whole[:n:n])
		var q Packet
		var l flow.Key
		w := ParseChain(head, len(whole), &q, &l)
		if p.Proto != flow.TCP {
			p.TCP, q.TCP = flow.Segment{}, flow.Segment{} // not valid
		}
		q.SCTP.Types, q.SCTP.InitTag = p.SCTP.Types, p.SCTP.InitTag // of noise: chunks that contradict the length may be in what is not there
		if w != v || q != p || l != k {
			t.Fatalf("%d bytes of %d\nin one piece %d %+v %+v\nin a chain   %d %+v %+v", n, len(whole), v, p, k, w, q, l)
		}
		to := fuzzEnds(p.V6, p.ICMP, hasPorts(p.Proto, p.ICMP))
		from := EndsOf(&k)
		l3, l4 := EndsDiff(&from, &to, p.Proto)
		l2 := L2{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
		name := ""
		changed := [2]int{}
		for i, b := range [][]byte{whole, head} {
			switch r := seed + uint64(cutoff); r % 5 {
			case 0:
				if p.Proto == flow.TCP || p.Proto == flow.UDP || p.Proto == flow.SCTP {
					name = "ToServer"
					d := AddrDiff(k.Dst, to.Dst)
					ToServer(b, &p, &l2, to.Dst, to.DstPort, d, AddDiff(d, PortDiff(from.DstPort, to.DstPort)))
				}
			case 1:
				if p.Proto == flow.TCP || p.Proto == flow.UDP || p.Proto == flow.SCTP {
					name = "ToClient"
					d := AddrDiff(k.Src, to.Src)
					ToClient(b, &p, &l2, to.Src, to.SrcPort, d, AddDiff(d, PortDiff(from.SrcPort, to.SrcPort)))
				}
			case 2:
				name = "AnswerEcho"
				changed[i] = AnswerEcho(b, &p)
			default:
				name = "Translate"
				Translate(b, &p, &l2, &to, l3, l4)
			}
		}
		same := len(head)
		if changed[0] != changed[1] {
			t.Fatalf("%s: %d bytes, of the head alone %d", name, changed[0], changed[1])
		} else if changed[0] > 0 {
			same -= int(p.End) - changed[0]
		}
		if !bytes.Equal(whole[:same], head[:same]) {
			t.Fatalf("%s, %d bytes of %d, %+v:\n%x\n%x", name, n, len(whole), p, whole[:min(n, 150)], head[:min(n, 150)])
		}
	}
	if cutoff < 5000 {
		t.Errorf("%d packets were looked at", cutoff)
	}
}

// What tunnels put in front of the head of a packet is what they put in front of all of it, and so is GUE's checksum in the end.
func TestChainEncapsulate(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	for range 3000 {
		tp := randomAny(r)
		tp.payload = append(tp.payload, randomBytes(r, 2000)...)
		frame := tp.build(t)
		var p Packet
		var k flow.Key
		if v := Parse(frame, &p, &k); v != OK && v != NoPorts || p.TTL < 2 {
			continue
		}
		tun := randomTunnel(r)
		tun.MTU = 0xffff
		const head = 128
		whole := append(make([]byte, head), frame...)
		n := int(p.Payload) + r.IntN(int(p.End-p.Payload))
		first := slices.Clone(whole[: head+n : head+n])
		s1, w1 := tun.Encapsulate(whole, head, &p, 99, 7)
		s2, w2 := tun.Encapsulate(first, head, &p, 99, 7)
		if s1 != s2 || w1 != w2 {
			t.Fatalf("at %d %v, of the head alone at %d %v", s1, w1, s2, w2)
		}
		if w1 != Done {
			continue
		}
		want := whole[s1 : head+int(p.End)]
		got := append(slices.Clone(first[s1:]), want[len(first)-s1:]...)
		if tun.Kind == GUE && !tun.ZeroSum {
			PutGUEChecksum(got)
		}
		if !bytes.Equal(want, got) {
			t.Fatalf("%+v\n%x\n%x", tun, want[:120], got[:120])
		}
	}
}

// FuzzParseChain: a frame of which only the beginning is given is read as all of it, or not at all; and nothing that is done with a
// packet that was read goes beyond what is given.
func FuzzParseChain(f *testing.F) {
	for _, s := range changeSeeds(f) {
		f.Add(s, uint16(82))
		f.Add(s, uint16(len(s)/2))
	}
	f.Fuzz(func(t *testing.T, whole []byte, n uint16) {
		if len(whole) > maxFrame {
			return
		}
		head := slices.Clone(whole[:min(int(n), len(whole)):min(int(n), len(whole))])
		var p, q Packet
		var k, l flow.Key
		v := Parse(whole, &p, &k)
		w := ParseChain(head, len(whole), &q, &l)
		if w != v && w != Truncated && !(w == BadHeader && v.IsPacket()) {
			t.Fatalf("in one piece %d, in a chain %d", v, w)
		}
		if !w.IsPacket() {
			return
		}
		if v == OK && p.Proto != flow.TCP {
			p.TCP, q.TCP = flow.Segment{}, flow.Segment{} // not valid: what was behind a short UDP packet
		}
		if v == w && (l != k || p.L3 != q.L3 || p.L4 != q.L4 || p.End != q.End || p.TCP != q.TCP) {
			t.Fatalf("in one piece %+v %+v\nin a chain %+v %+v", p, k, q, l)
		}
		whatever(head, &q, &l, w)
	})
}

// whatever does everything with a packet that an engine may.
func whatever(b []byte, p *Packet, k *flow.Key, v Verdict) {
	to := fuzzEnds(p.V6, p.ICMP, hasPorts(p.Proto, p.ICMP))
	l2 := L2{1, 2, 3}
	var part FragmentPart
	var quote Quote
	var about flow.Key
	IsPart(b, p)
	MayAnswer(b, p, PacketTooBig)
	MayAnswer(b, p, HopLimit)
	IsEchoRequest(b, p)
	answer := ErrorAnswer{Src: to.Src, Problem: PacketTooBig, MTU: 1500}
	answer.Build(make([]byte, 2048), b, p)
	if v == Fragment {
		if part.Read(b, p) == Done && part.Offset == 0 {
			q := *p
			first := *k
			if ReadFirst(b, &q, &first) == Done && int(q.Payload) <= len(b) {
				Translate(slices.Clone(b), &q, &l2, &to, 1, 2)
			}
		}
		TranslateAddresses(b, p, &l2, to.Src, to.Dst, 1)
		return
	}
	if p.ICMP == ICMPError && v == NoPorts {
		if ReadQuote(b, p, &quote, &about) == Done {
			var inner Packet
			ReadTunnelQuote(b, &quote, GUEPort, &inner, &about)
			TranslateError(slices.Clone(b), p, &quote, &l2, &to, false)
		}
		return
	}
	AnswerEcho(slices.Clone(b), p)
	Translate(slices.Clone(b), p, &l2, &to, 1, 2)
	Forward(b, p, &l2)
	if p.Proto == flow.TCP && v == OK {
		ClampMSS(b, p, 1200)
		AnswerReset(slices.Clone(b), p)
	}
}
