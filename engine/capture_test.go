package engine

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/flow"
)

// taken is a captured packet that outlives its reading.
type taken struct {
	Captured
	before, after []byte
}

func (b *bench) capture(opt CaptureOptions) *Capture {
	b.t.Helper()
	if opt.Filter.Worker == 0 {
		opt.Filter.Worker = -1
	}
	c, err := b.Engine.Capture(b.t.Context(), opt)
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

// read takes all that has come.
func (c *Capture) read(t testing.TB) (out []taken) {
	t.Helper()
	for {
		n, err := c.Read(t.Context(), func(p *Captured) bool {
			out = append(out, taken{*p, bytes.Clone(p.Before), bytes.Clone(p.After)})
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return out
		}
	}
}

func (s CaptureStats) check(t testing.TB) {
	t.Helper()
	if s.Seen != s.Skipped+s.Unmatched+s.Captured+s.Lost+s.Held {
		t.Errorf("the counts do not add up: %+v", s)
	}
}

// Both sides of every packet are what went in and what came out, with the verdict, over one worker and two.
func TestCaptureSides(t *testing.T) {
	for workers := 1; workers <= 2; workers++ {
		spec := a4(workers)
		spec.Virtuals = append(spec.Virtuals, VirtualSpec{Name: "one", Addr: netip.MustParseAddr("10.10.1.103"), Port: 53, Proto: flow.UDP, Pool: 2, OnePacket: true})
		spec.ICMPRate, spec.Virtuals[0].MidStream = 1000, MidStreamReset
		spec.Ports[outside].Addr4 = netip.MustParseAddr("172.16.10.1")
		b := newBench(t, spec, 1000, 1024)
		c := b.capture(CaptureOptions{})
		if _, err := b.Engine.Capture(t.Context(), CaptureOptions{}); err != ErrCapturing {
			t.Errorf("a second capture: %v", err)
		}
		syn, udp := fromClient(4003, "S"), fromClient(4004, "")
		udp.udp, udp.dport = true, 53
		one := udp
		one.dst = netip.MustParseAddr("10.10.1.103")
		low, elsewhere, host := syn, syn, syn
		low.ttl, low.sport = 1, 4100
		elsewhere.dport = 81
		host.dst = netip.MustParseAddr("192.0.2.1")
		mid := fromClient(4009, "A")
		cases := []struct {
			frame   []byte
			port    int
			verdict CaptureVerdict
			text    string
		}{
			{syn.build(t), outside, CaptureForwarded, "forwarded to member web/192.168.20.1 via port inside; arrived on port outside at worker W; virtual server web"},
			{fromServer(1, 4003, "SA").build(t), inside, CaptureForwarded, "forwarded to the client via port outside; arrived on port inside at worker W; virtual server web; member web/192.168.20.1"},
			{udp.build(t), outside, CaptureForwarded, "forwarded to member dns/192.168.20.1 via port inside; arrived on port outside at worker W; virtual server dns"},
			{one.build(t), outside, CaptureForwarded, "forwarded to member dns/192.168.20.2 via port inside; arrived on port outside at worker W; virtual server one"},
			{elsewhere.build(t), outside, CaptureDropped, "dropped: no_virtual_server; arrived on port outside at worker W"},
			{host.build(t), outside, CaptureHost, "handed to the kernel; arrived on port outside at worker W"},
			{low.build(t), outside, CaptureAnswered, "answered out of port outside: ttl_expired; arrived on port outside at worker W; virtual server web"},
			{mid.build(t), outside, CaptureAnswered, "answered out of port outside; arrived on port outside at worker W; virtual server web"},
			{[]byte("not a packet of any kind that is known"), outside, CaptureDropped, "dropped: not_ip; arrived on port outside at worker W"},
			{fromServer(1, 4003, "A").build(t), outside, CaptureDropped, "dropped: wrong_side; arrived on port outside at worker W; virtual server web; member web/192.168.20.1"},
		}
		for i, k := range cases {
			out := b.sendTo(i%workers, k.port, k.frame)
			got := c.read(t)
			if len(got) == 2 && got[1].Verdict == CaptureHanded { // they are read worker by worker
				slices.Reverse(got)
			}
			if len(got) == 2 && got[0].Verdict == CaptureHanded {
				if got[0].To != got[1].Worker || got[0].Worker == got[1].Worker || !strings.HasPrefix(got[0].Text(), fmt.Sprintf("handed over to worker %d;", got[1].Worker)) || got[0].After != nil || !bytes.Equal(got[0].before, k.frame) {
					t.Errorf("case %d: handed over: %+v", i, got[0])
				}
				got = got[1:]
			}
			if len(got) != 1 {
				t.Fatalf("case %d: %d packets", i, len(got))
			}
			g := got[0]
			var left []byte
			for p := range out {
				for _, f := range out[p] {
					left = f
				}
			}
			if want := strings.ReplaceAll(k.text, "worker W", fmt.Sprintf("worker %d", g.Worker)); g.Verdict != k.verdict || g.Text() != want || g.Micros != b.now*1000 {
				t.Errorf("case %d: %d at %d: %s\nwant %s", i, g.Verdict, g.Micros, g.Text(), want)
			}
			if !bytes.Equal(g.before, k.frame) || !bytes.Equal(g.after, left) || g.BeforeLen != len(k.frame) || g.AfterLen != len(left) {
				t.Errorf("case %d:\nbefore %x\nafter  %x\nleft   %x", i, g.before, g.after, left)
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		s := c.Stats()
		s.check(t)
		if s.Captured < uint64(len(cases)) || s.Lost+s.Unmatched+s.Skipped+s.Held != 0 {
			t.Errorf("%+v", s)
		}
		b.send(outside, fromClient(5000, "S").build(t))
		if after := c.Stats(); after != s {
			t.Errorf("after its end: %+v", after)
		}
		b.close()
	}
}

// Each filter takes its own packets and no others.
func TestCaptureFilters(t *testing.T) {
	b := newBench(t, a4(1), 1000, 1024)
	at := func(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
	for i, k := range []struct {
		f    CaptureFilter
		want string // numbers of the packets
	}{
		{CaptureFilter{}, "01234567"},
		{CaptureFilter{Proto: flow.UDP}, "3"},
		{CaptureFilter{Ends: []netip.AddrPort{at("172.16.10.55:4001")}}, "014"},
		{CaptureFilter{Ends: []netip.AddrPort{at("10.10.1.100:80"), at("172.16.10.55:0")}}, "01267"},
		{CaptureFilter{Ends: []netip.AddrPort{at("192.168.20.1:80"), at("172.16.10.55:4001")}}, "01"},
		{CaptureFilter{Virtual: "web"}, "01267"},
		{CaptureFilter{Member: "web/192.168.20.2"}, "2"},
		{CaptureFilter{Member: "192.168.20.1"}, "013"},
		{CaptureFilter{Drops: true}, "4567"},
		{CaptureFilter{Reason: "no_virtual_server"}, "4"},
		{CaptureFilter{Reason: "bad_source"}, "6"},
		{CaptureFilter{Port: "inside"}, "0123"},
		{CaptureFilter{Port: "inside", Proto: flow.TCP, Virtual: "web", Member: "192.168.20.1", Ends: []netip.AddrPort{at("172.16.10.55:0")}}, "01"},
		{CaptureFilter{Worker: 7}, "error"},
		{CaptureFilter{Virtual: "nothing"}, "error"},
		{CaptureFilter{Member: "nobody"}, "error"},
		{CaptureFilter{Reason: "no_reason"}, "error"},
		{CaptureFilter{Port: "nowhere"}, "error"},
		{CaptureFilter{Ends: make([]netip.AddrPort, 3)}, "error"},
	} {
		if k.f.Worker == 0 {
			k.f.Worker = -1
		}
		c, err := b.Engine.Capture(t.Context(), CaptureOptions{Filter: k.f})
		if (err != nil) != (k.want == "error") {
			t.Fatalf("case %d: %v", i, err)
		}
		if err != nil {
			if b.capturing.Load() {
				t.Errorf("case %d: a capture that has failed goes on", i)
			}
			continue
		}
		udp := fromClient(4002, "")
		udp.udp, udp.dport = true, 53
		strange, forged := fromClient(4001, "S"), fromClient(4005, "S")
		strange.dport = 81
		forged.src = netip.MustParseAddr("172.16.10.55")
		forged.srcMAC = []byte{1, 0, 0, 0, 0, 9}
		frames := []struct {
			port  int
			frame []byte
		}{
			{outside, fromClient(4001, "S").build(t)}, {inside, fromServer(1, 4001, "SA").build(t)}, {outside, fromClient(4003, "S").build(t)}, {outside, udp.build(t)},
			{outside, strange.build(t)}, {outside, []byte("neither IPv4 nor IPv6, but long enough")}, {outside, forged.build(t)}, {outside, fromClient(4009, "A").build(t)},
		}
		got := ""
		for j, f := range frames {
			b.send(f.port, f.frame)
			for range c.read(t) {
				got += fmt.Sprint(j)
			}
		}
		if got != k.want {
			t.Errorf("case %d, %+v: %q, want %q", i, k.f, got, k.want)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		c.Stats().check(t)
		if _, err := b.DeleteConnections(t.Context(), 100, false, nil); err != nil {
			t.Fatal(err)
		}
		for _, pool := range b.dict.turns {
			pool.Store(0)
		}
	}
	b.close()
}

// Sampling takes one in so many, snapping the first bytes; what a reader that is slow has no room for is counted, and every
// packet is counted once. The frames are all there afterwards.
func TestCaptureBounds(t *testing.T) {
	for _, workers := range []int{1, 3} {
		b := newBench(t, a4(workers), 5000, 1024)
		for i, opt := range []CaptureOptions{{Sample: 10, Snap: 40}, {RingBytes: 4096}, {RingBytes: 4096, Sample: 3, Filter: CaptureFilter{Proto: flow.UDP, Worker: -1}}} {
			c := b.capture(opt)
			got := 0
			for n := range 1200 {
				p := fromClient(uint16(1000*i+n%900+1), "S")
				p.payload = strings.Repeat("x", n%700)
				b.sendTo(n%workers, outside, p.build(t))
				if n%400 == 399 || opt.RingBytes == 0 {
					for _, g := range c.read(t) {
						if opt.Snap > 0 && (len(g.before) != 40 || len(g.after) != 40 && g.After != nil || g.BeforeLen != max(60, 54+n%700)) {
							t.Fatalf("%d and %d bytes of %d", len(g.before), len(g.after), g.BeforeLen)
						}
						got++
					}
				}
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			got += len(c.read(t))
			s := c.Stats()
			s.check(t)
			if uint64(got) != s.Captured {
				t.Errorf("%d were read, %+v", got, s)
			}
			switch {
			case i == 0 && (s.Skipped*10/9+10*uint64(workers) < s.Seen || s.Captured*10 > s.Seen+10*uint64(workers)), i == 1 && (s.Lost < 500 || s.Captured < 10), i == 2 && (s.Captured != 0 || s.Unmatched < 300):
				t.Errorf("%+v: %+v", opt, s)
			}
		}
		b.close()
	}
}

// Parts of datagrams that wait, connections that end by themselves, handoffs that find no room: a capture over all of it loses
// no frame and no count, and no packet is slower for want of memory.
func TestCaptureOfEverything(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 1))
	for _, workers := range []int{1, 3} {
		spec := a4(workers)
		b := newBench(t, spec, 300, 1024)
		c := b.capture(CaptureOptions{RingBytes: 1 << 22})
		got := []taken{}
		for n := range 3000 {
			p := fromClient(uint16(1+rng.IntN(400)), []string{"S", "A", "R", "FA"}[rng.IntN(4)])
			p.payload = strings.Repeat("y", rng.IntN(100))
			f := p.build(t)
			switch rng.IntN(6) {
			case 0: // a part of a datagram
				f[20] |= 0x20
				f[21] = byte(rng.IntN(4))
				f = checked(f)
			case 1:
				f[rng.IntN(len(f))] ^= 1 << rng.IntN(8)
			case 2:
				f = f[:rng.IntN(len(f))]
			}
			if len(f) == 0 {
				continue
			}
			b.sendTo(rng.IntN(workers), outside, f)
			b.now += uint64(rng.IntN(100))
			got = append(got, c.read(t)...)
			if n%500 == 0 {
				b.now += 20_000
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		s := c.Stats()
		s.check(t)
		verdicts := map[string]int{}
		for _, g := range got {
			verdicts[strings.SplitN(g.Text(), ";", 2)[0]]++
		}
		if uint64(len(got)) != s.Captured || s.Lost != 0 || verdicts["dropped: fragment_timeout"] == 0 || verdicts["dropped: no_connection"] == 0 || len(verdicts) < 6 || workers > 1 && verdicts["handed over to worker 0"] == 0 {
			t.Errorf("%d read, %+v, %v", len(got), s, verdicts)
		}
		b.close()
	}
}

// checked makes an IPv4 header's checksum right.
func checked(f []byte) []byte {
	p := gopacket.NewPacket(f, layers.LayerTypeEthernet, gopacket.Default)
	ip, is := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	if !is {
		return f
	}
	buf := gopacket.NewSerializeBuffer()
	if err := ip.SerializeTo(buf, gopacket.SerializeOptions{ComputeChecksums: true}); err != nil {
		return f
	}
	out := slices.Clone(f)
	copy(out[14:], buf.Bytes()[:20])
	return out
}

// A running engine is captured from while it works, with the race detector on; a reader that is gone leaves nothing behind.
func TestCaptureWhileRunning(t *testing.T) {
	b := newBench(t, a4(2), 5000, 1024)
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	sent := 0
	for round := range 5 {
		c := b.capture(CaptureOptions{RingBytes: []int{1 << 16, 4096}[round/3&1]})
		got, begin := uint64(0), sent
		for port := uint16(1); port < 300; port++ {
			if b.wire(int(port%2), outside).Send(fromClient(port+uint16(round)*300, "S").build(t)) {
				sent++
			}
			for w := range 2 {
				b.wire(w, inside).Recv(func([]byte) {})
			}
			if round != 3 { // nobody reads
				got += uint64(len(c.read(t)))
			}
		}
		for deadline := time.Now().Add(20 * time.Second); b.stats().RxPackets < uint64(sent) && time.Now().Before(deadline); {
			for w := range 2 {
				b.wire(w, inside).Recv(func([]byte) {})
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		got += uint64(len(c.read(t)))
		s := c.Stats()
		s.check(t)
		if got != s.Captured || s.Seen < uint64(sent-begin) || s.Captured+s.Lost+s.Held != s.Seen || round == 3 && s.Lost == 0 {
			t.Errorf("round %d: read %d of %d sent, %+v", round, got, sent-begin, s)
		}
	}
	if err := b.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, w := range b.workers {
		if w.capture != nil {
			t.Error("a worker goes on capturing")
		}
	}
	b.close()
}

// With VLANs both sides are as they are on the wire, and the ports are the VLANs'.
func TestCaptureVLANs(t *testing.T) {
	b := newBench(t, vlans(1, blue), 1000, 1024)
	c := b.capture(CaptureOptions{Filter: CaptureFilter{Port: "blue"}})
	in := tagged(t, fromClient(4003, "S").build(t), layers.EthernetTypeDot1Q, 10)
	if !b.wire(0, outside).Send(in) {
		t.Fatal("the wire is full")
	}
	b.Step(b.now)
	var out []byte
	b.wire(0, inside).Recv(func(f []byte) { out = bytes.Clone(f) })
	got := c.read(t)
	if len(got) != 1 || got[0].Arrived != "red" || got[0].Left != "blue" || !bytes.Equal(got[0].before, in) || !bytes.Equal(got[0].after, out) || out[12] != 0x81 {
		t.Errorf("%+v\nin  %x\nout %x", got, in, out)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	c.Stats().check(t)
	b.close()
}

// A worker that captures takes no memory either.
func TestCaptureAllocates(t *testing.T) {
	b := newBench(t, a4(1), 1000, 1024)
	b.established(4003)
	c := b.capture(CaptureOptions{RingBytes: 1 << 24})
	data, strange := fromClient(4003, "A"), fromClient(4003, "S")
	data.seq, data.ack, strange.dport = 1001, 9001, 81
	frames := [][]byte{data.build(t), strange.build(t)}
	n := testing.AllocsPerRun(2000, func() {
		for _, f := range frames {
			b.wire(0, outside).Send(f)
		}
		b.Step(b.now)
		b.wire(0, inside).Recv(func([]byte) {})
	})
	if s := c.Stats(); n != 0 || s.Captured < 4000 {
		t.Errorf("%v allocations a step, %+v", n, s)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	b.close()
}
