package rewrite

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/flow"
)

// captures are frames as clients and servers send them: a web connection from SYN to FIN, name look-ups, pings and
// what else a port sees.
var captures = []string{
	// TCP handshake of a Linux client: MSS, SACK, timestamps, window scale.
	`0200000000020200000000010800 4500003c1c46400040065cc1ac100a370a0a0164
	 9c4001bbd2a1b3c400000000a002faf01c370000020405b40402080a3a9f10220000000001030307`,
	`0200000000010200000000020800 4500003c00004000400679070a0a0164ac100a37
	 01bb9c407b10aa02d2a1b3c5a012fe889df30000020405b40402080a91b2c3d43a9f102201030307`,
	`0200000000020200000000010800 450000341c47400040065cc8ac100a370a0a0164
	 9c4001bbd2a1b3c57b10aa03801001f6c95100000101080a3a9f102391b2c3d4`,
	// HTTP request and the start of the answer.
	`0200000000020200000000010800 4500004d1c48400040065caeac100a370a0a0164
	 9c400050d2a1b3c57b10aa03801801f6148900000101080a3a9f102391b2c3d4474554202f20485454502f312e310d0a
	 486f73743a20777777`,
	`0200000000010200000000020800 450000660a12400040066ecb0a0a0164ac100a37
	 00509c407b10aa03d2a1b416801801fd1b2000000101080a91b2c3e03a9f1023485454502f312e3120323030204f4b0d
	 0a436f6e74656e742d4c656e6774683a20300d0a0d0a000000000000000000000000`,
	// DNS query for www.example.com, in a VLAN.
	`020000000002020000000001810000640800 4500003eabcd000040110d2dac100a370a0a0164
	 d4310035002a4c421a2b01000001000000000000037777770765786d616d706c6503636f6d0000010001`,
	// IPv6: TCP SYN, echo request, neighbour solicitation, a listener report behind a hop-by-hop header.
	`02000000000202000000000186dd 6003b5c700280640fd00017200160010000000000000005520010db8000000000000000000000100
	 e1f801bb00c0ffee00000000a002fd2087f70000020405a00402080a6b8b45670000000001030307`,
	`02000000000202000000000186dd 6000000000103a40fd00017200160010000000000000005520010db8000000000000000000000100
	 8000c076000100016162636465666768`,
	`3333ff00010002000000000186dd 6000000000203afffe800000000000000000000000000001ff0200000000000000000001ff000100
	 8700789b00000000fe8000000000000000000000000001000101020000000001`,
	`33330000001602000000000186dd 6000000000240001fe800000000000000000000000000001ff020000000000000000000000000016
	 3a000502000001008f0071070000000104000000ff0200000000000000000001ff000001`,
	// ARP, padded to 60 bytes; IPv4 fragments; ICMP port unreachable with the packet that it is about.
	`ffffffffffff02000000000108060001080006040001020000000001ac100a37000000000000ac100a01` + strings.Repeat("00", 18),
	`0200000000020200000000010800 4500002812342000401186dcac100a370a0a0164
	 d431003504d2aaaa0102030405060708090a0b0c`,
	`0200000000020200000000010800 45000028123400b94011a623ac100a370a0a0164
	 0d0e0f101112131415161718191a1b1c1d1e1f20`,
	`0200000000010200000000020800 45c00038d20100004001e64e0a0a0164ac100a37
	 030327fd000000004500001cabcd00004011b3c4ac100a370a0a0164d431003500085a1b`,
	// SCTP INIT, GRE.
	`0200000000020200000000010800 450000341c49400040845c48ac100a370a0a0164
	 9c400b5900000000ced21272010000149e3779b90001a000000a0800deadbeef`,
	`0200000000020200000000010800 4500002c1c4a4000402f5ca4ac100a370a0a0164
	 0000080045000014000100004001f98a0a0000010a000002`,
}

