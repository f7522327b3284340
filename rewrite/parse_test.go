package rewrite

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/flow"
)

// testPacket describes a frame of the tests. gopacket puts it together and computes its checksums, so that what is
// expected of a frame never comes from the code under test.
type testPacket struct {
	mac       L2
	tags      []layers.EthernetType // outermost first; the tag of index i is VLAN 100+i with priority 5
	src, dst  netip.Addr
	ttl, tos  uint8
	id        uint16
	options   int         // 32-bit words of IPv4 options
	ext       []extension // IPv6
	proto     uint8
	sport     uint16
	dport     uint16
	seq, ack  uint32
	window    uint16
	flags     uint8 // of TCP
	tcpOption int   // bytes of data in a TCP option; 0 for no options
	noSum     bool  // UDP without a checksum
	dataSum   bool  // SCTP, ICMP and ICMPv6: transport and not payload has the header, see dataHeader
	kind      uint8 // type of an ICMP query; its id is where ICMPKind says
	payload   []byte
	padding   int    // bytes behind the IP packet
	mf        bool   // IPv4: a part, others follow
	offset    uint16 // IPv4: of the part, in units of 8 bytes
}

// extension is an IPv6 extension header: all but its first byte, which names the next.
type extension struct {
	proto uint8
	rest  []byte
}

// The extension headers that tests use.
var (
	hopByHop    = extension{extHopByHop, []byte{0, 5, 2, 0, 0, 1, 0}}                // router alert, PadN
	destination = extension{extDestination, []byte{1, 1, 12, 13: 0, 14: 0}}          // PadN
	routing     = extension{extRouting, []byte{2, 0, 0, 22: 1}}                      // type 0, one address, none left
	auth        = extension{extAuth, []byte{4, 0, 0, 0, 0, 1, 0, 0, 0, 7, 22: 0xab}} // 12 bytes of integrity check
	atomic      = extension{extFragment, []byte{0, 0, 0, 0, 0, 0, 9}}                // RFC 6946
	firstPart   = extension{extFragment, []byte{0, 0, 1, 0, 0, 0, 9}}
	laterPart   = extension{extFragment, []byte{0, 0, 8, 0, 0, 0, 9}}
)

func basicPacket(v6 bool, proto uint8) testPacket {
	p := testPacket{
		mac: L2{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1}, ttl: 64, proto: proto, sport: 40000, dport: 443,
		src: netip.MustParseAddr("172.16.10.55"), dst: netip.MustParseAddr("10.10.1.100"),
		seq: 0xfffffff0, ack: 7, window: 512, flags: flow.FlagPSH | flow.FlagACK, payload: []byte("GET / HTTP/1.1\r\n\r\n"),
	}
	if v6 {
		p.src, p.dst = netip.MustParseAddr("fd00:172:16:10::55"), netip.MustParseAddr("2001:db8::100")
	}
	return p
}

func (p testPacket) with(change func(*testPacket)) testPacket {
	change(&p)
	return p
}

// ipLayer is the IP header without extension headers.
func (p *testPacket) ipLayer() (gopacket.SerializableLayer, gopacket.NetworkLayer) {
	if p.src.Is4() {
		ip := &layers.IPv4{
			Version: 4, TTL: p.ttl, TOS: p.tos, Id: p.id, Flags: layers.IPv4DontFragment,
			Protocol: layers.IPProtocol(p.proto), SrcIP: p.src.AsSlice(), DstIP: p.dst.AsSlice(),
		}
		if p.mf || p.offset != 0 {
			ip.Flags, ip.FragOffset = 0, p.offset
		}
		if p.mf {
			ip.Flags = layers.IPv4MoreFragments
		}
		if p.options > 0 {
			o := layers.IPv4Option{OptionType: 148, OptionLength: uint8(p.options * 4), OptionData: make([]byte, p.options*4-2)}
			ip.Options = []layers.IPv4Option{o}
		}
		return ip, ip
	}
	ip := &layers.IPv6{
		Version: 6, TrafficClass: p.tos, FlowLabel: uint32(p.id), HopLimit: p.ttl, NextHeader: layers.IPProtocol(p.proto),
		SrcIP: p.src.AsSlice(), DstIP: p.dst.AsSlice(),
	}
	if len(p.ext) > 0 {
		ip.NextHeader = layers.IPProtocol(p.ext[0].proto)
	}
	return ip, ip
}

