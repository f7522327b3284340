package flow

// SCTPState is where an SCTP association stands, judged from both directions (RFC 9260 section 4). Only the two addresses of
// the record are known: what multi-homed ends send over others has no entry.
//
// The states share their place in the record, and their numbers, with those of TCP that mean the same for a table:
// half open, established, one end is done, both are done, over. What only asks for that does not ask for the protocol.
type SCTPState uint8

// The states.
const (
	SCTPInitSent    = SCTPState(TCPSynSent)     // the client's INIT was forwarded
	SCTPCookie      = SCTPState(TCPSynReceived) // the server answered with INIT ACK
	SCTPEstablished = SCTPState(TCPEstablished) // the server has acknowledged the cookie
	SCTPShutdown    = SCTPState(TCPFinWait)     // one end has sent SHUTDOWN; the other may still have data to send
	SCTPShutdownAck = SCTPState(TCPClosing)     // the other has acknowledged that: nobody sends data any more
	SCTPClosed      = SCTPState(TCPClosed)      // a valid SHUTDOWN COMPLETE or ABORT was seen
)

func (s SCTPState) String() string {
	return [...]string{"-", "init-sent", "cookie", "established", "shutdown", "shutdown-ack", "closed"}[s]
}

// SCTP chunk types that tracking looks at (RFC 9260 section 3.2).
const (
	ChunkData             = 0
	ChunkInit             = 1
	ChunkInitAck          = 2
	ChunkAbort            = 6
	ChunkShutdown         = 7
	ChunkShutdownAck      = 8
	ChunkCookieEcho       = 10
	ChunkCookieAck        = 11
	ChunkShutdownComplete = 14
	// ChunkOther stands in Chunks for the types from 15 on.
	ChunkOther = 15
)

// Chunks is what tracking needs of an SCTP packet. Numbers in host byte order.
type Chunks struct {
	Tag       uint32 // verification tag
	InitTag   uint32 // initiate tag of an INIT or INIT ACK
	Types     uint16 // a bit per chunk type up to the first DATA; none if the chunks cannot be read
	Reflected bool   // the T bit of ABORT or SHUTDOWN COMPLETE
}

func (c *Chunks) has(chunk int) bool { return c.Types&(1<<chunk) != 0 }

// Opens reports whether the packet may open an association: an INIT that stands alone (RFC 9260 section 6.10), with no
// verification tag (8.5.1 A) and an initiate tag that is not 0 (3.3.2).
func (c *Chunks) Opens() bool { return c.Types == 1<<ChunkInit && c.Tag == 0 && c.InitTag != 0 }

// SCTPState is the state of an SCTP association.
func (r *Record) SCTPState() SCTPState { return SCTPState(r.TCPState()) }

func (r *Record) moveSCTP(s SCTPState) Judgement { return r.move(TCPState(s)) }

// The windows of TCP keep verification tags here. Win[side].End is the tag that side has chosen, so the one that
// packets to it carry; 0 is not known yet. Win[side].Ack is the tag it would have if the association began anew: those of
// a later INIT and of the answer to it, which count for nothing until cookies confirm them.

// BeginSCTP starts tracking with the client's INIT. The state is read by the protocol, which is known from here on.
func (r *Record) BeginSCTP(c *Chunks) {
	r.Win = [2]Window{FromClient: {End: c.InitTag}}
	r.state = r.state&^(seenServer|tcpMask|0xff<<protoShift) | seenClient | uint64(SCTPInitSent)<<tcpShift | SCTP<<protoShift
}

// TrackSCTP judges a packet from side and follows it through the association's states. Outside is a packet with a wrong
// verification tag, which its receiver discards too (RFC 9260 section 8.5), so it changes nothing.
func (r *Record) TrackSCTP(side Side, c *Chunks) Judgement {
	side &= 1
	switch {
	case c.has(ChunkInit):
		return r.init(side, c)
	case c.has(ChunkInitAck):
		return r.initAck(side, c)
	case c.has(ChunkAbort):
		if !r.ends(side, c) {
			return Outside
		}
		return r.moveSCTP(SCTPClosed)
	case c.has(ChunkShutdownComplete):
		switch {
		case !r.ends(side, c):
			return Outside
		case r.SCTPState() < SCTPShutdown:
			return Inside // discarded by its receiver (section 8.5.1 C)
		}
		return r.moveSCTP(SCTPClosed)
	case c.Types == 0:
		return Outside
	}
	if c.has(ChunkCookieEcho) || c.has(ChunkCookieAck) {
		r.confirm(side, c)
	}
	if to := r.Win[side^1].End; to == 0 || c.Tag != to {
		return Outside
	}
	r.state |= r.seen(side)
	return r.moveSCTP(r.next(side, c))
}

