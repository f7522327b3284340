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

// randomTunnel has outer addresses of either family.
func randomTunnel(r *rand.Rand) Tunnel {
	v6 := r.IntN(2) == 0
	t := Tunnel{
		L2: randomMAC(r), Src: flow.AddrFrom(randomAddr(r, v6)), Dst: flow.AddrFrom(randomAddr(r, v6)), Kind: TunnelKind(r.IntN(2)),
		DF: DFPolicy(r.IntN(3)), TTL: uint8(r.IntN(3) * 100), MTU: 0xffff, Port: uint16(r.IntN(2) * 16080),
	}
	t.ZeroSum = r.IntN(2) == 0
	return t
}

// outer is the tunnel's packet as gopacket builds it around inner, the packet that it shall carry.
func (tun *Tunnel) outer(t testing.TB, inner []byte, tos uint8, df bool, id uint16, label uint32, sport uint16) []byte {
	t.Helper()
	carried := layers.IPProtocolIPv4
	if inner[0]>>4 == 6 {
		carried = layers.IPProtocolIPv6
	}
	proto, ttl, port := carried, tun.TTL, tun.Port
	if ttl == 0 {
		ttl = 64
	}
	if port == 0 {
		port = 6080
	}
	if tun.Kind == GUE {
		proto = layers.IPProtocolUDP
	}
	src, dst := tun.Src.Netip(), tun.Dst.Netip()
	var ip gopacket.SerializableLayer
	var network gopacket.NetworkLayer
	etherType := uint16(0x0800)
	if src.Is4() {
		l := &layers.IPv4{Version: 4, TOS: tos, TTL: ttl, Protocol: proto, SrcIP: src.AsSlice(), DstIP: dst.AsSlice(), Id: id}
		if df {
			l.Flags, l.Id = layers.IPv4DontFragment, 0
		}
		ip, network = l, l
	} else {
		l := &layers.IPv6{
			Version: 6, TrafficClass: tos, FlowLabel: label, HopLimit: ttl, NextHeader: proto, SrcIP: src.AsSlice(), DstIP: dst.AsSlice(),
		}
		ip, network, etherType = l, l, 0x86dd
	}
	body := inner
	if tun.Kind == GUE {
		udp := &layers.UDP{SrcPort: layers.UDPPort(sport), DstPort: layers.UDPPort(port)}
		must(t, udp.SetNetworkLayerForChecksum(network))
		body = serialize(t, udp, layers.AGUEVar0{Protocol: carried}, gopacket.Payload(inner))
		if tun.ZeroSum {
			body[6], body[7] = 0, 0
		} else if body[6]|body[7] == 0 {
			body[6], body[7] = 0xff, 0xff
		}
	}
	frame := binary.BigEndian.AppendUint16(slices.Clone(tun.L2[:]), etherType)
	return append(frame, serialize(t, ip, gopacket.Payload(body))...)
}

// ecnTable is RFC 6040 figure 4: by inner, then outer field; 9 is to drop. The fields are 0 not-ECT, 1 ECT(1), 2 ECT(0),
// 3 CE.
var ecnTable = [4][4]uint8{{0, 0, 0, 9}, {1, 1, 1, 3}, {2, 1, 2, 3}, {3, 3, 3, 3}}

