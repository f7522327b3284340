package rewrite

import (
	"net/netip"
	"slices"
	"testing"

	"sluice/flow"
)

// TestErrorAnswer compares errors with those that gopacket builds, made in a frame of their own and in place.
func TestErrorAnswer(t *testing.T) {
	r := seeded(t)
	types := map[Problem][2][2]uint8{
		HopLimit: {{11, 0}, {3, 0}}, PacketTooBig: {{3, 4}, {2, 0}}, PortUnreachable: {{3, 3}, {1, 4}},
		ProtocolUnreachable: {{3, 2}, {4, 1}}, HostUnreachable: {{3, 1}, {1, 3}}, Prohibited: {{3, 13}, {1, 1}},
	}
	for i := range 2000 {
		about := randomAny(r)
		frame := about.build(t)
		p, _ := parsed(t, frame, OK, NoPorts)
		a := ErrorAnswer{L2: randomMAC(r), Src: flow.AddrFrom(randomAddr(r, p.V6)), Problem: Problem(i % 6), MTU: uint32(1280 + r.IntN(9000))}
		e := testError{outer: basicPacket(p.V6, flow.ICMP)}
		e.outer.mac, e.outer.tags, e.outer.src, e.outer.dst, e.outer.tos = a.L2, about.tags, a.Src.Netip(), about.src, 0xc0
		family, longest := 0, 576-28
		if p.V6 {
			e.outer.proto, e.outer.tos, family, longest = flow.ICMPv6, 0, 1, 1280-48
		}
		e.kind, e.code = types[a.Problem][family][0], types[a.Problem][family][1]
		word := uint32(0)
		if a.Problem == PacketTooBig {
			word = a.MTU
		} else if a.Problem == ProtocolUnreachable && p.V6 { // where the last header begins that is not the transport's (RFC 4443 section 3.4)
			word = 6
			for i, at := 0, 40; i < len(about.ext); i++ {
				word, at = uint32(at), at+1+len(about.ext[i].rest)
			}
		}
		quote := frame[p.L3:min(int(p.End), int(p.L3)+longest)]
		want := e.outer.with(func(o *testPacket) { o.payload = e.message(t, word, quote) }).build(t)
		own := make([]byte, a.Size(&p))
		input := slices.Clone(frame)
		n := a.Build(own, frame, &p)
		if !slices.Equal(own[:n], want) {
			t.Fatalf("%+v about %+v\nis   % x\nwant % x", a, about, own[:n], want)
		}
		if !slices.Equal(frame, input) {
			t.Fatal("the packet was changed")
		}
		verifySums(t, own[:n])
		room := exact(append(frame, make([]byte, a.Size(&p))...))
		if n := a.Build(room, room[:len(input)], &p); !slices.Equal(room[:n], want) {
			t.Fatalf("in place: %+v about %+v\nis   % x\nwant % x", a, about, room[:n], want)
		}
		// With less room less is quoted, and with too little nothing is made.
		least := min(int(p.L4)+8, int(p.End)) - int(p.L3) + len(want) - len(quote)
		if n := a.Build(make([]byte, least), input, &p); n != min(least, len(want)) {
			t.Fatalf("in %d bytes: %d", least, n)
		}
		if n := a.Build(make([]byte, least-1), input, &p); n != 0 {
			t.Fatalf("in %d bytes: %d", least-1, n)
		}
	}
}

