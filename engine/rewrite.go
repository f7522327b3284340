package engine

import (
	"math/bits"

	"sluice/flow"
	"sluice/rewrite"
	"sluice/rings"
	"sluice/sched"
)

// rewrite changes the packets [from, to) of the burst that have a connection, and puts them on their egress port: first those of
// TCP, then the others. Packets of one connection keep their order, and no branch on the protocol is predicted wrongly.
func (w *worker) rewrite(from, to int) {
	if from >= to {
		return
	}
	all := ^uint64(0) >> (burstSize - (to - from)) << from
	tcp := w.tcp & all
	if to > w.tcpKnown {
		tcp = tcpOf(&w.pkts, from, to) & all
	}
	w.rewriteSet(tcp, true)
	w.rewriteSet(all&^tcp, false)
}

// rewriteSet rewrites the packets whose bits are set, which are of TCP or of anything else.
// Both lines of each record are in the cache, or on their way: the look-up has just asked for them.
//
// What nearly all packets need is done by changePlain, and costs a fifth of what rewriteOne needs, which does the same for
// every packet; where it is not known at a glance that it comes to the same, nothing has changed yet and rewriteOne does it.
func (w *worker) rewriteSet(set uint64, tcp bool) {
	if set == 0 {
		return
	}
	c, records := w.changes(tcp), w.table.Records()
	for set != 0 {
		i := bits.TrailingZeros64(set) & (burstSize - 1)
		ref := w.refs[i]
		rec := &records[ref.Index()]
		if w.pkts[i].Plain && rec.Plain() {
			if rest := w.changeMany(&c, set); rest != set {
				set = rest
				continue
			}
		} else if w.ahead.first != 0 && w.sendFirst(i, rec) {
			set &= set - 1
			continue
		} else if rec.Kind() == flow.Tunnelled {
			if set &= set - 1; !w.steadyTunnel(i, ref, rec) {
				w.rewriteOne(i, ref, rec)
			}
			continue
		} else if rest := w.changeRegulars(&c, set); rest != set {
			set = rest
			continue
		}
		set &= set - 1
		switch {
		case ref == 0:
		case w.trackPlain(i, ref, rec, tcp):
			w.changeOne(i, rec, tcp)
		default:
			w.rewriteSteady(i, ref, rec)
		}
	}
	w.stats.ToServer += c.toServer
	w.stats.ToClient += c.toClient
}

// trackPlain follows the connection of packet i if it is plain in all respects, and reports whether it is.
func (w *worker) trackPlain(i int, ref flow.Ref, rec *flow.Record, tcp bool) bool {
	p := &w.pkts[i&(burstSize-1)]
	if !p.Plain || !rec.Plain() {
		return false
	}
	if ref.Side() == flow.FromClient {
		return rec.ClientIf == w.ports[i&(burstSize-1)] && w.cfg.nodes[rec.Node].ok && (!tcp || rec.TrackSteady(flow.FromClient, &p.TCP))
	}
	if tcp {
		return rec.ServerIf == w.ports[i&(burstSize-1)] && rec.TrackSteady(flow.FromServer, &p.TCP)
	}
	return rec.ServerIf == w.ports[i&(burstSize-1)] && rec.Answered()
}

