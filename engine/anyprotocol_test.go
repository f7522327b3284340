package engine

import (
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/flow"
)

// frame serializes layers by gopacket, checksums and all.
func frame(t testing.TB, ls ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func ip4(src, dst netip.Addr, proto layers.IPProtocol, ttl uint8) *layers.IPv4 {
	return &layers.IPv4{Version: 4, IHL: 5, TTL: ttl, Protocol: proto, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
}

// Echo requests and packets of a protocol without ports go to members and their answers come back, as gopacket builds them;
// errors, and requests to an address whose ICMP is not balanced, are the kernel's.
func TestAnyProtocol(t *testing.T) {
	spec := a4(1)
	spec.Virtuals = append(spec.Virtuals,
		VirtualSpec{Name: "echo", Addr: vip, Proto: flow.ICMP, Pool: 0},
		VirtualSpec{Name: "every", Addr: vip, Pool: 2},
		VirtualSpec{Name: "ports", Addr: vip, Proto: flow.TCP, Pool: 2},
	)
	b := newBench(t, spec, 1000, 1024)
	toUs := func(mac ...int) *layers.Ethernet {
		return &layers.Ethernet{SrcMAC: clientMAC, DstMAC: outsideMAC, EthernetType: layers.EthernetTypeIPv4}
	}
	icmp := func(kind uint8, id uint16) *layers.ICMPv4 {
		return &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, 0), Id: id, Seq: 7}
	}
	payload := gopacket.Payload("are you there")
	check := func(what string, got, want []byte) {
		t.Helper()
		if string(got) != string(want) {
			t.Fatalf("%s: %x, want %x", what, got, want)
		}
	}
	for id := uint16(1); id <= 4; id++ { // a turn each
		s := int(id)
		got := only(t, b.send(outside, frame(t, toUs(), ip4(clientIP, vip, layers.IPProtocolICMPv4, 64), icmp(8, id), payload)), inside)
		check("request", got, frame(t, &layers.Ethernet{SrcMAC: insideMAC, DstMAC: serverMAC(s), EthernetType: layers.EthernetTypeIPv4},
			ip4(clientIP, serverIP(s), layers.IPProtocolICMPv4, 63), icmp(8, id), payload))
		got = only(t, b.send(inside, frame(t, &layers.Ethernet{SrcMAC: serverMAC(s), DstMAC: insideMAC, EthernetType: layers.EthernetTypeIPv4},
			ip4(serverIP(s), clientIP, layers.IPProtocolICMPv4, 64), icmp(0, id), payload)), outside)
		check("reply", got, frame(t, &layers.Ethernet{SrcMAC: outsideMAC, DstMAC: clientMAC, EthernetType: layers.EthernetTypeIPv4},
			ip4(vip, clientIP, layers.IPProtocolICMPv4, 63), icmp(0, id), payload))
	}
	gre := func(src, dst netip.Addr, eth *layers.Ethernet, ttl uint8) []byte {
		return frame(t, eth, ip4(src, dst, layers.IPProtocolGRE, ttl), &layers.GRE{Protocol: layers.EthernetTypeIPv4}, payload)
	}
	got := only(t, b.send(outside, gre(clientIP, vip, toUs(), 64)), inside)
	check("GRE", got, gre(clientIP, serverIP(1), &layers.Ethernet{SrcMAC: insideMAC, DstMAC: serverMAC(1), EthernetType: layers.EthernetTypeIPv4}, 63))
	got = only(t, b.send(inside, gre(serverIP(1), clientIP, &layers.Ethernet{SrcMAC: serverMAC(1), DstMAC: insideMAC, EthernetType: layers.EthernetTypeIPv4}, 64)), outside)
	check("GRE back", got, gre(vip, clientIP, &layers.Ethernet{SrcMAC: outsideMAC, DstMAC: clientMAC, EthernetType: layers.EthernetTypeIPv4}, 63))

	// Any port of TCP, translated to the member's own; the port with a virtual server of its own stays there.
	syn := fromClient(500, "S")
	syn.dport = 4711
	got = only(t, b.send(outside, syn.build(t)), inside)
	syn.srcMAC, syn.dstMAC, syn.dst, syn.dport, syn.ttl = insideMAC, serverMAC(2), serverIP(2), 5353, 63
	check("any port", got, syn.build(t))
	if got := only(t, b.send(outside, fromClient(501, "S").build(t)), inside); got[37] != 80 {
		t.Errorf("port 80 went to port %d", got[37])
	}

	only(t, b.send(outside, frame(t, toUs(), ip4(clientIP, vip, layers.IPProtocolICMPv4, 64), icmp(3, 0), payload)), host)
	b.drops(outside, frame(t, toUs(), ip4(clientIP, vip, layers.IPProtocolAH, 64), payload, payload), Untranslatable)
	b.drops(outside, frame(t, toUs(), ip4(clientIP, vip, layers.IPProtocolICMPv4, 1), icmp(8, 9), payload), TTLExpired)
	b.check()
	b.now += uint64(DefaultTimeouts.ICMP) + 1000
	for range 20 {
		b.Step(b.now)
	}
	if s := b.stats(); s.Closed != 4 {
		t.Errorf("after the idle time of ICMP %d connections are closed, want 4", s.Closed)
	}
	b.close()
}
