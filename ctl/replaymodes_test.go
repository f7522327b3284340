package ctl

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/flow"
)

// A capture of each mode, as those of replayCases: what goes in and what must come out is built by gopacket, and by the naive cuts
// and sums here.

var (
	snat4, snat6 = netip.MustParseAddr("192.168.20.200"), netip.MustParseAddr("fd00:192:168:20::200")
)

func virtualOf(v6 bool, host byte) netip.Addr {
	if !v6 {
		return netip.AddrFrom4([4]byte{10, 10, 1, host})
	}
	a := netip.MustParseAddr("fd00:10:10:1::100").As16()
	a[14], a[15] = 1, host/10%10<<4|host%10
	return netip.AddrFrom16(a)
}

// modePath is a connection to 10.10.1.host, or its IPv6 namesake, whose member is the first one.
func modePath(v6 bool, host byte, cport, vport uint16) path {
	c := newPath(client4, virtualOf(false, host), server4(1), cport, vport, vport)
	if v6 {
		c = newPath(client6, virtualOf(true, host), server6(1), cport, vport, vport)
	}
	return c
}

// behind makes the events of a connection those of one from a SNAT address, and the client's own port: it is one of its bin's.
func behind(events []event, snat netip.Addr) []event {
	for i := range events {
		e := &events[i]
		if e.port == outside {
			out := *e.out
			out.src = netip.AddrPortFrom(snat, e.in.src.Port())
			e.out = &out
		} else {
			e.in.dst = netip.AddrPortFrom(snat, e.in.dst.Port())
		}
	}
	return events
}

// Client ports whose bin they are themselves: then full NAT keeps them. TestReplayPorts holds that they are.
const (
	kept4 = 40194
	kept6 = 40218
)

func fullNAT(t testing.TB) (events []event) {
	for _, v6 := range []bool{false, true} {
		snat, port := snat4, uint16(kept4)
		if v6 {
			snat, port = snat6, kept6
		}
		at := time.Duration(len(events)) * time.Second
		events = append(events, behind(modePath(v6, 110, port, 80).http(at), snat)...)
		events = append(events, behind(modePath(v6, 110, port, 53).dns(t, at+time.Second), snat)...)
	}
	return events
}

// hairpin is a client on the member's own network: what it asks comes from the SNAT address.
func hairpin() []event {
	near := netip.MustParseAddr("192.168.20.77")
	c := newPath(near, virtualOf(false, 111), server4(1), keptNear, 80, 80)
	events := behind(c.http(0), snat4)
	for i := range events {
		e := &events[i]
		out := *e.out
		if e.port == outside { // it is behind the other port
			e.port = inside
			e.in.srcMAC, e.in.dstMAC = madeUp(near), insideMAC
		} else {
			e.to = inside
			out.srcMAC, out.dstMAC = insideMAC, madeUp(near)
		}
		e.out = &out
	}
	return events
}

const keptNear = 40070

// direct is the client's half of connections: the member answers it past us, and the client's packets change in nothing but MAC
// addresses and TTL.
func direct() (events []event) {
	for i, v6 := range []bool{false, true} {
		for _, e := range modePath(v6, 112, 4003, 80).http(time.Duration(i) * time.Second) {
			if e.port == outside {
				out := *e.out
				out.dst = e.in.dst
				e.out = &out
				events = append(events, e)
			}
		}
	}
	return events
}

// rawEvent has frames that are built elsewhere.
func rawEvent(at time.Duration, port int, in []byte, to int, out []byte) event {
	e := event{at: at, port: port, in: wirePacket{raw: in}}
	if out != nil {
		e.to, e.out = to, &wirePacket{raw: out}
	}
	return e
}

// icmpFrame is an ICMP or ICMPv6 message: 4 bytes behind the checksum, then data.
func icmpFrame(t testing.TB, srcMAC, dstMAC net.HardwareAddr, src, dst netip.Addr, ttl, kind, code uint8, rest [4]byte, data []byte) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: srcMAC, DstMAC: dstMAC, EthernetType: layers.EthernetTypeIPv4}
	if src.Is4() {
		return serialize(t, eth, &layers.IPv4{Version: 4, TTL: ttl, Id: 5, Protocol: layers.IPProtocolICMPv4, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()},
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, code), Id: binary.BigEndian.Uint16(rest[:]), Seq: binary.BigEndian.Uint16(rest[2:])}, gopacket.Payload(data))
	}
	eth.EthernetType = layers.EthernetTypeIPv6
	ip := &layers.IPv6{Version: 6, HopLimit: ttl, NextHeader: layers.IPProtocolICMPv6, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, code)}
	_ = icmp.SetNetworkLayerForChecksum(ip)
	return serialize(t, eth, ip, icmp, gopacket.Payload(append(rest[:], data...)))
}

