package flow

import "testing"

// The tags of the tables: the client's and the server's, those of a restart, and one that nobody has.
const (
	tagC, tagS   = 0xc0000001, 0x50000001
	tagC2, tagS2 = 0xc0000002, 0x50000002
	wrongTag     = 0xbad
)

func chunksOf(tag uint32, kinds ...int) Chunks {
	c := Chunks{Tag: tag}
	for _, k := range kinds {
		c.Types |= 1 << k
	}
	return c
}

func initOf(tag, initTag uint32, kind int) Chunks {
	c := chunksOf(tag, kind)
	c.InitTag = initTag
	return c
}

func reflected(tag uint32, kind int) Chunks {
	c := chunksOf(tag, kind)
	c.Reflected = true
	return c
}

// sctpStep is a packet, and what is to be of it.
type sctpStep struct {
	side  Side
	c     Chunks
	judge Judgement
	state SCTPState
}

const (
	client, server = FromClient, FromServer
	chunkSack      = 3
)

// sctpOpen is the way to an established association.
var sctpOpen = []sctpStep{
	{server, initOf(tagC, tagS, ChunkInitAck), Changed, SCTPCookie},
	{client, chunksOf(tagS, ChunkCookieEcho, ChunkData), Inside, SCTPCookie},
	{server, chunksOf(tagC, ChunkCookieAck), Changed, SCTPEstablished},
}

