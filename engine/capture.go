package engine

import (
	"encoding/binary"
	"sync/atomic"

	"sluice/flow"
	"sluice/rewrite"
	"sluice/rings"
)

// A capture copies packets as they arrive and as they leave, with what has become of them. Each worker captures by itself:
//
//	arrive     a frame comes from a queue or another worker     its bytes go into a free slot
//	finished   it is about to leave, by a batch of a port       its bytes go there again
//	sent       the batch has left                               slot ──▶ ring, with the verdict
//	drop       it was dropped, before or after that             slot ──▶ ring, with the reason
//	given      another worker has it now                        slot ──▶ ring
//
// Whoever asked for the capture reads the rings (capturesession.go). All memory is taken before the worker sees the capture. What
// finds no slot or no room is counted as lost. With no capture, a worker has a nil pointer to compare, once for a burst and
// once for a batch; what it costs with one is the copying.
type capture struct {
	match  captureMatch
	snap   int
	sample uint32
	left   uint32 // packets until the next one of the sample
	slots  []captured
	arena  []byte   // of each slot: snap bytes before, snap bytes after
	free   []uint16 // slots
	of     []uint16 // by frame: slot + 1, or 0
	going  []uint16 // slots of the batch that is being sent
	// flushing says that such a batch is in hand.
	flushing bool
	ring     *captureRing
	counts   captureCounts
}

// captureCounts are written by the worker and read by whoever reads the capture. Every packet seen ends in one of the others.
type captureCounts struct {
	seen      atomic.Uint64 // packets that arrived while the capture was on
	skipped   atomic.Uint64 // not of the sample
	unmatched atomic.Uint64 // not what the filter wants
	captured  atomic.Uint64 // put into the ring
	lost      atomic.Uint64 // no room
	held      atomic.Uint64 // still in hand at the end
}

// captureSlots is how many packets of a capture a worker may have in hand: bursts that wait for their batch to leave, and parts
// of datagrams that wait for the first.
const captureSlots = 1024

// captured is a packet that is in the worker's hands.
type captured struct {
	frame    uint32
	arrived  uint16 // port
	leaves   uint16 // port
	finished bool   // it has bytes after
	toward   bool   // answered instead: what leaves is made of it
	why      Reason // of an answer; numReasons: not known
	micros   uint64
	length   [2]uint32 // before and after
	kept     [2]uint32
	key      [2]flow.Key
	known    [2]bool  // key is valid
	look     flow.Key // the tuple that its connection is found by
}

// CaptureVerdict is what has become of a captured packet.
type CaptureVerdict uint8

// The verdicts.
const (
	CaptureForwarded CaptureVerdict = iota
	CaptureDropped
	CaptureHost     // handed to the kernel
	CaptureHanded   // handed over to the worker that owns it
	CaptureAnswered // turned into a RST or an ICMP error that goes back
)

// captureMatch is what a capture wants; the zero value of each field but the indices is everything.
type captureMatch struct {
	proto   uint8
	ends    [2]captureEnd
	n       int
	virtual uint32
	nodes   []uint32
	drops   bool
	reason  int // -1: any
	port    int // -1: any
}

// captureEnd is an address, and a port unless it is 0.
type captureEnd struct {
	addr flow.Addr
	port uint16
}

func newCapture(w *worker, match captureMatch, snap int, sample uint32, ringBytes int) *capture {
	c := &capture{
		match: match, snap: snap, sample: max(sample, 1), slots: make([]captured, captureSlots), arena: make([]byte, 2*snap*captureSlots),
		free: make([]uint16, captureSlots), of: make([]uint16, w.region.Frames()), going: make([]uint16, 0, burstSize), ring: newCaptureRing(ringBytes),
	}
	for i := range c.free {
		c.free[i] = uint16(captureSlots - 1 - i)
	}
	return c
}

// bytes is where a slot keeps the packet before (0) or after (1).
func (c *capture) bytes(slot uint16, side int) []byte {
	from := (2*int(slot) + side) * c.snap
	return c.arena[from : from+c.snap]
}

// arrive takes the frames that came on a port.
func (c *capture) arrive(w *worker, port uint16, frames []rings.Desc) {
	micros := w.runtime.micros()
	for _, d := range frames {
		c.take(w, port, d, micros)
	}
}

// arriveHanded takes those that another worker handed over as its own.
func (c *capture) arriveHanded(w *worker, frames []rings.Desc) {
	micros := w.runtime.micros()
	for _, d := range frames {
		if kind := d.Options & kindMask; kind == processKind || kind == fragmentKind {
			c.take(w, uint16(d.Options&portMask), d, micros)
		}
	}
}

func (c *capture) frame(w *worker, addr uint64) uint32 {
	return uint32(w.region.Base(addr) / uint64(w.region.FrameSize()))
}