// echoes are requests to an address where the engine answers, to one where nobody does, and what is the kernel's.
func echoes(t testing.TB) (events []event) {
	rest := [4]byte{0, 7, 0, 1}
	for i, v6 := range []bool{false, true} {
		client, request, reply := client4, uint8(8), uint8(0)
		if v6 {
			client, request, reply = client6, 128, 129
		}
		for j, size := range []int{56, 1400} {
			data := make([]byte, size)
			for k := range data {
				data[k] = byte(k)
			}
			at := time.Duration(10*i+j) * time.Millisecond
			to := virtualOf(v6, 110)
			in := icmpFrame(t, clientMAC, outsideMAC, client, to, 64, request, 0, rest, data)
			events = append(events, rawEvent(at, outside, in, outside, icmpFrame(t, outsideMAC, clientMAC, to, client, 64, reply, 0, rest, data)))
		}
	}
	off := icmpFrame(t, clientMAC, outsideMAC, client4, virtualOf(false, 111), 64, 8, 0, rest, []byte("nobody answers"))
	kernels := icmpFrame(t, clientMAC, outsideMAC, client4, virtualOf(false, 113), 64, 8, 0, rest, []byte("the kernel does"))
	return append(events, rawEvent(time.Second, outside, off, 0, nil), rawEvent(time.Second, outside, kernels, 0, nil))
}

// icmpErrors are errors about connections of nat and of full NAT, both ways, of a router and of the ends: outside and inside they
// become those about what was sent.
func icmpErrors(t testing.TB) (events []event) {
	mtu := [4]byte{0, 0, 1280 >> 8, 1280 & 255}
	for i, v6 := range []bool{false, true} {
		client, server, snat, port := client4, server4(1), snat4, uint16(kept4)
		kind, code := uint8(3), uint8(4)
		far, near := netip.MustParseAddr("192.168.21.1"), netip.MustParseAddr("172.16.11.1")
		if v6 {
			client, server, snat, port, kind, code = client6, server6(1), snat6, kept6, 2, 0
			far, near = netip.MustParseAddr("fd00:192:168:21::1"), netip.MustParseAddr("fd00:172:16:11::1")
		}
		for j, host := range []byte{110, 113} {
			c := modePath(v6, host, port, 80)
			at := time.Duration(100*i+10*j) * time.Second
			open, from := []event{c.fromClient(at, "S", 1000, 0, []byte("to the server")), c.fromServer(at, "SA", 9000, 1001, []byte("to the client"))}, client
			if host == 110 {
				open, from = behind(open, snat), snat
			}
			toServer, toClient := open[0], open[1]
			events = append(events, open...)
			sent, answered := toServer.in, toClient.in // with the TTL that they have behind us
			sent.ttl, answered.ttl = toServer.out.ttl, toClient.out.ttl
			quote := func(p wirePacket, size int) []byte {
				q := p.build(t)[14:]
				if size > 0 {
					q = q[:size]
				}
				return slices.Clone(q)
			}
			short := 28
			if v6 {
				short = 48
			}
			for _, size := range []int{short, 0} {
				for _, src := range []struct{ was, becomes netip.Addr }{{far, far}, {server, c.virtual.Addr()}} {
					in := icmpFrame(t, c.mac, insideMAC, src.was, from, 64, kind, code, mtu, quote(*toServer.out, size))
					events = append(events, rawEvent(at, inside, in, outside, icmpFrame(t, outsideMAC, clientMAC, src.becomes, client, 63, kind, code, mtu, quote(sent, size))))
				}
				for _, src := range []struct{ was, becomes netip.Addr }{{near, near}, {client, from}} {
					in := icmpFrame(t, clientMAC, outsideMAC, src.was, c.virtual.Addr(), 64, kind, code, mtu, quote(*toClient.out, size))
					events = append(events, rawEvent(at, outside, in, inside, icmpFrame(t, insideMAC, c.mac, src.becomes, server, 63, kind, code, mtu, quote(answered, size))))
				}
			}
		}
	}
	return events
}

// fragments are datagrams in parts, of nat and of full NAT, both ways: in order, and with the last part first, whose
// predecessors' arrival lets it go.
func fragments(t testing.TB) (events []event) {
	for i, v6 := range []bool{false, true} {
		snat, port := snat4, uint16(kept4)
		if v6 {
			snat, port = snat6, kept6
		}
		for j, host := range []byte{113, 110} {
			c := modePath(v6, host, port, 53)
			c.udp = true
			at := time.Duration(100*i+10*j) * time.Second
			payload := make([]byte, 3000)
			for k := range payload {
				payload[k] = byte(k * 7)
			}
			whole := []event{c.fromClient(at, "", 1, 0, payload), c.fromServer(at+time.Second, "", 2, 0, payload[:2500])}
			if host == 110 {
				whole = behind(whole, snat)
			}
			for k, e := range whole {
				id := uint32(1000*i + 100*j + k)
				in, out := partsOf(e.in.build(t), id), partsOf(e.out.build(t), id)
				for n := range in {
					events = append(events, rawEvent(e.at, e.port, in[n], e.to, out[n]))
				}
				// Backwards: nothing leaves before the first, and then all do, it ahead of those that waited.
				in, out = partsOf(e.in.build(t), id+50), partsOf(e.out.build(t), id+50)
				for n := len(in) - 1; n > 0; n-- {
					events = append(events, rawEvent(e.at, e.port, in[n], 0, nil))
				}
				first := rawEvent(e.at, e.port, in[0], e.to, out[0])
				for n := len(in) - 1; n > 0; n-- {
					first.more = append(first.more, out[n])
				}
				events = append(events, first)
			}
		}
	}
	return events
}

