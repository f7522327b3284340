package rewrite

import (
	"encoding/binary"

	"sluice/flow"
)

// Beside plain packets (plain.go) there are those that are nearly as simple: TCP or UDP right behind an IPv4 header without options
// or an IPv6 header without extension headers, in a frame with one VLAN tag or none. They are read and changed here with offsets
// that are constants from the IP header on, for both families. What is not regular is left to Parse, Translate and Forward;
// regular_test.go holds them against each other. mixed_amd64.s reads them as ParseRegular does, a burst at a time.

// LongHeadLen is how much of a frame's memory ParseRegular may read: a tag, and the headers of IPv6 and TCP, and some. The memory
// must be there, the packet may be shorter.
const LongHeadLen = 2 * HeadLen

// LongHead is the first bytes of a frame.
type LongHead = [LongHeadLen]byte

// Offsets in IP headers.
const (
	length4   = 2
	fragment4 = 6
	ttl4      = 8
	proto4    = 9
	sum4      = 10
	src4      = 12
	length6   = 4
	proto6    = 6
	ttl6      = 7
	src6      = 8
	dst6      = 24
)

// ParseRegular is Parse for a regular packet that is not a SYN. n is the frame's length. It reports whether it is one with all
// lengths right; if not, p and k are not valid, and Parse says what it is. So it does of IPv4 without a tag: ParsePlain has
// looked at that.
func ParseRegular(h *LongHead, n uint32, p *Packet, k *flow.Key) bool {
	be := binary.BigEndian
	l3, etherType, vlan := uint32(etherLen), be.Uint16(h[typeAt:]), uint16(0)
	if isTag(etherType) {
		vlan, etherType = be.Uint16(h[tagAt:]), be.Uint16(h[tagAt+2:])
		l3 += vlanLen
	} else if etherType != etherIPv6 {
		return false
	}
	ip := (*Head)(h[l3:])
	var l4, end, proto uint32
	switch {
	case etherType == etherIPv4 && ip[0] == 4<<4|ipv4Len/4 && be.Uint16(ip[fragment4:])&moreFragmentsOrOffset == 0:
		l4, end, proto = l3+ipv4Len, l3+uint32(be.Uint16(ip[length4:])), uint32(ip[proto4])
		p.V6, p.TTL = false, ip[ttl4]
		ends := be.Uint64(ip[src4:])
		k.Src, k.Dst = flow.AddrFrom4(uint32(ends>>32)), flow.AddrFrom4(uint32(ends))
	case etherType == etherIPv6 && ip[0]>>4 == 6:
		l4, proto = l3+ipv6Len, uint32(ip[proto6])
		end = l4 + uint32(be.Uint16(ip[length6:]))
		p.V6, p.TTL = true, ip[ttl6]
		k.Src.Hi, k.Src.Lo = be.Uint64(ip[src6:]), be.Uint64(ip[src6+8:])
		k.Dst.Hi, k.Dst.Lo = be.Uint64(ip[dst6:]), be.Uint64(ip[dst6+8:])
		// Addresses that begin with 64 zeros are few, and some of them are not for the wire; UDP's checksum is not optional.
		if k.Src.Hi == 0 || k.Dst.Hi == 0 || proto == flow.UDP && be.Uint16(ip[ipv6Len+6:]) == 0 {
			return false
		}
	default:
		return false
	}
	t := (*[tcpLen]byte)(h[l4:])
	const common = 1<<flow.TCP | 1<<flow.UDP
	if proto > 31 || 1<<proto&common == 0 || end > min(n, maxFrame) {
		return false
	}
	// As in ParsePlain, without asking which of both it is.
	tcp := uint32(int32(proto-flow.UDP) >> 31) // all bits for TCP, none for UDP
	header, length := uint32(t[12]>>4)*4, uint32(be.Uint16(t[4:]))
	size := length ^ (length^header)&tcp // of what the packet must contain
	header = udpLen ^ (udpLen^header)&tcp
	flags := uint32(t[13]) & tcp
	if size < udpLen+(tcpLen-udpLen)&tcp || l4+size > end || flags&flow.FlagSYN != 0 {
		return false
	}
	p.L3, p.L4, p.End, p.Payload = uint16(l3), uint16(l4), uint16(end), uint16(l4+header)
	p.VLAN, p.Proto, p.Opens, p.Plain, p.ICMP = vlan, uint8(proto), false, false, ICMPOther
	k.Ports, k.Proto = be.Uint32(t[:]), uint8(proto)
	s := &p.TCP
	s.Seq, s.Ack = be.Uint32(t[4:]), be.Uint32(t[8:])
	s.Len, s.Window, s.Flags = end-l4-header, be.Uint16(t[14:]), uint8(flags)
	return true
}

// Regular reports whether a packet that Parse or ParseRegular has read can be given to ForwardRegular and TranslateRegular4 or 6.
func (p *Packet) Regular() bool {
	header := uint16(ipv4Len)
	if p.V6 {
		header = ipv6Len
	}
	return p.L4-p.L3 == header && (p.Proto == flow.TCP || p.Proto == flow.UDP)
}

// ForwardRegular is Forward for a regular packet, but for the Ethernet header. ip is the packet from its IP header on.
func ForwardRegular(ip *Head, v6 bool) {
	if v6 {
		ip[ttl6]--
		return
	}
	ip[ttl4]--
	be := binary.BigEndian
	be.PutUint16(ip[sum4:], update(be.Uint16(ip[sum4:]), ttlDiff))
}

// TranslateRegular4 is Translate for a regular packet over IPv4, but for the Ethernet header. ip is the packet from its IP header
// on, ports are as in a flow.Key.
func TranslateRegular4(ip *Head, proto uint8, src, dst uint32, ports uint32, l3, l4 Diff) {
	be := binary.BigEndian
	ip[ttl4]--
	be.PutUint16(ip[sum4:], update(be.Uint16(ip[sum4:]), uint32(l3)+ttlDiff))
	be.PutUint64(ip[src4:], uint64(src)<<32|uint64(dst))
	be.PutUint32(ip[ipv4Len:], ports)
	updateRegular(ip, ipv4Len, proto, l4)
}

// TranslateRegular6 is Translate for a regular packet over IPv6, but for the Ethernet header.
func TranslateRegular6(ip *Head, proto uint8, src, dst *flow.Addr, ports uint32, l4 Diff) {
	be := binary.BigEndian
	ip[ttl6]--
	be.PutUint64(ip[src6:], src.Hi)
	be.PutUint64(ip[src6+8:], src.Lo)
	be.PutUint64(ip[dst6:], dst.Hi)
	be.PutUint64(ip[dst6+8:], dst.Lo)
	be.PutUint32(ip[ipv6Len:], ports)
	updateRegular(ip, ipv6Len, proto, l4)
}

// updateRegular is updateL4 for the header at l4 of ip.
func updateRegular(ip *Head, l4 uint32, proto uint8, diff Diff) {
	tcp := uint32(int32(uint32(proto)-flow.UDP) >> 31)
	at := l4 + 6 + 10&tcp
	b := (*[2]byte)(ip[at&(HeadLen-2):])
	old := binary.BigEndian.Uint16(b[:])
	sum := update(old, uint32(diff))
	if old == 0 || sum == 0 { // rare
		if tcp == 0 && old == 0 {
			return
		}
		if tcp == 0 {
			sum = 0xffff
		}
	}
	binary.BigEndian.PutUint16(b[:], sum)
}