func (c *capture) take(w *worker, port uint16, d rings.Desc, micros uint64) {
	c.counts.seen.Add(1)
	if c.left > 0 {
		c.left--
		c.counts.skipped.Add(1)
		return
	}
	c.left = c.sample - 1
	if len(c.free) == 0 {
		c.counts.lost.Add(1)
		return
	}
	slot := c.free[len(c.free)-1]
	c.free = c.free[:len(c.free)-1]
	s := &c.slots[slot]
	*s = captured{frame: c.frame(w, d.Addr), arrived: port, micros: micros, why: numReasons}
	if old := c.of[s.frame]; old != 0 { // it has left unseen
		c.free = append(c.free, old-1)
		c.counts.lost.Add(1)
	}
	c.of[s.frame] = slot + 1
	c.copy(w, slot, 0, d)
}

// copy keeps the bytes of a frame and its tuple.
func (c *capture) copy(w *worker, slot uint16, side int, d rings.Desc) {
	s, b := &c.slots[slot], w.region.Packet(d)
	_, behind := w.region.Tail(d.Addr)
	s.length[side], s.kept[side] = d.Len+behind, uint32(len(w.region.Gather(c.bytes(slot, side), d)))
	var p rewrite.Packet
	v := w.read(d, &p, &s.key[side])
	s.known[side] = v == rewrite.OK || v == rewrite.NoPorts || v == rewrite.Fragment
	if v == rewrite.Fragment {
		s.key[side].Ports = 0
	}
	if side == 0 {
		s.look = s.key[0]
		var q rewrite.Quote
		var about flow.Key
		if v == rewrite.NoPorts && p.ICMP == rewrite.ICMPError && rewrite.ReadQuote(b, &p, &q, &about) == rewrite.Done {
			s.look = about
		}
	}
	if side == 1 && s.known[0] && s.known[1] && s.leaves == s.arrived {
		before, after := &s.key[0], &s.key[1]
		back := after.Src == before.Dst && after.SrcPort() == before.DstPort() && after.DstPort() == before.SrcPort()
		s.toward = after.Dst == before.Src && (back || p.ICMP == rewrite.ICMPError && v == rewrite.NoPorts && before.Proto != after.Proto)
	}
}

// slotOf is the slot of a frame, and whether it has one.
func (c *capture) slotOf(w *worker, addr uint64) (uint16, bool) {
	n := c.of[c.frame(w, addr)]
	return n - 1, n != 0
}

// entered says that frame d has come by a VLAN of the port that it was received on.
func (c *capture) entered(w *worker, d rings.Desc, port uint16) {
	if slot, ok := c.slotOf(w, d.Addr); ok {
		c.slots[slot].arrived = port
	}
}

// note says why packet d is answered, before it becomes the answer. There may be no capture.
func (c *capture) note(w *worker, d rings.Desc, why Reason) {
	if c == nil {
		return
	}
	if slot, ok := c.slotOf(w, d.Addr); ok {
		c.slots[slot].why = why
	}
}

// flush looks at what leaves when worker.flush is called for the first time, and calls it again; then it is not meant.
func (c *capture) flush(w *worker, e *egress, port int) bool {
	if c.flushing {
		return false
	}
	c.flushing = true
	c.finished(w, port, e.batch[:e.n])
	w.flush(e, port)
	c.sent(w)
	c.flushing = false
	return true
}

// finished looks at a batch that is about to leave by a port.
func (c *capture) finished(w *worker, port int, batch []rings.Desc) {
	c.going = c.going[:0]
	for _, d := range batch {
		slot, ok := c.slotOf(w, d.Addr)
		if !ok {
			continue
		}
		s := &c.slots[slot]
		s.leaves, s.finished = uint16(port), true
		c.copy(w, slot, 1, d)
		c.going = append(c.going, slot)
	}
}

// tagged looks at the batch again, whose VLAN tags have been set since.
func (c *capture) tagged(w *worker, batch []rings.Desc) {
	for _, d := range batch {
		if slot, ok := c.slotOf(w, d.Addr); ok && c.slots[slot].finished {
			c.copy(w, slot, 1, d)
		}
	}
}

// sent ends the packets of that batch which have not been dropped.
func (c *capture) sent(w *worker) {
	for _, slot := range c.going {
		s := &c.slots[slot]
		if c.of[s.frame] != slot+1 {
			continue
		}
		v := CaptureForwarded
		switch h := w.cfg.Host; {
		case h != nil && int(s.leaves) == h.Port:
			v = CaptureHost
		case s.toward:
			v = CaptureAnswered
		}
		c.emit(w, slot, v, s.why, 0)
	}
	c.going = c.going[:0]
}

// dropped ends a packet that was dropped.
func (c *capture) dropped(w *worker, addr uint64, why Reason) {
	if slot, ok := c.slotOf(w, addr); ok {
		c.emit(w, slot, CaptureDropped, why, 0)
	}
}

