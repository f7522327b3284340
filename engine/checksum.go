package engine

import (
	"slices"

	"sluice/rewrite"
	"sluice/rings"
)

// SumPolicy is what is done about the checksums of packets that arrive on a port. What is forwarded is changed incrementally, so
// that a wrong checksum stays wrong and the receiver finds the damage; that costs nothing. But a sender on a virtual link may
// leave the checksum to a device that is not there (CHECKSUM_PARTIAL, include/linux/skbuff.h), and then it stays wrong for ever.
type SumPolicy uint8

// The policies.
const (
	SumAuto      SumPolicy = iota // packets are sampled; once one is partial, those that are are computed anew
	SumTrust                      // nothing is looked at
	SumVerify                     // wrong ones are dropped, and partial ones
	SumRecompute                  // all are computed anew, and damage is no longer seen
)

// sumRepair is SumAuto from when a partial checksum has been seen.
const sumRepair SumPolicy = 255

// Samples are taken of the first bursts from a port, then of one in so many.
const firstSamples, sampleEvery = 16, 256

// sums is what a worker knows of the checksums of a port.
type sums struct {
	in    uint32 // bursts until the next sample
	taken uint32
	// partial says that one was seen.
	partial bool
	// ports is the port itself, for every packet of a burst.
	ports [burstSize]uint16
}

// applySums makes the policies of a configuration those of the worker. checked stays nil where no packet is looked at.
func (w *worker) applySums() {
	for len(w.sums) < len(w.cfg.Ports) {
		s := sums{in: 1}
		for i := range s.ports {
			s.ports[i] = uint16(len(w.sums))
		}
		w.sums = append(w.sums, s)
	}
	w.checked = nil
	for i := range w.cfg.Ports {
		p := w.cfg.Ports[i].Checksum
		if p == SumAuto && w.sums[w.cfg.queuesOf(i)].partial {
			p = sumRepair
		}
		if p != SumAuto && p != SumTrust {
			if w.checked == nil {
				w.checked = make([]SumPolicy, len(w.cfg.Ports))
			}
			w.checked[i] = p
		}
	}
}

// queuesOf is the port whose queues a port has: itself, unless it is a VLAN.
func (c *Config) queuesOf(port int) int {
	if c.lanes == nil {
		return port
	}
	return int(c.lanes[port].parent)
}

// sample looks at the first packet in hand, which arrived on port, when it is time to.
func (w *worker) sample(port uint16) {
	s := &w.sums[port]
	s.in = sampleEvery
	if s.taken < firstSamples {
		s.in = 1
		s.taken++
	}
	if w.n == 0 || s.partial || w.cfg.Ports[port].Checksum != SumAuto {
		return
	}
	if p, b := &w.pkts[0], w.piece(w.descs[0]); rewrite.Verify(b, p, rewrite.IsPart(b, p)) == rewrite.SumsPartial {
		w.sawPartial(port)
		w.applySums()
	}
}

// sawPartial notes that packets with a partial checksum arrive on port.
func (w *worker) sawPartial(port uint16) {
	w.sums[port].partial = true
	if port < 64 {
		w.runtime.partial.Or(1 << port)
	}
}

// checkSums does what the ports' policies say about the packets in hand from first on, and drops those that they refuse.
func (w *worker) checkSums(first int) {
	kept := first
	for i := first; i < w.n; i++ {
		// First parts of datagrams, and ICMP errors, were looked at by themselves.
		if p := &w.pkts[i]; !isRelated(p) && !rewrite.IsPart(w.region.Packet(w.descs[i]), p) && !w.checkSum(w.descs[i], p, w.ports[i], false) {
			if w.pkts[i].Opens {
				w.opening--
			}
			continue
		}
		if kept != i {
			w.move(kept, i)
		}
		kept++
	}
	w.n, w.tcpKnown = kept, min(w.tcpKnown, kept) // others come where the last ones were
}

// checkSum does so about one packet, and reports whether it stays in hand.
func (w *worker) checkSum(d rings.Desc, p *rewrite.Packet, port uint16, part bool) bool {
	policy := w.checked[port]
	if policy == SumAuto || policy == SumTrust {
		return true
	}
	b, found := w.piece(d), rewrite.SumsRight
	if policy != SumRecompute {
		found = rewrite.Verify(b, p, part)
	}
	switch {
	case policy == SumRecompute, found == rewrite.SumsPartial && policy == sumRepair:
		rewrite.Recompute(b, p, part)
		w.repaired(d, b)
		w.stats.Recomputed++
	case found == rewrite.SumsPartial && policy == SumVerify:
		w.sawPartial(uint16(w.cfg.queuesOf(int(port))))
		w.drop(d, PartialChecksum)
		return false
	case found != rewrite.SumsRight && policy == SumVerify:
		w.drop(d, BadChecksum)
		return false
	}
	return true
}

// PartialPorts are the ports on which a packet with a partial checksum has been seen, in order. It costs next to nothing.
func (e *Engine) PartialPorts() (ports []int) {
	for _, w := range e.seated() {
		for bits, i := w.runtime.partial.Load(), 0; bits != 0; bits, i = bits>>1, i+1 {
			if bits&1 != 0 && !slices.Contains(ports, i) {
				ports = append(ports, i)
			}
		}
	}
	slices.Sort(ports)
	return ports
}
