package ctl

import (
	"net"
	"net/netip"
	"time"
)

// crossing is a connection through us to somewhere else: what each end sends, and what the other one gets, whose source, or
// then destination, is seen.
type crossing struct {
	port, to       int // where it comes in and goes out
	from, by       net.HardwareAddr
	inMAC, outMAC  net.HardwareAddr // ours
	client, server netip.AddrPort
	seen           netip.AddrPort
}

func (c crossing) there(at time.Duration, flags string, seq, ack uint32) event {
	p := wirePacket{srcMAC: c.from, dstMAC: c.inMAC, src: c.client, dst: c.server, flags: flags, seq: seq, ack: ack}
	out := p.hop()
	out.srcMAC, out.dstMAC, out.src = c.outMAC, c.by, c.seen
	return event{at: at, port: c.port, in: p, out: out, to: c.to}
}

func (c crossing) back(at time.Duration, flags string, seq, ack uint32) event {
	p := wirePacket{srcMAC: c.by, dstMAC: c.outMAC, src: c.server, dst: c.seen, flags: flags, seq: seq, ack: ack, ttl: 60}
	out := p.hop()
	out.srcMAC, out.dstMAC, out.dst = c.inMAC, c.from, c.client
	return event{at: at, port: c.to, in: p, out: out, to: c.port}
}

func (c crossing) handshake(at time.Duration) []event {
	return []event{c.there(at, "S", 100, 0), c.back(at+time.Millisecond, "SA", 900, 101), c.there(at+2*time.Millisecond, "A", 101, 901),
		c.back(at+3*time.Millisecond, "FA", 901, 101), c.there(at+4*time.Millisecond, "FA", 101, 902), c.back(at+5*time.Millisecond, "A", 902, 102)}
}

var (
	insideHost = netip.MustParseAddr("192.168.20.7")
	site       = netip.MustParseAddr("192.0.2.80")
)

// routed are connections by turns through both routers, whose source ports stay as those that the address may have.
func routedThrough() (events []event) {
	for i, port := range []uint16{routedPorts[0], routedPorts[1]} {
		own := []string{"203.0.113.100", "198.51.100.100"}[i]
		events = append(events, crossing{
			port: inside, to: outside, from: madeUp(insideHost), inMAC: insideMAC, outMAC: outsideMAC,
			by:     net.HardwareAddr([]string{"\xaa\xaa\xaa\xaa\xaa\xaa", "\xba\xbb\xbb\xbb\xbb\xbb"}[i]),
			client: netip.AddrPortFrom(insideHost, port), server: netip.AddrPortFrom(site, 80), seen: netip.AddrPortFrom(netip.MustParseAddr(own), port),
		}.handshake(time.Duration(i)*time.Second)...)
	}
	return events
}

// routedPorts are client ports of their own bin, which are kept.
var routedPorts = [2]uint16{1155, 1474}

// learnedThrough are connections from behind each firewall.
func learnedThrough() (events []event) {
	for i := range 4 {
		wall := net.HardwareAddr{2, 0xf, 0, 0, 0, byte(1 + i%2)}
		client := netip.AddrPortFrom(site, uint16(5000+i))
		events = append(events, crossing{port: outside, to: inside, from: wall, by: madeUp(insideHost), inMAC: outsideMAC, outMAC: insideMAC,
			client: client, server: netip.AddrPortFrom(insideHost, 80), seen: client}.handshake(time.Duration(i)*time.Second)...)
	}
	return events
}

// forwarded are connections to behind the gateway and to a neighbour outside.
func forwardedThrough() (events []event) {
	near := netip.MustParseAddr("203.0.113.77")
	for i, to := range []netip.Addr{site, near} {
		client := netip.AddrPortFrom(insideHost, uint16(5000+i))
		by := madeUp(netip.MustParseAddr("203.0.113.1"))
		if i == 1 {
			by = madeUp(near)
		}
		events = append(events, crossing{port: inside, to: outside, from: madeUp(insideHost), by: by, inMAC: insideMAC, outMAC: outsideMAC,
			client: client, server: netip.AddrPortFrom(to, 80), seen: client}.handshake(time.Duration(i)*time.Second)...)
	}
	return events
}