// partsOf cuts a frame's datagram into parts of 1,000 bytes, by hand.
func partsOf(frame []byte, id uint32) (parts [][]byte) {
	v6 := frame[12] == 0x86
	header := 34
	if v6 {
		header = 54
	}
	data := frame[header:]
	for at := 0; at < len(data); at += 1000 {
		end := min(at+1000, len(data))
		h := slices.Clone(frame[:header])
		field := uint16(at)
		if v6 {
			if end < len(data) {
				field |= 1
			}
			h[20] = 44
			h = append(h, 17, 0)
			h = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(h, field), id)
			binary.BigEndian.PutUint16(h[18:], uint16(8+end-at))
		} else {
			field /= 8
			if end < len(data) {
				field |= 0x2000
			}
			binary.BigEndian.PutUint16(h[16:], uint16(20+end-at))
			binary.BigEndian.PutUint16(h[18:], uint16(id))
			binary.BigEndian.PutUint16(h[20:], field)
			h[24], h[25] = 0, 0
			sum := uint32(0)
			for i := 14; i < 34; i += 2 {
				sum += uint32(binary.BigEndian.Uint16(h[i:]))
			}
			sum = sum>>16 + sum&0xffff
			binary.BigEndian.PutUint16(h[24:], ^uint16(sum>>16+sum&0xffff))
		}
		parts = append(parts, append(h, data[at:end]...))
	}
	return parts
}

// vlans are connections between clients in VLAN 10, or untagged, and members in none, in one, and in one inside another; then
// what is in no VLAN of the file.
func vlans(t testing.TB) (events []event) {
	at := time.Duration(0)
	for _, client := range [][]uint16{{10}, nil} {
		for i, member := range [][]uint16{nil, {20}, {30, 40}} {
			server := netip.AddrFrom4([4]byte{192, 168, byte(20 + i), 2})
			from := client4
			if client != nil {
				from = netip.MustParseAddr("172.16.11.55")
			}
			c := newPath(from, virtualOf(false, byte(120+i)), server, 4003, 80, 80)
			for _, e := range c.http(at) {
				out := *e.out
				e.in.tags, out.tags = client, member
				if e.port == inside {
					e.in.tags, out.tags = member, client
				}
				e.in.service, out.service = len(e.in.tags) == 2, len(out.tags) == 2
				out.untold = len(e.in.tags) == 0                                   // nothing to take a priority from
				out.length = len(e.in.build(t)) + 4*(len(out.tags)-len(e.in.tags)) // padding stays as it is
				e.out = &out
				events = append(events, e)
			}
			at += time.Second
		}
	}
	strange := events[0].in
	strange.tags = []uint16{11}
	return append(events, dropped(at, outside, strange))
}

// The ports that full NAT keeps are of the client's bin; explain, which takes none, says so.
func TestReplayPorts(t *testing.T) {
	f, err := Load("testdata/replay/modes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	cfg, _, err := f.Offline()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		client netip.Addr
		to     string
		port   uint16
	}{{client4, "10.10.1.110:80", kept4}, {client6, "[fd00:10:10:1::110]:80", kept6}, {netip.MustParseAddr("192.168.20.77"), "10.10.1.111:80", keptNear}} {
		for port := c.port; ; port++ {
			e := cfg.Explain(flow.TCP, netip.AddrPortFrom(c.client, port), netip.MustParseAddrPort(c.to))
			if e.ToServer == nil {
				t.Fatalf("%s %d: %+v", c.client, port, e)
			}
			if e.ToServer.After.Src.Port() == port {
				if port != c.port {
					t.Errorf("%s: port %d is one of its bin, %d is not", c.client, port, c.port)
				}
				break
			}
		}
	}
}

func replayModeCases(t testing.TB) []replayCase {
	return []replayCase{
		{name: "fullnat", config: "modes.yaml", events: fullNAT(t)},
		{name: "hairpin", config: "modes.yaml", events: hairpin()},
		{name: "direct-return", config: "modes.yaml", events: direct()},
		{name: "echo", config: "modes.yaml", events: echoes(t)},
		{name: "unmatched", config: "unmatched.yaml", events: refusals(t)},
		{name: "icmp-errors", config: "modes.yaml", events: icmpErrors(t)},
		{name: "fragments", config: "modes.yaml", events: fragments(t)},
		{name: "vlans", config: "vlans.yaml", events: vlans(t)},
		{name: "ipip", config: "tunnels.yaml", events: tunnelled(t, false)},
		{name: "gue", config: "tunnels.yaml", events: tunnelled(t, true)},
	}
}
