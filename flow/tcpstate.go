package flow

// TCPState is where a TCP connection stands, judged from both directions.
type TCPState uint8

// The states. A connection over another protocol stays in TCPNone.
const (
	TCPNone        TCPState = iota
	TCPSynSent              // the client's SYN was forwarded
	TCPSynReceived          // the server answered with SYN-ACK
	TCPEstablished          // the client acknowledged it
	TCPFinWait              // one end has sent FIN
	TCPClosing              // both have
	TCPClosed               // both FINs are acknowledged, or a RST was seen
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

// Segment is what tracking needs of a TCP segment. Numbers in host byte order.
type Segment struct {
	Seq, Ack uint32
	Len      uint32 // payload bytes
	Window   uint16 // as in the header, unscaled
	Flags    uint8
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

// BeginTCP starts tracking with the client's SYN.
func (r *Record) BeginTCP(s *Segment) {
	r.Win[FromClient] = Window{End: s.end(), MaxEnd: s.end()}
	r.MaxWin[FromClient] = s.Window
	r.setTCPState(TCPSynSent)
}

// TrackTCP follows a segment from side through the connection's states. It reports whether the state changed.
func (r *Record) TrackTCP(side Side, s *Segment) bool {
	before := r.TCPState()
	r.track(side, s)
	return r.TCPState() != before
}

func (r *Record) track(side Side, s *Segment) {
	side &= 1
	w := &r.Win[side]
	end := s.end()
	first := side == FromServer && !r.Replied()
	if first || after(end, w.End) {
		w.End = end
	}
	if s.Window > r.MaxWin[side] {
		r.MaxWin[side] = s.Window
	}
	if side == FromServer {
		r.state |= repliedBit
	}
	if s.Flags&FlagRST != 0 {
		r.setTCPState(TCPClosed)
		return
	}
	if s.Flags&FlagACK != 0 {
		r.acknowledge(side, s.Ack)
	}
	if s.Flags&FlagFIN != 0 {
		r.state |= finClient << side
	}
	r.advance(side, s)
}

// acknowledge notes that the FIN of the other end, which is the last thing that it sends, was acknowledged.
func (r *Record) acknowledge(side Side, ack uint32) {
	other := side ^ 1
	if r.state&(finClient<<other) != 0 && !after(r.Win[other].End, ack) {
		r.state |= ackedClient << other
	}
}

func (r *Record) advance(side Side, s *Segment) {
	state := r.TCPState()
	switch {
	case r.state&(ackedClient|ackedServer) == ackedClient|ackedServer:
		state = TCPClosed
	case r.state&(finClient|finServer) == finClient|finServer:
		state = TCPClosing
	case r.state&(finClient|finServer) != 0:
		state = TCPFinWait
	case state == TCPSynSent && side == FromServer && s.Flags&FlagSYN != 0:
		state = TCPSynReceived
	case state == TCPSynReceived && side == FromClient && s.Flags&(FlagACK|FlagSYN) == FlagACK:
		state = TCPEstablished
	}
	if state != r.TCPState() {
		r.setTCPState(state)
	}
}

// Reusable reports whether a new SYN from the client may start a new connection over this one.
func (r *Record) Reusable() bool {
	s := r.TCPState()
	return s == TCPClosed || s == TCPClosing || s == TCPFinWait
}

// MarkReplied notes an answer of the server on a connection that is not TCP.
func (r *Record) MarkReplied() { r.state |= repliedBit }