func TestSCTPScripts(t *testing.T) {
	for _, c := range []struct {
		name  string
		open  int // steps of sctpOpen before
		steps []sctpStep
	}{
		{"shutdown by the client", 3, []sctpStep{
			{client, chunksOf(tagS, ChunkData), Inside, SCTPEstablished},
			{server, chunksOf(tagC, chunkSack), Inside, SCTPEstablished},
			{client, chunksOf(tagS, ChunkShutdown), Changed, SCTPShutdown},
			{server, chunksOf(tagC, ChunkData), Inside, SCTPShutdown},
			{client, chunksOf(tagS, chunkSack, ChunkShutdown), Inside, SCTPShutdown},
			{server, chunksOf(tagC, ChunkShutdownAck), Changed, SCTPShutdownAck},
			{client, chunksOf(tagS, ChunkShutdown), Inside, SCTPShutdownAck},
			{client, chunksOf(tagS, ChunkShutdownComplete), Changed, SCTPClosed},
			{server, chunksOf(tagC, ChunkShutdownAck), Inside, SCTPClosed},
			{client, reflected(tagC, ChunkShutdownComplete), Inside, SCTPClosed},
		}},
		{"shutdown by both at once", 3, []sctpStep{
			{client, chunksOf(tagS, ChunkShutdown), Changed, SCTPShutdown},
			{server, chunksOf(tagC, ChunkShutdown), Inside, SCTPShutdown},
			{client, chunksOf(tagS, ChunkShutdownAck), Changed, SCTPShutdownAck},
			{server, chunksOf(tagC, ChunkShutdownAck), Inside, SCTPShutdownAck},
			{client, chunksOf(tagS, ChunkShutdownComplete), Changed, SCTPClosed},
		}},
		{"shutdown complete before any shutdown", 3, []sctpStep{
			{server, chunksOf(tagC, ChunkShutdownComplete), Inside, SCTPEstablished},
		}},
		{"wrong tags change nothing", 3, []sctpStep{
			{client, chunksOf(wrongTag, ChunkAbort), Outside, SCTPEstablished},
			{server, chunksOf(wrongTag, ChunkAbort), Outside, SCTPEstablished},
			{client, chunksOf(tagC, ChunkAbort), Outside, SCTPEstablished}, // its own, without T
			{client, reflected(tagS, ChunkAbort), Outside, SCTPEstablished},
			{server, reflected(tagC, ChunkAbort), Outside, SCTPEstablished},
			{client, chunksOf(0, ChunkAbort), Outside, SCTPEstablished},
			{client, chunksOf(wrongTag, ChunkShutdown), Outside, SCTPEstablished},
			{client, chunksOf(wrongTag, ChunkData), Outside, SCTPEstablished},
			{client, chunksOf(tagS), Outside, SCTPEstablished}, // chunks that cannot be read
			{client, chunksOf(tagS, ChunkShutdown), Changed, SCTPShutdown},
			{server, chunksOf(wrongTag, ChunkShutdownComplete), Outside, SCTPShutdown},
			{server, reflected(tagC, ChunkShutdownComplete), Outside, SCTPShutdown},
		}},
		{"abort by the client", 3, []sctpStep{{client, chunksOf(tagS, ChunkAbort), Changed, SCTPClosed}}},
		{"abort by the server, behind an error", 3, []sctpStep{{server, chunksOf(tagC, 9, ChunkAbort), Changed, SCTPClosed}}},
		{"abort by a server that has forgotten", 3, []sctpStep{{server, reflected(tagS, ChunkAbort), Changed, SCTPClosed}}},
		{"abort by a client that has forgotten", 3, []sctpStep{{client, reflected(tagC, ChunkAbort), Changed, SCTPClosed}}},
		{"the server refuses", 0, []sctpStep{
			{server, chunksOf(wrongTag, ChunkAbort), Outside, SCTPInitSent},
			{server, chunksOf(tagC, ChunkAbort), Changed, SCTPClosed},
		}},
		{"nothing is known of the server yet", 0, []sctpStep{
			{client, chunksOf(0, ChunkAbort), Outside, SCTPInitSent},
			{client, chunksOf(0, ChunkData), Outside, SCTPInitSent},
			{client, chunksOf(tagS, ChunkCookieEcho), Outside, SCTPInitSent},
			{server, chunksOf(tagC, ChunkCookieAck), Inside, SCTPInitSent},
			{server, initOf(wrongTag, tagS, ChunkInitAck), Outside, SCTPInitSent},
			{server, initOf(tagC, 0, ChunkInitAck), Outside, SCTPInitSent},
			{client, initOf(tagC, tagS, ChunkInitAck), Outside, SCTPInitSent},
			{server, initOf(0, tagS, ChunkInit), Outside, SCTPInitSent},
		}},
		{"everything sent again", 0, []sctpStep{
			{client, initOf(0, tagC, ChunkInit), Inside, SCTPInitSent},
			sctpOpen[0],
			{server, initOf(tagC, tagS, ChunkInitAck), Inside, SCTPCookie},
			{client, initOf(0, tagC, ChunkInit), Inside, SCTPCookie},
			sctpOpen[1], sctpOpen[1], sctpOpen[2],
			{client, chunksOf(tagS, ChunkCookieEcho), Inside, SCTPEstablished},
			{server, chunksOf(tagC, ChunkCookieAck), Inside, SCTPEstablished},
			{client, initOf(0, tagC, ChunkInit), Outside, SCTPEstablished},
			{server, initOf(tagC, tagS2, ChunkInitAck), Outside, SCTPEstablished},
			{client, chunksOf(tagS, ChunkData), Inside, SCTPEstablished},
		}},
		{"two answers, the client takes the second", 1, []sctpStep{
			{server, initOf(tagC, tagS2, ChunkInitAck), Inside, SCTPCookie},
			{client, chunksOf(tagS2, ChunkCookieEcho), Inside, SCTPCookie},
			{server, chunksOf(tagC, ChunkCookieAck), Changed, SCTPEstablished},
			{client, chunksOf(tagS, ChunkData), Outside, SCTPEstablished},
			{client, chunksOf(tagS2, ChunkData), Inside, SCTPEstablished},
		}},
		{"two answers, the client takes the first", 1, []sctpStep{
			{server, initOf(tagC, tagS2, ChunkInitAck), Inside, SCTPCookie},
			sctpOpen[1], sctpOpen[2],
			{client, chunksOf(tagS2, ChunkData), Outside, SCTPEstablished},
			{client, chunksOf(tagS, ChunkData), Inside, SCTPEstablished},
			{server, chunksOf(tagC, ChunkCookieAck), Inside, SCTPEstablished},
			{client, chunksOf(tagS, ChunkData), Inside, SCTPEstablished},
		}},
		{"the client starts over before the answer", 0, []sctpStep{
			{client, initOf(0, tagC2, ChunkInit), Outside, SCTPInitSent},
			{server, initOf(tagC2, tagS2, ChunkInitAck), Changed, SCTPCookie},
			{client, chunksOf(tagS2, ChunkCookieEcho), Inside, SCTPCookie},
			{server, chunksOf(tagC2, ChunkCookieAck), Changed, SCTPEstablished},
		}},
		{"the client starts over after the answer", 1, []sctpStep{
			{client, initOf(0, tagC2, ChunkInit), Outside, SCTPCookie},
			{server, initOf(tagC2, tagS2, ChunkInitAck), Outside, SCTPCookie},
			{client, chunksOf(tagS2, ChunkCookieEcho), Inside, SCTPCookie},
			{server, chunksOf(tagC2, ChunkCookieAck), Changed, SCTPEstablished},
		}},
		{"an established client restarts", 3, []sctpStep{
			{client, initOf(0, tagC2, ChunkInit), Outside, SCTPEstablished},
			{server, initOf(tagC2, tagS2, ChunkInitAck), Outside, SCTPEstablished},
			{client, chunksOf(tagS2, ChunkCookieEcho), Outside, SCTPEstablished},
			{server, chunksOf(tagC2, ChunkCookieAck), Inside, SCTPEstablished},
			{client, chunksOf(tagS2, ChunkData), Inside, SCTPEstablished},
			{client, chunksOf(tagS, ChunkAbort), Outside, SCTPEstablished},
			{server, chunksOf(tagC2, ChunkAbort), Changed, SCTPClosed},
		}},
		{"a forged restart", 3, []sctpStep{
			{client, initOf(0, tagC2, ChunkInit), Outside, SCTPEstablished},
			{client, chunksOf(wrongTag, ChunkCookieEcho), Outside, SCTPEstablished},
			{server, chunksOf(tagC2, ChunkCookieAck), Outside, SCTPEstablished}, // the INIT was never answered
			{server, initOf(tagC2, tagS2, ChunkInitAck), Outside, SCTPEstablished},
			{client, chunksOf(tagS2, ChunkCookieEcho), Outside, SCTPEstablished},
			{server, chunksOf(tagC2, ChunkAbort), Outside, SCTPEstablished},
			{client, chunksOf(tagS, ChunkData), Inside, SCTPEstablished},
			{server, chunksOf(tagC, ChunkData), Inside, SCTPEstablished},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r Record
			first := initOf(0, tagC, ChunkInit)
			r.BeginSCTP(&first)
			for i, s := range append(sctpOpen[:c.open:c.open], c.steps...) {
				before := r
				j := r.TrackSCTP(s.side, &s.c)
				if j != s.judge || r.SCTPState() != s.state {
					t.Fatalf("step %d %+v: judged %d in state %v, want %d in %v", i-c.open, s.c, j, r.SCTPState(), s.judge, s.state)
				}
				if j == Outside && (r.state != before.state || r.Win[client].End != before.Win[client].End || r.Win[server].End != before.Win[server].End) {
					t.Fatalf("step %d %+v is outside and has changed something", i-c.open, s.c)
				}
			}
		})
	}
}

