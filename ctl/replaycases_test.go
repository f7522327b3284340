package ctl

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// path is one connection as both of its sides see it.
type path struct {
	client, virtual, server netip.AddrPort
	mac                     net.HardwareAddr // of the server
	udp                     bool
	tags                    []uint16
}

func newPath(client, virtual, server netip.Addr, cport, vport, sport uint16) path {
	mac := madeUp(server)
	if server == server4(1) {
		mac = net.HardwareAddr{2, 0, 0, 0, 0x14, 1} // listed under neighbours in a4.yaml
	}
	return path{client: netip.AddrPortFrom(client, cport), virtual: netip.AddrPortFrom(virtual, vport), server: netip.AddrPortFrom(server, sport), mac: mac}
}

// fromClient and fromServer are one packet with its translation.
func (c path) fromClient(at time.Duration, flags string, seq, ack uint32, payload []byte) event {
	p := wirePacket{srcMAC: clientMAC, dstMAC: outsideMAC, src: c.client, dst: c.virtual, udp: c.udp, flags: flags, seq: seq, ack: ack,
		payload: payload, tags: c.tags}
	return event{at: at, port: outside, in: p, out: p.toServer(c.server, c.mac), to: inside}
}

func (c path) fromServer(at time.Duration, flags string, seq, ack uint32, payload []byte) event {
	p := wirePacket{srcMAC: c.mac, dstMAC: insideMAC, src: c.server, dst: c.client, udp: c.udp, flags: flags, seq: seq, ack: ack,
		payload: payload, tags: c.tags, ttl: 63}
	return event{at: at, port: inside, in: p, out: p.toClient(c.virtual), to: outside}
}

// http is a whole connection: handshake, request, answer in two segments, FIN/ACK/FIN/ACK.
func (c path) http(at time.Duration) []event {
	request := []byte("GET / HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: capture\r\nConnection: close\r\n\r\n")
	body := fmt.Sprintf("server %s\n", c.server.Addr())
	answer := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n", len(body))
	cs, ss := uint32(c.client.Port())*1000, 0xffffff00+uint32(c.client.Port()&0xff) // the server's numbers wrap
	ms := time.Millisecond
	c1, s1 := cs+1+uint32(len(request)), ss+1+uint32(len(answer))
	s2 := s1 + uint32(len(body))
	return []event{
		c.fromClient(at, "S", cs, 0, nil),
		c.fromServer(at+1*ms, "SA", ss, cs+1, nil),
		c.fromClient(at+2*ms, "A", cs+1, ss+1, nil),
		c.fromClient(at+3*ms, "PA", cs+1, ss+1, request),
		c.fromServer(at+4*ms, "A", ss+1, c1, nil),
		c.fromServer(at+6*ms, "PA", ss+1, c1, answer),
		c.fromServer(at+7*ms, "PA", s1, c1, []byte(body)),
		c.fromClient(at+8*ms, "A", c1, s2, nil),
		c.fromServer(at+9*ms, "FA", s2, c1, nil),
		c.fromClient(at+10*ms, "A", c1, s2+1, nil),
		c.fromClient(at+11*ms, "FA", c1, s2+1, nil),
		c.fromServer(at+12*ms, "A", s2+1, c1+1, nil),
	}
}

// dns is a query and its answer.
func (c path) dns(t testing.TB, at time.Duration) []event {
	c.udp = true
	m := &layers.DNS{ID: c.client.Port(), RD: true, Questions: []layers.DNSQuestion{{Name: []byte("www.example.com"), Type: layers.DNSTypeA, Class: layers.DNSClassIN}}}
	query := serialize(t, m)
	m.QR, m.RA = true, true
	m.Answers = []layers.DNSResourceRecord{{Name: []byte("www.example.com"), Type: layers.DNSTypeA, Class: layers.DNSClassIN, TTL: 60, IP: net.IP{10, 10, 1, 100}}}
	return []event{c.fromClient(at, "", 0, 0, query), c.fromServer(at+2*time.Millisecond, "", 0, 0, serialize(t, m))}
}