// rewriteOne changes packet i, of the connection that ref names, and puts it on its egress port.
func (w *worker) rewriteOne(i int, ref flow.Ref, rec *flow.Record) {
	p, d := &w.pkts[i&(burstSize-1)], w.descs[i&(burstSize-1)]
	if isRelated(p) {
		w.relate(i, ref, rec)
		return
	}
	if w.untranslatable(rec, p, d) {
		w.drop(d, Untranslatable)
		return
	}
	if ref.Side() == flow.FromClient {
		if why, ok := w.checkClient(rec, p, w.ports[i&(burstSize-1)]); !ok {
			w.dropOr(i, why)
			return
		}
		if int(p.End-p.L3) > w.cfg.leastMTU && rec.Kind() != flow.Tunnelled && w.tooBig(i, int(w.cfg.nodes[rec.Node].port)) {
			return
		}
		if w.follow(rec, ref, p, d) {
			rec.Seen = uint32(w.now)
			// Answers follow the client when its MAC changes, but only on the word of a packet that proves to be its
			// own, by sequence number or tag: a datagram proves nothing, and could draw the answers away.
			if p.Proto == flow.TCP || p.Proto == flow.SCTP {
				rec.ClientMAC = rewrite.SourceMAC(w.region.Packet(d))
			}
		} else if w.cfg.dropOutside {
			w.drop(d, OutOfWindow)
			return
		}
		n := &w.cfg.nodes[rec.Node]
		if !rec.Plain() || !hasPorts(p.Proto) {
			w.forward(i, rec, flow.FromClient, &n.l2, int(n.port))
			return
		}
		rewrite.ToServer(w.region.Packet(d), p, &n.l2, w.cfg.addrs[rec.Node], rec.NPort, rec.L3Diff, rec.L4Diff)
		if w.sendOn(int(n.port), p, d) {
			w.counted(rec, flow.FromClient, p)
		}
		return
	}
	if port := w.ports[i&(burstSize-1)]; rec.ServerIf != port && w.astray(rec, port) {
		w.drop(d, WrongSide)
		return
	}
	if p.TTL <= 1 {
		w.dropOr(i, TTLExpired)
		return
	}
	if int(p.End-p.L3) > w.cfg.leastMTU && w.tooBig(i, int(rec.ClientIf)) {
		return
	}
	if rec.Closed() && !rec.OneSided() {
		if why, ok := w.mayReopen(rec, p); !ok {
			w.drop(d, why)
			return
		}
	}
	if w.follow(rec, ref, p, d) {
		rec.Seen = uint32(w.now)
	} else if w.cfg.dropOutside {
		w.drop(d, OutOfWindow)
		return
	}
	l2 := rewrite.MakeL2(rec.ClientMAC, w.cfg.Ports[rec.ClientIf].MAC)
	if !rec.Plain() || !hasPorts(p.Proto) {
		w.forward(i, rec, flow.FromServer, &l2, int(rec.ClientIf))
		return
	}
	rewrite.ToClient(w.region.Packet(d), p, &l2, rec.Virtual, rec.VPort, ^rec.L3Diff, ^rec.L4Diff)
	if w.sendOn(int(rec.ClientIf), p, d) {
		w.counted(rec, flow.FromServer, p)
	}
}

// forward sends packet i of a connection on as its kind says.
func (w *worker) forward(i int, rec *flow.Record, side flow.Side, l2 *rewrite.L2, port int) {
	p, d := &w.pkts[i&(burstSize-1)], w.descs[i&(burstSize-1)]
	if side == flow.FromServer && rec.OneSided() {
		w.toHost(d) // where it would have gone past us, had the XDP program seen it
		return
	}
	if rec.Kind() == flow.Translated {
		w.translate(rec, side, p, d, l2, port)
		return
	}
	if rec.Movable() {
		w.passOnRouted(i, rec, side, l2, port)
		return
	}
	w.forwardWhole(rec, side, p, d, l2, port, w.ports[i&(burstSize-1)])
}

// translate rewrites both ends of a packet: of a connection from a SNAT address, or of a protocol without ports.
func (w *worker) translate(rec *flow.Record, side flow.Side, p *rewrite.Packet, d rings.Desc, l2 *rewrite.L2, port int) {
	k := w.table.ServerKey(rec) // of what the member sends
	to := rewrite.Ends{Src: k.Dst, Dst: k.Src, SrcPort: k.DstPort(), DstPort: k.SrcPort()}
	l3, l4 := rec.L3Diff, rec.L4Diff
	if side == flow.FromServer {
		to = rewrite.Ends{Src: rec.Virtual, Dst: rec.Client, SrcPort: rec.VPort, DstPort: rec.CPort}
		l3, l4 = ^l3, ^l4
	}
	rewrite.Translate(w.region.Packet(d), p, l2, &to, l3, l4)
	if w.sendOn(port, p, d) {
		w.counted(rec, side, p)
	}
}

// counted counts packet p from side, which goes on.
func (w *worker) counted(rec *flow.Record, side flow.Side, p *rewrite.Packet) {
	w.count(rec, side, p)
	if side == flow.FromClient {
		w.stats.ToServer++
	} else {
		w.stats.ToClient++
	}
}

func (w *worker) checkClient(rec *flow.Record, p *rewrite.Packet, port uint16) (Reason, bool) {
	switch {
	case rec.ClientIf != port:
		return WrongSide, false
	case p.TTL <= 1:
		return TTLExpired, false
	case !w.cfg.nodes[rec.Node].ok && !w.byOtherRoute(rec):
		return NoNeighbour, false
	}
	return 0, true
}

