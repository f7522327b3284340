package flow

import (
	"encoding/binary"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

var update = flag.Bool("update", false, "write the golden file of the present layout if there is none")

// Another geometry: every connection finds its place, with all that it was; in a smaller table as many as fit.
func TestAdoptOtherGeometry(t *testing.T) {
	const n = 3000
	old := newFile(t, n, 0)
	want := map[uint32]Record{}
	rng := rand.New(rand.NewPCG(5, 6))
	for i := range uint32(n) {
		rec := begun(i)
		r, res := old.tab.Insert(&rec, TCP, uint64(i), 1000)
		if res != Inserted {
			t.Fatal(i, res)
		}
		live := old.tab.Record(r.Index())
		live.Account(FromClient, rng.IntN(1<<30))
		live.Account(FromServer, rng.IntN(1<<30))
		live.ClientMAC, live.Seen = [6]byte{2, byte(i)}, rng.Uint32()
		want[i] = *live
	}
	for i, r := range want { // with holes
		if i%7 == 0 {
			k := r.ClientKey()
			old.tab.Remove(old.tab.Lookup(&k).Index())
			delete(want, i)
		}
	}
	_, records, err := ReadFile(old.mem)
	if err != nil {
		t.Fatal(err)
	}
	for _, capacity := range []int{100, len(want) - 1, len(want), n, 5 * n} {
		next := newFile(t, capacity, 0).tab
		next.secret[0]++ // and another hash
		adopted, full := 0, 0
		for i := range records {
			live, sound := records[i].Sound(len(testNodes))
			if live != sound {
				t.Fatalf("record %d: live %t, sound %t", i, live, sound)
			}
			if !live {
				continue
			}
			at, res := next.Adopt(&records[i], 0, 1000)
			if res == Full {
				full++
				continue
			}
			if res != Inserted || *next.Record(at) != want[number(&records[i])] {
				t.Fatalf("result %d; adopted\n%+v, was\n%+v", res, *next.Record(at), want[number(&records[i])])
			}
			adopted++
		}
		if adopted != min(capacity, len(want)) || adopted+full != len(want) {
			t.Errorf("capacity %d: %d adopted, %d too many, of %d", capacity, adopted, full, len(want))
		}
		if err := next.Check(); err != nil {
			t.Errorf("capacity %d: %v", capacity, err)
		}
	}
}

// A second connection with a tuple of the first is refused, from either side, and so are ids that nobody knows.
func TestAdoptRefusals(t *testing.T) {
	f := newFile(t, 10, 0)
	rec := begun(1)
	r, _ := f.tab.Insert(&rec, TCP, 0, 1000)
	one := *f.tab.Record(r.Index())
	next := newFile(t, 10, 0).tab
	if _, res := next.Adopt(&one, 0, 1000); res != Inserted {
		t.Fatal(res)
	}
	sameServer, sameClient := one, one
	sameServer.Virtual = AddrFrom4(0x0a0a0165)
	sameClient.Node++
	for name, rec := range map[string]Record{"the same": one, "server side": sameServer, "client side": sameClient} {
		if _, res := next.Adopt(&rec, 0, 1000); res != Collision || next.Len() != 1 {
			t.Errorf("%s twice: result %d, %d connections", name, res, next.Len())
		}
	}
	if err := next.Check(); err != nil {
		t.Error(err)
	}
	for nodes, want := range map[int]bool{int(one.Node): false, int(one.Node) + 1: true, 0: false} {
		if live, sound := one.Sound(nodes); !live || sound != want {
			t.Errorf("node %d of %d: live %t, sound %t", one.Node, nodes, live, sound)
		}
	}
	snat := begun(2)
	snat.SNAT = 8
	r, _ = f.tab.Insert(&snat, TCP, 0, 1000)
	if _, sound := f.tab.Record(r.Index()).Sound(8); sound {
		t.Error("a SNAT id beyond the dictionary is believed")
	}
	stateless := conn(3) // TCP without a state, as no table has it
	r, _ = f.tab.Insert(&stateless, TCP, 0, 1000)
	if _, sound := f.tab.Record(r.Index()).Sound(len(testNodes)); sound {
		t.Error("a TCP connection without a state is believed")
	}
}

func TestReadFileErrors(t *testing.T) {
	f := newFile(t, 100, 0)
	edit := func(change func(b []byte) []byte) []byte {
		return change(append(memory(len(f.mem))[:0], f.mem...))
	}
	for name, c := range map[string]struct {
		mem  []byte
		want error
	}{
		"empty":         {nil, ErrNotTable},
		"short header":  {f.mem[:HeaderSize-1], ErrNotTable},
		"no table":      {f.mem[:HeaderSize], ErrSize},
		"one byte less": {f.mem[:len(f.mem)-1], ErrSize},
		"magic":         {edit(func(b []byte) []byte { b[0]++; return b }), ErrNotTable},
		"version":       {edit(func(b []byte) []byte { b[8]++; return b }), ErrLayout},
		"no capacity":   {edit(func(b []byte) []byte { clear(b[16:24]); return b }), ErrSize},
		"one more":      {edit(func(b []byte) []byte { b[16]++; return b }), ErrSize},
		"huge":          {edit(func(b []byte) []byte { binary.LittleEndian.PutUint64(b[16:], 1<<63+1); return b }), ErrSize},
		"largest":       {edit(func(b []byte) []byte { binary.LittleEndian.PutUint64(b[16:], MaxCapacity); return b }), ErrSize},
	} {
		if _, records, err := ReadFile(c.mem); !errors.Is(err, c.want) || records != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	// More than needed is what a file system with large pages gives.
	if _, _, err := ReadFile(append(memory(len(f.mem) + 4096)[:0], f.mem...)[:len(f.mem)+4096]); err != nil {
		t.Error(err)
	}
}

// The header reads back as it was written, and a file counts from SetReady on.
func TestHeader(t *testing.T) {
	f := newFile(t, 100, 0)
	want := Header{Capacity: 100, Secret: fileSecret, Boot: [16]byte{1, 2, 3}}
	if h, _, err := ReadFile(f.mem); err != nil || h != want || IsReady(f.mem) {
		t.Errorf("%+v, %v, ready %t", h, err, IsReady(f.mem))
	}
	SetReady(f.mem)
	want.Ready = true
	if h, _, err := ReadFile(f.mem); err != nil || h != want || !IsReady(f.mem) {
		t.Errorf("%+v, %v, ready %t", h, err, IsReady(f.mem))
	}
	again := make([]byte, HeaderSize)
	if want.Put(again); !slices.Equal(again, f.mem[:HeaderSize]) {
		t.Error("a header that is ready is written otherwise")
	}
}

// Timers after an adoption: a connection ends when it has been idle for its timeout, counted from when it was last seen
// before, not from the adoption, and what is over already ends at once.
func TestAdoptedTimers(t *testing.T) {
	const n, timeout = 600, 60_000
	start := uint64(1)<<32 - 20_000 // the clock that records keep wraps in between
	f := newFile(t, n, start-timeout)
	for i := range uint32(n) {
		rec := begun(i)
		if _, res := f.tab.Insert(&rec, TCP, start-2*timeout+uint64(i)*200, start); res != Inserted {
			t.Fatal(i, res)
		}
	}
	_, records, err := ReadFile(f.mem)
	if err != nil {
		t.Fatal(err)
	}
	next := newFile(t, n, start).tab
	for i := range records {
		if records[i].Live() {
			if _, res := next.Adopt(&records[i], start, records[i].End(start, timeout)); res != Inserted {
				t.Fatal(res)
			}
		}
	}
	expired := 0
	for now := start; now < start+2*timeout; now += 100 {
		for next.Expire(now, 32, func(r *Record) uint64 { return r.End(now, timeout) }, func(r *Record) {
			expired++
			end := max(start, start-timeout+uint64(number(r))*200)
			if now < end || now > end+2<<tickShift+100 {
				t.Fatalf("connection %d ends at %d, expired at %d", number(r), end-start, now-start)
			}
		}) == 32 {
		}
	}
	if expired != n || next.Len() != 0 {
		t.Errorf("%d expired, %d left", expired, next.Len())
	}
}

// goldenTable is what flow/testdata/layout-1.bin holds: the connections that TestGoldenLayout spells out.
func goldenTable(t *testing.T) []byte {
	f := newFile(t, 12, 5000)
	play := func(n uint32, segments ...sided) {
		rec := begun(n)
		rec.ClientMAC, rec.ClientIf, rec.ServerIf, rec.L3Diff, rec.L4Diff = [6]byte{2, 0, 0, 0, 0x10, byte(n)}, 0, 1, 0x1234, 0xfedc
		r, res := f.tab.Insert(&rec, TCP, 5000+uint64(n), 40_000)
		if res != Inserted {
			t.Fatal(n, res)
		}
		for _, s := range segments {
			live := f.tab.Record(r.Index())
			live.TrackTCP(s.side, &s.Segment)
			live.Account(s.side, 40+int(s.Len))
			live.Seen = 6000 + n
			live.Settle()
		}
	}
	open := func(n uint32) []sided {
		c := n*7919 + 1
		return []sided{
			{FromServer, Segment{Seq: 90_000, Ack: c, Flags: FlagSYN | FlagACK, Window: 65000, Scale: 9}},
			{FromClient, Segment{Seq: c, Ack: 90_001, Flags: FlagACK, Window: 500}},
		}
	}
	fin := func(n uint32) sided {
		return sided{FromClient, Segment{Seq: n*7919 + 1, Ack: 90_001, Flags: FlagACK | FlagFIN, Window: 500}}
	}
	finBack := func(n uint32) sided {
		return sided{FromServer, Segment{Seq: 90_001, Ack: n*7919 + 2, Flags: FlagACK | FlagFIN, Window: 500}}
	}
	play(1)
	play(2, open(2)[:1]...)
	play(3, append(open(3), sided{FromClient, Segment{Seq: 3*7919 + 1, Ack: 90_001, Len: 1000, Flags: FlagACK, Window: 700}})...)
	play(5, open(5)...) // IPv6
	play(6, append(open(6), fin(6))...)
	play(7, append(open(7), fin(7), finBack(7))...)
	play(8, append(open(8), fin(8), finBack(8), sided{FromClient, Segment{Seq: 8*7919 + 2, Ack: 90_002, Flags: FlagACK, Window: 500}})...)
	for n := uint32(9); n <= 10; n++ {
		rec := conn(n) // 10 is IPv6
		rec.VPort, rec.NPort, rec.VS, rec.SNAT, rec.SPort = 53, 5353, 2, 8-n%9, 4000
		r, res := f.tab.Insert(&rec, UDP, 5000+uint64(n), 10_000)
		if res != Inserted {
			t.Fatal(n, res)
		}
		if live := f.tab.Record(r.Index()); n == 10 {
			live.MarkReplied()
			live.Settle()
			live.Account(FromServer, 512)
		}
	}
	SetReady(f.mem)
	return f.mem
}

// A file of every released layout stays readable, as these connections.
func TestGoldenLayout(t *testing.T) {
	path := filepath.Join("testdata", "layout-1.bin")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) && *update {
		if err := os.WriteFile(path, goldenTable(t), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err) // a released file is never made anew: it comes back from version control
	}
	h, records, err := ReadFile(append(memory(len(b))[:0], b...))
	if err != nil {
		t.Fatal(err)
	}
	if want := (Header{Ready: true, Capacity: 12, Secret: fileSecret, Boot: [16]byte{1, 2, 3}}); h != want {
		t.Errorf("header %+v, want %+v", h, want)
	}
	type line struct {
		Key, Server    Key
		state          TCPState
		half, replied  bool
		seen, start    uint32
		packets, bytes [2]uint64
		vs             uint32
		mac            [6]byte
	}
	v4, v6 := AddrFrom4(0xac100000), Addr{0xfd00 << 48, 0}
	vip4, vip6 := AddrFrom4(0x0a0a0164), Addr{0xfd00 << 48, 100}
	server := func(n byte) Addr { return AddrFrom4(0xc0a81400 + uint32(n)) }
	tcp := func(n uint32, node Addr) (k, s Key) {
		c, v := v4, vip4
		if n%5 == 0 {
			c, v = v6, vip6
		}
		port := uint16(1024 + n)
		return Key{c, v, Ports(port, 80), TCP}, Key{node, c, Ports(8080, port), TCP}
	}
	var want []line
	add := func(n uint32, node Addr, state TCPState, packets, bytes [2]uint64) {
		l := line{state: state, half: state < TCPEstablished, replied: state != TCPSynSent, seen: 6000 + n, start: 5000 + n,
			packets: packets, bytes: bytes, vs: 1, mac: [6]byte{2, 0, 0, 0, 0x10, byte(n)}}
		if state == TCPSynSent {
			l.seen = l.start
		}
		l.Key, l.Server = tcp(n, node)
		want = append(want, l)
	}
	add(1, server(2), TCPSynSent, [2]uint64{}, [2]uint64{})
	add(2, server(3), TCPSynReceived, [2]uint64{0, 1}, [2]uint64{0, 40})
	add(3, server(4), TCPEstablished, [2]uint64{2, 1}, [2]uint64{1080, 40})
	add(5, Addr{0xfd00 << 48, 8}, TCPEstablished, [2]uint64{1, 1}, [2]uint64{40, 40})
	add(6, server(7), TCPFinWait, [2]uint64{2, 1}, [2]uint64{80, 40})
	add(7, server(1), TCPClosing, [2]uint64{2, 2}, [2]uint64{80, 80})
	add(8, server(2), TCPClosed, [2]uint64{3, 2}, [2]uint64{120, 80})
	want = append(want,
		line{Key: Key{v4, vip4, Ports(1033, 53), UDP}, Server: Key{server(3), Addr{0xfd00 << 48, 8}, Ports(5353, 4000), UDP}, half: true, seen: 5009, start: 5009, vs: 2},
		line{Key: Key{v6, vip6, Ports(1034, 53), UDP}, Server: Key{Addr{0xfd00 << 48, 8}, server(7), Ports(5353, 4000), UDP}, replied: true, seen: 5010, start: 5010,
			packets: [2]uint64{0, 1}, bytes: [2]uint64{0, 512}, vs: 2})
	next := newFile(t, 100, 5000).tab
	var got []line
	for i := range records {
		live, sound := records[i].Sound(len(testNodes))
		if live != sound {
			t.Errorf("record %d is unsound", i)
		}
		if !sound {
			continue
		}
		at, res := next.Adopt(&records[i], 5000, 10_000)
		if res != Inserted {
			t.Fatalf("record %d: result %d", i, res)
		}
		r := next.Record(at)
		got = append(got, line{Key: r.ClientKey(), Server: next.ServerKey(r), state: r.TCPState(), half: r.HalfOpen(), replied: r.Replied(), seen: r.Seen, start: r.Start,
			packets: [2]uint64{r.Packets(0), r.Packets(1)}, bytes: [2]uint64{r.Bytes(0), r.Bytes(1)}, vs: r.VS, mac: r.ClientMAC})
	}
	if len(got) != len(want) {
		t.Fatalf("%d connections, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("connection %d:\n%+v, want\n%+v", i, got[i], want[i])
		}
	}
	// They go on: the established one takes its next segment, with the windows and scales it had.
	k := want[2].Key
	r := next.Record(next.Lookup(&k).Index())
	if r.Win != [2]Window{{End: 3*7919 + 1001, Ack: 90_001}, {End: 90_001, Ack: 3*7919 + 1}} || r.Scale != 7|9<<4 || r.L3Diff != 0x1234 || r.L4Diff != 0xfedc || r.ServerIf != 1 {
		t.Errorf("%+v", *r)
	}
	if j := r.TrackTCP(FromServer, &Segment{Seq: 90_001, Ack: 3*7919 + 1001, Len: 100, Flags: FlagACK, Window: 500}); j != Inside {
		t.Errorf("its next segment is judged %v", j)
	}
	if err := next.Check(); err != nil {
		t.Error(err)
	}
}
