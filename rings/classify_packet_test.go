package rings

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// testPacket describes a frame. Addresses are IPv4; with v6, those of toV6 are used instead.
type testPacket struct {
	v6         bool
	mac        byte // first byte of the destination MAC
	tags       []layers.EthernetType
	src, dst   string
	proto      int // of IPv4; 1 stands for ICMPv6 too
	sport      int
	dport      int
	icmp       uint8  // type
	id         int    // ICMP identifier
	quoted     string // with an ICMP error: the destination of the packet that it quotes; "" for no quote
	quotedAs   int    // its protocol; 0: a header of zeros follows
	quotedPort int    // its source port, or a query's identifier
	options    int    // words of IPv4 options
	extensions []uint8
	fragment   bool // with this,
	offset     int  // an offset of 0 is a first fragment
}

const (
	protoTCP  = 6
	protoUDP  = 17
	protoSCTP = 132
	protoICMP = 1
	protoGRE  = 47
)

// toV6 embeds an IPv4 address in 2001:db8::/96, apart from those that have a meaning of their own.
func toV6(s string) netip.Addr {
	a := netip.MustParseAddr(s)
	if a.Is6() {
		return a
	}
	b := netip.MustParseAddr("2001:db8::").As16()
	v4 := a.As4()
	copy(b[12:], v4[:])
	return netip.AddrFrom16(b)
}

func (p testPacket) build(t testing.TB) []byte {
	t.Helper()
	eth := &layers.Ethernet{
		SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{p.mac, 0, 0, 0, 0, 2},
	}
	all := []gopacket.SerializableLayer{eth}
	next := &eth.EthernetType
	for i, tag := range p.tags {
		*next = tag
		q := &layers.Dot1Q{VLANIdentifier: uint16(i + 5)}
		all, next = append(all, q), &q.Type
	}
	var l4 []byte
	switch p.proto {
	case protoTCP:
		l4 = make([]byte, 20)
		l4[12] = 0x50
	case protoSCTP:
		l4 = make([]byte, 12)
	default:
		l4 = make([]byte, 8)
	}
	if p.proto == protoICMP {
		l4[0] = p.icmp
		binary.BigEndian.PutUint16(l4[4:], uint16(p.id))
		if p.quoted != "" {
			l4 = append(l4, p.quote()...)
		}
	} else if p.proto != protoGRE {
		binary.BigEndian.PutUint16(l4, uint16(p.sport))
		binary.BigEndian.PutUint16(l4[2:], uint16(p.dport))
	}
	if p.offset > 0 { // no transport header: ports that would match, were they read
		for i := range l4 {
			l4[i] = []byte{0, 80}[i%2]
		}
	}
	if p.v6 {
		*next = layers.EthernetTypeIPv6
		proto := uint8(p.proto)
		if p.proto == protoICMP {
			proto = 58
		}
		l4, proto = p.prepend(l4, proto)
		ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocol(proto),
			SrcIP: toV6(p.src).AsSlice(), DstIP: toV6(p.dst).AsSlice()}
		all = append(all, ip)
	} else {
		*next = layers.EthernetTypeIPv4
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocol(p.proto), FragOffset: uint16(p.offset),
			SrcIP: netip.MustParseAddr(p.src).AsSlice(), DstIP: netip.MustParseAddr(p.dst).AsSlice()}
		if p.fragment && p.offset == 0 {
			ip.Flags = layers.IPv4MoreFragments
		}
		for range p.options {
			ip.Options = append(ip.Options, layers.IPv4Option{OptionType: 130, OptionLength: 4, OptionData: []byte{0, 0}})
		}
		all = append(all, ip)
	}
	buf := gopacket.NewSerializeBuffer()
	all = append(all, gopacket.Payload(l4))
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// prepend puts the IPv6 extension headers in front of the transport header, each of another length.
func (p testPacket) prepend(l4 []byte, proto uint8) ([]byte, uint8) {
	if p.fragment {
		h := make([]byte, 8)
		h[0] = proto
		binary.BigEndian.PutUint16(h[2:], uint16(p.offset<<3))
		if p.offset == 0 {
			h[3] |= 1
		}
		l4, proto = append(h, l4...), 44
	}
	for i := len(p.extensions) - 1; i >= 0; i-- {
		h := make([]byte, 8+8*i)
		if p.extensions[i] == 44 { // of a datagram in one fragment
			h = h[:8]
		} else {
			h[1] = uint8(i)
		}
		h[0] = proto
		l4, proto = append(h, l4...), p.extensions[i]
	}
	return l4, proto
}

