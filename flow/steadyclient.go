package flow

// TrackClientSteady is to TrackClient what TrackSteady is to TrackTCP: it reports whether a segment is an acknowledgement, with
// data or without, of an established connection without a FIN, inside what inClientWindow allows. Its judgement is Inside then;
// if not nothing has changed, and TrackClient is to judge it.
func (r *Record) TrackClientSteady(s *Segment) bool {
	if r.state&SteadyClientBits != SteadyClientIs || s.Flags&(FlagSYN|FlagFIN|FlagRST|FlagACK) != FlagACK {
		return false
	}
	w, o := &r.Win[FromClient], &r.Win[FromServer]
	lag, end := r.window(FromClient)+slack, s.Seq+s.Len
	// The four tests together, by their signs, as in TrackSteady.
	if int32((w.End+oneSidedGap-s.Seq)|(end-(w.End-oneSidedGap))|(w.Ack+lag-s.Ack)|(s.Ack-(w.Ack-lag))) < 0 {
		return false
	}
	if after(end, w.End) {
		w.End = end
	}
	if after(s.Ack, w.Ack) {
		w.Ack = s.Ack
	}
	if after(s.Ack, o.End) {
		o.End = s.Ack
	}
	if s.Window > r.MaxWin[FromClient] {
		r.MaxWin[FromClient] = s.Window
	}
	return true
}

// SteadyFromClient reports whether a TCP segment or a datagram from the client is one of those that change nothing about how its
// connection stands, and follows it; if not nothing has changed.
func (r *Record) SteadyFromClient(proto uint8, s *Segment) bool {
	if r.OneSided() {
		if proto == TCP {
			return r.TrackClientSteady(s)
		}
		return !r.HalfOpen()
	}
	return proto != TCP || r.TrackSteady(FromClient, s)
}

// SteadyFromServer is SteadyFromClient for what the server sends on a connection whose answers do not bypass us.
func (r *Record) SteadyFromServer(proto uint8, s *Segment) bool {
	if proto == TCP {
		return r.TrackSteady(FromServer, s)
	}
	return r.Answered()
}
