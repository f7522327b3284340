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
	// match exactly, a SYN on an established connection. The ends deal with it themselves, with a challenge ACK
	// (RFC 5961) or by ignoring it, so it is still forwarded.
	Outside Judgement = iota
	// Inside belongs to the connection and keeps it alive.
	Inside
	// Changed is Inside and has moved the state.
	Changed
)

// BeginTCP starts tracking with the client's SYN.
func (r *Record) BeginTCP(s *Segment) {
	r.Win[FromClient] = Window{End: s.end()}
	r.Win[FromServer] = Window{}
	r.setScale(FromClient, s)
	r.setScale(FromServer, &Segment{Scale: NoScale})
	r.state = r.state&^(seenServer|finClient|finServer|ackedClient|ackedServer) | seenClient
	r.setTCPState(TCPSynSent)
}

// AdoptTCP starts tracking in the middle of a connection, with whatever segment came first. Window scales are not
// known, so the largest is assumed: little is judged to be outside until the connection ends.
func (r *Record) AdoptTCP(side Side, s *Segment) {
	r.Scale = maxScale | maxScale<<4
	r.MaxWin = [2]uint16{0xffff, 0xffff}
	r.setTCPState(TCPEstablished)
	r.TrackTCP(side, s)
}

const maxScale = 14

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
	}
	r.see(side, s)
	if s.Flags&FlagFIN != 0 && r.Win[side].End == s.end() {
		r.state |= finClient << side
	}
	return r.advance(side, s)
}

// ackSlack is how far behind an acknowledgement may lag however small the window: the sender may have shrunk it.
const ackSlack = 66000

// inWindow is the test of van Rooij (Real Stateful TCP Packet Filtering, 2001) with the largest windows ever
// announced in place of the present ones, which only widens it: data lies within the receiver's window or is a
// retransmission of what the receiver may have lost; the acknowledgement is of data that was sent, and lags by a
// window at most. Lost segments that SACK tells of are within that lag, so SACK blocks need not be read.
func (r *Record) inWindow(side Side, s *Segment) bool {
	other := side ^ 1
	snd, rcv := &r.Win[side], &r.Win[other]
	if r.TCPState() == TCPSynSent {
		// Only a SYN answers a SYN; an ACK is the challenge of an old connection.
		return side == FromClient && s.end() == snd.End
	}
	if r.state&(seenServer|seenClient) != seenServer|seenClient {
		return true // adopted, and one end has not spoken yet
	}
	rw, sw := max(r.window(other), 1), max(r.window(side), ackSlack)
	return !after(s.Seq, rcv.Ack+rw) && !after(snd.End-rw-1, s.end()) &&
		!after(s.Ack, rcv.End) && !after(rcv.End-sw, s.Ack)
}

func (r *Record) seen(side Side) uint64 { return seenClient >> side } // seenServer is the bit below

// see takes over what a valid segment says of its end.
func (r *Record) see(side Side, s *Segment) {
	w := &r.Win[side]
	if r.state&r.seen(side) == 0 {
		r.state |= r.seen(side)
		*w = Window{End: s.end(), Ack: s.Ack}
		if o := &r.Win[side^1]; r.state&r.seen(side^1) == 0 {
			o.End, o.Ack = s.Ack, s.end() // the best guess until the other end speaks
		}
	}
	if after(s.end(), w.End) {
		w.End = s.end()
	}
	if s.Flags&FlagACK != 0 && after(s.Ack, w.Ack) {
		w.Ack = s.Ack
	}
	r.MaxWin[side] = max(r.MaxWin[side], s.Window)
	// The FIN of an end is the last thing it sends.
	if other := side ^ 1; r.state&(finClient<<other) != 0 && !after(r.Win[other].End, w.Ack) {
		r.state |= ackedClient << other
	}
}

// advance moves the state after a valid segment without SYN or RST.
func (r *Record) advance(side Side, s *Segment) Judgement {
	before := r.TCPState()
	state := before
	switch {
	case r.state&(ackedClient|ackedServer) == ackedClient|ackedServer:
		state = TCPClosed
	case r.state&(finClient|finServer) == finClient|finServer:
		state = TCPClosing
	case r.state&(finClient|finServer) != 0:
		state = TCPFinWait
	case state == TCPSynReceived && side == FromClient && !after(r.Win[FromServer].End, s.Ack):
		state = TCPEstablished
	}
	if state == before {
		return Inside
	}
	r.setTCPState(state)
	return Changed
}

