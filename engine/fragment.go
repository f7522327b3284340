package engine

import (
	"encoding/binary"

	"sluice/flow"
	"sluice/rewrite"
	"sluice/rings"
)

// Parts of a fragmented datagram find their connection by the first one, which alone has ports:
//
//	1 every part goes to the fragment owner, by source, destination, protocol and id: what all parts have
//	2 there the table of fragments gives later parts the ports of the first, or keeps them until it comes
//	3 each part, with the ports in a note at the start of its frame, goes on to the owner of the connection
//	4 there the first part goes through the stages as a whole packet would, and opens connections; the later ones are
//	  looked up after the burst that the first one is in, and have their addresses changed
//
// Nothing is put together, and parts keep their order.

// The bounds of a worker's table of fragments. The time is for parts of one datagram, which travel together.
const (
	fragmentDatagrams    = 1024
	fragmentsWaiting     = 256 // at most; and at most an eighth of a worker's share of the frames
	fragmentsPerDatagram = 64
	fragmentTimeout      = 10_000 // milliseconds
)

// fragments is a worker's part of that.
type fragments struct {
	table *flow.Fragments
	// later are parts to be passed on after the burst: as many as may have waited, and a burst.
	later [fragmentsWaiting + burstSize]rings.Desc
	n     int
}

func newFragments(frames int, secret flow.Secret) (f fragments, err error) {
	f.table, err = flow.NewFragments(flow.FragmentsConfig{
		Datagrams: fragmentDatagrams, Waiting: min(fragmentsWaiting, frames/8), PerDatagram: fragmentsPerDatagram,
		Timeout: fragmentTimeout, Secret: secret,
	})
	return f, err
}

// note is what is known of a part beside its bytes. It is at the start of its frame, in the room that is in front of every
// packet.
type note struct {
	ports uint32 // of the first part, as in flow.Key
	len   uint32
	port  uint16 // where it arrived
	proto uint8
	via   bool // it has been to the owner of its client's persistence entry, as its first part
}

const noteSize = 12

func (w *worker) putNote(d rings.Desc, n note) {
	b := w.region.Frame(d.Addr)[:noteSize]
	binary.LittleEndian.PutUint32(b, n.ports)
	binary.LittleEndian.PutUint32(b[4:], n.len)
	binary.LittleEndian.PutUint16(b[8:], n.port)
	b[10], b[11] = n.proto, 0
	if n.via {
		b[11] = 1
	}
}

func (w *worker) readNote(addr uint64) note {
	b := w.region.Frame(addr)[:noteSize]
	return note{binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint16(b[8:]), b[10], b[11] == 1}
}

// fragment deals with part of a datagram, which Parse took. It reports whether the part stays in hand: a first one whose
// connection is this worker's.
func (w *worker) fragment(d rings.Desc, port uint16, p *rewrite.Packet, k *flow.Key) bool {
	var f rewrite.FragmentPart
	b := w.region.Packet(d)
	if d.Options&placedBit != 0 { // a first part on its way round a worker that leaves: it is chosen for anew
		w.unplace(d)
		d.Options = 0
		w.placed--
	}
	if f.Read(b, p) != rewrite.Done || f.Check(p) != rewrite.Done || d.Addr-w.region.Base(d.Addr) < noteSize {
		w.drop(d, Fragmented)
		return false
	}
	key := flow.FragmentKey{Src: k.Src, Dst: k.Dst, ID: f.ID, Proto: f.Proto}
	bin := uint8(w.runtime.secret.Hash(&flow.Key{Src: k.Src, Dst: k.Dst, Ports: f.ID, Proto: f.Proto}) >> 56)
	if l := w.leaving; l != nil {
		w.give(int(l.slots[l.next.owners.worker[bin]]), processKind|uint32(port), d)
		return false
	}
	if o := int(w.slots[w.cfg.owners.worker[bin]]); o != w.slot && !w.handedIn {
		w.give(o, processKind|uint32(port), d)
		return false
	}
	if f.Offset == 0 {
		return w.firstPart(d, port, p, k, &key, &f)
	}
	w.putNote(d, note{len: d.Len, port: port})
	value, r := w.fragments.table.Later(&key, int(f.Offset), int(f.Len), f.More, d.Addr, w.now)
	switch r {
	case flow.FragmentKnown:
		k.Ports, k.Proto = uint32(value), uint8(value>>32)
		w.resolved(d, port, k)
	case flow.FragmentWaits:
	default:
		w.drop(d, fragmentReason(r))
	}
	w.releaseFragments(FragmentFull)
	return false
}

