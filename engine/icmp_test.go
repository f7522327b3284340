package engine

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/flow"
)

// tooBig is an ICMP error that says that the next link has an MTU of 1280, with the packet that it quotes.
type tooBig struct {
	srcMAC, dstMAC net.HardwareAddr
	src, dst       netip.Addr
	ttl            uint8
	quoted         []byte // an IP packet, or its beginning
}

func (e tooBig) build(t testing.TB) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: e.srcMAC, DstMAC: e.dstMAC, EthernetType: layers.EthernetTypeIPv4}
	ls := []gopacket.SerializableLayer{eth}
	if e.src.Is4() {
		ip := &layers.IPv4{Version: 4, TTL: e.ttl, Protocol: layers.IPProtocolICMPv4, SrcIP: e.src.AsSlice(), DstIP: e.dst.AsSlice(), Id: 9}
		icmp := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4CodeFragmentationNeeded), Seq: 1280}
		ls = append(ls, ip, icmp, gopacket.Payload(e.quoted))
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		ip := &layers.IPv6{Version: 6, HopLimit: e.ttl, NextHeader: layers.IPProtocolICMPv6, SrcIP: e.src.AsSlice(), DstIP: e.dst.AsSlice()}
		icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypePacketTooBig, 0)}
		if err := icmp.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		ls = append(ls, ip, icmp, gopacket.Payload(append(binary.BigEndian.AppendUint32(nil, 1280), e.quoted...)))
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// errorCase is a connection, a packet of each direction as its sender sent it, and routers of the family on both sides.
type errorCase struct {
	name                          string
	request, answer               packet // the answer without addresses
	server, farRouter, nearRouter netip.Addr
	virtual                       netip.Addr
	header                        int // of IP
}

func errorCases() []errorCase {
	routers := [2][2]netip.Addr{
		{netip.MustParseAddr("192.168.21.1"), netip.MustParseAddr("172.16.11.1")},
		{netip.MustParseAddr("fd00:192:168:21::1"), netip.MustParseAddr("fd00:172:16:11::1")},
	}
	var out []errorCase
	for i, family := range []string{"4", "6"} {
		c := errorCase{farRouter: routers[i][0], nearRouter: routers[i][1], virtual: vip, server: serverIP(1), header: 20}
		client, web, dns := clientIP, uint16(80), uint16(5353)
		if i == 1 {
			c.virtual, c.server, c.header = vip6, a4(1).Pools[1].Members[0].Addr, 40
			client, web, dns = clientIP6, 8080, 8080
		}
		for _, udp := range []bool{false, true} {
			c.name = "tcp" + family
			c.request = packet{src: client, dst: c.virtual, sport: 4003, dport: 80, flags: "S", seq: 7, payload: "what is asked"}
			c.answer = packet{src: c.server, dst: client, sport: web, dport: 4003, flags: "SA", seq: 9000, ack: 8, payload: "what is answered"}
			if udp {
				c.name = "udp" + family
				c.request.udp, c.request.dport = true, 53
				c.answer.udp, c.answer.sport = true, dns
			}
			out = append(out, c)
		}
	}
	return out
}