// syn judges a segment with SYN.
func (r *Record) syn(side Side, s *Segment) Judgement {
	if s.Flags&FlagFIN != 0 {
		return Outside
	}
	if side == FromClient {
		return r.synFromClient(s)
	}
	client, server := &r.Win[FromClient], &r.Win[FromServer]
	ack := s.Flags&FlagACK != 0
	switch state := r.TCPState(); {
	case ack && s.Ack != client.End && state < TCPEstablished:
		return Outside // it answers an older SYN; the client resets it
	case state == TCPSynSent || state == TCPSynReceived && server.End != s.end():
		// The answer, or, after the server has forgotten its first one, another with a new number; or, without ACK,
		// a simultaneous open (RFC 9293 section 3.5).
		*server = Window{End: s.end(), Ack: client.End - 1}
		if ack {
			server.Ack = s.Ack
		}
		r.negotiate(s)
		r.state |= seenServer
		r.setTCPState(TCPSynReceived)
		return Changed
	case state == TCPSynReceived:
		return Inside // sent again
	}
	return Outside // sent again late: the client acknowledges it once more, and that counts
}

// negotiate settles the window scales with the server's SYN: they hold only if both ends sent one (RFC 7323 section 2.2).
func (r *Record) negotiate(s *Segment) {
	r.setScale(FromServer, s)
	if s.Scale != NoScale {
		return
	}
	r.MaxWin[FromClient] = uint16(min(r.window(FromClient), 0xffff))
	r.Scale = 0
}

// synFromClient judges a SYN on an entry that Reusable did not give away.
func (r *Record) synFromClient(s *Segment) Judgement {
	switch state := r.TCPState(); {
	case s.Flags&FlagACK != 0:
		// The client's half of a simultaneous open.
		if state != TCPSynReceived || s.Ack != r.Win[FromServer].End || s.end() != r.Win[FromClient].End {
			return Outside
		}
		r.Win[FromClient].Ack = s.Ack
		r.setTCPState(TCPEstablished)
		return Changed
	case state == TCPSynSent:
		if s.end() != r.Win[FromClient].End {
			r.BeginTCP(s) // the client starts over; the server sorts it out
		}
		return Inside
	case state == TCPSynReceived && s.end() == r.Win[FromClient].End:
		return Inside // sent again
	}
	return Outside
}

// reset judges a RST. It closes the connection only if its sequence number is exactly what the other end expects
// next (RFC 5961 section 3.2): the highest acknowledgement seen from there, or, when that is still on its way, the end
// of what was sent. Any other RST leaves the entry alone, so that the challenge ACK it provokes finds it.
func (r *Record) reset(side Side, s *Segment) Judgement {
	other := side ^ 1
	switch {
	case r.TCPState() == TCPSynSent && side == FromServer:
		if s.Flags&FlagACK == 0 || s.Ack != r.Win[FromClient].End {
			return Outside
		}
	case r.state&r.seen(side) != 0 && s.Seq == r.Win[side].End:
	case r.state&r.seen(other) != 0 && s.Seq == r.Win[other].Ack && r.TCPState() != TCPSynSent:
	default:
		return Outside
	}
	if r.TCPState() == TCPClosed {
		return Inside
	}
	r.setTCPState(TCPClosed)
	return Changed
}

// TrackClient follows a connection of which only the client's packets are seen (direct return). Without the server's
// acknowledgements only what contradicts the client's own past can be judged.
func (r *Record) TrackClient(s *Segment) Judgement {
	w, state := &r.Win[FromClient], r.TCPState()
	next := state
	switch {
	case s.Flags&FlagRST != 0:
		if s.Seq != w.End {
			return Outside
		}
		next = TCPClosed
	case s.Flags&FlagSYN != 0:
		if state != TCPSynSent {
			return Outside
		}
		r.BeginTCP(s)
		return Inside
	case s.Flags&FlagACK == 0 || after(s.Seq, w.End+oneSidedGap) || after(w.End-oneSidedGap, s.end()):
		return Outside
	default:
		r.see(FromClient, s)
		if s.Flags&FlagFIN != 0 {
			r.state |= finClient
		}
		switch {
		case r.state&finClient != 0:
			next = TCPFinWait
		case state == TCPSynSent:
			next = TCPEstablished
		}
	}
	if next == state {
		return Inside
	}
	r.setTCPState(next)
	return Changed
}

// oneSidedGap is the largest window there is (RFC 7323 section 2.2).
const oneSidedGap = 1 << 30

// Reusable reports whether a new SYN from the client may start a new connection over this one, at once: the old one
// is closing, and its client would not use the tuple again if it still needed it.
func (r *Record) Reusable() bool {
	s := r.TCPState()
	return s == TCPClosed || s == TCPClosing || s == TCPFinWait
}

// MarkReplied notes an answer of the server on a connection that is not TCP.
func (r *Record) MarkReplied() { r.state |= seenServer }
