package engine

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/flow"
)

// anyWire is a packet of any protocol as its sender would put it on the wire. What the engine should make of it is the same
// description with other ends, built anew: gopacket serialises every header and computes every checksum over all bytes, so that
// the expectation has nothing in common with the incremental updates under test.
type anyWire struct {
	from, to     net.HardwareAddr
	src, dst     netip.Addr
	sport, dport uint16 // of a query: dport is 0, of its reply sport
	proto        uint8
	kind         uint8 // of an ICMP message
	ttl, tos     uint8
	id           uint16 // of the IPv4 header
	df           bool
	options      []byte     // of IPv4, in words; of those that belong into every part
	ext          []wireExt  // of IPv6
	tcp          layers.TCP // flags, numbers and window
	chunks       []byte     // of SCTP
	noSum        bool       // UDP without a checksum
	payload      []byte
	cuts         []int // where it is cut in parts, as offsets of 8 bytes in what follows the IP header
}

// wireExt is an IPv6 extension header without its next header.
type wireExt struct {
	proto uint8
	rest  []byte
}

var (
	hopByHopExt    = wireExt{0, []byte{0, 1, 4, 0, 0, 0, 0}}  // PadN
	destinationExt = wireExt{60, []byte{0, 1, 4, 0, 0, 0, 0}} // PadN
)

func (p anyWire) String() string {
	return fmt.Sprintf("protocol %d kind %d from %s:%d to %s:%d, TTL %d, DF %v, options %x, extensions %v, flags %v%v, no sum %v, %d bytes, cuts %v",
		p.proto, p.kind, p.src, p.sport, p.dst, p.dport, p.ttl, p.df, p.options, p.ext, p.tcp.SYN, p.tcp.ACK, p.noSum, len(p.payload), p.cuts)
}

func (p anyWire) isReply() bool { return p.kind == 0 || p.kind == 14 || p.kind == 129 }

func (p anyWire) isICMP() bool { return p.proto == flow.ICMP || p.proto == flow.ICMPv6 }

// layer is the IP header, whose next header is the transport's: gopacket makes the pseudo-header of it.
func (p anyWire) layer() (gopacket.SerializableLayer, gopacket.NetworkLayer) {
	if p.src.Is6() {
		ip := &layers.IPv6{Version: 6, TrafficClass: p.tos, HopLimit: p.ttl, NextHeader: layers.IPProtocol(p.proto), SrcIP: p.src.AsSlice(), DstIP: p.dst.AsSlice()}
		return ip, ip
	}
	ip := &layers.IPv4{Version: 4, IHL: 5, TOS: p.tos, TTL: p.ttl, Id: p.id, Protocol: layers.IPProtocol(p.proto), SrcIP: p.src.AsSlice(), DstIP: p.dst.AsSlice()}
	return ip, ip
}

// transport is everything behind the IP header and extension headers.
func (p anyWire) transport(t testing.TB) []byte {
	t.Helper()
	_, network := p.layer()
	payload := gopacket.Payload(p.payload)
	switch p.proto {
	case flow.TCP:
		l := p.tcp
		l.SrcPort, l.DstPort = layers.TCPPort(p.sport), layers.TCPPort(p.dport)
		_ = l.SetNetworkLayerForChecksum(network)
		return frame(t, &l, payload)
	case flow.UDP:
		l := &layers.UDP{SrcPort: layers.UDPPort(p.sport), DstPort: layers.UDPPort(p.dport)}
		_ = l.SetNetworkLayerForChecksum(network)
		b := slices.Clone(frame(t, l, payload))
		if p.noSum {
			b[6], b[7] = 0, 0
		}
		return b
	case flow.SCTP:
		return frame(t, &layers.SCTP{SrcPort: layers.SCTPPort(p.sport), DstPort: layers.SCTPPort(p.dport), VerificationTag: p.tcp.Seq}, gopacket.Payload(append(slices.Clone(p.chunks), p.payload...)))
	case flow.ICMP:
		return frame(t, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(p.kind, 0), Id: p.sport | p.dport, Seq: 7}, payload)
	case flow.ICMPv6:
		l := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(p.kind, 0)}
		_ = l.SetNetworkLayerForChecksum(network)
		return frame(t, l, &layers.ICMPv6Echo{Identifier: p.sport | p.dport, SeqNumber: 7}, payload)
	}
	return p.payload
}

