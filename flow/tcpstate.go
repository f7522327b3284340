package flow

// TCPState is where a TCP connection stands, judged from both directions.
type TCPState uint8

// The states. A connection over another protocol stays in TCPNone.
const (
	TCPNone        TCPState = iota
	TCPSynSent              // the client's SYN was forwarded
	TCPSynReceived          // the server answered with SYN-ACK, or with a SYN of its own
	TCPEstablished          // the client acknowledged it
	TCPFinWait              // one end has sent FIN
	TCPClosing              // both have
	TCPClosed               // both FINs are acknowledged, or a valid RST was seen
)

func (s TCPState) String() string {
	return [...]string{"-", "syn-sent", "syn-received", "established", "fin-wait", "closing", "closed"}[s]
}

// TCP header flags (RFC 9293 section 3.1).
const (
	FlagFIN = 1 << 0
	FlagSYN = 1 << 1
	FlagRST = 1 << 2
	FlagPSH = 1 << 3
	FlagACK = 1 << 4
)

// NoScale in Segment.Scale says that a SYN carried no window scale option.
const NoScale = 0xff

// Segment is what tracking needs of a TCP segment. Numbers in host byte order.
type Segment struct {
	Seq, Ack uint32
	Len      uint32 // payload bytes
	Window   uint16 // as in the header, unscaled
	Flags    uint8
	Scale    uint8 // window scale option of a SYN, at most 14 (RFC 7323 section 2.2), or NoScale
}

// end is the sequence number after the segment: SYN and FIN take one each.
func (s *Segment) end() uint32 {
	n := s.Seq + s.Len
	if s.Flags&FlagSYN != 0 {
		n++
	}
	if s.Flags&FlagFIN != 0 {
		n++
	}
	return n
}

// after reports whether sequence number a comes after b (RFC 9293 section 3.4, modulo 2^32).
func after(a, b uint32) bool { return int32(a-b) > 0 }

// Judgement is what a segment means for its connection.
type Judgement uint8

// The judgements.
const (
	// Outside changes nothing: not the state, not the timer. It is a segment out of the window, a RST that does not
	// match exactly, a SYN on an established connection, which is only noted. The ends deal with it themselves, with a
	// challenge ACK (RFC 5961) or by ignoring it, so it is still forwarded.
	Outside Judgement = iota
	// Inside belongs to the connection and keeps it alive.
	Inside
	// Changed is Inside and has moved the state.
	Changed
)

// Bits 24 to 47 of the state word keep the last SYN of the client that did not fit, until the server shows by its answer
// which connection it believes in.
const (
	synNoted  = 1 << 24
	synScaled = 1 << 25 // it carried a window scale
	synScale  = 26      // 4 bits: that scale
	synEnd    = 30      // 18 bits: the lower ones of the sequence number after it
	synNote   = synEnds<<synEnd | 0xf<<synScale | synScaled | synNoted
	synEnds   = 1<<18 - 1
)

const (
	maxScale = 14
	// slack is the largest segment, and some: one may overshoot the window, as receivers put up with that, and an end
	// may lag by that however small its window is, as it may have shrunk it.
	slack = 66000
	// synData is the most data taken for that of a SYN (RFC 7413), a jumbo frame.
	synData = 9000
)

// BeginTCP starts tracking with the client's SYN.
func (r *Record) BeginTCP(s *Segment) {
	r.Win[FromClient] = Window{End: s.end()}
	r.Win[FromServer] = Window{Ack: s.Seq} // it has acknowledged nothing, not even the SYN
	r.setScale(FromClient, s)
	r.setScale(FromServer, &Segment{Scale: NoScale})
	r.state = r.state&^(seenServer|finClient|finServer|ackedClient|ackedServer|synNote|tcpMask) | seenClient | uint64(TCPSynSent)<<tcpShift
}

// AdoptTCP starts tracking in the middle of a connection, with whatever segment came first. Window scales are not
// known, so the largest is assumed: little is judged to be outside until the connection ends.
func (r *Record) AdoptTCP(side Side, s *Segment) {
	side &= 1
	r.Scale = maxScale | maxScale<<4
	r.MaxWin = [2]uint16{0xffff, 0xffff}
	r.Win[side] = Window{End: s.end(), Ack: s.Ack}
	r.Win[side^1] = Window{End: s.Ack, Ack: s.Seq} // the best guess until the other end speaks
	r.state = r.state&^(seenServer|seenClient|finClient|finServer|ackedClient|ackedServer|synNote) | r.seen(side)
	r.setTCPState(TCPEstablished)
	r.TrackTCP(side, s)
}

