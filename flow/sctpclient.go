package flow

// TrackSCTPClient follows an association of which only the client's packets are seen (direct return). The server's tag,
// which all of them carry, shows in the client's COOKIE ECHO: it has seen the server's INIT ACK by then. The client's word
// has to be enough, so an association that is established begins anew with the COOKIE ECHO of another tag only if an
// INIT was seen before.
func (r *Record) TrackSCTPClient(c *Chunks) Judgement {
	client, server := &r.Win[FromClient], &r.Win[FromServer]
	switch {
	case c.has(ChunkInit):
		return r.init(FromClient, c)
	case c.has(ChunkInitAck), c.Types == 0:
		return Outside
	case c.has(ChunkAbort):
		if !r.ends(FromClient, c) {
			return Outside
		}
		return r.moveSCTP(SCTPClosed)
	case c.has(ChunkShutdownComplete):
		switch {
		case !r.ends(FromClient, c):
			return Outside
		case r.SCTPState() < SCTPShutdown:
			return Inside // discarded by its receiver (RFC 9260 section 8.5.1 C)
		}
		return r.moveSCTP(SCTPClosed)
	case c.has(ChunkCookieEcho) && c.Tag != 0 && c.Tag != server.End && (server.End == 0 || client.Ack != 0):
		if client.Ack != 0 { // which of its INITs was answered does not show; the last one is as good as any
			client.End = client.Ack
		}
		client.Ack, server.End, server.Ack = 0, c.Tag, 0
		return r.moveSCTP(SCTPEstablished)
	case server.End == 0 || c.Tag != server.End:
		return Outside
	}
	s := r.SCTPState()
	switch {
	case c.has(ChunkShutdownAck):
		s = max(s, SCTPShutdownAck)
	case c.has(ChunkShutdown):
		s = max(s, SCTPShutdown)
	}
	return r.moveSCTP(s)
}