// transport is everything behind the IP header and its extensions.
func (p *testPacket) transport(t testing.TB, network gopacket.NetworkLayer) []byte {
	t.Helper()
	var l4 gopacket.SerializableLayer
	switch p.proto {
	case flow.TCP:
		tcp := &layers.TCP{
			SrcPort: layers.TCPPort(p.sport), DstPort: layers.TCPPort(p.dport), Seq: p.seq, Ack: p.ack, Window: p.window,
			FIN: p.flags&flow.FlagFIN != 0, SYN: p.flags&flow.FlagSYN != 0, RST: p.flags&flow.FlagRST != 0,
			PSH: p.flags&flow.FlagPSH != 0, ACK: p.flags&flow.FlagACK != 0,
		}
		if p.tcpOption > 0 {
			o := layers.TCPOption{OptionType: 8, OptionLength: uint8(p.tcpOption + 2), OptionData: make([]byte, p.tcpOption)}
			tcp.Options = []layers.TCPOption{o}
		}
		must(t, tcp.SetNetworkLayerForChecksum(network))
		l4 = tcp
	case flow.UDP:
		udp := &layers.UDP{SrcPort: layers.UDPPort(p.sport), DstPort: layers.UDPPort(p.dport)}
		must(t, udp.SetNetworkLayerForChecksum(network))
		l4 = udp
	default:
		if p.dataSum {
			return p.dataHeader(t, network)
		}
		return p.payload
	}
	b := serialize(t, l4, gopacket.Payload(p.payload))
	if p.proto == flow.UDP {
		switch {
		case p.noSum:
			b[6], b[7] = 0, 0
		case b[6] == 0 && b[7] == 0: // RFC 768, should the library not do it
			b[6], b[7] = 0xff, 0xff
		}
	}
	return b
}

func (p testPacket) build(t testing.TB) []byte {
	t.Helper()
	ip, network := p.ipLayer()
	l4 := p.transport(t, network)
	var body []byte
	for i, e := range p.ext {
		next := p.proto
		if i+1 < len(p.ext) {
			next = p.ext[i+1].proto
		}
		body = append(append(body, next), e.rest...)
	}
	packet := serialize(t, ip, gopacket.Payload(append(body, l4...)))
	frame := p.mac[:]
	etherType := layers.EthernetTypeIPv4
	if p.src.Is6() {
		etherType = layers.EthernetTypeIPv6
	}
	frame = slices.Clone(frame)
	for i, tag := range p.tags {
		frame = binary.BigEndian.AppendUint16(frame, uint16(tag))
		frame = binary.BigEndian.AppendUint16(frame, 5<<13|uint16(100+i))
	}
	frame = binary.BigEndian.AppendUint16(frame, uint16(etherType))
	frame = append(frame, packet...)
	for range p.padding {
		frame = append(frame, 0xee)
	}
	return frame
}

func serialize(t testing.TB, l ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	must(t, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, l...))
	return slices.Clone(buf.Bytes())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// decoded is what gopacket finds in a frame, in the form of Parse's results.