// setScale notes the window of a SYN, which is not scaled itself, in the units of the windows that follow.
func (r *Record) setScale(side Side, s *Segment) {
	scale := s.Scale
	if scale == NoScale {
		scale = 0
	}
	scale = min(scale, maxScale)
	r.Scale = r.Scale&^(0xf<<(4*side)) | scale<<(4*side)
	r.MaxWin[side] = s.Window >> scale
	if s.Window&(1<<scale-1) != 0 {
		r.MaxWin[side]++
	}
}

// window is the largest window that side has announced, in bytes.
func (r *Record) window(side Side) uint32 {
	return uint32(r.MaxWin[side]) << (r.Scale >> (4 * side) & 0xf)
}

// TrackTCP judges a segment from side and follows it through the connection's states.
func (r *Record) TrackTCP(side Side, s *Segment) Judgement {
	side &= 1
	switch {
	case s.Flags&FlagRST != 0:
		return r.reset(side, s)
	case s.Flags&FlagSYN != 0:
		return r.syn(side, s)
	case s.Flags&FlagACK == 0 || !r.inWindow(side, s):
		return Outside
	case side == FromClient && r.TCPState() == TCPSynReceived:
		return r.establish(s)
	}
	r.see(side, s)
	return r.advance()
}

// establish takes over the client's acknowledgement of the server's SYN. The state comes first, as in answer: a record
// with this acknowledgement and the state before it would judge all that follows to be outside.
func (r *Record) establish(s *Segment) Judgement {
	r.setTCPState(TCPEstablished)
	r.see(FromClient, s)
	r.advance() // it may carry a FIN
	return Changed
}

// inWindow is the test of van Rooij (Real Stateful TCP Packet Filtering, 2001) with the largest windows ever
// announced in place of the present ones, which only widens it: data lies within the receiver's window or is a
// retransmission of what the receiver may have lost; the acknowledgement is of data that was sent (RFC 5961 section
// 5), and lags by a window at most. Lost segments that SACK tells of are within that lag, so SACK blocks need not be
// read.
func (r *Record) inWindow(side Side, s *Segment) bool {
	snd, rcv := &r.Win[side], &r.Win[side^1]
	ahead := uint32(0)
	switch state := r.TCPState(); {
	case state == TCPSynSent:
		return false // only a SYN answers a SYN; an ACK is the challenge of an old connection
	case state == TCPSynReceived && side == FromClient && !after(s.Ack, snd.Ack):
		return false // whoever got the server's SYN acknowledges it (RFC 9293 section 3.10.7.4)
	case r.state&(seenServer|seenClient) != seenServer|seenClient:
		ahead = 0xffff << maxScale // adopted, and one end has not spoken yet: what it has sent is not known
	}
	rw, sw := r.window(side^1), r.window(side)
	// The edge is two further on: a window probe brings a byte that there is no room for, and so does a FIN.
	return !after(s.Seq, rcv.Ack+rw+2) && !after(snd.End-rw-slack, s.end()) &&
		!after(s.Ack, rcv.End+ahead) && !after(rcv.End-sw-slack, s.Ack)
}

func (r *Record) seen(side Side) uint64 { return seenClient >> side } // seenServer is the bit below

// see takes over what a valid segment says of its end.
func (r *Record) see(side Side, s *Segment) {
	w, o := &r.Win[side], &r.Win[side^1]
	if r.state&r.seen(side) == 0 {
		r.state |= r.seen(side)
		w.Ack = s.Ack // it was a guess
	}
	if after(s.end(), w.End) {
		// An end sends nothing after its FIN: what was taken for one was not its own.
		w.End = s.end()
		r.state &^= (finClient | ackedClient) << side
	}
	if s.Flags&FlagFIN != 0 && w.End == s.end() {
		r.state |= finClient << side
	}
	if s.Flags&FlagACK != 0 {
		if after(s.Ack, w.Ack) {
			w.Ack = s.Ack
		}
		if after(s.Ack, o.End) {
			o.End = s.Ack // adopted: it had sent that before
		}
	}
	if s.Flags&FlagSYN == 0 {
		r.MaxWin[side] = max(r.MaxWin[side], s.Window)
	}
	// The FIN of an end is the last thing it sends.
	if other := side ^ 1; r.state&(finClient<<other) != 0 && !after(o.End, w.Ack) {
		r.state |= ackedClient << other
	}
}