// TestTunnelReference compares encapsulation with packets that gopacket builds, and takes them apart again.
func TestTunnelReference(t *testing.T) {
	r := seeded(t)
	for range 3000 {
		inner, tun := randomAny(r), randomTunnel(r)
		entropy, id := r.Uint32(), uint16(r.Uint32())
		frame := inner.build(t)
		p, _ := parsed(t, frame, OK, NoPorts)
		need := max(0, tun.Overhead()+etherLen-int(p.L3))
		head := need + r.IntN(3)
		b := exact(append(make([]byte, head), frame...))
		start, why := tun.Encapsulate(b, head, &p, entropy, id)
		if why != Done {
			t.Fatalf("%q for %+v in %+v", why, inner, tun)
		}
		after := inner.with(func(p *testPacket) { p.ttl--; p.tags, p.padding = nil, 0 }).build(t)[etherLen:]
		df := p.V6 || tun.DF == SetDF || tun.DF == CopyDF // testPacket has DF
		want := tun.outer(t, after, inner.tos, df, id, entropy&0xfffff, uint16(0xc000+entropy>>18))
		if got := b[start : head+int(p.End)]; !slices.Equal(got, want) {
			t.Fatalf("%+v in %+v\nis   % x\nwant % x", inner, tun, got, want)
		}
		if head > need {
			continue
		}
		// With a byte of headroom less there is no room, with a byte of MTU less it is too big; nothing is changed.
		if need > 0 {
			b := append(make([]byte, need-1), frame...)
			if _, why := tun.Encapsulate(b, need-1, &p, entropy, id); why != NoRoom || !slices.Equal(b[need-1:], frame) {
				t.Fatalf("%q with too little headroom", why)
			}
		}
		small := tun
		small.MTU = uint16(int(p.End-p.L3) + tun.Overhead() - 1)
		b = append(make([]byte, need), frame...)
		if _, why := small.Encapsulate(b, need, &p, entropy, id); why != TooBig || !slices.Equal(b[need:], frame) {
			t.Fatalf("%q for a packet of a byte too much", why)
		}
		small.MTU++
		if _, why := small.Encapsulate(b, need, &p, entropy, id); why != Done {
			t.Fatalf("%q for a packet that fits", why)
		}
		decapsulate(t, r, &tun, &inner, after)
	}
}

// decapsulate takes apart what gopacket has put together, with tags, padding and another ECN field outside.
func decapsulate(t *testing.T, r *rand.Rand, tun *Tunnel, inner *testPacket, carried []byte) {
	t.Helper()
	ecn := uint8(r.IntN(4))
	frame := tun.outer(t, carried, inner.tos&^3|ecn, true, 0, 0, 50000)
	tags := []byte{0x81, 0, 0x20, 7}
	if r.IntN(2) == 0 {
		frame = slices.Insert(frame, 12, tags...)
	} else {
		tags = nil
	}
	frame = append(frame, make([]byte, r.IntN(10))...)
	head := r.IntN(3)
	b := exact(append(make([]byte, head), frame...))
	if tun.Kind == GUE && tun.ZeroSum && !tun.Dst.Is4() { // Parse refuses it
		parsed(t, frame, BadHeader)
		return
	}
	p, _ := parsed(t, frame, OK, NoPorts)
	start, end, why := Decapsulate(b, head, &p, tun.Port)
	now := ecnTable[inner.tos&3][ecn]
	if now == 9 {
		if why != TunnelCongestion || !slices.Equal(b[head:], frame) {
			t.Fatalf("%q for congestion that cannot be told", why)
		}
		return
	}
	want := inner.with(func(p *testPacket) { p.mac, p.tags, p.padding, p.tos, p.ttl = tun.L2, nil, 0, p.tos&^3|now, p.ttl-1 }).build(t)
	want = slices.Insert(want, 12, tags...)
	if why != Done || !slices.Equal(b[start:end], want) {
		t.Fatalf("%q: %+v out of %+v, ECN outside %d\nis   % x\nwant % x", why, inner, tun, ecn, b[start:end], want)
	}
}

// TestTunnelDF: DF of the outer IPv4 header by policy, family and the packet's own.
func TestTunnelDF(t *testing.T) {
	for _, c := range []struct {
		policy   DFPolicy
		v6, mine bool
		want     bool
	}{
		{CopyDF, false, true, true}, {CopyDF, false, false, false}, {CopyDF, true, false, true}, {SetDF, false, false, true},
		{SetDF, true, false, true}, {ClearDF, false, true, false}, {ClearDF, true, false, true},
	} {
		tun := Tunnel{Src: flow.AddrFrom4(1 << 24), Dst: flow.AddrFrom4(2 << 24), DF: c.policy, MTU: 1500}
		frame := append(make([]byte, 64), basicPacket(c.v6, flow.TCP).build(t)...)
		if !c.v6 && !c.mine {
			frame[64+20] = 0
		}
		p, _ := parsed(t, frame[64:], OK)
		start, why := tun.Encapsulate(frame, 64, &p, 0, 0x1234)
		id := binary.BigEndian.Uint16(frame[start+18:])
		if df := frame[start+20]&0x40 != 0; why != Done || df != c.want || (id == 0) != df {
			t.Errorf("%+v: %q, DF %v, id %#x", c, why, df, id)
		}
	}
}