func decoded(t testing.TB, frame []byte) (p Packet, k flow.Key) {
	t.Helper()
	packet := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.NoCopy)
	if e := packet.ErrorLayer(); e != nil {
		t.Fatalf("gopacket: %v", e.Error())
	}
	at := 0
	for _, layer := range packet.Layers() {
		here := uint16(at)
		at += len(layer.LayerContents())
		switch l := layer.(type) {
		case *layers.Dot1Q:
			if p.VLAN == 0 {
				p.VLAN = uint16(l.Priority)<<13 | l.VLANIdentifier
			}
		case *layers.IPv4:
			p.L3, p.End, p.TTL, p.Proto = here, here+l.Length, l.TTL, uint8(l.Protocol)
			k.Src, k.Dst = addrOf(l.SrcIP), addrOf(l.DstIP)
			p.L4 = uint16(at)
		case *layers.IPv6:
			p.L3, p.End, p.TTL, p.Proto, p.V6 = here, here+40+l.Length, l.HopLimit, uint8(l.NextHeader), true
			k.Src, k.Dst = addrOf(l.SrcIP), addrOf(l.DstIP)
			p.L4 = uint16(at)
		case *layers.IPv6HopByHop:
			p.Proto, p.L4 = uint8(l.NextHeader), uint16(at)
		case *layers.IPv6Destination:
			p.Proto, p.L4 = uint8(l.NextHeader), uint16(at)
		case *layers.IPv6Routing:
			p.Proto, p.L4 = uint8(l.NextHeader), uint16(at)
		case *layers.IPv6Fragment:
			p.Proto, p.L4 = uint8(l.NextHeader), uint16(at)
		case *layers.IPSecAH:
			if p.V6 { // in IPv4 it is a protocol like another
				p.Proto, p.L4 = uint8(l.NextHeader), uint16(at)
			}
		case *layers.TCP:
			k.Ports = flow.Ports(uint16(l.SrcPort), uint16(l.DstPort))
			flags := l.Contents[13]
			p.TCP = flow.Segment{Seq: l.Seq, Ack: l.Ack, Len: uint32(len(l.Payload)), Window: l.Window, Flags: flags, Scale: flow.NoScale}
			for _, o := range l.Options {
				if o.OptionType == layers.TCPOptionKindWindowScale && l.SYN && len(o.OptionData) == 1 {
					p.TCP.Scale = min(o.OptionData[0], 14)
				}
			}
			p.Payload = uint16(at)
			p.Opens = l.SYN && !l.ACK && !l.RST && !l.FIN
		case *layers.UDP:
			k.Ports = flow.Ports(uint16(l.SrcPort), uint16(l.DstPort))
			p.Payload = uint16(at)
		}
	}
	k.Proto = p.Proto
	return p, k
}

func addrOf(ip net.IP) flow.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return flow.AddrFrom(a)
}

var (
	dot1q = []layers.EthernetType{layers.EthernetTypeDot1Q}
	qinq  = []layers.EthernetType{layers.EthernetTypeQinQ, layers.EthernetTypeDot1Q}
	twice = []layers.EthernetType{layers.EthernetTypeDot1Q, layers.EthernetTypeDot1Q}
)

// goodPackets are packets that Parse must accept, by name. atomicFragment says which have a fragment header that
// gopacket does not look behind.
func goodPackets() (names []string, packets map[string]testPacket) {
	packets = map[string]testPacket{}
	add := func(name string, p testPacket) {
		names = append(names, name)
		packets[name] = p
	}
	for _, v6 := range []bool{false, true} {
		family := "IPv4 "
		if v6 {
			family = "IPv6 "
		}
		tcp, udp := basicPacket(v6, flow.TCP), basicPacket(v6, flow.UDP)
		add(family+"TCP", tcp)
		add(family+"UDP", udp)
		add(family+"TCP SYN with options", tcp.with(func(p *testPacket) { p.flags, p.tcpOption, p.payload = flow.FlagSYN, 38, nil }))
		add(family+"TCP without payload", tcp.with(func(p *testPacket) { p.payload = nil }))
		add(family+"UDP without payload", udp.with(func(p *testPacket) { p.payload = nil }))
		add(family+"TCP in a VLAN", tcp.with(func(p *testPacket) { p.tags = dot1q }))
		add(family+"UDP QinQ", udp.with(func(p *testPacket) { p.tags = qinq }))
		add(family+"TCP in two 802.1Q tags", tcp.with(func(p *testPacket) { p.tags = twice }))
		add(family+"padding", tcp.with(func(p *testPacket) { p.payload, p.padding = nil, 6 }))
		add(family+"UDP padding in a VLAN", udp.with(func(p *testPacket) { p.tags, p.padding = dot1q, 20 }))
		add(family+"TTL 0", udp.with(func(p *testPacket) { p.ttl = 0 }))
	}
	tcp4, tcp6, udp6 := basicPacket(false, flow.TCP), basicPacket(true, flow.TCP), basicPacket(true, flow.UDP)
	for _, words := range []int{1, 4, 10} {
		add("IPv4 options of "+string(rune('0'+words/10))+string(rune('0'+words%10))+" words",
			tcp4.with(func(p *testPacket) { p.options = words }))
	}
	add("IPv4 UDP without checksum", basicPacket(false, flow.UDP).with(func(p *testPacket) { p.noSum = true }))
	for name, ext := range map[string][]extension{
		"hop-by-hop":  {hopByHop},
		"destination": {destination},
		"routing":     {routing},
		"auth":        {auth},
		"all but fragment": {
			hopByHop, destination, routing, auth, destination,
		},
		"8 headers": slices.Repeat([]extension{destination}, 8),
	} {
		add("IPv6 TCP "+name, tcp6.with(func(p *testPacket) { p.ext = ext }))
		add("IPv6 UDP QinQ "+name, udp6.with(func(p *testPacket) { p.ext, p.tags = ext, qinq }))
	}
	slices.Sort(names)
	return names, packets
}