func TestMayAnswer(t *testing.T) {
	tcp4, tcp6 := basicPacket(false, flow.TCP), basicPacket(true, flow.TCP)
	icmp := func(v6 bool, kind uint8) testPacket {
		e := basicError(v6, flow.TCP)
		e.kind = kind
		return e.outer.with(func(p *testPacket) { p.payload = e.message(t, 0, e.quote(t)) })
	}
	at := func(p testPacket, src, dst string) testPacket {
		if src != "" {
			p.src = netip.MustParseAddr(src)
		}
		if dst != "" {
			p.dst = netip.MustParseAddr(dst)
		}
		return p
	}
	with := func(p testPacket, ext ...extension) testPacket { p.ext = ext; return p }
	mac := func(p testPacket, at int) testPacket { p.mac[at] |= 1; return p }
	for _, c := range []struct {
		name   string
		p      testPacket
		any    bool
		tooBig bool
	}{
		{"TCP", tcp4, true, true},
		{"TCP6", tcp6, true, true},
		{"echo request", icmp(false, 8), true, true},
		{"echo reply", icmp(false, 0), true, true},
		{"unreachable", icmp(false, 3), false, false},
		{"source quench", icmp(false, 4), false, false},
		{"redirect", icmp(false, 5), false, false},
		{"time exceeded", icmp(false, 11), false, false},
		{"parameter problem", icmp(false, 12), false, false},
		{"echo request 6", icmp(true, 128), true, true},
		{"neighbour solicitation", icmp(true, 135), true, true},
		{"unreachable 6", icmp(true, 1), false, false},
		{"too big 6", icmp(true, 2), false, false},
		{"an error nobody knows", icmp(true, 100), false, false},
		{"redirect 6", icmp(true, 137), false, false},
		{"error behind a header", with(icmp(true, 1), hopByHop), false, false},
		{"first part of an error", with(icmp(true, 1), firstPart, destination), false, false},
		{"first part of an echo", with(icmp(true, 128), firstPart), true, true},
		{"later part 6", with(tcp6, laterPart), false, true},
		{"first part 6", with(tcp6, firstPart), true, true},
		{"first part", tcp4.with(func(p *testPacket) { p.mf = true }), true, true},
		{"later part", tcp4.with(func(p *testPacket) { p.offset = 3 }), false, false},
		{"from nobody", at(tcp4, "0.0.0.0", ""), false, false},
		{"from loopback", at(tcp4, "127.1.1.1", ""), false, false},
		{"from multicast", at(tcp4, "224.0.0.9", ""), false, false},
		{"from unspecified 6", at(tcp6, "::", ""), false, false},
		{"to multicast", at(tcp4, "", "239.1.1.1"), false, false},
		{"to broadcast", at(tcp4, "", "255.255.255.255"), false, false},
		{"to multicast 6", at(tcp6, "", "ff0e::1"), false, true},
		{"to a broadcast MAC", mac(tcp4, 0), false, false},
		{"to a multicast MAC 6", mac(tcp6, 0), false, true},
		{"from a multicast MAC", mac(tcp4, 6), false, false},
	} {
		frame := exact(c.p.build(t))
		p, _ := parsed(t, frame, OK, NoPorts, Fragment)
		if got := MayAnswer(frame, &p, HopLimit); got != c.any {
			t.Errorf("%s: %v", c.name, got)
		}
		if got := MayAnswer(frame, &p, PacketTooBig); got != c.tooBig {
			t.Errorf("%s, too big: %v", c.name, got)
		}
	}
}

// TestAnswerEcho compares replies with those that gopacket builds.
func TestAnswerEcho(t *testing.T) {
	r := seeded(t)
	for range 3000 {
		q := randomAny(r)
		if q.proto != flow.ICMP && q.proto != flow.ICMPv6 {
			continue
		}
		if BadSource(flow.AddrFrom(q.src)) || BadSource(flow.AddrFrom(q.dst)) {
			continue
		}
		frame := exact(q.build(t))
		input := slices.Clone(frame)
		p, _ := parsed(t, frame, NoPorts)
		n := AnswerEcho(frame, &p)
		if q.kind != 8 && q.kind != 128 {
			if n != 0 || !slices.Equal(frame, input) {
				t.Fatalf("type %d was answered", q.kind)
			}
			continue
		}
		want := q.with(func(a *testPacket) {
			a.mac = MakeL2([6]byte(q.mac[6:]), [6]byte(q.mac[:6]))
			a.src, a.dst, a.ttl, a.options, a.ext, a.padding = q.dst, q.src, 64, 0, nil, 0
			a.kind, a.sport, a.dport = map[uint8]uint8{8: 0, 128: 129}[q.kind], 0, q.sport
		}).build(t)
		if !slices.Equal(frame[:n], want) {
			t.Fatalf("%+v\nis   % x\nwant % x", q, frame[:n], want)
		}
		// A damaged request is answered with damage.
		input[p.End-1] ^= 1
		if n := AnswerEcho(input, &p); n == 0 || Verify(input[:n], &Packet{L3: p.L3, L4: uint16(n) - (p.End - p.L4), End: uint16(n), V6: p.V6, Proto: p.Proto}, false) != SumsWrongTransport {
			t.Fatal("damage was repaired")
		}
	}
	ping := basicPacket(false, flow.ICMP).with(func(p *testPacket) { p.dataSum, p.kind, p.dport = true, 8, 0 })
	for name, change := range map[string]func(*testPacket){
		"from nobody":    func(p *testPacket) { p.src = netip.MustParseAddr("0.0.0.0") },
		"to multicast":   func(p *testPacket) { p.dst = netip.MustParseAddr("224.0.0.1") },
		"to a group MAC": func(p *testPacket) { p.mac[0] |= 1 },
		"a timestamp":    func(p *testPacket) { p.kind = 13 },
	} {
		frame := ping.with(change).build(t)
		p, _ := parsed(t, frame, NoPorts)
		if AnswerEcho(frame, &p) != 0 {
			t.Errorf("%s was answered", name)
		}
	}
	frame := ping.build(t)
	frame[34+1] = 1 // a code that no echo has
	if p, _ := parsed(t, frame, NoPorts); AnswerEcho(frame, &p) != 0 {
		t.Error("code 1 was answered")
	}
}

