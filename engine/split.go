package engine

import (
	"sluice/rewrite"
	"sluice/rings"
)

// A packet that is larger than the MTU of the port it is to leave by is dealt with as any router does (RFC 791 section 3.2, RFC 1812
// section 5.2.6): with DF, and in IPv6 always, its sender is told how large it may be (tooBig); without DF it leaves in parts.
// Whoever sends without DF has numbered its packets so that the receiver can put them together.

// sendOn is send for packet p of d, ready to leave, in parts if it does not fit. There are as many free frames as it takes, or
// nothing of it is sent: then it is dropped, and sendOn reports false. Whoever calls it counts only what goes on.
func (w *worker) sendOn(port int, p *rewrite.Packet, d rings.Desc) bool {
	if int(p.End-p.L3) > w.cfg.leastMTU {
		if mtu := w.cfg.exits[port].mtu; mtu != 0 && int(p.End-p.L3) > mtu {
			return w.sendParts(port, *p, d, mtu)
		}
	}
	w.send(port, d)
	return true
}

// sendParts cuts packet p of d into parts of at most mtu bytes, and sends them in their order.
func (w *worker) sendParts(port int, p rewrite.Packet, d rings.Desc, mtu int) bool {
	if !w.mayCut(&p, d, mtu) {
		return false
	}
	for int(p.End-p.L3) > mtu {
		first, rest, ok := w.split(&p, d, mtu)
		if !ok {
			w.lose(d, TooBig)
			return true
		}
		w.stats.Made++
		w.send(port, first)
		d, p.End = rest, w.length(rest)
	}
	w.send(port, d)
	return true
}

// mayCut reports whether packet p of d can go in parts of at most mtu bytes: it has no DF, there are frames for all of them, and
// they are not too many to be put together. If not it is dropped, else counted as cut.
func (w *worker) mayCut(p *rewrite.Packet, d rings.Desc, mtu int) bool {
	n := w.parts(d, p, mtu)
	if dontFragment(w.region.Packet(d), p) || n > fragmentsPerDatagram || n+2*w.buffers(d) > w.pool.Len() {
		w.drop(d, TooBig)
		return false
	}
	w.stats.Split++
	return true
}

// parts is in how many parts packet p of d goes over a link of this MTU, at most.
func (w *worker) parts(d rings.Desc, p *rewrite.Packet, mtu int) int {
	header := int(w.region.Packet(d)[p.L3]&15) * 4
	room := (mtu - header) &^ 7
	if room <= 0 {
		return fragmentsPerDatagram + 1
	}
	return (int(p.End-p.L3) - header + room - 1) / room
}

// dontFragment reports whether a packet must not be cut in parts.
func dontFragment(b []byte, p *rewrite.Packet) bool {
	const df = 0x40
	return p.V6 || b[p.L3+6]&df != 0
}

// split cuts an IPv4 packet in two; the rest is in frames of its own.
func (w *worker) split(p *rewrite.Packet, d rings.Desc, mtu int) (first, rest rings.Desc, ok bool) {
	if w.jumbo != nil && w.region.Chained(d.Addr) {
		return w.splitChain(p, d, mtu)
	}
	addr, ok := w.pool.Get()
	if !ok {
		return d, rest, false
	}
	rest.Addr, rest.Options = addr+rings.Headroom, d.Options
	n := rewrite.SplitIPv4(w.region.Frame(addr)[rings.Headroom:], w.region.Packet(d), p, mtu)
	if n == 0 {
		w.pool.Put(addr)
		return d, rest, false
	}
	d.Len, rest.Len = uint32(p.End), uint32(n)
	return d, rest, true
}
