package engine

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"sluice/flow"
	"sluice/rewrite"
)

// Question is a packet to be explained: the first of a connection where its protocol knows such.
type Question struct {
	Proto    uint8
	Src, Dst netip.AddrPort // the port of Src is the id of an ICMP query
	// Port is the index of the port that it arrives on. Negative is not known: that of its connection, else the first on which a
	// virtual server wants it.
	Port int
	// Node is that of the client's persistence entry, 0 for none; Engine.Explain finds it itself.
	Node uint32
}

// ingress is the port that a packet with tuple k is taken to arrive on.
func (q *Question) ingress(c *Config, k *flow.Key) int {
	if q.Port >= 0 {
		return q.Port
	}
	for i := range c.Ports {
		if c.find(k, uint16(i)) != 0 {
			return i
		}
	}
	return 0
}

// parse makes the frame that a client would send and reads it as any other.
func (q *Question) parse(p *rewrite.Packet, k *flow.Key) (frame []byte, err error) {
	b := q.frame()
	switch v := rewrite.Parse(b, p, k); v {
	case rewrite.OK, rewrite.NoPorts:
		return b, nil
	default:
		return nil, fmt.Errorf("a packet of protocol %d from %s to %s cannot be explained", q.Proto, q.Src, q.Dst)
	}
}

// frame is an Ethernet frame with a SYN, an INIT, an echo request, or the smallest packet of another protocol. Checksums are
// left out: nothing here looks at them.
func (q *Question) frame() []byte {
	be := binary.BigEndian
	l4 := make([]byte, 20)
	be.PutUint16(l4, q.Src.Port())
	be.PutUint16(l4[2:], q.Dst.Port())
	switch q.Proto {
	case flow.TCP: // RFC 9293 section 3.1
		l4[12], l4[13] = 5<<4, flow.FlagSYN
		be.PutUint16(l4[14:], 0xffff)
	case flow.UDP:
		be.PutUint16(l4[4:], uint16(len(l4)))
		be.PutUint16(l4[6:], 0xffff)
	case flow.SCTP: // RFC 9260 section 3.3.2
		l4 = append(l4, make([]byte, 12)...)
		l4[12] = 1
		be.PutUint16(l4[14:], 20)
		be.PutUint32(l4[16:], 1) // a tag of 0 is not valid
		be.PutUint32(l4[20:], 1<<16)
		be.PutUint16(l4[24:], 1)
		be.PutUint16(l4[26:], 1)
	case flow.ICMP, flow.ICMPv6:
		clear(l4)
		l4[0] = 8
		if q.Dst.Addr().Is6() {
			l4[0] = 128
		}
		be.PutUint16(l4[4:], q.Src.Port())
	}
	b := make([]byte, 14, 14+40+len(l4))
	const ttl = 64
	if src, dst := q.Src.Addr(), q.Dst.Addr(); src.Is4() {
		be.PutUint16(b[12:], 0x0800)
		h := make([]byte, 20)
		h[0], h[8], h[9] = 0x45, ttl, q.Proto
		be.PutUint16(h[2:], uint16(20+len(l4)))
		copy(h[12:], src.AsSlice())
		copy(h[16:], dst.AsSlice())
		b = append(b, h...)
	} else {
		be.PutUint16(b[12:], 0x86dd)
		h := make([]byte, 40)
		h[0], h[6], h[7] = 0x60, q.Proto, ttl
		be.PutUint16(h[4:], uint16(len(l4)))
		copy(h[8:], src.AsSlice())
		copy(h[24:], dst.AsSlice())
		b = append(b, h...)
	}
	return append(b, l4...)
}
