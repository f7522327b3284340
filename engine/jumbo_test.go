package engine

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"sluice/flow"
	"sluice/rewrite"
	"sluice/rings"
)

// chainRegion is frames of the usual size that may be chained.
func chainRegion(frames int) *rings.Region {
	r := rings.NewHeapRegion(frames, 2048)
	r.MakeChains()
	return r
}

// inflated is frame with n bytes more of payload, lengths and checksums made right. Parts of datagrams, and what cannot be read, stay
// as they are.
func inflated(rng *rand.Rand, frame []byte, n int) []byte {
	var p rewrite.Packet
	var k flow.Key
	v := rewrite.Parse(frame, &p, &k)
	if v != rewrite.OK && v != rewrite.NoPorts || n&^3 == 0 {
		return frame
	}
	n &^= 3
	out := slices.Clone(frame[:p.End])
	more := make([]byte, n)
	for i := range more {
		more[i] = byte(rng.Uint32())
	}
	if p.Proto == flow.SCTP { // a chunk of data
		more[0], more[1] = 0, 3
		binary.BigEndian.PutUint16(more[2:], uint16(n))
	}
	out = append(out, more...)
	if p.V6 {
		binary.BigEndian.PutUint16(out[p.L3+4:], uint16(len(out))-p.L3-40)
	} else {
		binary.BigEndian.PutUint16(out[p.L3+2:], uint16(len(out))-p.L3)
	}
	if p.Proto == flow.UDP {
		binary.BigEndian.PutUint16(out[p.L4+4:], uint16(len(out))-p.L4)
	}
	p.End = uint16(len(out))
	rewrite.Recompute(out, &p, false)
	return out
}

// pieces are sizes into which a packet of n bytes may be cut for a chain: the first of at least first bytes.
func pieces(rng *rand.Rand, n, first int) (sizes []int) {
	const room = 2048 - rings.Headroom
	for n > 0 && len(sizes) < 6 {
		size := 1 + rng.IntN(min(n, room))
		if len(sizes) == 0 {
			size = min(n, room, max(size, first))
		}
		sizes = append(sizes, size)
		n -= size
	}
	return sizes // what is left comes in full frames
}

// chainTwins are two engines of one configuration: one whose packets come in several frames, and one whose frames take the largest. They
// must do the same.
type chainTwins struct {
	t              *testing.T
	rng            *rand.Rand
	chained, whole *bench
	longest        int // of what came out
	large          int // packets that came out of several frames
}

func newChainTwins(t *testing.T, rng *rand.Rand, spec Spec) *chainTwins {
	n := max(1, spec.Workers)
	return &chainTwins{t: t, rng: rng,
		chained: newBenchOver(t, chainRegion(6000*n), spec, 64, NewDictionary(), 1000),
		whole:   newBenchOver(t, rings.NewHeapRegion(1000*n, 1<<14), spec, 64, NewDictionary(), 1000)}
}

// send gives frame to both on a port, and returns what both send.
func (w *chainTwins) send(worker, port int, frame []byte) (out [3][][]byte) {
	w.t.Helper()
	if !w.whole.wire(worker, port).Send(frame) {
		w.t.Fatal("the wire is full")
	}
	if !w.chained.wire(worker, port).SendChain(frame, pieces(w.rng, len(frame), 1400)) {
		w.t.Fatal("the wire of chains is full")
	}
	var got [2][3][][]byte
	for i, b := range []*bench{w.whole, w.chained} {
		for range 4 {
			b.Step(b.now)
		}
		for worker := range b.n {
			for p := range 3 {
				b.wire(worker, p).Recv(func(f []byte) { got[i][p] = append(got[i][p], slices.Clone(f)) })
			}
		}
		b.Step(b.now)
		if err := b.Audit(); err != nil {
			w.t.Fatal(err)
		}
	}
	for p := range got[0] {
		if len(got[0][p]) != len(got[1][p]) {
			w.t.Fatalf("%d packets out of port %d, in a chain %d; in was %d bytes %x; dropped %v and %v", len(got[0][p]), p, len(got[1][p]), len(frame), frame[:60],
				dropsOf(w.whole), dropsOf(w.chained))
		}
		for i, f := range got[0][p] {
			if !bytes.Equal(f, got[1][p][i]) {
				at := 0
				for at < min(len(f), len(got[1][p][i])) && f[at] == got[1][p][i][at] {
					at++
				}
				w.t.Fatalf("port %d: %d bytes, in a chain %d, and other ones from byte %d on: in %x\n%x\n%x", p, len(f), len(got[1][p][i]), at, frame[:60],
					f[:min(len(f), 100)], got[1][p][i][:min(len(got[1][p][i]), 100)])
			}
			w.longest = max(w.longest, len(f))
			if len(f) > 2048-rings.Headroom {
				w.large++
			}
		}
	}
	return got[0]
}

