package flow

import "testing"

// The client's packets alone: its COOKIE ECHO shows the server's tag and that the association is up.
func TestSCTPClientScripts(t *testing.T) {
	type step struct {
		c     Chunks
		judge Judgement
		state SCTPState
	}
	open := []step{
		{initOf(0, tagC, ChunkInit), Inside, SCTPInitSent},
		{chunksOf(tagS, ChunkData), Outside, SCTPInitSent},
		{chunksOf(tagS, ChunkCookieEcho, ChunkData), Changed, SCTPEstablished},
		{chunksOf(tagS, ChunkCookieEcho, ChunkData), Inside, SCTPEstablished}, // again
	}
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"shutdown by the client", []step{
			{chunksOf(tagS, ChunkShutdown), Changed, SCTPShutdown},
			{chunksOf(tagS, chunkSack), Inside, SCTPShutdown},
			{chunksOf(tagS, ChunkShutdownComplete), Changed, SCTPClosed},
		}},
		{"shutdown by the server", []step{{chunksOf(tagS, ChunkShutdownAck), Changed, SCTPShutdownAck}}},
		{"shutdown complete out of place", []step{{chunksOf(tagS, ChunkShutdownComplete), Inside, SCTPEstablished}}},
		{"abort", []step{
			{chunksOf(wrongTag, ChunkAbort), Outside, SCTPEstablished},
			{reflected(wrongTag, ChunkAbort), Outside, SCTPEstablished},
			{chunksOf(tagS, ChunkAbort), Changed, SCTPClosed},
		}},
		{"abort of a client that has forgotten", []step{{reflected(tagC, ChunkAbort), Changed, SCTPClosed}}},
		{"guessed tags", []step{
			{chunksOf(wrongTag, ChunkData), Outside, SCTPEstablished},
			{chunksOf(wrongTag, ChunkShutdown), Outside, SCTPEstablished},
			{chunksOf(wrongTag, ChunkCookieEcho), Outside, SCTPEstablished},
			{chunksOf(0, ChunkCookieEcho), Outside, SCTPEstablished},
			{initOf(tagC, tagS, ChunkInitAck), Outside, SCTPEstablished},
			{Chunks{Tag: tagS}, Outside, SCTPEstablished},
		}},
		{"the client begins anew", []step{
			{initOf(0, tagC2, ChunkInit), Outside, SCTPEstablished},
			{chunksOf(tagS, ChunkData), Inside, SCTPEstablished}, // the INIT may be forged
			{chunksOf(tagS2, ChunkCookieEcho), Inside, SCTPEstablished},
			{chunksOf(tagS, ChunkData), Outside, SCTPEstablished},
			{chunksOf(tagS2, ChunkData), Inside, SCTPEstablished},
			{reflected(tagC2, ChunkAbort), Changed, SCTPClosed},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r Record
			first := initOf(0, tagC, ChunkInit)
			r.BeginSCTP(&first)
			r.SetKind(Routed, true)
			for i, s := range append(append([]step{}, open...), c.steps...) {
				if j := r.TrackSCTPClient(&s.c); j != s.judge || r.SCTPState() != s.state {
					t.Fatalf("step %d, %+v: judged %d, %v; want %d, %v", i, s.c, j, r.SCTPState(), s.judge, s.state)
				}
			}
		})
	}
}
