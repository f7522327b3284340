package ctl

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/flow"
	"sluice/rewrite"
)

var tunnelEnd4, tunnelEnd6 = netip.MustParseAddr("192.168.20.254"), netip.MustParseAddr("fd00:192:168:20::254")

// tunnelled is the client's half of connections, each packet of which goes to the member inside another: in IPIP, or in GUE. The only
// thing of ours in what must come out is the number that tells connections apart, in GUE's source port and IPv6's flow label.
// Then a router behind us says that what was in the tunnel is too big, and the client hears that of its own packet.
func tunnelled(t testing.TB, gue bool) (events []event) {
	host := byte(110)
	if gue {
		host = 112
	}
	for i := range 4 {
		inner6, crossed := i&1 != 0, i >= 2
		c := modePath(inner6, host+byte(i>>1), 4003, 80)
		far := c.server.Addr()
		if crossed {
			far = [2]netip.Addr{server6(1), server4(1)}[i&1]
		}
		c.mac = newPath(client4, virtual4, far, 1, 1, 1).mac
		for _, e := range c.http(time.Duration(i) * time.Second) {
			if e.port != outside {
				continue
			}
			inner := e.in
			inner.ttl = 63
			carried := c.carry(t, packetOf(inner.build(t)), far, gue)
			events = append(events, rawEvent(e.at, outside, e.in.build(t), inside, carried))
		}
		other := c
		other.client = netip.AddrPortFrom(c.client.Addr(), 4004)
		syn := other.fromClient(0, "S", 4004000, 0, nil).in
		synBehind := syn
		synBehind.ttl = 63
		at := time.Duration(i)*time.Second + 500*time.Millisecond
		events = append(events, rawEvent(at, outside, syn.build(t), inside, other.carry(t, packetOf(synBehind.build(t)), far, gue)))
		sent := other.fromClient(0, "PA", 4004001, 9, slices.Repeat([]byte("x"), 1400)).in
		behind := sent
		behind.ttl = 63
		big := other.carry(t, behind.build(t)[14:], far, gue)
		events = append(events, rawEvent(at, outside, sent.build(t), inside, big))
		// The link takes 1,400 bytes: less the tunnel's headers is what the client may send.
		router, us, kind, code := netip.MustParseAddr("192.168.21.1"), tunnelEnd4, uint8(3), uint8(4)
		overhead, header := 20, 20
		if inner6 {
			header = 40
		}
		if far.Is6() {
			router, us, kind, code, overhead = netip.MustParseAddr("fd00:192:168:21::1"), tunnelEnd6, 2, 0, 40
		}
		if gue {
			overhead += 12
		}
		said := icmpFrame(t, c.mac, insideMAC, router, us, 64, kind, code, [4]byte{0, 0, 1400 >> 8, 1400 & 255}, big[14:14+overhead+header+8])
		us, kind, code = netip.MustParseAddr("172.16.10.1"), 3, 4
		if inner6 {
			us, kind, code = netip.MustParseAddr("fd00:172:16:10::1"), 2, 0
		}
		quoted := sent.build(t)[14:]
		mtu := 1400 - overhead
		heard := errorFrame(t, us, c.client.Addr(), kind, code, mtu, quoted[:header+8])
		events = append(events, rawEvent(at, inside, said, outside, heard))
	}
	return events
}

// packetOf is the IP packet in a frame without tags, without padding.
func packetOf(b []byte) []byte {
	if b[12] == 0x86 {
		return b[14 : 54+int(binary.BigEndian.Uint16(b[18:]))]
	}
	return b[14 : 14+int(binary.BigEndian.Uint16(b[16:]))]
}

// errorFrame is an ICMP error that we make for the client.
func errorFrame(t testing.TB, src, dst netip.Addr, kind, code uint8, mtu int, quoted []byte) []byte {
	t.Helper()
	rest := [4]byte{0, 0, byte(mtu >> 8), byte(mtu)}
	b := icmpFrame(t, outsideMAC, clientMAC, src, dst, 64, kind, code, rest, quoted)
	if src.Is4() { // with DF, no identification, and the precedence of RFC 1812 section 4.3.2.5
		eth := &layers.Ethernet{SrcMAC: outsideMAC, DstMAC: clientMAC, EthernetType: layers.EthernetTypeIPv4}
		ip := &layers.IPv4{Version: 4, TOS: 0xc0, TTL: 64, Flags: layers.IPv4DontFragment, Protocol: layers.IPProtocolICMPv4, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
		b = serialize(t, eth, ip, gopacket.Payload(b[34:]))
	}
	return b
}

// carry puts a packet into the tunnel to far.
func (c path) carry(t testing.TB, inner []byte, far netip.Addr, gue bool) []byte {
	t.Helper()
	k := flow.Key{Src: flow.AddrFrom(c.client.Addr()), Dst: flow.AddrFrom(c.virtual.Addr()), Ports: flow.Ports(c.client.Port(), c.virtual.Port()), Proto: flow.TCP}
	number := rewrite.Entropy(&k)
	carries := layers.IPProtocolIPv4
	if inner[0]>>4 == 6 {
		carries = layers.IPProtocolIPv6
	}
	proto := carries
	if gue {
		proto = layers.IPProtocolUDP
	}
	eth := &layers.Ethernet{SrcMAC: insideMAC, DstMAC: c.mac, EthernetType: layers.EthernetTypeIPv4}
	var ip gopacket.SerializableLayer
	var network gopacket.NetworkLayer
	if far.Is4() { // DF is the packet's, and TOS
		l := &layers.IPv4{Version: 4, TOS: 8, TTL: 64, Flags: layers.IPv4DontFragment, Protocol: proto, SrcIP: tunnelEnd4.AsSlice(), DstIP: far.AsSlice()}
		ip, network = l, l
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		l := &layers.IPv6{Version: 6, TrafficClass: 8, FlowLabel: number & 0xfffff, HopLimit: 64, NextHeader: proto, SrcIP: tunnelEnd6.AsSlice(), DstIP: far.AsSlice()}
		ip, network = l, l
	}
	if !gue {
		return serialize(t, eth, ip, gopacket.Payload(inner))
	}
	u := &layers.UDP{SrcPort: layers.UDPPort(0xc000 + number>>18), DstPort: 6080}
	_ = u.SetNetworkLayerForChecksum(network)
	return serialize(t, eth, ip, u, layers.AGUEVar0{Protocol: carries}, gopacket.Payload(inner))
}
