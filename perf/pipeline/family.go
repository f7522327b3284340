package pipeline

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"sluice/engine"
	"sluice/flow"
	"sluice/rings"
)

// Families are the IP versions of connections; of both, every other UDP and every other TCP connection has version 6.
var Families = []string{"4", "6", "both"}

// isV6 reports whether connection i is one over IPv6.
func (s shape) isV6(i uint32) bool {
	return s.family == "6" || s.family == "both" && i>>1&1 == 1
}

// versions are those that there are connections of.
func (s shape) versions() []int {
	switch s.family {
	case "6":
		return []int{6}
	case "both":
		return []int{4, 6}
	}
	return []int{4}
}

// headLen is what is written of a packet: headers of IPv6 and TCP reach into the second line of the cache.
func (s shape) headLen() int {
	if s.family == "6" || s.family == "both" {
		return rings.LongHeadLen
	}
	return rings.HeadLen
}

const (
	ip6Len   = 40
	etherIP6 = 0x86dd
)

// v6Prefix precedes the 32 bits by which addresses are told apart, as they are over IPv4.
var v6Prefix = [12]byte{0x20, 0x01, 0x0d, 0xb8} // RFC 3849

// address is one of version 4 or 6.
func address(version int, a uint32) netip.Addr {
	if version == 4 {
		return addr4(a)
	}
	var b [16]byte
	copy(b[:], v6Prefix[:])
	binary.BigEndian.PutUint32(b[12:], a)
	return netip.AddrFrom16(b)
}

// flowKey is the key of a packet.
func (s shape) flowKey(i uint32) flow.Key {
	t, proto := s.tuple(i)
	version := 4
	if s.isV6(i) {
		version = 6
	}
	return flow.Key{Src: flow.AddrFrom(address(version, t.src)), Dst: flow.AddrFrom(address(version, t.dst)), Ports: flow.Ports(t.sport, t.dport), Proto: proto}
}

// services adds pools and virtual servers of an IP version to a configuration.
func (s shape) services(spec *engine.Spec, version int) {
	pool := len(spec.Pools)
	name := func(kind string) string {
		if version == 6 {
			return kind + "6-"
		}
		return kind
	}
	for _, k := range []struct {
		name string
		port uint16
	}{{"tcp", tcpMember}, {"udp", udpMember}} {
		p := engine.PoolSpec{Name: name(k.name), Scheduler: "round-robin"}
		for i := range uint32(s.members) {
			a := address(version, memberBase+i)
			p.Members = append(p.Members, engine.MemberSpec{Name: a.String(), Addr: a, Port: k.port, Weight: 1, Hop: engine.Hop{Port: inside, MAC: serverMAC, OK: true}})
		}
		spec.Pools = append(spec.Pools, p)
	}
	for i := range uint32(s.virtuals) {
		a := address(version, virtualBase+i)
		spec.Virtuals = append(spec.Virtuals,
			engine.VirtualSpec{Name: fmt.Sprint(name("tcp"), i), Addr: a, Port: tcpService, Proto: flow.TCP, Pool: pool, Timeouts: s.mode.timeouts},
			engine.VirtualSpec{Name: fmt.Sprint(name("udp"), i), Addr: a, Port: udpService, Proto: flow.UDP, Pool: pool + 1, Timeouts: s.mode.timeouts})
	}
}

// writeIP writes the header of an IP packet of n bytes, and returns the sum of its pseudo-header and the rest of b.
func writeIP(b []byte, t tuple, s *segment, n int) (pseudo uint32, rest []byte) {
	h := b[etherLen:]
	if !s.v6 {
		b[12], b[13] = 0x08, 0
		h[0], h[8], h[9] = 0x45, 64, s.proto
		binary.BigEndian.PutUint16(h[2:], uint16(n))
		binary.BigEndian.PutUint16(h[4:], s.id)
		h[6] = 0x40 // do not fragment
		binary.BigEndian.PutUint32(h[12:], t.src)
		binary.BigEndian.PutUint32(h[16:], t.dst)
		binary.BigEndian.PutUint16(h[10:], checksum(0, h[:ipLen]))
		return add32(add32(uint32(s.proto)+uint32(n-ipLen), t.src), t.dst), h[ipLen:]
	}
	binary.BigEndian.PutUint16(b[12:], etherIP6)
	h[0] = 0x60
	binary.BigEndian.PutUint16(h[2:], s.id) // of the flow label, which nobody rewrites (RFC 8200)
	binary.BigEndian.PutUint16(h[4:], uint16(n-ip6Len))
	h[6], h[7] = s.proto, 64
	copy(h[8:], v6Prefix[:])
	binary.BigEndian.PutUint32(h[20:], t.src)
	copy(h[24:], v6Prefix[:])
	binary.BigEndian.PutUint32(h[36:], t.dst)
	pseudo = uint32(s.proto) + uint32(n-ip6Len)
	for at := 8; at < ip6Len; at += 4 {
		pseudo = add32(pseudo, binary.BigEndian.Uint32(h[at:]))
	}
	return pseudo, h[ip6Len:]
}

// readHead is the tuple and the identification of a frame without IP options or extension headers.
func readHead(b []byte) (t tuple, id uint16) {
	h := b[etherLen:]
	if binary.BigEndian.Uint16(b[12:]) == etherIP6 {
		return tuple{
			src: binary.BigEndian.Uint32(h[20:]), dst: binary.BigEndian.Uint32(h[36:]),
			sport: binary.BigEndian.Uint16(h[ip6Len:]), dport: binary.BigEndian.Uint16(h[ip6Len+2:]),
		}, binary.BigEndian.Uint16(h[2:])
	}
	return tuple{
		src: binary.BigEndian.Uint32(h[12:]), dst: binary.BigEndian.Uint32(h[16:]),
		sport: binary.BigEndian.Uint16(h[ipLen:]), dport: binary.BigEndian.Uint16(h[ipLen+2:]),
	}, binary.BigEndian.Uint16(h[4:])
}

// smallest is the length of the IP packet of connection i in a 64-byte frame, or in the smallest that holds its headers.
func (s shape) smallest(i uint32) int {
	udp := i&1 == 1
	switch {
	case s.isV6(i) && udp:
		return ip6Len + udpLen
	case s.isV6(i):
		return ip6Len + tcpLen
	case udp:
		return packetLen(64)
	}
	return ipLen + tcpLen // an acknowledgement; the frame is padded
}