// TestParseGood compares all that Parse finds with what gopacket finds.
func TestParseGood(t *testing.T) {
	names, packets := goodPackets()
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			frame := packets[name].build(t)
			want, wantKey := decoded(t, frame)
			checkParse(t, frame, OK, want, wantKey)
		})
	}
}

// valid is p without what Parse leaves undefined.
func valid(p Packet) Packet {
	if p.Proto != flow.TCP {
		p.TCP = flow.Segment{}
	}
	return p
}

func checkParse(t *testing.T, frame []byte, verdict Verdict, want Packet, wantKey flow.Key) {
	t.Helper()
	// What an earlier packet has left behind must not show.
	got := Packet{VLAN: 0xffff, V6: !want.V6, Payload: 0xffff}
	key := flow.Key{Ports: 0xffffffff, Proto: 0xff}
	if v := Parse(frame, &got, &key); v != verdict {
		t.Fatalf("verdict %d, not %d", v, verdict)
	}
	if got = valid(got); got != want {
		t.Errorf("packet\n%+v, not\n%+v", got, want)
	}
	if key != wantKey {
		t.Errorf("tuple\n%+v, not\n%+v", key, wantKey)
	}
}

// TestParseAtomicFragment has a fragment header in front of a whole datagram: all is as without it, 8 bytes on.
func TestParseAtomicFragment(t *testing.T) {
	for _, before := range [][]extension{nil, {hopByHop}, {hopByHop, routing}} {
		for _, after := range [][]extension{nil, {destination}, {auth, destination}} {
			plain := basicPacket(true, flow.TCP)
			plain.ext = slices.Concat(before, after)
			want, wantKey := decoded(t, plain.build(t))
			for _, offset := range []*uint16{&want.L4, &want.End, &want.Payload} {
				*offset += 8
			}
			plain.ext = slices.Concat(before, []extension{atomic}, after)
			checkParse(t, plain.build(t), OK, want, wantKey)
		}
	}
}

// TestParseFragment: ports are 0, since a later part has none.
func TestParseFragment(t *testing.T) {
	for name, ext := range map[string][]extension{
		"first": {firstPart}, "later": {laterPart}, "behind others": {hopByHop, routing, laterPart},
		"with others behind": {laterPart, destination},
	} {
		t.Run("IPv6 "+name, func(t *testing.T) {
			frame := basicPacket(true, flow.UDP).with(func(p *testPacket) { p.ext = ext }).build(t)
			want, wantKey := decoded(t, frame)
			checkPortless(t, frame, Fragment, want, wantKey)
		})
	}
	for name, field := range map[string]uint16{"first": 0x2000, "middle": 0x2001, "last": 0x0001, "offset's upper bits": 0x1000} {
		t.Run("IPv4 "+name, func(t *testing.T) {
			frame := basicPacket(false, flow.TCP).build(t)
			binary.BigEndian.PutUint16(frame[14+6:], field)
			want, wantKey := decoded(t, frame)
			wantKey.Ports, want.TCP, want.Payload = 0, flow.Segment{}, 0
			checkPortless(t, frame, Fragment, want, wantKey)
		})
	}
	frame := basicPacket(false, flow.TCP).build(t)
	frame[14+6] = 0x80 // the reserved bit is none of our business
	if v := Parse(frame, new(Packet), new(flow.Key)); v != OK {
		t.Errorf("with the reserved bit: verdict %d", v)
	}
}

// checkPortless is checkParse for packets whose transport header is not read.
func checkPortless(t *testing.T, frame []byte, verdict Verdict, want Packet, wantKey flow.Key) {
	t.Helper()
	var got Packet
	var key flow.Key
	if v := Parse(frame, &got, &key); v != verdict {
		t.Fatalf("verdict %d, not %d", v, verdict)
	}
	got.Payload, want.Payload = 0, 0
	if got != want || key != wantKey {
		t.Errorf("\n%+v %+v, not\n%+v %+v", got, key, want, wantKey)
	}
}