// testRules has every kind of rule, for both families.
func testRules(wildcard bool) Rules {
	var r Rules
	if wildcard {
		r.Prefixes = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	}
	for _, f := range []func(string) netip.Addr{netip.MustParseAddr, toV6} {
		r.Virtuals = append(r.Virtuals,
			VirtualRule{Addr: f("10.10.1.100"), Proto: protoTCP, Port: 80},
			VirtualRule{Addr: f("10.10.1.101"), Proto: protoTCP, Port: 80},
			VirtualRule{Addr: f("10.10.1.101"), Proto: protoUDP, Port: 5000, PortLast: 5010},
			VirtualRule{Addr: f("10.10.1.101"), Proto: protoSCTP},
			VirtualRule{Addr: f("10.10.1.101"), Proto: protoGRE},
			VirtualRule{Addr: f("10.10.1.102")},
			VirtualRule{Addr: f("10.10.1.103"), Proto: protoTCP, Port: 443})
		r.Addresses = append(r.Addresses,
			AddressRule{Addr: f("10.10.1.101"), UnmatchedHost: true},
			AddressRule{Addr: f("10.10.1.102"), UnmatchedHost: true, ICMPEngine: true},
			AddressRule{Addr: f("10.10.1.103"), UnmatchedHost: true})
		r.SNAT = append(r.SNAT,
			SNATRule{Addr: f("10.10.1.103"), First: 20000, Last: 29999},
			SNATRule{Addr: f("10.10.1.200"), First: 40000, Last: 49999})
		r.Local = append(r.Local, f("10.10.1.1"), f("10.10.1.100"), f("10.10.1.103"), f("10.10.1.200"))
		r.Members = append(r.Members,
			MemberRule{Addr: f("192.168.20.1"), Proto: protoTCP, Port: 8080},
			MemberRule{Addr: f("192.168.20.2")},
			MemberRule{Addr: f("192.168.20.3"), Proto: protoUDP})
		r.FarEnds = append(r.FarEnds, f("192.168.20.2"), f("172.16.10.55"))
	}
	return r
}

// quote is a header to the quoted destination, and 8 bytes more.
func (p testPacket) quote() []byte {
	at := 0
	if p.quotedAs == protoICMP {
		at = 4
	}
	if p.v6 {
		b := make([]byte, 48)
		b[0], b[6] = 0x60, byte(p.quotedAs)
		if p.quotedAs == protoICMP {
			b[6] = 58
		}
		copy(b[24:], toV6(p.quoted).AsSlice())
		binary.BigEndian.PutUint16(b[40+at:], uint16(p.quotedPort))
		return b
	}
	b := make([]byte, 20+4*p.options+8)
	b[0], b[9] = byte(0x45+p.options), byte(p.quotedAs)
	copy(b[16:], netip.MustParseAddr(p.quoted).AsSlice())
	binary.BigEndian.PutUint16(b[20+4*p.options+at:], uint16(p.quotedPort))
	return b
}

// naiveVerdict reads the rules one after the other, as they are written down, from the description of the packet.
func naiveVerdict(r Rules, p testPacket) string {
	src, dst := netip.MustParseAddr(p.src), netip.MustParseAddr(p.dst)
	proto, reply := p.proto, p.icmp == 0
	failure := proto == protoICMP && !p.fragment && slices.Contains([]uint8{3, 4, 11, 12}, p.icmp)
	var quoted netip.Addr
	if p.quoted != "" {
		quoted = netip.MustParseAddr(p.quoted)
	}
	if p.v6 {
		src, dst, reply = toV6(p.src), toV6(p.dst), p.icmp == 129
		failure = proto == protoICMP && !p.fragment && p.icmp >= 1 && p.icmp <= 4
		if p.quoted != "" {
			quoted = toV6(p.quoted)
		}
	}
	if p.mac&1 != 0 || dst.IsLinkLocalUnicast() {
		return verdictPass
	}
	ported := !p.fragment && (proto == protoTCP || proto == protoUDP || proto == protoSCTP)
	set, virtual := AddressRule{}, false
	for _, a := range r.Addresses {
		if a.Addr == dst {
			set, virtual = a, true
		}
	}
	for _, v := range r.Virtuals {
		virtual = virtual || v.Addr == dst
		if v.Addr != dst || proto == protoICMP {
			continue
		}
		last := max(v.Port, v.PortLast)
		if p.fragment || v.Proto == 0 || int(v.Proto) == proto && (v.Port == 0 || ported && p.dport >= int(v.Port) && p.dport <= int(last)) {
			return verdictOurs
		}
	}
	if virtual && (proto == protoICMP && (set.ICMPEngine || failure) || proto != protoICMP && !set.UnmatchedHost) {
		return verdictOurs
	}
	for _, s := range r.SNAT {
		if s.Addr != dst {
			continue
		}
		if p.fragment && proto != protoICMP || ported && p.dport >= int(s.First) && p.dport <= int(s.Last) ||
			!p.fragment && proto == protoICMP && reply && p.id >= int(s.First) && p.id <= int(s.Last) ||
			failure && p.quoted != "" && slices.Contains([]int{protoTCP, protoUDP, protoSCTP, protoICMP}, p.quotedAs) && p.quotedPort >= int(s.First) && p.quotedPort <= int(s.Last) {
			return verdictOurs
		}
	}
	if virtual {
		return verdictPass
	}
	farEnd := failure && slices.Contains(r.FarEnds, quoted)
	for _, l := range r.Local {
		if l == dst && farEnd {
			return verdictOurs
		}
		if l == dst {
			return verdictPass
		}
	}
	if farEnd {
		return verdictOurs
	}
	for _, m := range r.Members {
		if failure && m.Addr == quoted {
			return verdictOurs
		}
		if m.Addr != src {
			continue
		}
		if p.fragment || m.Proto == 0 || int(m.Proto) == proto && (m.Port == 0 || ported && p.sport == int(m.Port)) {
			return verdictOurs
		}
	}
	for _, prefix := range r.Prefixes {
		if prefix.Contains(dst) {
			return "wildcard pass"
		}
	}
	return verdictPass
}