func dropsOf(b *bench) map[string]uint64 {
	m := map[string]uint64{}
	s := b.stats()
	for r, n := range s.Drops {
		if n > 0 {
			m[Reason(r).String()] = n
		}
	}
	return m
}

func (w *chainTwins) close() {
	w.t.Helper()
	if a, b := w.whole.stats(), w.chained.stats(); a != b {
		w.t.Errorf("in one frame %+v\nin chains %+v", a, b)
	}
	w.whole.close()
	w.chained.close()
}

// jumboSpec gives a specification large MTUs, inside a smaller one if so, and addresses to send ICMP errors from.
func jumboSpec(s Spec, insideMTU int) Spec {
	s.ICMPRate = 1 << 20
	s.Ports = slices.Clone(s.Ports)
	s.Ports[outside].Addr4, s.Ports[outside].Addr6 = netip.MustParseAddr("172.16.10.1"), netip.MustParseAddr("fd00:172:16:10::1")
	s.Ports[inside].Addr4, s.Ports[inside].Addr6 = tunnelSrc4, tunnelSrc6
	s.Ports[outside].MTU, s.Ports[inside].MTU = 9000, insideMTU
	return s
}

// Whatever is sent in chains comes out as it does in one piece: every mode, protocol and family, sums verified and computed anew,
// parts of datagrams, answers, packets too big for the next link, tags, padding, damage.
func TestJumboChains(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	specs := map[string]Spec{
		"nat": a4(2), "nat to a small link": jumboSpec(a4(1), 1500), "full NAT": oneArm(2, 1024, 65535), "SCTP": sctpSpec(sctpMemberPort),
		"direct return": direct(2), "IPIP": jumboSpec(tunnelled(1, rewrite.IPIP, false), 9000), "GUE": jumboSpec(tunnelled(1, rewrite.GUE, true), 9000),
		"into small tunnels": jumboSpec(tunnelled(1, rewrite.GUE, false), 3000), "routers": routed(1, Router, true), "firewalls": routed(2, Firewall, false),
		"forwarding": forwarding(1, true), "echo": echoing(1, EchoEngine, 1<<20), "VLANs": vlans(1, 1),
	}
	for i, s := range fuzzSpecs() {
		specs[fmt.Sprint("mixed ", i)] = jumboSpec(s, 9000)
	}
	for _, p := range []SumPolicy{SumVerify, SumRecompute} {
		s := a4(1)
		s.Ports[outside].Checksum, s.Ports[inside].Checksum = p, p
		specs[fmt.Sprint("checksums ", p)] = s
	}
	clear := jumboSpec(tunnelled(1, rewrite.IPIP, false), 3000)
	for i := range clear.Pools {
		clear.Pools[i].Tunnel.DF = rewrite.ClearDF
	}
	specs["into small tunnels without DF"] = clear
	for name, spec := range specs {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0))
			w := newChainTwins(t, rng, spec)
			r := &fuzzRun{bench: w.whole}
			for i := range 1500 {
				x := rng.Uint32()
				b := [4]byte{byte(x), byte(x >> 8), byte(x >> 16), byte(x >> 24)}
				port, frame := w.any(r, name, b)
				var frames [][]byte
				switch size := 8 * (100 + rng.IntN(1000)); {
				case i%5 == 0 && frame[12] != 0x81 && len(frame) > size+60:
					frames = cut(frame, uint32(i), size)
					rng.Shuffle(len(frames), func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })
				case i%7 == 0: // padding
					frames = [][]byte{append(frame, make([]byte, rng.IntN(8000))...)}
				case i%11 == 0: // damage, not of a length: what is beyond a header in a small head is unlike
					frame[min(len(frame)-1, 54+rng.IntN(len(frame)))] ^= 1
					frames = [][]byte{frame}
				default:
					frames = [][]byte{frame}
				}
				for _, f := range frames {
					if len(f) > 9200 {
						f = f[:9200]
					}
					out := w.send(rng.IntN(w.whole.n), port, f)
					for p := range 2 {
						if n := len(out[p]); n > 0 {
							r.seen[p] = append(r.seen[p][max(0, len(r.seen[p])-3):], out[p][n-1])
						}
					}
				}
				if i%50 == 0 {
					step := uint64(rng.IntN(3000))
					w.whole.now += step
					w.chained.now += step
				}
			}
			if w.large < 50 {
				t.Errorf("%d packets of several frames came out, the longest of %d bytes; dropped %v", w.large, w.longest, dropsOf(w.whole))
			}
			t.Logf("%d packets of several frames came out, the longest of %d bytes, dropped %v", w.large, w.longest, dropsOf(w.whole))
			w.close()
		})
	}
}