func serialize(t testing.TB, l ...gopacket.SerializableLayer) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, l...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// figures are the two of the server NAT: the client's segment to the first server, and its answer.
func figures() []event {
	c := newPath(client4, virtual4, server4(1), 4003, 80, 80)
	return []event{c.fromClient(0, "S", 1000, 0, nil), c.fromServer(time.Millisecond, "SA", 5000, 1001, nil)}
}

// dropped and passed are packets of which nothing comes.
func dropped(at time.Duration, port int, p wirePacket) event { return event{at: at, port: port, in: p} }

func drops(t testing.TB) []event {
	syn := func(dst netip.Addr, port uint16) wirePacket {
		return wirePacket{srcMAC: clientMAC, dstMAC: outsideMAC, src: netip.AddrPortFrom(client4, 4003), dst: netip.AddrPortFrom(dst, port), flags: "S", seq: 7}
	}
	p := []wirePacket{syn(virtual4, 81), syn(virtual4, 80), syn(virtual4, 80), syn(virtual4, 80), syn(virtual4, 80),
		syn(netip.MustParseAddr("10.10.1.101"), 443), syn(virtual4, 80)}
	p[1].flags = "A"                                                                                  // no_connection
	p[2].ttl = 1                                                                                      // ttl_expired
	p[3].damage = func(b []byte) { b[20], b[21] = 0x20, 0 }                                           // fragment
	p[4].damage = func(b []byte) { binary.BigEndian.PutUint16(b[16:], 200) }                          // bad_length
	p[6].damage = func(b []byte) { b[46] = 0x10 }                                                     // bad_header
	p6 := newPath(client6, virtual6, server6(1), 4003, 53, 53).dns(t, 0)[0].in                        // bad_header: no checksum
	p6.damage = func(b []byte) { b[60], b[61] = 0, 0 }                                                //
	events := []event{dropped(0, outside, p6)}                                                        //
	events = append(events, newPath(client4, virtual4, server4(1), 4009, 80, 80).http(0)[0])          // a connection,
	wrong := newPath(client4, virtual4, server4(1), 4009, 80, 80).fromClient(0, "A", 4009001, 1, nil) // and from it, wrong_side
	events = append(events, dropped(0, inside, wrong.in))
	for i := range p {
		events = append(events, dropped(time.Duration(i+1)*time.Millisecond, outside, p[i]))
	}
	return events
}