// advance moves the state after a valid segment that is no RST.
func (r *Record) advance() Judgement {
	before := r.TCPState()
	state := before
	switch fins := r.state & (finClient | finServer); {
	case before == TCPClosed: // a late segment of it opens nothing
	case r.state&(ackedClient|ackedServer) == ackedClient|ackedServer:
		state = TCPClosed
	case fins == finClient|finServer:
		state = TCPClosing
	case fins != 0:
		state = TCPFinWait
	case before > TCPEstablished:
		state = TCPEstablished
	}
	return r.move(state)
}

// move sets the state and tells whether it is another.
func (r *Record) move(state TCPState) Judgement {
	if state == r.TCPState() {
		return Inside
	}
	r.setTCPState(state)
	return Changed
}

// syn judges a segment with SYN.
func (r *Record) syn(side Side, s *Segment) Judgement {
	ack := s.Flags&FlagACK != 0
	switch {
	case s.Flags&FlagFIN != 0:
		return Outside
	case side == FromServer:
		return r.synFromServer(s, ack)
	case ack:
		return r.synAckFromClient(s)
	}
	return r.synFromClient(s)
}

// synFromServer judges the server's answer, or, without ACK, its half of a simultaneous open (RFC 9293 section 3.5).
func (r *Record) synFromServer(s *Segment, ack bool) Judgement {
	client, server := &r.Win[FromClient], &r.Win[FromServer]
	state := r.TCPState()
	switch {
	case state == TCPSynSent && !ack, state == TCPSynSent && after(s.Ack, server.Ack) && !after(s.Ack, client.End):
		// A server that does not take the data of a SYN acknowledges the SYN alone (RFC 7413 section 3).
		return r.answer(s, ack, state)
	case state == TCPSynReceived && s.Seq == client.Ack || state >= TCPSynReceived && s.end() == server.End:
		if !ack {
			return Inside // sent again
		}
		if !after(s.Ack, client.End) && !after(client.End-r.window(FromServer)-slack, s.Ack) {
			// Sent again, or the second step of a simultaneous open.
			r.see(FromServer, s)
			return Inside
		}
	case state == TCPSynReceived && ack && (s.Ack == client.End || s.Ack == server.Ack):
		return r.answer(s, ack, state) // the server has forgotten its first answer
	}
	if ack && r.recall(s.Ack) {
		return r.answer(s, ack, state)
	}
	return Outside // of an older connection; the client resets it
}

// answer takes over the server's SYN. The state comes first: whoever adopts the record from a process that was killed
// half way through sees a server that answers again.
func (r *Record) answer(s *Segment, ack bool, before TCPState) Judgement {
	client, server := &r.Win[FromClient], &r.Win[FromServer]
	r.state = r.state&^(tcpMask) | seenServer | uint64(TCPSynReceived)<<tcpShift
	server.End, client.Ack = s.end(), s.Seq // the client has yet to acknowledge even the SYN
	if ack {
		server.Ack = s.Ack
	}
	// Scales hold only if both ends sent one (RFC 7323 section 2.2).
	r.setScale(FromServer, s)
	if s.Scale == NoScale {
		r.MaxWin[FromClient] = uint16(min(r.window(FromClient), 0xffff))
		r.Scale = 0
	}
	if before == TCPSynReceived {
		return Inside
	}
	return Changed
}

// synFromClient judges a SYN on an entry that Reusable did not give away. Anyone can send one, so it changes nothing
// (RFC 5961 section 4) but is noted. If the server still has the connection it answers with a challenge ACK; the
// client, if the SYN is its own, replies with the RST that closes, and sends the SYN again. If the server has
// forgotten the connection it answers with a SYN, and only that starts anew.
func (r *Record) synFromClient(s *Segment) Judgement {
	state := r.TCPState()
	if state <= TCPSynReceived && r.Win[FromClient].End-1-s.Seq <= synData {
		return Inside // sent again, perhaps without the data
	}
	r.state = r.state&^synNote | synNoted | uint64(s.end()&synEnds)<<synEnd
	if s.Scale != NoScale {
		r.state |= synScaled | uint64(min(s.Scale, maxScale))<<synScale
	}
	if state == TCPSynSent {
		return Inside // the client starts over
	}
	return Outside
}

// noted reports whether there is a noted SYN and ack acknowledges it.
func (r *Record) noted(ack uint32) bool {
	return r.state&synNoted != 0 && r.state>>synEnd&synEnds == uint64(ack&synEnds)
}

// recall begins with the noted SYN if ack acknowledges that.
func (r *Record) recall(ack uint32) bool {
	if !r.noted(ack) {
		return false
	}
	s := Segment{Seq: ack - 1, Window: 0xffff, Flags: FlagSYN, Scale: NoScale} // the window is not noted: the largest
	if r.state&synScaled != 0 {
		s.Scale = uint8(r.state >> synScale & 0xf)
	}
	r.BeginTCP(&s)
	return true
}