// any is a packet of the kind that a test named so is about, most of them large.
func (w *chainTwins) any(r *fuzzRun, name string, b [4]byte) (port int, frame []byte) {
	n := w.rng.IntN(8700)
	switch {
	case name == "echo":
		pair := echoPairs()[w.rng.IntN(len(echoPairs()))]
		m := pair[0]
		m.size = n
		return outside, m.build(w.t)
	case name == "SCTP":
		p := fromClient(4000+uint16(b[1]&3), "")
		p.dport = sctpPort
		if w.rng.IntN(3) == 0 {
			return outside, sctpFrame(w.t, p, 0, sctpClientTag, flow.ChunkInit, 0)
		}
		return outside, inflated(w.rng, sctpFrame(w.t, p, sctpServerTag, 0, flow.ChunkData, 0), n)
	case name == "routers" || name == "firewalls" || name == "forwarding":
		return inside, inflated(w.rng, randomOut(w.rng, "tcp", "udp", "icmp").frame(w.t), n)
	case b[0]%3 == 0:
		port, frame = r.reply(b)
	case b[0]%7 == 0 && name == "direct return":
		port, frame = outside, anyClientPacket(w.t, w.rng, 4000+uint16(b[1]&7))
	default:
		port, frame = r.frame(b)
	}
	if b[3]&3 != 0 {
		frame = inflated(w.rng, frame, n)
	}
	return port, frame
}

// deliver sends a packet, in several frames if there can be any.
func (r *fuzzRun) deliver(w *rings.Wire, frame []byte) bool {
	if r.chains == nil {
		return w.Send(frame)
	}
	if r.chains.IntN(2) == 0 && len(frame) < 5000 { // one that came out may come in again
		frame = inflated(r.chains, frame, r.chains.IntN(5000))
	}
	return w.SendChain(frame, pieces(r.chains, len(frame), []int{1, 64, 200}[r.chains.IntN(3)]))
}

// Whatever packets come in chains that are cut anywhere, in the headers too, no frame is lost and every count is right.
func TestRandomChains(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	r := newFuzzRunOver(t, chainRegion(6000))
	r.chains = rng
	for i := range 20_000 {
		x := rng.Uint32()
		if err := r.step([4]byte{byte(x), byte(x >> 8), byte(x >> 16), byte(x >> 24)}); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	s := r.stats()
	for name, n := range map[string]uint64{"opened": s.Opened, "to servers": s.ToServer, "to clients": s.ToClient, "to the kernel": s.ToHost, "handed over": s.HandedIn,
		"truncated": s.Drops[Truncated]} {
		if n == 0 {
			t.Errorf("never: %s", name)
		}
	}
	r.close()
}

// A capture has all of a jumbo frame, before and after, and its length where only the beginning is kept; so has a counter of bytes.
func TestJumboCapture(t *testing.T) {
	for _, snap := range []int{0, 100, 3000} {
		b := newBenchOver(t, chainRegion(2000), a4(1), 64, NewDictionary(), 1000)
		b.send(outside, fromClient(4003, "S").build(t))
		rng := rand.New(rand.NewPCG(1, 1))
		c := b.capture(CaptureOptions{Filter: CaptureFilter{Worker: -1}, Snap: snap})
		in := inflated(rng, fromClient(4003, "A").build(t), 8000)
		before := b.stats().RxBytes
		out := b.send(outside, in)[inside][0]
		if n := b.stats().RxBytes - before; n != uint64(len(in)) {
			t.Errorf("%d bytes were received, %d counted", len(in), n)
		}
		got := c.read(t)
		if len(got) != 1 {
			t.Fatalf("%d packets", len(got))
		}
		keep := len(in)
		if snap > 0 {
			keep = snap
		}
		p := got[0]
		if p.BeforeLen != len(in) || p.AfterLen != len(out) || !bytes.Equal(p.before, in[:keep]) || !bytes.Equal(p.after, out[:keep]) {
			t.Errorf("snap %d: %d bytes of %d, then %d of %d", snap, len(p.before), len(in), len(p.after), len(out))
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		b.close()
	}
}

// Chains cost no allocation.
func TestJumboAllocates(t *testing.T) {
	b := newBenchOver(t, chainRegion(2000), a4(1), 64, NewDictionary(), 1000)
	rng := rand.New(rand.NewPCG(1, 1))
	b.send(outside, fromClient(4003, "S").build(t))
	v6 := packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: clientIP6, dst: vip6, sport: 4003, dport: 80, flags: "S", seq: 1}
	b.send(outside, v6.build(t))
	v6.flags = "A"
	frames := [][]byte{inflated(rng, fromClient(4003, "A").build(t), 8000), inflated(rng, v6.build(t), 8000)}
	play := func() {
		for _, f := range frames {
			if !b.wire(0, outside).Send(f) {
				t.Fatal("the wire is full")
			}
			b.Step(b.now)
			b.wire(0, inside).Recv(nil)
			b.Step(b.now)
		}
	}
	play()
	if n := testing.AllocsPerRun(100, play); n != 0 {
		t.Errorf("%g allocations", n)
	}
	if s := b.stats(); s.ToServer < 200 || s.Dropped() != 0 {
		t.Errorf("%+v", s)
	}
	b.close()
}