// passes have what the XDP program leaves to the kernel, and what it does not although there is no connection.
func passes(t testing.TB) []event {
	arp := serialize(t, &layers.Ethernet{SrcMAC: clientMAC, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeARP},
		&layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: layers.ARPRequest,
			SourceHwAddress: clientMAC, SourceProtAddress: client4.AsSlice(), DstHwAddress: make([]byte, 6), DstProtAddress: virtual4.AsSlice()})
	ip6 := &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6, SrcIP: client6.AsSlice(), DstIP: virtual6.AsSlice()}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborSolicitation, 0)}
	_ = icmp.SetNetworkLayerForChecksum(ip6)
	nd := serialize(t, &layers.Ethernet{SrcMAC: clientMAC, DstMAC: outsideMAC, EthernetType: layers.EthernetTypeIPv6}, ip6, icmp,
		&layers.ICMPv6NeighborSolicitation{TargetAddress: virtual6.AsSlice()})
	echo := serialize(t, &layers.Ethernet{SrcMAC: clientMAC, DstMAC: outsideMAC, EthernetType: layers.EthernetTypeIPv4},
		&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolICMPv4, SrcIP: client4.AsSlice(), DstIP: virtual4.AsSlice()},
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: 1, Seq: 1})
	tcp := func(src, dst string) wirePacket {
		return wirePacket{srcMAC: clientMAC, dstMAC: outsideMAC, src: netip.MustParseAddrPort(src), dst: netip.MustParseAddrPort(dst), flags: "S", seq: 9}
	}
	server := tcp("192.168.20.1:80", "172.16.10.99:40000") // of no connection: the host's own, or a direct one
	server.srcMAC, server.dstMAC, server.flags = net.HardwareAddr{2, 0, 0, 0, 0x14, 1}, insideMAC, "SA"
	other := tcp("192.168.20.1:22", "172.16.10.99:40000") // a port of the member that serves nobody
	other.srcMAC, other.dstMAC = server.srcMAC, insideMAC
	return []event{
		dropped(0, outside, wirePacket{raw: arp}),
		dropped(1, outside, wirePacket{raw: nd}),
		dropped(2, outside, wirePacket{raw: echo}),
		dropped(3, outside, tcp("172.16.10.55:4003", "172.16.10.1:22")),      // the balancer's own address
		dropped(4, outside, tcp("172.16.10.55:4003", "198.51.100.7:80")),     // transit
		dropped(5, outside, tcp("172.16.10.55:4003", "10.10.1.102:81")),      // unmatched: host
		dropped(6, outside, tcp("192.168.20.1:80", "172.16.10.99:40000")),    // a member's address from the wrong port
		dropped(7, outside, wirePacket{raw: []byte{2, 0, 0, 0, 1, 1, 2, 3}}), // not even an Ethernet header
		dropped(8, inside, other),
		{at: 9, port: inside, in: server, out: server.toKernel(), to: hostPort},
	}
}

// idle has connections that end by the capture's time alone.
func idle(t testing.TB) []event {
	c := newPath(client4, virtual4, server4(1), 5353, 53, 53)
	pair := c.dns(t, 0)
	late := pair[1]
	late.at, late.out, late.to = 62*time.Second+2*time.Millisecond, late.in.toKernel(), hostPort
	again := newPath(client4, virtual4, server4(2), 5353, 53, 53).dns(t, 63*time.Second)
	return slices.Concat(pair, []event{late}, again)
}

// partial has a connection of which only the headers were captured, packets with less, one in several frames, and one beyond
// what a chain of frames takes.
func partial() []event {
	c := newPath(client4, virtual4, server4(1), 4003, 80, 80)
	events := c.http(0)
	for i := range events {
		if n := len(events[i].in.payload); n > 0 {
			events[i].cut = 54 + min(n, 10)
		}
	}
	short := dropped(time.Second, outside, c.http(0)[3].in)
	short.cut = 50
	jumbo := c.fromClient(time.Second, "A", 1, 1, make([]byte, 8000))
	large := dropped(time.Second, outside, c.fromClient(0, "A", 1, 1, make([]byte, 40000)).in)
	return append(events, short, jumbo, large)
}

// demo has what the demo shows: 8 HTTP connections and 4 DNS queries for each family, interleaved.
func demo(t testing.TB) (events []event) {
	add := func(more []event) {
		for _, e := range more {
			if e.port == outside && e.out.dst.Addr() == server4(1) {
				e.out.dstMAC = madeUp(server4(1)) // demo.yaml lists no neighbours
			} else if e.in.src.Addr() == server4(1) {
				e.in.srcMAC = madeUp(server4(1))
			}
			events = append(events, e)
		}
	}
	for i := range 8 {
		at := time.Duration(i) * 5 * time.Millisecond
		s := i%4 + 1
		add(newPath(client4, virtual4, server4(s), uint16(4003+i), 80, 80).http(at))
		add(newPath(client6, virtual6, server6(s), uint16(4003+i), 80, 80).http(at + 300*time.Microsecond))
		if i < 4 {
			add(newPath(client4, virtual4, server4(s), uint16(5003+i), 53, 53).dns(t, at+600*time.Microsecond))
			add(newPath(client6, virtual6, server6(s), uint16(5003+i), 53, 53).dns(t, at+900*time.Microsecond))
		}
	}
	slices.SortStableFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	return events
}
