package rewrite

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/flow"
)

// dataHeader is what transport is for TCP and UDP, for the other protocols that have ports or an id: header and payload
// with a checksum by gopacket.
func (p *testPacket) dataHeader(t testing.TB, network gopacket.NetworkLayer) []byte {
	t.Helper()
	switch p.proto {
	case flow.SCTP:
		return sctpPacket(t, p.sport, p.dport, p.seq, p.payload)
	case flow.ICMP:
		l := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(p.kind, 0), Id: p.id4(), Seq: p.window}
		return serialize(t, l, gopacket.Payload(p.payload))
	case flow.ICMPv6:
		l := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(p.kind, 0)}
		must(t, l.SetNetworkLayerForChecksum(network))
		body := binary.BigEndian.AppendUint16(nil, p.id4())
		return serialize(t, l, gopacket.Payload(append(binary.BigEndian.AppendUint16(body, p.window), p.payload...)))
	}
	return p.payload
}

func (p *testPacket) id4() uint16 {
	if kindOf(p.kind, p.src.Is6()) == ICMPReply {
		return p.dport
	}
	return p.sport
}

// randomAny is randomPacket with all protocols.
func randomAny(r *rand.Rand) testPacket {
	p := randomPacket(r)
	switch r.IntN(5) {
	case 0:
		p.proto, p.dataSum, p.noSum = flow.SCTP, true, false
		p.payload = p.payload[:len(p.payload)&^3]
	case 1:
		p.proto, p.dataSum, p.noSum = flow.ICMP, true, false
		p.kind = []uint8{8, 0, 13, 14}[r.IntN(4)]
		if p.src.Is6() {
			p.proto, p.kind = flow.ICMPv6, []uint8{128, 129}[r.IntN(2)]
		}
		if kindOf(p.kind, p.src.Is6()) == ICMPReply {
			p.sport = 0
		} else {
			p.dport = 0
		}
	case 2:
		if r.IntN(2) == 0 {
			p.proto, p.sport, p.dport, p.noSum = []uint8{47, 50, 4, 41, 103}[r.IntN(5)], 0, 0, false
		}
	}
	return p
}

// ends are the packet's as it carries them.
func (p *testPacket) ends() Ends {
	return Ends{Src: flow.AddrFrom(p.src), Dst: flow.AddrFrom(p.dst), SrcPort: p.sport, DstPort: p.dport}
}

// withEnds is the packet with other ends: where it has no ports it gets none.
func (p testPacket) withEnds(e Ends) testPacket {
	p.src, p.dst = e.Src.Netip(), e.Dst.Netip()
	if p.hasPorts() {
		p.sport, p.dport = e.SrcPort, e.DstPort
	}
	return p
}

func (p *testPacket) hasPorts() bool {
	return p.proto == flow.TCP || p.proto == flow.UDP || p.dataSum
}

// randomEnds fit the packet: its family, its ports. Each stays as it was once in a while.
func randomEnds(r *rand.Rand, p *testPacket) Ends {
	v6 := p.src.Is6()
	e := Ends{Src: flow.AddrFrom(randomAddr(r, v6)), Dst: flow.AddrFrom(randomAddr(r, v6)), SrcPort: randomWord(r), DstPort: randomWord(r)}
	old := p.ends()
	if r.IntN(4) == 0 {
		e.Src = old.Src
	}
	if r.IntN(4) == 0 {
		e.Dst = old.Dst
	}
	switch {
	case !p.hasPorts():
		e.SrcPort, e.DstPort = 0, 0
	case p.kind != 0 || p.proto == flow.ICMP:
		if kindOf(p.kind, v6) == ICMPReply {
			e.SrcPort = 0
		} else {
			e.DstPort = 0
		}
	}
	return e
}

// randomBytes differ from zero here and there.
func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = uint8(r.Uint32())
	}
	return b
}

// exact is a frame whose capacity ends where it does, so that reading or writing behind it is a panic.
func exact(b []byte) []byte { return slices.Clip(slices.Clone(b)) }

// parsed is Parse of a frame that must be taken.
func parsed(t testing.TB, frame []byte, want ...Verdict) (p Packet, k flow.Key) {
	t.Helper()
	if v := Parse(frame, &p, &k); !slices.Contains(want, v) {
		t.Fatalf("verdict %d, not %d, of % x", v, want, frame)
	}
	return p, k
}

// TestTranslateReference compares full NAT of every protocol, both ways, with packets that are built anew.
func TestTranslateReference(t *testing.T) {
	r := seeded(t)
	for range 8000 {
		original := randomAny(r)
		original.ttl = max(original.ttl, 3)
		to, l2 := randomEnds(r, &original), randomMAC(r)
		if original.proto == flow.UDP && !original.noSum && r.IntN(4) == 0 {
			after := original.withEnds(to)
			after.makeSumFFFF(t)
			original.payload = after.payload
		}
		from := original.ends()
		if !original.hasPorts() {
			from.SrcPort, from.DstPort = 0, 0
		}
		frame := exact(original.build(t))
		p, k := parsed(t, frame, OK, NoPorts)
		if EndsOf(&k) != from {
			t.Fatalf("ends %+v, not %+v", EndsOf(&k), from)
		}
		l3, l4 := EndsDiff(&from, &to, k.Proto)
		Translate(frame, &p, &l2, &to, l3, l4)
		there := original.withEnds(to).with(func(p *testPacket) { p.mac = l2; p.ttl-- })
		if want := there.build(t); !slices.Equal(frame, want) {
			t.Fatalf("%+v to %+v\nis   % x\nwant % x", original, to, frame, want)
		}
		p, k = parsed(t, frame, OK, NoPorts)
		if EndsOf(&k) != to {
			t.Fatalf("ends %+v, not %+v", EndsOf(&k), to)
		}
		Translate(frame, &p, &original.mac, &from, ^l3, ^l4)
		if want := original.with(func(p *testPacket) { p.ttl -= 2 }).build(t); !slices.Equal(frame, want) {
			t.Fatalf("%+v to %+v and back\nis   % x\nwant % x", original, to, frame, want)
		}
	}
}