// follow updates the connection's state and reports whether the packet keeps the connection alive: a TCP segment outside
// the window does not, nor an SCTP packet with a wrong tag.
func (w *worker) follow(rec *flow.Record, ref flow.Ref, p *rewrite.Packet, d rings.Desc) bool {
	if rec.OneSided() {
		return w.followClient(rec, ref, p, d)
	}
	var j flow.Judgement
	switch p.Proto {
	case flow.TCP:
		before := rec.TCPState()
		j = rec.TrackTCP(ref.Side(), &p.TCP)
		if before < flow.TCPEstablished || j != flow.Inside {
			w.shakeHands(rec, ref, p, d, before, j)
		}
	case flow.SCTP:
		before := rec.SCTPState()
		j = rec.TrackSCTP(ref.Side(), &p.SCTP)
		if before == flow.SCTPInitSent && j == flow.Changed && ref.Side() == flow.FromServer {
			w.handshake(rec)
		} else if before == flow.SCTPInitSent {
			w.repeated(rec, ref, p.SCTP.Opens())
		}
	default:
		if ref.Side() == flow.FromServer {
			rec.MarkReplied()
			if rec.HalfOpen() {
				w.node.connections[rec.Node].Answered++
				w.settle(rec, ref)
			}
		}
		return true
	}
	return w.judged(rec, ref, j)
}

// judged draws the consequences of what tracking says of a packet.
func (w *worker) judged(rec *flow.Record, ref flow.Ref, j flow.Judgement) bool {
	switch j {
	case flow.Outside:
		w.stats.Outside++
		return false
	case flow.Changed:
		if rec.HalfOpen() {
			w.settle(rec, ref)
		}
		if rec.Ending() { // its timeout is shorter: the timer moves
			w.table.Rearm(ref.Index(), w.now+uint64(w.cfg.timeouts(rec).of(rec)))
		}
		if rec.Closed() {
			w.vacate(rec)
		}
	}
	return true
}

// shakeHands looks at a segment that is, or may be, of a handshake: before it the connection was in the state before.
func (w *worker) shakeHands(rec *flow.Record, ref flow.Ref, p *rewrite.Packet, d rings.Desc, before flow.TCPState, j flow.Judgement) {
	if p.TCP.Flags&flow.FlagSYN != 0 {
		w.clampMSS(rec, p, d)
	}
	if before != flow.TCPSynSent {
		return
	}
	if j == flow.Changed && ref.Side() == flow.FromServer {
		w.handshake(rec)
		return
	}
	w.repeated(rec, ref, p.Opens)
}

// handshake notes a member's answer to a SYN: how long it took, where that matters, or that it refused.
func (w *worker) handshake(rec *flow.Record) {
	if rec.TCPState() == flow.TCPClosed {
		w.node.connections[rec.Node].Refused++
		return
	}
	w.node.connections[rec.Node].Answered++
	if rec.Proto() != flow.TCP {
		return
	}
	halfLife := w.cfg.nodes[rec.Node].halfLife
	if halfLife == 0 {
		return
	}
	micros := w.runtime.micros()
	took := max(1, uint32(micros)-rec.Start*1000-uint32(rec.Fine))
	s := w.runtime.counts.nodes[rec.Node]
	now := uint32(micros / 1000)
	old := s.latency.Load() // two workers at once: one measurement is lost, among many
	s.latency.Store(uint64(now)<<32 | uint64(sched.Smooth(uint32(old), elapsed(uint32(old>>32), now), took, halfLife)))
}

// repeated counts a handshake as unanswered when the client sends its first packet again: seconds before the handshake's time
// is over.
func (w *worker) repeated(rec *flow.Record, ref flow.Ref, opens bool) {
	if opens && ref.Side() == flow.FromClient && rec.Packets(flow.FromClient) == 1 {
		w.node.connections[rec.Node].Unanswered++
	}
}

// settle ends being half open, if it is over. The timer moves out of the ticks in which Evict looks for those that still
// are, instead of firing there in vain.
func (w *worker) settle(rec *flow.Record, ref flow.Ref) {
	if rec.Settle() {
		w.settled(rec)
		w.table.Rearm(ref.Index(), w.now+uint64(w.cfg.timeouts(rec).of(rec)))
	}
}

func (w *worker) count(rec *flow.Record, side flow.Side, p *rewrite.Packet) {
	rec.Account(side, int(p.End-p.L3))
	w.countService(rec.VS, rec.Node, side, p)
}