// firstPart enters a first part, and passes on those that waited for it.
func (w *worker) firstPart(d rings.Desc, port uint16, p *rewrite.Packet, k *flow.Key, key *flow.FragmentKey, f *rewrite.FragmentPart) bool {
	table := w.fragments.table
	why := Fragmented
	refused := rewrite.ReadFirst(w.region.Packet(d), p, k) != rewrite.Done
	if !refused && k.Proto == flow.SCTP && w.wouldTranslate(k, port) {
		refused, why = true, Untranslatable
	}
	if refused {
		table.Refuse(key, w.now)
		w.drop(d, why)
		w.releaseFragments(why)
		return false
	}
	r, waiters := table.First(key, int(f.Len), f.More, uint64(k.Proto)<<32|uint64(k.Ports), w.now)
	if r != flow.FragmentKnown {
		w.drop(d, fragmentReason(r))
		w.releaseFragments(fragmentReason(r))
		return false
	}
	mine := int(w.slots[w.cfg.owner(k, port)]) == w.slot
	if !mine {
		w.resolved(d, port, k)
	}
	for addr, ok := waiters.Next(); ok; addr, ok = waiters.Next() {
		n := w.readNote(addr)
		w.resolved(rings.Desc{Addr: addr, Len: n.len}, n.port, k)
	}
	w.releaseFragments(FragmentFull)
	return mine
}

// wouldTranslate reports whether a packet is for a virtual server that changes its addresses. SCTP's checksum covers what is not in
// the part that it is in, so that such parts open no connection.
func (w *worker) wouldTranslate(k *flow.Key, port uint16) bool {
	id := w.cfg.find(k, port)
	return id != 0 && w.cfg.virtuals[id].Mode.translates()
}

// untranslatable is the same for a packet of a connection.
func (w *worker) untranslatable(rec *flow.Record, p *rewrite.Packet, d rings.Desc) bool {
	return p.Proto == flow.SCTP && (rec.Kind() == flow.Translated || rec.SNAT != 0) && rewrite.IsPart(w.region.Packet(d), p)
}

// resolved passes a part whose tuple is known to the owner of its connection.
func (w *worker) resolved(d rings.Desc, port uint16, k *flow.Key) {
	w.putNote(d, note{ports: k.Ports, proto: k.Proto, len: d.Len, port: port})
	if o := int(w.slots[w.cfg.owner(k, port)]); o != w.slot {
		w.give(o, fragmentKind|uint32(port), d)
		return
	}
	w.keepPart(d)
}

// keepPart keeps a later part until the burst is over.
func (w *worker) keepPart(d rings.Desc) {
	if w.fragments.n == len(w.fragments.later) {
		w.drop(d, FragmentFull)
		return
	}
	w.fragments.later[w.fragments.n] = d
	w.fragments.n++
}

// takePart takes a part whose tuple another worker has found: a first one into the burst.
func (w *worker) takePart(d rings.Desc, port uint16) {
	j := w.n & (burstSize - 1)
	p, k := &w.pkts[j], &w.keys[j]
	var f rewrite.FragmentPart
	b := w.region.Packet(d)
	if w.read(d, p, k) != rewrite.Fragment || f.Read(b, p) != rewrite.Done {
		w.drop(d, Fragmented)
		return
	}
	if p.VLAN != 0 {
		w.enterVLAN(&d, &port)
	}
	if f.Offset != 0 {
		w.keepPart(d)
		return
	}
	if rewrite.ReadFirst(b, p, k) != rewrite.Done {
		w.drop(d, Fragmented)
		return
	}
	w.descs[j], w.ports[j] = d, port
	if p.Opens {
		w.opening++
	}
	w.n++
}

// passParts sends the later parts on that came with the burst.
func (w *worker) passParts() {
	for i := range w.fragments.n {
		w.passPart(w.fragments.later[i])
	}
	w.fragments.n = 0
}