// ICMP errors of a router and of the ends, about packets in both directions, quoting 8 bytes or all: the quoted packet
// becomes, byte by byte, the one that its sender sent.
func TestICMPErrors(t *testing.T) {
	for _, c := range errorCases() {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, a4(1), 1000, 2048)
			defer b.close()
			request, answer := c.request, c.answer
			request.srcMAC, request.dstMAC = clientMAC, outsideMAC
			answer.srcMAC, answer.dstMAC = serverMAC(1), insideMAC
			toServer := only(t, b.send(outside, request.build(t)), inside)[14:]
			toClient := only(t, b.send(inside, answer.build(t)), outside)[14:]
			request.ttl, answer.ttl = 63, 63
			sent, answered := request.build(t)[14:], answer.build(t)[14:]
			before := b.stats()
			n := uint64(0)
			for _, size := range []int{c.header + 8, len(sent)} {
				for _, from := range []struct{ src, becomes netip.Addr }{{c.farRouter, c.farRouter}, {c.server, c.virtual}} {
					e := tooBig{serverMAC(1), insideMAC, from.src, request.src, 64, toServer[:size]}
					got := only(t, b.send(inside, e.build(t)), outside)
					want := tooBig{outsideMAC, clientMAC, from.becomes, request.src, 63, sent[:size]}.build(t)
					if !bytes.Equal(got, want) {
						t.Fatalf("from %s\n%x, want\n%x", from.src, got, want)
					}
					n++
				}
				for _, src := range []netip.Addr{c.nearRouter, request.src} {
					e := tooBig{clientMAC, outsideMAC, src, c.virtual, 64, toClient[:size]}
					got := only(t, b.send(outside, e.build(t)), inside)
					want := tooBig{insideMAC, serverMAC(1), src, c.server, 63, answered[:size]}.build(t)
					if !bytes.Equal(got, want) {
						t.Fatalf("from %s\n%x, want\n%x", src, got, want)
					}
					n++
				}
			}
			s := b.stats()
			if s.Errors != n || s.ToServer-before.ToServer != n/2 || s.ToClient-before.ToClient != n/2 || s.Dropped() != 0 || s.Opened != 1 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// Errors about nothing of ours are the kernel's and open nothing; one that has no hop left is dropped.
func TestICMPErrorsOfOthers(t *testing.T) {
	for _, c := range errorCases() {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, a4(1), 1000, 2048)
			defer b.close()
			request := c.request
			request.srcMAC, request.dstMAC = clientMAC, outsideMAC
			toServer := only(t, b.send(outside, request.build(t)), inside)[14:]
			other := c.answer
			other.srcMAC, other.dstMAC, other.src, other.sport = clientMAC, outsideMAC, c.virtual, 99
			for name, e := range map[string]tooBig{
				"another connection":  {clientMAC, outsideMAC, c.nearRouter, c.virtual, 64, other.build(t)[14:]},
				"7 bytes of a header": {serverMAC(1), insideMAC, c.farRouter, request.src, 64, toServer[:c.header+7]},
				"another's quote":     {clientMAC, outsideMAC, c.nearRouter, c.virtual, 64, toServer},
			} {
				frame := e.build(t)
				port := outside
				if e.srcMAC[5] != clientMAC[5] {
					port = inside
				}
				got := only(t, b.send(port, frame), host)
				copy(frame, hostMAC)
				if !bytes.Equal(got, frame) {
					t.Errorf("%s: the kernel received\n%x, want\n%x", name, got, frame)
				}
			}
			last := tooBig{serverMAC(1), insideMAC, c.farRouter, request.src, 1, toServer}
			wrong := tooBig{serverMAC(1), outsideMAC, c.farRouter, request.src, 64, toServer}
			b.send(inside, last.build(t))
			b.send(outside, wrong.build(t))
			s := b.stats()
			if s.Errors != 0 || s.Opened != 1 || s.ToHost != 3 || s.Drops[TTLExpired] != 1 || s.Drops[WrongSide] != 1 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// With several workers an error reaches the owner of its connection wherever it arrives.
func TestICMPErrorsHandedOver(t *testing.T) {
	const workers = 3
	b := newBench(t, a4(workers), 1000, 1024)
	defer b.close()
	router := netip.MustParseAddr("192.168.21.1")
	for i := range uint16(60) {
		got := only(t, b.sendTo(0, outside, fromClient(10000+i, "S").build(t)), inside)
		server := int(got[33])
		answer := only(t, b.sendTo(1, inside, fromServer(server, 10000+i, "SA").build(t)), outside)
		for at := range workers {
			only(t, b.sendTo(at, inside, tooBig{serverMAC(server), insideMAC, router, clientIP, 64, got[14:42]}.build(t)), outside)
			only(t, b.sendTo(at, outside, tooBig{clientMAC, outsideMAC, clientIP, vip, 64, answer[14:42]}.build(t)), inside)
		}
	}
	if s := b.stats(); s.Errors != 360 || s.Dropped() != 0 || s.HandedIn != s.HandedOut {
		t.Errorf("%+v", s)
	}
}

// Errors cost no allocation.
func TestICMPErrorsAllocations(t *testing.T) {
	b := newBench(t, a4(1), 1000, 2048)
	defer b.close()
	got := only(t, b.send(outside, fromClient(4003, "S").build(t)), inside)
	frame := tooBig{serverMAC(1), insideMAC, serverIP(1), clientIP, 64, got[14:42]}.build(t)
	if n := testing.AllocsPerRun(100, func() {
		b.wire(0, inside).Send(frame)
		b.Engine.workers[0].step(b.now)
		b.wire(0, outside).Recv(func([]byte) {})
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if s := b.stats(); s.Errors < 100 {
		t.Errorf("%d errors were translated", s.Errors)
	}
}

// The virtual server for echo keeps getting its requests, and errors about its answers reach the member.
func TestICMPErrorsOfQueries(t *testing.T) {
	spec := a4(1)
	spec.Virtuals = append(spec.Virtuals, VirtualSpec{Name: "echo", Addr: vip, Proto: flow.ICMP, Pool: 0})
	b := newBench(t, spec, 1000, 2048)
	defer b.close()
	echo := func(src, dst netip.Addr, from, to net.HardwareAddr, kind uint8, ttl uint8) []byte {
		buf := gopacket.NewSerializeBuffer()
		err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
			&layers.Ethernet{SrcMAC: from, DstMAC: to, EthernetType: layers.EthernetTypeIPv4},
			&layers.IPv4{Version: 4, TTL: ttl, Protocol: layers.IPProtocolICMPv4, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()},
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, 0), Id: 77, Seq: 1}, gopacket.Payload("ping"))
		if err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	only(t, b.send(outside, echo(clientIP, vip, clientMAC, outsideMAC, 8, 64)), inside)
	reply := only(t, b.send(inside, echo(serverIP(1), clientIP, serverMAC(1), insideMAC, 0, 64)), outside)
	e := tooBig{clientMAC, outsideMAC, clientIP, vip, 64, reply[14:]}
	got := only(t, b.send(outside, e.build(t)), inside)
	want := tooBig{insideMAC, serverMAC(1), clientIP, serverIP(1), 63, echo(serverIP(1), clientIP, serverMAC(1), insideMAC, 0, 63)[14:]}.build(t)
	if !bytes.Equal(got, want) {
		t.Errorf("\n%x, want\n%x", got, want)
	}
}
