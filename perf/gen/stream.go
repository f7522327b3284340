package gen

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
)

// Target is where packets go: over IPv4, to a virtual server behind a router.
type Target struct {
	SrcMAC, DstMAC net.HardwareAddr // of this end, and of the router
	To             netip.AddrPort
}

const (
	ethLen = 14
	ipLen  = 20
	minLen = 60 // a frame is never shorter, without its check sequence

	protoTCP = 6
	protoUDP = 17
)

// packet is a frame with a source of zero, and its sums to go on from.
type packet struct {
	frame       [64]byte
	n           int
	ip, l4      uint32 // sums of the header and of the segment with its pseudo-header
	l4Sum, port int    // offsets of the checksum and the source port
	seq         int    // offset of the sequence number, 0 for none
}

// build makes a packet of l4, whose destination port and checksum field are filled in here.
func build(t Target, proto byte, l4 []byte, sumAt int) (packet, error) {
	p := packet{port: ethLen + ipLen, l4Sum: ethLen + ipLen + sumAt}
	if !t.To.Addr().Is4() || len(t.SrcMAC) != 6 || len(t.DstMAC) != 6 {
		return p, fmt.Errorf("packets to %s from %s by %s: need an IPv4 address and two MAC addresses", t.To, t.SrcMAC, t.DstMAC)
	}
	binary.BigEndian.PutUint16(l4[2:], t.To.Port())
	b := append(p.frame[:0], t.DstMAC...)
	b = append(b, t.SrcMAC...)
	b = append(b, 0x08, 0x00, 0x45, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(ipLen+len(l4)))
	b = append(b, 0, 0, 0x40, 0, 64, proto, 0, 0, 0, 0, 0, 0) // do not fragment, TTL 64
	b = append(b, t.To.Addr().AsSlice()...)
	b = append(b, l4...)
	p.n = max(len(b), minLen)
	p.ip = sum(b[ethLen:][:ipLen])
	p.l4 = sum(t.To.Addr().AsSlice()) + uint32(proto) + uint32(len(l4)) + sum(l4)
	return p, nil
}

// write makes the packet from a source.
func (p *packet) write(b []byte, addr uint32, port uint16, seq uint32) int {
	copy(b, p.frame[:])
	a := addr>>16 + addr&0xffff
	binary.BigEndian.PutUint32(b[ethLen+12:], addr)
	binary.BigEndian.PutUint16(b[ethLen+10:], fold(p.ip+a))
	binary.BigEndian.PutUint16(b[p.port:], port)
	l4 := p.l4 + a + uint32(port)
	if p.seq > 0 {
		binary.BigEndian.PutUint32(b[p.seq:], seq)
		l4 += seq>>16 + seq&0xffff
	}
	binary.BigEndian.PutUint16(b[p.l4Sum:], fold(l4))
	return p.n
}

// sum adds up 16-bit words (RFC 1071).
func sum(b []byte) (s uint32) {
	for ; len(b) > 1; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	return s
}

func fold(s uint32) uint16 {
	s = s>>16 + s&0xffff
	return ^uint16(s>>16 + s)
}

// SYNs is a flood of TCP SYNs, each from a random address of a prefix, a random port, with a random sequence number.
type SYNs struct {
	packet packet
	random *rand.PCG
	base   uint32
	mask   uint32
}

// NewSYNs makes a flood from a prefix. The same seed gives the same packets.
func NewSYNs(t Target, from netip.Prefix, seed uint64) (*SYNs, error) {
	if !from.Addr().Is4() {
		return nil, fmt.Errorf("%s is no IPv4 prefix", from)
	}
	const options = "\x02\x04\x05\xb4" // a maximum segment size of 1460
	l4 := append(make([]byte, 20), options...)
	l4[12], l4[13], l4[14], l4[15] = 6<<4, 2, 0xff, 0xff // header length, SYN, window
	p, err := build(t, protoTCP, l4, 16)
	p.seq = p.port + 4
	a := from.Masked().Addr().As4()
	return &SYNs{
		packet: p, random: rand.NewPCG(seed, 1),
		base: binary.BigEndian.Uint32(a[:]), mask: uint32(uint64(1)<<(32-from.Bits()) - 1),
	}, err
}

// Next makes a SYN.
func (s *SYNs) Next(b []byte) int {
	r := s.random.Uint64()
	port := uint16(s.random.Uint64() >> 48)
	return s.packet.write(b, s.base|uint32(r>>32)&s.mask, port|1, uint32(r))
}

// Flows are datagrams of a fixed number of UDP flows in turn: hits in the table after the first of each.
type Flows struct {
	packet packet
	addr   uint32
	n      uint32
	next   uint32
}

// firstFlowPort is the source port of the first flow.
const firstFlowPort = 1024

// NewFlows makes n flows, at most 60,000, from as many ports of one address.
func NewFlows(t Target, from netip.Addr, n int) (*Flows, error) {
	if !from.Is4() || n < 1 || n > 60000 {
		return nil, fmt.Errorf("%d flows from %s: need an IPv4 address, and 1 to 60000", n, from)
	}
	l4 := make([]byte, 8+16)
	binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	p, err := build(t, protoUDP, l4, 6)
	a := from.As4()
	return &Flows{packet: p, addr: binary.BigEndian.Uint32(a[:]), n: uint32(n)}, err
}

// Next makes a datagram of the next flow.
func (f *Flows) Next(b []byte) int {
	f.next++
	if f.next >= f.n {
		f.next = 0
	}
	return f.packet.write(b, f.addr, uint16(firstFlowPort+f.next), 0)
}