// passPart sends one to where its datagram goes. Without a connection it is of a packet that found none, or the kernel's.
func (w *worker) passPart(d rings.Desc) {
	var p rewrite.Packet
	var k flow.Key
	n := w.readNote(d.Addr)
	if w.read(d, &p, &k) != rewrite.Fragment {
		w.drop(d, Fragmented)
		return
	}
	k.Ports, k.Proto = n.ports, n.proto
	if p.VLAN != 0 {
		w.enterVLAN(&d, &n.port) // it is that port's already: only how many tags say so is found again
	}
	r := w.table.Lookup(&k)
	if l := w.leaving; l != nil && (r == 0 || l.isSent(r.Index())) {
		w.give(int(l.slots[l.next.owner(&k, n.port)]), fragmentKind|uint32(n.port), d)
		return
	}
	if r == 0 {
		if w.cfg.persists && w.partViaEntry(d, &k, n) {
			return
		}
		if virtual, rest := w.cfg.covered(&k, n.port); virtual && rest != UnmatchedHost && !w.partToHost(&k) {
			w.drop(d, Fragmented)
		} else {
			w.toHost(d)
		}
		return
	}
	w.translatePart(d, &p, w.table.Record(r.Index()), r.Side(), n.port)
}

// translatePart changes the addresses of a later part; the checksum of what it is part of is in the first.
func (w *worker) translatePart(d rings.Desc, p *rewrite.Packet, rec *flow.Record, side flow.Side, port uint16) {
	var l2 rewrite.L2
	to := w.table.ServerKey(rec)
	src, dst, l3, out := to.Dst, to.Src, rec.L3Diff, 0
	if side == flow.FromClient {
		if why, ok := w.checkClient(rec, p, port); !ok {
			w.drop(d, why)
			return
		}
		n := &w.cfg.nodes[rec.Node]
		l2, out = n.l2, int(n.port)
	} else {
		switch {
		case rec.OneSided():
			w.toHost(d)
			return
		case rec.ServerIf != port && w.astray(rec, port):
			w.drop(d, WrongSide)
			return
		case p.TTL <= 1:
			w.drop(d, TTLExpired)
			return
		}
		src, dst, l3 = rec.Virtual, rec.Client, ^rec.L3Diff
		l2, out = rewrite.MakeL2(rec.ClientMAC, w.cfg.Ports[rec.ClientIf].MAC), int(rec.ClientIf)
	}
	if w.untranslatable(rec, p, d) {
		w.drop(d, Untranslatable)
		return
	}
	if rec.Kind() == flow.Tunnelled { // not by the server: those went to the kernel
		if proto := rec.Proto(); proto != flow.TCP && proto != flow.SCTP {
			rec.Seen = uint32(w.now)
		}
		w.tunnelPacket(rec, p, d, port)
		return
	}
	if mtu := w.cfg.exits[out].mtu; mtu != 0 && int(p.End-p.L3) > mtu && dontFragment(w.region.Packet(d), p) {
		w.answerAbout(p, d, port, rewrite.PacketTooBig, uint32(mtu), TooBig)
		return
	}
	if proto := rec.Proto(); proto != flow.TCP && proto != flow.SCTP {
		rec.Seen = uint32(w.now)
	}
	rewrite.TranslateAddresses(w.region.Packet(d), p, &l2, src, dst, l3)
	if w.sendOn(out, p, d) {
		w.counted(rec, side, p)
	}
}

// fragmentReason is why the table of fragments did not take a part.
func fragmentReason(r flow.FragmentResult) Reason {
	switch r {
	case flow.FragmentDuplicate, flow.FragmentOverlaps:
		return FragmentOverlap
	case flow.FragmentTooMany:
		return FragmentFull
	}
	return Fragmented
}

// expireFragments ends datagrams whose first part has not come in time.
func (w *worker) expireFragments() {
	w.fragments.table.Expire(w.now, expiryBudget)
	w.releaseFragments(FragmentTimeout)
}

// releaseFragments drops parts that were kept in vain.
func (w *worker) releaseFragments(why Reason) {
	for addr, ok := w.fragments.table.Release(); ok; addr, ok = w.fragments.table.Release() {
		w.drop(rings.Desc{Addr: addr}, why)
	}
}

// abandonFragments drops all parts that wait: the worker ends, or gives everything to another.
func (w *worker) abandonFragments() {
	w.fragments.table.ReleaseAll()
	w.releaseFragments(FragmentTimeout)
}