// ip is the packet of IP, or its part: body is what follows the IP header in it, offset and more say which part.
func (p anyWire) ip(t testing.TB, body []byte, offset int, more bool) []byte {
	t.Helper()
	part := offset != 0 || more
	if p.src.Is4() {
		h := make([]byte, 20, 20+len(p.options)+len(body))
		h[0], h[1], h[8], h[9] = 0x40|uint8(5+len(p.options)/4), p.tos, p.ttl, p.proto
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(p.options)+len(body)))
		binary.BigEndian.PutUint16(h[4:], p.id)
		field := uint16(offset / 8)
		if more {
			field |= 0x2000
		}
		if p.df {
			field |= 0x4000
		}
		binary.BigEndian.PutUint16(h[6:], field)
		copy(h[12:], p.src.AsSlice())
		copy(h[16:], p.dst.AsSlice())
		h = append(h, p.options...)
		binary.BigEndian.PutUint16(h[10:], ^sum16(h))
		return append(h, body...)
	}
	h := binary.BigEndian.AppendUint32(nil, 6<<28|uint32(p.tos)<<20)
	h = append(h, 0, 0, 0, p.ttl)
	h = append(append(h, p.src.AsSlice()...), p.dst.AsSlice()...)
	next := 6
	for _, e := range p.ext {
		h[next] = e.proto
		next = len(h)
		h = append(append(h, 0), e.rest...)
	}
	if part {
		h[next] = 44
		next = len(h)
		field := uint16(offset)
		if more {
			field |= 1
		}
		h = append(h, 0, 0, byte(field>>8), byte(field), 0, 0, byte(p.id>>8), byte(p.id))
	}
	h[next] = p.proto
	binary.BigEndian.PutUint16(h[4:], uint16(len(h)-40+len(body)))
	return append(h, body...)
}

// frames is the packet, or its parts in their order, each with the Ethernet header.
func (p anyWire) frames(t testing.TB) (out [][]byte) {
	t.Helper()
	body := p.transport(t)
	from := 0
	for _, at := range append(slices.Clone(p.cuts), len(body)) {
		out = append(out, p.ethernet(p.ip(t, body[from:at], from, at < len(body))))
		from = at
	}
	return out
}

func (p anyWire) ethernet(ip []byte) []byte {
	kind := []byte{8, 0}
	if p.src.Is6() {
		kind = []byte{0x86, 0xdd}
	}
	return slices.Concat(p.to, p.from, kind, ip)
}

// whole is the packet, which has no cuts, without an Ethernet header.
func (p anyWire) whole(t testing.TB) []byte { return p.frames(t)[0][14:] }

// inParts is the packet cut by a router whose next link takes mtu bytes.
func (p anyWire) inParts(t testing.TB, mtu int) anyWire {
	if 20+len(p.options)+len(p.transport(t)) <= mtu {
		return p
	}
	size := (mtu - 20 - len(p.options)) &^ 7
	for at := size; at < len(p.transport(t)); at += size {
		p.cuts = append(p.cuts, at)
	}
	return p
}

// hop is the packet after a router: TTL is one less, and it goes from one MAC address to another.
func (p anyWire) hop(from, to net.HardwareAddr) anyWire {
	p.from, p.to = from, to
	p.ttl--
	return p
}

// between is the packet with other ends. Where it has no ports it gets none.
func (p anyWire) between(src, dst netip.Addr, sport, dport uint16) anyWire {
	p.src, p.dst = src, dst
	switch {
	case hasPorts(p.proto):
		p.sport, p.dport = sport, dport
	case p.isICMP() && p.isReply():
		p.dport = dport
	case p.isICMP():
		p.sport = sport
	}
	return p
}

