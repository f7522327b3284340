package rewrite

import (
	"slices"
	"strings"
	"testing"

	"sluice/flow"
)

// changeCases are every change beyond nat as the packet path calls it, on a frame that it changes over and over: what it
// needs is restored, which is in the figures.
type changeCase struct {
	name string
	run  func()
}

func changeCases(t testing.TB) (cases []changeCase) {
	add := func(name string, run func()) { cases = append(cases, changeCase{name, run}) }
	l2 := L2{2}
	for _, v6 := range []bool{false, true} {
		family := "v4"
		if v6 {
			family = "v6"
		}
		payload := make([]byte, 1400)
		tcp := basicPacket(v6, flow.TCP).with(func(p *testPacket) { p.payload = payload })
		frame := tcp.build(t)
		p, k := parsed(t, frame, OK)
		from := EndsOf(&k)
		to := fuzzEnds(v6, ICMPOther, true)
		l3, l4 := EndsDiff(&from, &to, flow.TCP)
		add("parse/tcp/"+family, func() { Parse(frame, &p, &k) })
		add("nat/"+family, func() { ToServer(frame, &p, &l2, to.Dst, 80, l3, l4) })
		add("fullnat/"+family, func() { Translate(frame, &p, &l2, &to, l3, l4) })
		add("forward/"+family, func() { Forward(frame, &p, &l2) })
		add("fragment/"+family, func() { TranslateAddresses(frame, &p, &l2, to.Src, to.Dst, l3) })
		add("verify-1400/"+family, func() { Verify(frame, &p, false) })
		add("recompute-1400/"+family, func() { Recompute(frame, &p, false) })
		headroom := append(make([]byte, 4), frame...)
		add("vlan/"+family, func() {
			q := p
			start, _ := SetVLAN(headroom, 4, &q, 7)
			SetVLAN(headroom, start, &q, 0)
		})
		syn := withOptions(t, tcp.with(func(p *testPacket) { p.flags, p.payload = flow.FlagSYN, nil }), []byte{2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 3, 7})
		ps, _ := parsed(t, syn, OK)
		add("mss/"+family, func() { syn[ps.L4+22] = 5; ClampMSS(syn, &ps, 1360) })

		errorFrame := basicError(v6, flow.TCP)
		b := errorFrame.build(t)
		pe, ke := parsed(t, b, NoPorts)
		var q Quote
		if why := ReadQuote(b, &pe, &q, &ke); why != Done {
			t.Fatal(why)
		}
		saved := slices.Clone(b)
		add("error/"+family, func() {
			copy(b, saved)
			ReadQuote(b, &pe, &q, &ke)
			TranslateError(b, &pe, &q, &l2, &to, false)
		})
		room := make([]byte, 2048)
		a := ErrorAnswer{Src: to.Src, Problem: PacketTooBig, MTU: 1400}
		add("answer/"+family, func() { MayAnswer(frame, &p, a.Problem); a.Build(room, frame, &p) })
		echo := basicError(v6, map[bool]uint8{false: flow.ICMP, true: flow.ICMPv6}[v6]).inner.build(t)
		po, _ := parsed(t, echo, NoPorts)
		kind := echo[po.L4]
		add("echo/"+family, func() { echo[po.L4] = kind; AnswerEcho(echo, &po) })

		for name, tun := range map[string]Tunnel{
			"ipip/" + family + "in4": {Kind: IPIP}, "gue/" + family + "in4": {Kind: GUE, ZeroSum: true},
			"ipip/" + family + "in6": {Kind: IPIP}, "gue-1400/" + family + "in6": {Kind: GUE},
		} {
			outer := fuzzEnds(name[len(name)-1] == '6', ICMPOther, false)
			tun.Src, tun.Dst, tun.MTU = outer.Src, outer.Dst, 9000
			b := append(make([]byte, 128), frame...)
			add(name, func() { tun.Encapsulate(b, 128, &p, Entropy(&k), 1) })
			start, _ := tun.Encapsulate(b, 128, &p, 7, 1)
			f := slices.Clone(b[start : 128+int(p.End)])
			inside, _ := parsed(t, f, OK, NoPorts)
			saved := slices.Clone(f[:128])
			add("decap-"+name, func() { copy(f, saved); Decapsulate(f, 0, &inside, 0) })
		}
		part := cut(t, tcp, 800, 5)[0]
		pp, kp := parsed(t, part, Fragment)
		add("first-part/"+family, func() {
			q, k := pp, kp
			var f FragmentPart
			f.Read(part, &q)
			f.Check(&q)
			ReadFirst(part, &q, &k)
		})
	}
	slices.SortFunc(cases, func(a, b changeCase) int { return strings.Compare(a.name, b.name) })
	return cases
}

func TestChangeAllocations(t *testing.T) {
	for _, c := range changeCases(t) {
		if n := testing.AllocsPerRun(100, c.run); n != 0 {
			t.Errorf("%s: %v allocations", c.name, n)
		}
	}
}

func BenchmarkChange(b *testing.B) {
	for _, c := range changeCases(b) {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.run()
			}
		})
	}
}

// BenchmarkParse is the parser on what a port sees, the hot path first.
func BenchmarkParse(b *testing.B) {
	var names []string
	frames := map[string][]byte{}
	add := func(name string, p testPacket) {
		names = append(names, name)
		frames[name] = p.build(b)
	}
	for _, v6 := range []bool{false, true} {
		family := map[bool]string{false: "v4", true: "v6"}[v6]
		add("tcp/"+family, basicPacket(v6, flow.TCP))
		add("udp/"+family, basicPacket(v6, flow.UDP))
		add("other/"+family, basicPacket(v6, 50))
	}
	add("echo/v4", basicError(false, flow.ICMP).inner)
	add("echo/v6", basicError(true, flow.ICMPv6).inner)
	add("tcp-extension/v6", basicPacket(true, flow.TCP).with(func(p *testPacket) { p.ext = []extension{hopByHop} }))
	add("tcp-options/v4", basicPacket(false, flow.TCP).with(func(p *testPacket) { p.options = 2 }))
	for _, name := range names {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var p Packet
			var k flow.Key
			for b.Loop() {
				Parse(frames[name], &p, &k)
			}
		})
	}
}
