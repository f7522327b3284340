package ctl

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// refusals are packets to an address with unmatched: reset for no virtual server, as of a scan and a traceroute, with the answers of a
// host where nobody listens; a RST and a land packet have none.
func refusals(t testing.TB) (events []event) {
	for i, v6 := range []bool{false, true} {
		c := modePath(v6, 114, 4003, 81)
		at := time.Duration(i) * time.Second
		ip := func(toClient bool, proto layers.IPProtocol, ttl uint8, tos uint8) (l []gopacket.SerializableLayer, network gopacket.NetworkLayer) {
			eth := &layers.Ethernet{SrcMAC: clientMAC, DstMAC: outsideMAC, EthernetType: layers.EthernetTypeIPv4}
			src, dst := c.client.Addr(), c.virtual.Addr()
			if toClient {
				eth.SrcMAC, eth.DstMAC, src, dst = outsideMAC, clientMAC, dst, src
			}
			if v6 {
				eth.EthernetType = layers.EthernetTypeIPv6
				h := &layers.IPv6{Version: 6, HopLimit: ttl, NextHeader: proto, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
				return []gopacket.SerializableLayer{eth, h}, h
			}
			h := &layers.IPv4{Version: 4, TTL: ttl, TOS: tos, Protocol: proto, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
			if toClient {
				h.Flags = layers.IPv4DontFragment
			}
			return []gopacket.SerializableLayer{eth, h}, h
		}
		tcp := func(toClient bool, h layers.TCP) []byte {
			l, network := ip(toClient, layers.IPProtocolTCP, 64, 0)
			h.SrcPort, h.DstPort = 4003, 81
			if toClient {
				h.SrcPort, h.DstPort = 81, 4003
			}
			_ = h.SetNetworkLayerForChecksum(network)
			b := serialize(t, append(l, &h)...)
			return b[:map[bool]int{false: 54, true: 74}[v6]] // without padding
		}
		answered := func(ms int, in, out []byte) {
			events = append(events, rawEvent(at+time.Duration(ms)*time.Millisecond, outside, in, outside, out))
		}
		answered(0, tcp(false, layers.TCP{Seq: 1000, SYN: true, Window: 64000}), tcp(true, layers.TCP{Ack: 1001, RST: true, ACK: true}))
		answered(1, tcp(false, layers.TCP{Seq: 1000, Ack: 77, ACK: true, FIN: true, Window: 64000}), tcp(true, layers.TCP{Seq: 77, RST: true}))
		events = append(events, rawEvent(at+2*time.Millisecond, outside, tcp(false, layers.TCP{Seq: 1, RST: true}), 0, nil))

		l, network := ip(false, layers.IPProtocolUDP, 1, 0) // a traceroute's, at the end of its way
		udp := &layers.UDP{SrcPort: 4003, DstPort: 33434}
		_ = udp.SetNetworkLayerForChecksum(network)
		probe := serialize(t, append(l, udp, gopacket.Payload("where does this road go, if not to you?"))...)
		other, _ := ip(false, layers.IPProtocolGRE, 64, 0)
		gre := serialize(t, append(other, gopacket.Payload("a protocol that nobody here speaks, of 42b"))...)
		say := func(kind, code uint8, word uint32, about []byte) []byte {
			var rest [4]byte
			binary.BigEndian.PutUint32(rest[:], word)
			if v6 {
				l, network := ip(true, layers.IPProtocolICMPv6, 64, 0)
				m := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, code)}
				_ = m.SetNetworkLayerForChecksum(network)
				return serialize(t, append(l, m, gopacket.Payload(append(rest[:], about[14:]...)))...)
			}
			l, _ := ip(true, layers.IPProtocolICMPv4, 64, 0xc0)
			return serialize(t, append(l, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, code)}, gopacket.Payload(about[14:]))...)
		}
		if v6 {
			answered(3, probe, say(1, 4, 0, probe))
			answered(4, gre, say(4, 1, 6, gre))
		} else {
			answered(3, probe, say(3, 3, 0, probe))
			answered(4, gre, say(3, 2, 0, gre))
		}
		land := modePath(v6, 114, 4003, 81)
		land.client = netip.AddrPortFrom(land.virtual.Addr(), 4003)
		events = append(events, dropped(at+5*time.Millisecond, outside, land.fromClient(0, "S", 1, 0, nil).in))
	}
	return events
}