// readWire reads the ends of a frame, and its MAC addresses, by gopacket; p says what protocol it is.
func (p anyWire) readWire(t testing.TB, b []byte) (from, to net.HardwareAddr, src, dst netip.Addr, sport, dport uint16) {
	t.Helper()
	packet := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)
	if packet.NetworkLayer() == nil {
		t.Fatalf("not IP: %x", b)
	}
	eth := packet.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
	s, d := packet.NetworkLayer().NetworkFlow().Endpoints()
	src, _ = netip.AddrFromSlice(s.Raw())
	dst, _ = netip.AddrFromSlice(d.Raw())
	headers := 14 + 20 + len(p.options)
	if src.Is6() {
		headers = 14 + 40
		for _, e := range p.ext {
			headers += 1 + len(e.rest)
		}
		if len(p.cuts) > 0 {
			headers += 8
		}
	}
	t4 := b[headers:]
	switch {
	case hasPorts(p.proto):
		sport, dport = binary.BigEndian.Uint16(t4), binary.BigEndian.Uint16(t4[2:])
	case p.isICMP() && p.isReply():
		dport = binary.BigEndian.Uint16(t4[4:])
	case p.isICMP():
		sport = binary.BigEndian.Uint16(t4[4:])
	}
	return eth.SrcMAC, eth.DstMAC, src, dst, sport, dport
}

// randomBody gives a packet what does not matter to its connection: payload, options, extension headers, a missing checksum. size
// bounds the IP packet.
func (p anyWire) randomBody(r *rand.Rand, size int) anyWire {
	p.ttl, p.tos, p.id, p.df = uint8(2+r.IntN(254)), uint8(r.IntN(256)), uint16(r.Uint32()), r.IntN(2) == 0
	p.options, p.ext, p.noSum, p.cuts, p.chunks = nil, nil, false, nil, nil
	room := size - 20 - 20
	if p.src.Is6() {
		room = size - 40 - 20
		for _, e := range []wireExt{hopByHopExt, destinationExt} {
			if r.IntN(4) == 0 {
				p.ext = append(p.ext, e)
				room -= 8
			}
		}
	} else if r.IntN(4) == 0 { // router alert (RFC 2113), and one that nobody knows; both are copied
		p.options = []byte{148, 4, 0, 0}
		if r.IntN(2) == 0 {
			p.options = append(p.options, 0x9e, 4, 1, 2)
		}
		room -= len(p.options)
	}
	n := r.IntN(room + 1)
	switch r.IntN(6) {
	case 0:
		n = 0
	case 1:
		n = room
	}
	if p.proto == flow.UDP {
		p.noSum = !p.src.Is6() && r.IntN(4) == 0
	}
	if p.proto == flow.SCTP { // a DATA chunk (RFC 9260 section 3.3.1) as long as the payload
		n = max(n&^3, 4) - 4
		p.chunks = binary.BigEndian.AppendUint16([]byte{0, 3}, uint16(16+n))
		p.chunks = append(p.chunks, make([]byte, 12)...)
	}
	p.payload = make([]byte, n)
	for i := range p.payload {
		p.payload[i] = uint8(r.Uint32())
	}
	return p
}

// randomCuts cuts it in two to five parts, the first of which has the transport's header.
func (p anyWire) randomCuts(t testing.TB, r *rand.Rand) anyWire {
	n := len(p.transport(t))
	first := 24
	for at := first + r.IntN(8)*8; at < n && len(p.cuts) < 4; at += 8 + r.IntN(40)*8 {
		p.cuts = append(p.cuts, at)
	}
	p.df = false
	return p
}

// about is an ICMP error of kind and code from who about a packet, of which quoted has been seen.
func about(t testing.TB, fromMAC, toMAC net.HardwareAddr, who, to netip.Addr, ttl, kind, code uint8, word uint32, quoted []byte) []byte {
	t.Helper()
	p := anyWire{from: fromMAC, to: toMAC, src: who, dst: to, proto: flow.ICMP, ttl: ttl}
	var m []byte
	if who.Is4() {
		m = frame(t, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, code), Id: uint16(word >> 16), Seq: uint16(word)}, gopacket.Payload(quoted))
	} else {
		p.proto = flow.ICMPv6
		_, network := p.layer()
		l := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, code)}
		_ = l.SetNetworkLayerForChecksum(network)
		m = frame(t, l, gopacket.Payload(append(binary.BigEndian.AppendUint32(nil, word), quoted...)))
	}
	return p.ethernet(p.ip(t, m, 0, false))
}