// given ends the packets that another worker has now. Those that it only sends were finished here.
func (c *capture) given(w *worker, p *peer, batch []rings.Desc) {
	for _, d := range batch {
		if kind := d.Options & kindMask; kind != processKind && kind != fragmentKind {
			continue
		}
		if slot, ok := c.slotOf(w, d.Addr); ok {
			c.emit(w, slot, CaptureHanded, numReasons, w.numberOf(p))
		}
	}
}

// numberOf is the number of the worker behind p, as people know it.
func (w *worker) numberOf(p *peer) int {
	slots := w.slots
	if w.leaving != nil {
		slots = w.leaving.slots
	}
	for number, slot := range slots {
		if &w.peers[slot] == p {
			return number
		}
	}
	return 0
}

// captureHeader is what a record in the ring begins with; the bytes before and after follow.
const captureHeader = 48

// emit puts a packet into the ring, if the filter wants it, and frees its slot.
func (c *capture) emit(w *worker, slot uint16, v CaptureVerdict, why Reason, to int) {
	s := &c.slots[slot]
	c.of[s.frame] = 0
	c.free = append(c.free, slot)
	side, node, id := w.whose(s)
	if !c.match.wants(s, v, why, node, id) {
		c.counts.unmatched.Add(1)
		return
	}
	kept := s.kept
	if !s.finished {
		kept[1], s.length[1] = 0, 0
	}
	b := c.ring.claim(captureHeader + int(kept[0]+kept[1]))
	if b == nil {
		c.counts.lost.Add(1)
		return
	}
	le := binary.LittleEndian
	le.PutUint64(b, s.micros)
	b[8], b[9], b[10], b[11] = uint8(v), uint8(why), 0, uint8(side)
	if s.finished {
		b[10] = 1
	}
	le.PutUint16(b[12:], s.arrived)
	le.PutUint16(b[14:], s.leaves)
	le.PutUint32(b[16:], node)
	le.PutUint32(b[20:], id)
	le.PutUint32(b[24:], uint32(to))
	le.PutUint32(b[28:], s.length[0])
	le.PutUint32(b[32:], kept[0])
	le.PutUint32(b[36:], s.length[1])
	le.PutUint32(b[40:], kept[1])
	copy(b[captureHeader:], c.bytes(slot, 0)[:kept[0]])
	copy(b[captureHeader+kept[0]:], c.bytes(slot, 1)[:kept[1]])
	c.ring.publish(len(b))
	c.counts.captured.Add(1)
}

// whose says which member and virtual server a packet belongs to, as far as that is known, and which side it comes from.
func (w *worker) whose(s *captured) (side flow.Side, node, id uint32) {
	if !s.known[0] {
		return 0, 0, 0
	}
	k := &s.key[0]
	if r := w.table.Lookup(&s.look); r != 0 {
		rec := w.table.Record(r.Index())
		return r.Side(), rec.Node, rec.VS
	}
	if id = w.cfg.find(k, s.arrived); id != 0 {
		if a := &s.key[1]; s.finished && s.known[1] { // without an entry
			if e := w.cfg.answers.slot(a.Dst, uint32(a.Proto)<<16|uint32(a.DstPort())); e.used {
				node = e.node
			}
		}
		return flow.FromClient, node, id
	}
	if e := w.cfg.answers.slot(k.Src, uint32(k.Proto)<<16|uint32(k.SrcPort())); e.used && s.finished {
		return flow.FromServer, e.node, e.id
	}
	return 0, 0, 0
}

// wants reports whether a packet is among those that were asked for.
func (m *captureMatch) wants(s *captured, v CaptureVerdict, why Reason, node, id uint32) bool {
	switch {
	case m.drops && v != CaptureDropped,
		m.reason >= 0 && (v != CaptureDropped && v != CaptureAnswered || int(why) != m.reason),
		m.virtual != 0 && m.virtual != id,
		m.port >= 0 && int(s.arrived) != m.port && (!s.finished || int(s.leaves) != m.port):
		return false
	}
	if len(m.nodes) > 0 {
		found := false
		for _, n := range m.nodes {
			found = found || n == node
		}
		if !found {
			return false
		}
	}
	if m.proto == 0 && m.n == 0 {
		return true
	}
	return s.known[0] && m.tuple(&s.key[0]) || s.finished && s.known[1] && m.tuple(&s.key[1])
}

// tuple reports whether a tuple has the protocol and the ends, whichever of them is the source.
func (m *captureMatch) tuple(k *flow.Key) bool {
	if m.proto != 0 && k.Proto != m.proto && !(isICMP(m.proto) && isICMP(k.Proto)) {
		return false
	}
	a, b := &m.ends[0], &m.ends[1]
	src, dst := captureEnd{k.Src, k.SrcPort()}, captureEnd{k.Dst, k.DstPort()}
	switch m.n {
	case 0:
		return true
	case 1:
		return a.is(src) || a.is(dst)
	}
	return a.is(src) && b.is(dst) || a.is(dst) && b.is(src)
}

func (e *captureEnd) is(other captureEnd) bool {
	return e.addr == other.addr && (e.port == 0 || e.port == other.port)
}