func fuzzSeeds(t testing.TB) (seeds [][]byte) {
	for _, c := range captures {
		b, err := hex.DecodeString(strings.Join(strings.Fields(c), ""))
		must(t, err)
		seeds = append(seeds, b)
	}
	names, packets := goodPackets()
	for _, name := range names {
		seeds = append(seeds, packets[name].build(t))
	}
	for _, ext := range [][]extension{{atomic}, {firstPart}, {hopByHop, laterPart}, slices.Repeat([]extension{destination}, 9)} {
		seeds = append(seeds, basicPacket(true, flow.TCP).with(func(p *testPacket) { p.ext = ext }).build(t))
	}
	// A name look-up and its answer, and a transfer's full segment.
	dns := &layers.DNS{ID: 7, RD: true, Questions: []layers.DNSQuestion{{Name: []byte("example.com"), Type: layers.DNSTypeA, Class: layers.DNSClassIN}}}
	query := basicPacket(false, flow.UDP).with(func(p *testPacket) { p.dport, p.payload = 53, serialize(t, dns) })
	dns.QR = true
	dns.Answers = []layers.DNSResourceRecord{{
		Name: []byte("example.com"), Type: layers.DNSTypeA, Class: layers.DNSClassIN, TTL: 300, IP: []byte{192, 0, 2, 1},
	}}
	answer := basicPacket(true, flow.UDP).with(func(p *testPacket) { p.sport, p.payload = 53, serialize(t, dns) })
	full := basicPacket(false, flow.TCP).with(func(p *testPacket) { p.tcpOption, p.payload = 10, make([]byte, 1448) })
	for _, v6 := range []bool{false, true} {
		for _, c := range sctpCases() {
			seeds = append(seeds, c.packet(t, v6).build(t))
		}
	}
	return append(seeds, query.build(t), answer.build(t), full.build(t))
}

// TestCaptures: the seeds are what their comments say, so that the fuzzer starts where packets really are.
func TestCaptures(t *testing.T) {
	want := []Verdict{OK, OK, OK, OK, OK, OK, OK, NoPorts, NoPorts, NoPorts, NotIP, Fragment, Fragment, NoPorts, OK, NoPorts}
	for i, frame := range fuzzSeeds(t)[:len(captures)] {
		var p Packet
		if v := Parse(frame, &p, new(flow.Key)); v != want[i] {
			t.Errorf("capture %d: verdict %d, not %d", i, v, want[i])
		}
		if want[i] != OK {
			continue
		}
		if l3, l4 := sumsValid(frame, &p); !l3 || !l4 {
			t.Errorf("capture %d has wrong checksums: %v %v", i, l3, l4)
		}
	}
}

