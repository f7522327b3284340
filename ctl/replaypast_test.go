package ctl

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// past are the clients' halves of connections whose answers go past the engine: by direct return, and through a tunnel to a member
// that is addressed in IPv4.
func past(t testing.TB) (events []event) {
	half := func(c path, at time.Duration, change func(sent wirePacket) *wirePacket) {
		for _, e := range c.http(at) {
			if e.port == outside {
				e.out = change(e.in)
				events = append(events, e)
			}
		}
	}
	direct := newPath(client4, virtual4, server4(1), 4003, 80, 80)
	half(direct, 0, func(p wirePacket) *wirePacket {
		p.srcMAC, p.dstMAC = insideMAC, direct.mac
		return p.hop()
	})
	for i, v := range []netip.Addr{virtualApp.Addr(), virtual6} {
		client := []netip.Addr{client4, client6}[i]
		half(newPath(client, v, server4(2), 4003, 80, 80), time.Duration(i+1)*time.Second, func(p wirePacket) *wirePacket {
			inner := p.hop().build(t)[14:]
			if size := int(binary.BigEndian.Uint16(inner[2:])); i == 0 { // a short frame has padding
				inner = inner[:size]
			}
			proto := []layers.IPProtocol{layers.IPProtocolIPv4, layers.IPProtocolIPv6}[i]
			buf := gopacket.NewSerializeBuffer()
			err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
				&layers.Ethernet{SrcMAC: insideMAC, DstMAC: madeUp(server4(2)), EthernetType: layers.EthernetTypeIPv4},
				&layers.IPv4{Version: 4, TOS: 8, TTL: 64, Flags: layers.IPv4DontFragment, Protocol: proto, SrcIP: netip.MustParseAddr("192.168.20.254").AsSlice(), DstIP: server4(2).AsSlice()},
				gopacket.Payload(inner))
			if err != nil {
				t.Fatal(err)
			}
			return &wirePacket{raw: slices.Clone(buf.Bytes())}
		})
	}
	return events
}