// TestTranslateIsNAT: with one end unchanged, full NAT is what ToServer and ToClient do.
func TestTranslateIsNAT(t *testing.T) {
	r := seeded(t)
	for range 2000 {
		original := randomPacket(r)
		frame := original.build(t)
		p, k := parsed(t, frame, OK)
		from, l2 := EndsOf(&k), randomMAC(r)
		to := from
		to.Dst, to.DstPort = flow.AddrFrom(randomAddr(r, p.V6)), randomWord(r)
		l3, l4 := EndsDiff(&from, &to, k.Proto)
		a, b := slices.Clone(frame), slices.Clone(frame)
		Translate(a, &p, &l2, &to, l3, l4)
		ToServer(b, &p, &l2, to.Dst, to.DstPort, l3, l4)
		if !slices.Equal(a, b) {
			t.Fatalf("to the server\n% x\n% x", a, b)
		}
		to = from
		to.Src, to.SrcPort = flow.AddrFrom(randomAddr(r, p.V6)), randomWord(r)
		l3, l4 = EndsDiff(&to, &from, k.Proto)
		Translate(frame, &p, &l2, &to, ^l3, ^l4)
		a = original.with(func(p *testPacket) { p.mac = l2; p.ttl-- }).withEnds(to).build(t)
		if !slices.Equal(a, frame) {
			t.Fatalf("to the client\n% x\n% x", a, frame)
		}
	}
}

// TestForward: only MAC addresses and TTL change; and later parts of datagrams have their addresses changed.
func TestForward(t *testing.T) {
	r := seeded(t)
	for range 3000 {
		original, l2 := randomAny(r), randomMAC(r)
		frame := exact(original.build(t))
		p, _ := parsed(t, frame, OK, NoPorts)
		Forward(frame, &p, &l2)
		if want := original.with(func(p *testPacket) { p.mac = l2; p.ttl-- }).build(t); !slices.Equal(frame, want) {
			t.Fatalf("%+v\nis   % x\nwant % x", original, frame, want)
		}
	}
}

func TestCanTranslate(t *testing.T) {
	for _, c := range []struct {
		proto       uint8
		part, ports bool
		want        Refusal
	}{
		{flow.TCP, true, true, Done}, {flow.UDP, true, true, Done}, {flow.SCTP, false, true, Done}, {flow.SCTP, true, false, Done},
		{flow.SCTP, true, true, FragmentSCTP}, {51, false, false, Untranslatable}, {33, false, true, Untranslatable},
		{136, false, true, Untranslatable}, {50, true, false, Done}, {47, false, false, Done}, {flow.ICMP, false, true, Done},
	} {
		if got := CanTranslate(&Packet{Proto: c.proto}, c.part, c.ports); got != c.want {
			t.Errorf("protocol %d, part %v, ports %v: %q, not %q", c.proto, c.part, c.ports, got, c.want)
		}
	}
}

func TestCheckEnds(t *testing.T) {
	for _, c := range []struct {
		src, dst string
		want     Refusal
	}{
		{"192.0.2.1", "198.51.100.1", Done}, {"2001:db8::1", "2001:db8::2", Done}, {"192.0.2.1", "192.0.2.1", Land},
		{"2001:db8::1", "2001:db8::1", Land}, {"0.1.2.3", "192.0.2.1", MartianSource}, {"127.0.0.1", "192.0.2.1", MartianSource},
		{"224.0.0.1", "192.0.2.1", MartianSource}, {"240.0.0.1", "192.0.2.1", MartianSource}, {"255.255.255.255", "192.0.2.1", MartianSource},
		{"::", "2001:db8::1", MartianSource}, {"::1", "2001:db8::1", MartianSource}, {"::192.0.2.1", "2001:db8::1", MartianSource},
		{"ff02::1", "2001:db8::1", MartianSource}, {"192.0.2.1", "224.0.0.5", MartianDestination}, {"192.0.2.1", "127.0.0.1", MartianDestination},
		{"2001:db8::1", "ff02::1", MartianDestination}, {"2001:db8::1", "::1", MartianDestination}, {"fe80::1", "2001:db8::1", Done},
	} {
		k := flow.Key{Src: flow.AddrFrom(netip.MustParseAddr(c.src)), Dst: flow.AddrFrom(netip.MustParseAddr(c.dst))}
		if got := CheckEnds(&k); got != c.want {
			t.Errorf("%s to %s: %q, not %q", c.src, c.dst, got, c.want)
		}
	}
	for i := range refusals {
		if refusals[i] == "" || Refusal(i).String() != refusals[i] {
			t.Errorf("refusal %d has no words", i)
		}
	}
	if Refusal(200).String() == "" {
		t.Error("a refusal that is not known has no words")
	}
}