// TestParseICMP: kinds, and where a query's id is in the tuple.
func TestParseICMP(t *testing.T) {
	for kind := range 256 {
		for _, v6 := range []bool{false, true} {
			want, ports := ICMPOther, uint32(0)
			switch {
			case !v6 && slices.Contains([]int{8, 13, 15, 17}, kind), v6 && kind == 128:
				want, ports = ICMPRequest, 7<<16
			case !v6 && slices.Contains([]int{0, 14, 16, 18}, kind), v6 && kind == 129:
				want, ports = ICMPReply, 7
			case !v6 && slices.Contains([]int{3, 4, 11, 12}, kind), v6 && kind >= 1 && kind <= 4:
				want = ICMPError
			}
			packet := basicPacket(v6, flow.ICMP)
			if v6 {
				packet.proto = flow.ICMPv6
			}
			packet.payload = []byte{uint8(kind), 0, 0, 0, 0, 7, 0, 1}
			p, k := parsed(t, exact(packet.build(t)), NoPorts)
			if p.ICMP != want || k.Ports != ports {
				t.Errorf("type %d, IPv6 %v: kind %d, ports %x", kind, v6, p.ICMP, k.Ports)
			}
			packet.payload = packet.payload[:7]
			packet.padding = 20
			parsed(t, packet.build(t), Truncated)
			packet.proto ^= flow.ICMP ^ flow.ICMPv6 // the other family's is no ICMP
			if p, k := parsed(t, packet.build(t), NoPorts); p.ICMP != ICMPOther || k.Ports != 0 {
				t.Errorf("type %d, IPv6 %v, the other family's: kind %d, ports %x", kind, v6, p.ICMP, k.Ports)
			}
		}
	}
}

// TestParseSourceRoute: a packet that has yet to visit addresses is refused, other options are not.
func TestParseSourceRoute(t *testing.T) {
	for _, c := range []struct {
		options []byte
		want    Verdict
	}{
		{[]byte{131, 7, 4, 1, 2, 3, 4, 0}, BadHeader},
		{[]byte{137, 7, 4, 1, 2, 3, 4, 0}, BadHeader},
		{[]byte{131, 7, 8, 1, 2, 3, 4, 0}, OK}, // all visited
		{[]byte{1, 131, 7, 4, 1, 2, 3, 4}, BadHeader},
		{[]byte{148, 4, 0, 0, 131, 3, 0, 0}, BadHeader},
		{[]byte{131, 2, 0, 0, 0, 0, 0, 0}, BadHeader}, // no pointer
		{[]byte{0, 131, 7, 4, 1, 2, 3, 4}, OK},        // behind the end
		{[]byte{7, 7, 4, 0, 0, 0, 0, 0}, OK},          // record route
		{[]byte{148, 9, 0, 0, 131, 3, 0, 0}, OK},      // cannot be read, so neither can what follows
		{[]byte{148, 1, 131, 3, 0, 0, 0, 0}, OK},
		{[]byte{1, 1, 1, 1, 1, 1, 1, 131}, OK},
	} {
		frame := basicPacket(false, flow.UDP).with(func(p *testPacket) { p.options = 2 }).build(t)
		copy(frame[34:], c.options)
		if v := Parse(frame, new(Packet), new(flow.Key)); v != c.want {
			t.Errorf("options % x: verdict %d, not %d", c.options, v, c.want)
		}
	}
}

// TestEchoOfZeros: a reply with id and sequence number 0 and nothing else is all zeros, and its checksum is 0xffff: with 0
// its receiver would not take it. Incremental updates cannot tell the two.
func TestEchoOfZeros(t *testing.T) {
	for _, size := range []int{0, 1, 56} {
		ping := basicPacket(false, flow.ICMP).with(func(p *testPacket) {
			p.dataSum, p.kind, p.sport, p.dport, p.window, p.payload = true, 8, 0, 0, 0, make([]byte, size)
		})
		frame := ping.build(t)
		p, k := parsed(t, frame, NoPorts)
		n := AnswerEcho(frame, &p)
		p, k = parsed(t, frame[:n], NoPorts)
		if sum := frame[p.L4+2 : p.L4+4]; sum[0] != 0xff || sum[1] != 0xff {
			t.Errorf("answered: checksum % x", sum)
		}
		from := EndsOf(&k)
		for _, id := range []uint16{0, 77, 0xffff} {
			to := from
			to.Src, to.DstPort = flow.AddrFrom4(0x0a000001), id
			l3, l4 := EndsDiff(&from, &to, k.Proto)
			Translate(frame, &p, &L2{2}, &to, l3, l4)
			there, _ := parsed(t, frame[:n], NoPorts)
			if !naiveICMP(frame, &there) {
				t.Errorf("id %d: wrong checksum", id)
			}
			Translate(frame, &p, &L2{2}, &from, ^l3, ^l4)
			if sum := frame[p.L4+2 : p.L4+4]; sum[0] != 0xff || sum[1] != 0xff {
				t.Errorf("id %d and back: checksum % x", id, sum)
			}
		}
	}
}