func TestParseNoPorts(t *testing.T) {
	for _, proto := range []uint8{flow.ICMP, flow.ICMPv6, 47, 50, 59, 255} {
		for _, v6 := range []bool{false, true} {
			frame := basicPacket(v6, proto).build(t)
			var p Packet
			k := flow.Key{Ports: 1}
			if v := Parse(frame, &p, &k); v != NoPorts {
				t.Errorf("protocol %d: verdict %d", proto, v)
			}
			want := basicPacket(v6, proto)
			if k != (flow.Key{Src: flow.AddrFrom(want.src), Dst: flow.AddrFrom(want.dst), Proto: proto}) || p.Proto != proto {
				t.Errorf("protocol %d: %+v %+v", proto, p, k)
			}
		}
	}
	// Extension headers are IPv6's: in IPv4 their numbers are protocols, and so is IPv6's number in IPv6.
	for _, proto := range []uint8{extHopByHop, extRouting, extFragment, extAuth, extDestination} {
		if v := Parse(basicPacket(false, proto).build(t), new(Packet), new(flow.Key)); v != NoPorts {
			t.Errorf("IPv4 protocol %d: verdict %d", proto, v)
		}
	}
}

// TestParseRefused changes one thing of a good packet.
func TestParseRefused(t *testing.T) {
	const l3, l4, l46 = 14, 34, 54
	set := func(at int, bytes ...byte) func([]byte) []byte {
		return func(b []byte) []byte { copy(b[at:], bytes); return b }
	}
	tcp4, udp4 := basicPacket(false, flow.TCP), basicPacket(false, flow.UDP)
	tcp6, udp6 := basicPacket(true, flow.TCP), basicPacket(true, flow.UDP)
	tagged := udp4.with(func(p *testPacket) { p.tags = qinq })
	extended := tcp6.with(func(p *testPacket) { p.ext = []extension{destination} })
	for _, c := range []struct {
		name   string
		packet testPacket
		change func([]byte) []byte
		want   Verdict
	}{
		{"empty frame", tcp4, func(b []byte) []byte { return nil }, Truncated},
		{"ARP", tcp4, set(12, 0x08, 0x06), NotIP},
		{"LLC length", tcp4, set(12, 0x00, 0x40), NotIP},
		{"three tags", udp4.with(func(p *testPacket) { p.tags = slices.Concat(qinq, dot1q) }), nil, NotIP},
		{"IPv6 in three tags", tcp6.with(func(p *testPacket) { p.tags = slices.Concat(twice, dot1q) }), nil, NotIP},
		{"ARP in two tags", tagged, set(20, 0x08, 0x06), NotIP},
		{"frame of 65536 bytes", tcp4, func(b []byte) []byte { return append(b, make([]byte, 65536-len(b))...) }, Truncated},
		{"IPv4 EtherType, version 6", tcp4, set(l3, 0x65), BadHeader},
		{"IPv6 EtherType, version 4", tcp6, set(l3, 0x45), BadHeader},
		{"IPv4 header of 16 bytes", tcp4, set(l3, 0x44), BadHeader},
		{"IPv4 header of 0 bytes", tcp4, set(l3, 0x40), BadHeader},
		{"IPv4 shorter than its header", tcp4, set(l3+2, 0, 19), BadHeader},
		{"IPv4 length 0", tcp4, set(l3+2, 0, 0), BadHeader},
		{"IPv4 options beyond the packet", tcp4, set(l3, 0x4f, 0, 0, 40), BadHeader},
		{"IPv4 longer than the frame", tcp4, set(l3+2, 0, 59), BadLength},
		{"IPv4 length 65535", tcp4, set(l3+2, 0xff, 0xff), BadLength},
		{"IPv6 longer than the frame", tcp6, set(l3+4, 0, 39), BadLength},
		{"IPv6 length 65535", tcp6, set(l3+4, 0xff, 0xff), BadLength},
		{"IPv6 length 0", tcp6, set(l3+4, 0, 0), Truncated}, // a jumbogram, or nothing at all
		{"IPv6 source is mapped IPv4", tcp6, set(l3+8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff), BadHeader},
		{"IPv6 destination is mapped IPv4", tcp6, set(l3+24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff), BadHeader},
		{"IPv6 extension beyond the packet", extended, set(l3+41, 200), Truncated},
		{"IPv6 extension leaves no room", extended, set(l3+41, 5), Truncated},
		{"IPv6 extension into padding", basicPacket(true, 59).with(func(p *testPacket) {
			p.ext, p.payload, p.padding = []extension{destination}, nil, 64
		}), set(l3+41, 2), Truncated},
		{"IPv6 source route in progress", tcp6.with(func(p *testPacket) { p.ext = []extension{routing} }), set(l3+43, 1), BadHeader},
		{"9 extension headers", tcp6.with(func(p *testPacket) { p.ext = slices.Repeat([]extension{destination}, 9) }), nil, ExtensionLimit},
		{"9th is a fragment header", tcp6.with(func(p *testPacket) {
			p.ext = append(slices.Repeat([]extension{destination}, 8), laterPart)
		}), nil, ExtensionLimit},
		{"TCP header of 16 bytes", tcp4, set(l4+12, 0x40), BadHeader},
		{"TCP options beyond the packet", tcp4, set(l4+12, 0xf0), Truncated},
		{"IPv6 TCP header of 16 bytes", tcp6, set(l46+12, 0x4f), BadHeader},
		{"IPv6 TCP options beyond the packet", tcp6, set(l46+12, 0xa0), Truncated},
		{"UDP length 7", udp4, set(l4+4, 0, 7), BadHeader},
		{"UDP length 0", udp4, set(l4+4, 0, 0), BadHeader},
		{"UDP longer than the packet", udp4, set(l4+4, 0, 27), BadLength},
		{"UDP longer than the packet, into padding", udp4.with(func(p *testPacket) { p.padding = 10 }), set(l4+4, 0, 27), BadLength},
		{"IPv6 UDP length 7", udp6, set(l46+4, 0, 7), BadHeader},
		{"IPv6 UDP without checksum", udp6, set(l46+6, 0, 0), BadHeader},
	} {
		frame := c.packet.build(t)
		if c.change != nil {
			frame = c.change(frame)
		}
		if v := Parse(frame, new(Packet), new(flow.Key)); v != c.want {
			t.Errorf("%s: verdict %d, not %d", c.name, v, c.want)
		}
	}
	// A datagram may end before its packet does (RFC 768 has its own length); that is no reason to refuse it.
	frame := set(l4+4, 0, 9)(udp4.build(t))
	if v := Parse(frame, new(Packet), new(flow.Key)); v != OK {
		t.Errorf("UDP shorter than the packet: verdict %d", v)
	}
}