// TestSCTPInTable: an association is half open until its cookie is acknowledged, reusable when no end sends data any more,
// and sound throughout.
func TestSCTPInTable(t *testing.T) {
	tab := newTable(t, 16, []Addr{{}})
	rec := Record{Client: AddrFrom4(0x0a000001), Virtual: AddrFrom4(0x0a0a0164), CPort: 4000, VPort: 2905, SPort: 4000, NPort: 2905}
	first := initOf(0, tagC, ChunkInit)
	rec.BeginSCTP(&first)
	ref, res := tab.Insert(&rec, SCTP, 1, 2)
	if res != Inserted {
		t.Fatal(res)
	}
	r := tab.Record(ref.Index())
	steps := append(sctpOpen[:3:3],
		sctpStep{client, chunksOf(tagS, ChunkShutdown), Changed, SCTPShutdown},
		sctpStep{server, chunksOf(tagC, ChunkShutdownAck), Changed, SCTPShutdownAck},
		sctpStep{client, chunksOf(tagS, ChunkShutdownComplete), Changed, SCTPClosed})
	for i := 0; ; i++ {
		s := r.SCTPState()
		if live, sound := r.Sound(1); !live || !sound {
			t.Errorf("%v: live %v, sound %v", s, live, sound)
		}
		settled := r.Settle()
		if settled != (s == SCTPEstablished) || r.HalfOpen() != (s < SCTPEstablished) {
			t.Errorf("%v: settled %v, half open %v", s, settled, r.HalfOpen())
		}
		if r.Reusable() != (s >= SCTPShutdownAck) || r.Ending() != (s >= SCTPShutdown) || r.Closed() != (s == SCTPClosed) {
			t.Errorf("%v: reusable %v, ending %v, closed %v", s, r.Reusable(), r.Ending(), r.Closed())
		}
		if i == len(steps) {
			break
		}
		r.TrackSCTP(steps[i].side, &steps[i].c)
	}
	r.setTCPState(TCPNone)
	if _, sound := r.Sound(1); sound {
		t.Error("an association without a state is sound")
	}
}