// FuzzParse holds for every frame: Parse does not panic, its offsets are in order and inside the frame, and it reads
// the ports where gopacket does; the rewrites change the fields that they must and no others, and leave a checksum
// right that was right.
func FuzzParse(f *testing.F) {
	for _, b := range fuzzSeeds(f) {
		f.Add(b)
	}
	server, virtual := flow.AddrFrom4(0xc0a81401), flow.AddrFrom4(0x0a0a0164)
	server6 := flow.AddrFrom(netip.MustParseAddr("fd00:192:168:20::1"))
	virtual6 := flow.AddrFrom(netip.MustParseAddr("2001:db8::100"))
	f.Fuzz(func(t *testing.T, input []byte) {
		b := slices.Clone(input)
		b = b[:len(b):len(b)] // reading behind the frame is a panic
		var p Packet
		var k flow.Key
		v := Parse(b, &p, &k)
		if !bytes.Equal(b, input) {
			t.Fatal("Parse changed the frame")
		}
		switch v {
		case OK:
			checkOffsets(t, &p, len(b))
			checkPorts(t, b, &p, &k)
		case NoPorts, Fragment:
			if p.L3 < etherLen || p.L4 < p.L3+ipv4Len || p.L4 > p.End || int(p.End) > len(b) || k.Proto != p.Proto ||
				k.Ports != 0 && (v == Fragment || p.ICMP != ICMPRequest && p.ICMP != ICMPReply) {
				t.Fatalf("%+v %+v of %d bytes", p, k, len(b))
			}
			return
		default:
			return
		}
		if p.TTL <= 2 {
			return // the caller's duty
		}
		right3, right4 := sumsValid(b, &p)
		to, from := server, virtual
		if p.V6 {
			to, from = server6, virtual6
		}
		l2 := L2{2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8}
		l3, l4 := diffs(k.Dst, to, k.DstPort(), 8080)
		ToServer(b, &p, &l2, to, 8080, l3, l4)
		l3, l4 = diffs(from, k.Src, 443, k.SrcPort())
		ToClient(b, &p, &l2, from, 443, ^l3, ^l4)
		var p2 Packet
		var k2 flow.Key
		if v := Parse(b, &p2, &k2); v != OK {
			t.Fatalf("after the rewrites: verdict %d", v)
		}
		if want := (flow.Key{Src: from, Dst: to, Ports: flow.Ports(443, 8080), Proto: k.Proto}); k2 != want {
			t.Fatalf("tuple %+v, not %+v", k2, want)
		}
		if l3, l4 := sumsValid(b, &p2); l3 != right3 || l4 != right4 {
			t.Fatalf("checksums right before: %v %v, after: %v %v", right3, right4, l3, l4)
		}
		p.TTL -= 2
		if valid(p2) != valid(p) {
			t.Fatalf("%+v became %+v", p, p2)
		}
		restore(b, input, &p)
		if !bytes.Equal(b, input) {
			t.Fatalf("other bytes changed:\n% x\n% x", input, b)
		}
	})
}

func checkOffsets(t *testing.T, p *Packet, size int) {
	t.Helper()
	ip, l4 := uint16(ipv4Len), uint16(udpLen)
	if p.V6 {
		ip = ipv6Len
	}
	switch p.Proto {
	case flow.TCP:
		l4 = tcpLen
	case flow.SCTP:
		l4 = sctpLen
	}
	if p.L3 < etherLen || p.L4 < p.L3+ip || p.Payload < p.L4+l4 || p.End < p.Payload || int(p.End) > size {
		t.Fatalf("offsets of %+v in %d bytes", p, size)
	}
}

// checkPorts asks gopacket, where it understands the packet: it does not look behind atomic fragments.
func checkPorts(t *testing.T, b []byte, p *Packet, k *flow.Key) {
	t.Helper()
	packet := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
	switch l := packet.TransportLayer().(type) {
	case *layers.TCP:
		if p.Proto != flow.TCP || k.Ports != flow.Ports(uint16(l.SrcPort), uint16(l.DstPort)) {
			t.Fatalf("%+v %+v, gopacket has TCP %d %d", p, k, l.SrcPort, l.DstPort)
		}
	case *layers.UDP:
		if p.Proto != flow.UDP || k.Ports != flow.Ports(uint16(l.SrcPort), uint16(l.DstPort)) {
			t.Fatalf("%+v %+v, gopacket has UDP %d %d", p, k, l.SrcPort, l.DstPort)
		}
	case *layers.SCTP:
		if p.Proto != flow.SCTP || k.Ports != flow.Ports(uint16(l.SrcPort), uint16(l.DstPort)) || p.SCTP.Tag != l.VerificationTag {
			t.Fatalf("%+v %+v, gopacket has SCTP %d %d", p, k, l.SrcPort, l.DstPort)
		}
	}
}

// restore puts back the fields that rewrites may change.
func restore(b, original []byte, p *Packet) {
	field := func(at, n uint16) { copy(b[at:at+n], original[at:at+n]) }
	field(0, 12)
	if p.V6 {
		field(p.L3+7, 1)
		field(p.L3+8, 32)
	} else {
		field(p.L3+8, 1)
		field(p.L3+10, 2)
		field(p.L3+12, 8)
	}
	field(p.L4, 4)
	switch p.Proto {
	case flow.TCP:
		field(p.L4+16, 2)
	case flow.SCTP:
		field(p.L4+8, 4)
	default:
		field(p.L4+6, 2)
	}
}