// synAckFromClient judges the client's second step of a simultaneous open.
func (r *Record) synAckFromClient(s *Segment) Judgement {
	client, server := &r.Win[FromClient], &r.Win[FromServer]
	state := r.TCPState()
	switch {
	case s.end() != client.End || state < TCPSynReceived:
	case state > TCPSynReceived && s.Ack == client.Ack:
		return Inside // sent again
	case state == TCPSynReceived && after(s.Ack, client.Ack) && !after(s.Ack, server.End):
		return r.establish(s)
	}
	return Outside
}

// reset judges a RST. It closes the connection only if its sequence number is exactly what the other end expects
// next (RFC 5961 section 3.2): the highest acknowledgement seen from there, or, when that is still on its way, the end
// of what was sent. Any other RST leaves the entry alone, so that the challenge ACK it provokes finds it.
func (r *Record) reset(side Side, s *Segment) Judgement {
	other, state := side^1, r.TCPState()
	switch {
	case state <= TCPSynReceived && side == FromServer && s.Flags&FlagACK != 0 && r.refuses(s.Ack):
	case r.state&r.seen(side) != 0 && s.Seq == r.Win[side].End:
	case r.state&r.seen(other) != 0 && s.Seq == r.Win[other].Ack && state != TCPSynSent:
	default:
		return Outside
	}
	return r.move(TCPClosed)
}

// refuses reports whether a RST with ack is a server's refusal of a SYN, whose sequence number is 0 (RFC 9293 section
// 3.10.7.1).
func (r *Record) refuses(ack uint32) bool {
	end := r.Win[FromClient].End
	if r.TCPState() == TCPSynSent {
		return r.noted(ack) || after(ack, r.Win[FromServer].Ack) && !after(ack, end)
	}
	return ack == end
}

// TrackClient follows a connection of which only the client's packets are seen (direct return).
func (r *Record) TrackClient(s *Segment) Judgement {
	w, state := &r.Win[FromClient], r.TCPState()
	switch {
	case s.Flags&FlagRST != 0:
		if s.Seq != w.End {
			return Outside
		}
		return r.move(TCPClosed)
	case s.Flags&FlagSYN != 0:
		if s.Flags&(FlagACK|FlagFIN) != 0 {
			return Outside
		}
		return r.synFromClient(s)
	case s.Flags&FlagACK == 0:
		return Outside
	case state == TCPSynSent:
		// The client has the server's answer, to its first SYN or to the noted one.
		if after(s.Seq, w.End+slack) || after(w.End-synData, s.Seq) {
			if !r.recall(s.Seq) {
				return Outside
			}
		}
		w.Ack = s.Ack
	case !r.inClientWindow(s):
		return Outside
	}
	r.see(FromClient, s)
	switch {
	case state == TCPClosed:
	case r.state&finClient != 0:
		return r.move(TCPFinWait)
	default:
		return r.move(TCPEstablished)
	}
	return Inside
}

const (
	// oneSidedGap is the largest window there is (RFC 7323 section 2.2): that of a server that is not seen.
	oneSidedGap = 1 << 30
	// oneSidedFIN is how much may be missing before a FIN. One that comes further ahead is not worth the risk that it
	// was guessed; the connection then ends by its timer.
	oneSidedFIN = 1 << 20
)

// inClientWindow judges by what the client says alone. The server's window is not known, but what it can have sent is:
// at most the client's own window beyond the last acknowledgement that passed here on its way there.
func (r *Record) inClientWindow(s *Segment) bool {
	w := &r.Win[FromClient]
	ahead, lag := uint32(oneSidedGap), r.window(FromClient)+slack
	if s.Flags&FlagFIN != 0 {
		ahead = oneSidedFIN
	}
	return !after(s.Seq, w.End+ahead) && !after(w.End-oneSidedGap, s.end()) &&
		!after(s.Ack, w.Ack+lag) && !after(w.Ack-lag, s.Ack)
}

// Reusable reports whether a new SYN from the client may start a new connection over this one, at once: both ends
// have closed, and its client would not use the tuple again if it still needed it. When one end has closed the other
// may go on for long, so there a SYN has to be confirmed as on an open connection (see synFromClient), except
// that the server's end cannot be seen.
func (r *Record) Reusable() bool {
	s := r.TCPState()
	return s == TCPClosed || s == TCPClosing || s == TCPFinWait && !r.Replied()
}

// MarkReplied notes an answer of the server on a connection that is not TCP.
func (r *Record) MarkReplied() { r.state |= seenServer }
