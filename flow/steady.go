package flow

// TrackSteady is TrackTCP for what nearly all segments are: acknowledgements, with data or without, inside the windows of an
// established connection both of whose ends have spoken. It reports whether the segment is one, and then its judgement is
// Inside; if not nothing has changed, and TrackTCP is to judge it.
func (r *Record) TrackSteady(side Side, s *Segment) bool {
	if r.state&SteadyBits != SteadyIs || s.Flags&SteadyFlags != FlagACK {
		return false
	}
	side &= 1
	snd, rcv := &r.Win[side], &r.Win[side^1]
	rw, sw, end := r.window(side^1), r.window(side), s.Seq+s.Len
	// The four tests of inWindow. An acknowledgement that lags is one compare without a sign; the signs of the others are looked at
	// together: a number that is half of all ahead is judged by TrackTCP.
	if rcv.End-s.Ack > sw+slack || int32((rcv.Ack+rw+2-s.Seq)|(end-(snd.End-rw-slack))) < 0 {
		return false
	}
	if after(end, snd.End) {
		snd.End = end
	}
	if after(s.Ack, snd.Ack) {
		snd.Ack = s.Ack
	}
	if s.Window > r.MaxWin[side] {
		r.MaxWin[side] = s.Window
	}
	return true
}