// ends is the rule for ABORT and SHUTDOWN COMPLETE (RFC 9260 section 8.5.1 B and C): the receiver's tag, or, from an end
// that has no association, the one of the packet that it answers, which is its own.
func (r *Record) ends(side Side, c *Chunks) bool {
	tag := r.Win[side^1].End
	if c.Reflected {
		tag = r.Win[side].End
	}
	return tag != 0 && c.Tag == tag
}

// next is the state after a packet with the right tag.
func (r *Record) next(side Side, c *Chunks) SCTPState {
	s := r.SCTPState()
	switch {
	case s < SCTPEstablished && side == FromServer && c.has(ChunkCookieAck) && r.Win[FromServer].End != 0:
		return SCTPEstablished
	case s < SCTPEstablished:
	case c.has(ChunkShutdownAck):
		return max(s, SCTPShutdownAck)
	case c.has(ChunkShutdown):
		return max(s, SCTPShutdown)
	}
	return s
}

// init judges an INIT. Anyone can send one, so on a known association it is at most noted. An INIT of the server's is for
// a collision (RFC 9260 section 5.2.1), in which the client's own goes its usual way as well.
func (r *Record) init(side Side, c *Chunks) Judgement {
	switch {
	case side == FromServer || !c.Opens():
		return Outside
	case c.InitTag == r.Win[FromClient].End:
		if r.SCTPState() <= SCTPCookie {
			return Inside // sent again
		}
	case c.InitTag != r.Win[FromClient].Ack:
		r.Win[FromClient].Ack, r.Win[FromServer].Ack = c.InitTag, 0
	}
	return Outside
}

// initAck judges the answer to an INIT. A server keeps nothing of an INIT and answers the next with another tag (RFC 9260
// section 5.1.3); the client takes one of the answers, and shows in its COOKIE ECHO which.
func (r *Record) initAck(side Side, c *Chunks) Judgement {
	client, server := &r.Win[FromClient], &r.Win[FromServer]
	if side == FromClient || c.Types != 1<<ChunkInitAck || c.Tag == 0 || c.InitTag == 0 {
		return Outside
	}
	state := r.SCTPState()
	switch {
	case state == SCTPInitSent && (c.Tag == client.End || c.Tag == client.Ack):
		// Should the process be killed before the state is stored, next goes by the server's tag.
		*client, *server = Window{End: c.Tag}, Window{End: c.InitTag}
		r.state |= seenServer
		return r.moveSCTP(SCTPCookie)
	case state == SCTPCookie && c.Tag == client.End:
		if c.InitTag != server.End {
			client.Ack, server.Ack = c.Tag, c.InitTag
		}
		return Inside
	case c.Tag == client.Ack:
		server.Ack = c.InitTag
	}
	return Outside
}

// confirm takes over the noted tags when cookies show that they are in use. While the association is half open the
// client's word is enough, as it has seen the server's answer; on one that is established only the server's is, as
// it alone can tell a forged cookie (RFC 9260 section 5.2.4).
func (r *Record) confirm(side Side, c *Chunks) {
	client, server := &r.Win[FromClient], &r.Win[FromServer]
	if client.Ack == 0 || server.Ack == 0 {
		return
	}
	switch half := r.SCTPState() < SCTPEstablished; {
	case side == FromClient && half && c.has(ChunkCookieEcho) && c.Tag == server.Ack:
		*client, *server = Window{End: client.Ack}, Window{End: server.Ack}
	case side == FromServer && !half && c.has(ChunkCookieAck) && c.Tag == client.Ack && c.Tag != client.End:
		*client, *server = Window{End: client.Ack}, Window{End: server.Ack}
		r.setTCPState(TCPState(SCTPEstablished)) // the client restarted
	}
}