// FuzzSCTP holds for every sequence of packets: states only end in Closed, the tags of an established association only
// change together and by a COOKIE ACK of the server, and a packet that is outside leaves the state and the tags alone.
func FuzzSCTP(f *testing.F) {
	f.Add([]byte{0x81, 2, 0x12, 0, 10, 1, 0x81, 11, 0, 0, 7, 1, 0x81, 8, 0, 0, 14, 1})
	f.Add([]byte{0, 1, 0x30, 0x83, 2, 0x42, 0, 10, 4, 0x83, 11, 0, 0, 6, 0x11})
	f.Fuzz(func(t *testing.T, script []byte) {
		tags := [...]uint32{0, tagC, tagS, tagC2, tagS2, wrongTag}
		var r Record
		first := initOf(0, tagC, ChunkInit)
		r.BeginSCTP(&first)
		for ; len(script) >= 3; script = script[3:] {
			side := Side(script[0] >> 7)
			c := Chunks{Tag: tags[int(script[0]&0x7f)%len(tags)], InitTag: tags[int(script[2]>>4)%len(tags)], Reflected: script[2]&1 != 0}
			c.Types = 1 << (script[1] & 15)
			if script[1] >= 128 {
				c.Types |= 1 << (script[1] >> 4 & 7)
			}
			before := r
			j := r.TrackSCTP(side, &c)
			was, is := before.SCTPState(), r.SCTPState()
			moved := before.Win[client].End != r.Win[client].End || before.Win[server].End != r.Win[server].End
			switch {
			case is < SCTPInitSent || is > SCTPClosed:
				t.Fatalf("state %d", is)
			case r.Win[client].End == 0 || is >= SCTPCookie && is < SCTPClosed && r.Win[server].End == 0:
				t.Fatalf("%v with tags %x", is, r.Win)
			case j == Outside && (was != is || moved):
				t.Fatalf("outside: %v becomes %v, tags %x become %x", was, is, before.Win, r.Win)
			case (j == Changed) != (was != is) && (side != server || !c.has(ChunkCookieAck)):
				t.Fatalf("judged %d: %v becomes %v", j, was, is)
			case moved && was >= SCTPEstablished && (side != server || !c.has(ChunkCookieAck) || c.Tag != r.Win[client].End):
				t.Fatalf("tags %x become %x by %+v", before.Win, r.Win, c)
			}
		}
	})
}