// TestParseTruncated cuts packets at every length, as a frame that is too short and as an IP packet whose length
// is right but which ends inside a header.
func TestParseTruncated(t *testing.T) {
	names, packets := goodPackets()
	for _, name := range names {
		frame := packets[name].build(t)
		want, _ := decoded(t, frame)
		for n := range len(frame) {
			cut := slices.Clone(frame[:n]) // so that reading behind the cut is a panic
			cut = cut[:n:n]
			v := Parse(cut, new(Packet), new(flow.Key))
			if (v == OK) != (n >= int(want.End)) {
				t.Errorf("%s cut to %d of %d bytes (packet ends at %d): verdict %d", name, n, len(frame), want.End, v)
			}
			headers := int(want.L3) + ipv4Len
			if want.V6 {
				headers = int(want.L3) + ipv6Len
			}
			if n < headers && v != Truncated {
				t.Errorf("%s cut to %d bytes, inside the IP header: verdict %d", name, n, v)
			}
			if n < headers {
				continue
			}
			if want.V6 {
				binary.BigEndian.PutUint16(cut[want.L3+4:], uint16(n-headers))
			} else {
				binary.BigEndian.PutUint16(cut[want.L3+2:], uint16(n-int(want.L3)))
			}
			v = Parse(cut, new(Packet), new(flow.Key))
			switch {
			case n < int(want.Payload) && v == OK:
				t.Errorf("%s ends at %d, inside a header: OK", name, n)
			case n >= int(want.Payload) && want.Proto == flow.TCP && v != OK:
				t.Errorf("%s ends at %d, in the payload: verdict %d", name, n, v)
			}
		}
	}
}

func TestParseAllocations(t *testing.T) {
	frame := basicPacket(true, flow.TCP).build(t)
	var p Packet
	var k flow.Key
	if n := testing.AllocsPerRun(100, func() { Parse(frame, &p, &k) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