func TestTunnelMTU(t *testing.T) {
	four, six := flow.AddrFrom(netip.MustParseAddr("192.0.2.1")), flow.AddrFrom(netip.MustParseAddr("2001:db8::1"))
	for _, c := range []struct {
		tun                  Tunnel
		overhead, inner      int
		mssFour, mssSix, mtu uint16
	}{
		{Tunnel{Dst: four, MTU: 1500}, 20, 1480, 1440, 1420, 1500},
		{Tunnel{Dst: six, MTU: 1500}, 40, 1460, 1420, 1400, 1500},
		{Tunnel{Dst: four, Kind: GUE, MTU: 1500}, 32, 1468, 1428, 1408, 1500},
		{Tunnel{Dst: six, Kind: GUE, MTU: 1500}, 52, 1448, 1408, 1388, 1500},
		{Tunnel{Dst: six, Kind: GUE, MTU: 60}, 52, 8, 0, 0, 60},
	} {
		if c.tun.Overhead() != c.overhead || c.tun.InnerMTU() != c.inner || c.tun.MSS(false) != c.mssFour || c.tun.MSS(true) != c.mssSix {
			t.Errorf("%+v: %d %d %d %d", c, c.tun.Overhead(), c.tun.InnerMTU(), c.tun.MSS(false), c.tun.MSS(true))
		}
	}
}

// TestDecapsulateRefused changes one thing of a packet that can be taken apart.
func TestDecapsulateRefused(t *testing.T) {
	const l4, gue = 34, 42
	four := Tunnel{Src: flow.AddrFrom4(1 << 24), Dst: flow.AddrFrom4(2 << 24)}
	udp := four
	udp.Kind = GUE
	set := func(at int, bytes ...byte) func([]byte) { return func(b []byte) { copy(b[at:], bytes) } }
	outerSum := func(b []byte) { // of the outer header, for changes under it
		b[24], b[25] = 0, 0
		binary.BigEndian.PutUint16(b[24:], naiveSum(b[14:34]))
	}
	noSum := func(at int, bytes ...byte) func([]byte) {
		return func(b []byte) { copy(b[at:], bytes); b[40], b[41] = 0, 0 }
	}
	for _, c := range []struct {
		name   string
		tun    Tunnel
		v6     bool
		change func([]byte)
		want   Refusal
	}{
		{"4in4", four, false, nil, Done},
		{"6in4", four, true, nil, Done},
		{"GUE", udp, false, nil, Done},
		{"GUE without a checksum", udp, false, noSum(0), Done},
		{"GRE", four, false, func(b []byte) { b[23] = 47; outerSum(b) }, TunnelNone},
		{"outer checksum", four, false, set(24, 1, 2), TunnelSum},
		{"UDP checksum", udp, false, set(60, 0xaa), TunnelSum},
		{"another port", udp, false, noSum(36, 0, 53), TunnelNone},
		{"variant 1", udp, false, noSum(gue, 0x40), TunnelHeader},
		{"control message", udp, false, noSum(gue, 0x20), TunnelHeader},
		{"flags", udp, false, noSum(gue+2, 0x80), TunnelHeader},
		{"flags, low", udp, false, noSum(gue+3, 1), TunnelHeader},
		{"options beyond the datagram", udp, false, noSum(gue, 0x1f), TunnelHeader},
		{"GUE of something else", udp, false, noSum(gue+1, 47), TunnelNone},
		{"shorter than GUE", udp, false, noSum(38, 0, 11), TunnelHeader},
		{"inner header cut", udp, false, noSum(38, 0, 31), TunnelInner},
		{"inner longer than carried", udp, false, noSum(38, 0, 40), TunnelInner},
		{"IPv6 announced, IPv4 inside", four, false, func(b []byte) { b[23] = 41; outerSum(b) }, TunnelInner},
		{"IPv4 announced, IPv6 inside", four, true, func(b []byte) { b[23] = 4; outerSum(b) }, TunnelInner},
		{"inner header of 16 bytes", four, false, set(l4, 0x44), TunnelInner},
		{"inner length below its header", four, false, set(l4+2, 0, 19), TunnelInner},
		{"inner length above what is there", four, false, set(l4+2, 0xff), TunnelInner},
		{"inner length above what is there, IPv6", four, true, set(l4+4, 0xff), TunnelInner},
		{"inner checksum", four, false, set(l4+10, 1, 2), TunnelSum},
		{"congestion", four, false, func(b []byte) { b[15] = 3; outerSum(b) }, TunnelCongestion},
	} {
		inner := basicPacket(c.v6, flow.TCP).build(t)[etherLen:]
		frame := exact(c.tun.outer(t, inner, 0, true, 0, 0, 50000))
		if c.change != nil {
			c.change(frame)
		}
		p, _ := parsed(t, frame, OK, NoPorts)
		input := slices.Clone(frame)
		_, _, why := Decapsulate(frame, 0, &p, 0)
		if why != c.want {
			t.Errorf("%s: %q, not %q", c.name, why, c.want)
		}
		if why != Done && !slices.Equal(frame, input) {
			t.Errorf("%s: the frame was changed", c.name)
		}
	}
	// Options that are skipped.
	inner := basicPacket(false, flow.TCP).build(t)[etherLen:]
	frame := udp.outer(t, append(make([]byte, 8), inner...), 0, true, 0, 0, 50000)
	frame[gue], frame[gue+1], frame[40], frame[41] = 2, 4, 0, 0
	p, _ := parsed(t, frame, OK)
	if start, end, why := Decapsulate(frame, 0, &p, 0); why != Done || !slices.Equal(frame[start+etherLen:end], inner) {
		t.Errorf("with options: %q", why)
	}
}

// TestEntropy: source ports of GUE spread over connections, and are the same for one.
func TestEntropy(t *testing.T) {
	r := seeded(t)
	for name, vary := range map[string]func(k *flow.Key, i int){
		"ports":      func(k *flow.Key, i int) { k.Ports = flow.Ports(uint16(i), 443) },
		"addresses":  func(k *flow.Key, i int) { k.Src.Lo += uint64(i) },
		"addresses6": func(k *flow.Key, i int) { k.Src = flow.Addr{Hi: 0x20010db800000000 + uint64(i), Lo: 1} },
	} {
		base := flow.Key{Src: flow.AddrFrom4(r.Uint32()), Dst: flow.AddrFrom4(r.Uint32()), Proto: flow.TCP}
		var ports, labels [64]int
		const n = 6400
		for i := range n {
			k := base
			vary(&k, i)
			e := Entropy(&k)
			if e != Entropy(&k) {
				t.Fatal("not the same for one connection")
			}
			ports[e>>26]++
			labels[e&63]++
		}
		for i := range ports {
			if ports[i] < 40 || ports[i] > 200 || labels[i] < 40 || labels[i] > 200 {
				t.Errorf("%s: %d and %d of %d in part %d of 64", name, ports[i], labels[i], n, i)
			}
		}
	}
}

// TestZeroSums: a UDP checksum that comes out as 0 is sent as 0xffff, of a tunnel and recomputed (RFC 768).
func TestZeroSums(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		p := basicPacket(v6, flow.UDP)
		p.makeSumFFFF(t)
		frame := p.build(t)
		want := slices.Clone(frame)
		q, _ := parsed(t, frame, OK)
		frame[q.L4+6] = 0x12
		if Recompute(frame, &q, false); !slices.Equal(frame, want) {
			t.Errorf("recomputed, IPv6 %v\nis   % x\nwant % x", v6, frame, want)
		}
		// The last word of the packet is at an even offset of the outer datagram: with the checksum there it becomes 0.
		ends := fuzzEnds(v6, ICMPOther, false)
		tun := Tunnel{Src: ends.Src, Dst: ends.Dst, Kind: GUE, MTU: 1500}
		inner := basicPacket(false, 50).with(func(p *testPacket) { p.payload = make([]byte, 8) })
		for range 2 {
			b := append(make([]byte, 80), inner.build(t)...)
			o, _ := parsed(t, b[80:], NoPorts)
			start, why := tun.Encapsulate(b, 80, &o, 7, 1)
			end := 80 + int(o.End)
			sum := b[end-28-12+6 : end-28-12+8]
			if why != Done || !slices.Equal(inner.payload, make([]byte, 8)) && (sum[0] != 0xff || sum[1] != 0xff) {
				t.Errorf("IPv6 %v: %q, checksum % x of % x", v6, why, sum, b[start:end])
			}
			inner.payload = append(make([]byte, 6), sum...)
		}
	}
}
