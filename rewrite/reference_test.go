package rewrite

import (
	"bytes"
	"encoding/binary"
	"flag"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/flow"
)

// The reference of a rewrite is the same packet built anew by gopacket with other addresses, ports and TTL: every
// header is serialised again and every checksum computed over all of its bytes. It shares no code and no idea with
// the incremental updates under test.

var seedFlag = flag.Uint64("seed", 0, "seed of the random packets; 0 takes the clock")

func seeded(t *testing.T) *rand.Rand {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// naiveSum is the internet checksum of RFC 1071 in the plainest form.
func naiveSum(parts ...[]byte) uint16 {
	sum := uint64(0)
	for _, b := range parts {
		for i, v := range b { // every part but the last has an even length
			if i%2 == 0 {
				sum += uint64(v) << 8
			} else {
				sum += uint64(v)
			}
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// sumsValid verifies a parsed packet's checksums naively. A UDP datagram without one is valid.
func sumsValid(b []byte, p *Packet) (l3, l4 bool) {
	size := p.End - p.L4
	var pseudo []byte
	l3 = true
	if p.V6 {
		pseudo = slices.Clone(b[p.L3+8 : p.L3+40])
	} else {
		l3 = naiveSum(b[p.L3:p.L3+uint16(b[p.L3]&15)*4]) == 0
		pseudo = slices.Clone(b[p.L3+12 : p.L3+20])
	}
	if p.Proto == flow.SCTP {
		return l3, sctpSumValid(b[p.L4:p.End])
	}
	if p.Proto == flow.UDP {
		size = binary.BigEndian.Uint16(b[p.L4+4:])
		if b[p.L4+6] == 0 && b[p.L4+7] == 0 {
			return l3, !p.V6
		}
	}
	pseudo = append(binary.BigEndian.AppendUint32(pseudo, uint32(size)), 0, 0, 0, p.Proto)
	return l3, naiveSum(pseudo, b[p.L4:p.L4+size]) == 0
}

// verifySums has gopacket verify every checksum of a frame.
func verifySums(t *testing.T, frame []byte) {
	t.Helper()
	packet := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	ours := 0 // what follows is payload, random, which gopacket takes for a tunnel's where the port is that of one
	for i, layer := range packet.Layers() {
		if ours == 0 && (layer.LayerType() == layers.LayerTypeUDP || layer.LayerType() == layers.LayerTypeTCP) {
			ours = i + 1
		}
		switch l := layer.(type) {
		case *layers.TCP:
			must(t, l.SetNetworkLayerForChecksum(packet.NetworkLayer()))
		case *layers.UDP:
			must(t, l.SetNetworkLayerForChecksum(packet.NetworkLayer()))
		case *layers.ICMPv6:
			must(t, l.SetNetworkLayerForChecksum(packet.NetworkLayer()))
		}
	}
	err, bad := packet.VerifyChecksums()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range bad {
		if ours > 0 && !slices.Contains(packet.Layers()[:ours], m.Layer) {
			continue
		}
		t.Errorf("checksum of %s is %#x, should be %#x", m.Layer.LayerType(), m.Actual, m.Correct)
	}
}

func randomAddr(r *rand.Rand, v6 bool) netip.Addr {
	if v6 {
		b := [16]byte{0: 0x20, 1: 0x01}
		for i := 2; i < 16; i++ {
			b[i] = uint8(r.Uint32())
		}
		return netip.AddrFrom16(b)
	}
	return netip.AddrFrom4([4]byte{uint8(r.Uint32()), uint8(r.Uint32()), uint8(r.Uint32()), uint8(r.Uint32())})
}

// randomWord prefers the values that one's complement arithmetic is wrong about first.
func randomWord(r *rand.Rand) uint16 {
	switch r.IntN(6) {
	case 0:
		return 0
	case 1:
		return 0xffff
	}
	return uint16(r.Uint32())
}

func randomMAC(r *rand.Rand) (l L2) {
	for i := range l {
		l[i] = uint8(r.Uint32())
	}
	l[0], l[6] = 2, 2
	return l
}

func randomPacket(r *rand.Rand) testPacket {
	v6 := r.IntN(2) == 0
	p := testPacket{
		mac: randomMAC(r), src: randomAddr(r, v6), dst: randomAddr(r, v6), ttl: uint8(2 + r.IntN(254)), tos: uint8(r.Uint32()),
		id: uint16(r.Uint32()), proto: flow.TCP, sport: randomWord(r), dport: randomWord(r),
		seq: r.Uint32(), ack: r.Uint32(), window: uint16(r.Uint32()), flags: uint8(r.IntN(32)),
		tags: [][]layers.EthernetType{nil, nil, dot1q, qinq, twice}[r.IntN(5)],
	}
	size := []int{0, 1, 2, r.IntN(64), r.IntN(1400), 1400 + r.IntN(8000)}[r.IntN(6)]
	p.payload = make([]byte, size)
	if r.IntN(4) > 0 { // otherwise zeroes
		for i := range p.payload {
			p.payload[i] = uint8(r.Uint32())
		}
	}
	if r.IntN(2) == 0 {
		p.proto = flow.UDP
		p.noSum = !v6 && r.IntN(4) == 0
	} else if r.IntN(2) == 0 {
		p.tcpOption = 2 + r.IntN(37)
	}
	if v6 {
		for range r.IntN(4) {
			p.ext = append(p.ext, []extension{hopByHop, destination, routing, auth, atomic}[r.IntN(5)])
		}
	} else if r.IntN(2) == 0 {
		p.options = 1 + r.IntN(10)
	}
	if r.IntN(3) == 0 {
		p.padding = 1 + r.IntN(40)
	}
	return p
}

// makeSumFFFF chooses the payload so that the UDP checksum comes out as 0, which is sent as 0xffff: adding the
// checksum to what it covers makes the sum 0xffff.
func (p *testPacket) makeSumFFFF(t *testing.T) {
	t.Helper()
	p.payload = append([]byte{0, 0}, p.payload...)
	_, network := p.ipLayer()
	copy(p.payload, p.transport(t, network)[6:8])
	if got := p.transport(t, network)[6:8]; got[0] != 0xff || got[1] != 0xff {
		t.Fatalf("checksum is %x, not ffff", got)
	}
}

// TestRewriteReference compares ToServer and ToClient with packets built anew, and goes there and back.
func TestRewriteReference(t *testing.T) {
	r := seeded(t)
	ffff := 0
	for i := range 20000 {
		original := randomPacket(r)
		l2, addr, port := randomMAC(r), randomAddr(r, original.src.Is6()), randomWord(r)
		forward := i%2 == 0
		expect := func() testPacket {
			return original.with(func(p *testPacket) {
				p.mac, p.ttl = l2, p.ttl-1
				if forward {
					p.dst, p.dport = addr, port
				} else {
					p.src, p.sport = addr, port
				}
			})
		}
		if original.proto == flow.UDP && !original.noSum && r.IntN(3) == 0 {
			after := expect()
			which := &after
			if r.IntN(2) == 0 {
				which = &original
			}
			which.makeSumFFFF(t)
			original.payload = which.payload
			ffff++
		}
		frame, want := original.build(t), expect().build(t)
		before := slices.Clone(frame)
		var p Packet
		var k flow.Key
		if v := Parse(frame, &p, &k); v != OK {
			t.Fatalf("verdict %d of %+v", v, original)
		}
		if l3, l4 := sumsValid(frame, &p); !l3 || !l4 {
			t.Fatalf("the reference itself is wrong: %v %v of %+v", l3, l4, original)
		}
		to := flow.AddrFrom(addr)
		if forward {
			l3, l4 := diffs(k.Dst, to, k.DstPort(), port)
			ToServer(frame, &p, &l2, to, port, l3, l4)
		} else {
			l3, l4 := diffs(to, k.Src, port, k.SrcPort()) // that of the way there
			ToClient(frame, &p, &l2, to, port, ^l3, ^l4)
		}
		if !bytes.Equal(frame, want) {
			t.Fatalf("forward %v of %+v\nis     % x\nwant   % x\nbefore % x", forward, original, frame, want, before)
		}
		if i%10 == 0 {
			verifySums(t, frame)
		}
		if forward {
			thereAndBack(t, before, frame, k, to, port)
		}
	}
	if ffff == 0 {
		t.Error("no packet had a checksum of 0xffff")
	}
}

func diffs(old, new flow.Addr, oldPort, newPort uint16) (l3, l4 Diff) {
	l3 = AddrDiff(old, new)
	return l3, AddDiff(l3, PortDiff(oldPort, newPort))
}

// thereAndBack turns the translated packet into its own answer, translates that, and turns it again: but for TTL and
// MAC addresses it must be the packet that came. Turning swaps whole words and leaves checksums right.
func thereAndBack(t *testing.T, before, frame []byte, k flow.Key, server flow.Addr, port uint16) {
	t.Helper()
	var p Packet
	var answer flow.Key
	turn := func() {
		if v := Parse(frame, &p, &answer); v != OK {
			t.Fatalf("verdict %d", v)
		}
		from, n := p.L3+12, uint16(4)
		if p.V6 {
			from, n = p.L3+8, 16
		}
		swapBytes(frame[from:from+n], frame[from+n:from+2*n])
		swapBytes(frame[p.L4:p.L4+2], frame[p.L4+2:p.L4+4])
	}
	turn()
	if v := Parse(frame, &p, &answer); v != OK || answer.Src != server || answer.SrcPort() != port || answer.Dst != k.Src {
		t.Fatalf("verdict %d, tuple of the answer %+v", v, answer)
	}
	l3, l4 := diffs(k.Dst, server, k.DstPort(), port)
	var l2 L2
	ToClient(frame, &p, &l2, k.Dst, k.DstPort(), ^l3, ^l4)
	turn()
	// The naive way to undo the TTL: put it back and compute the header's checksum.
	copy(frame, before[:12])
	if p.V6 {
		frame[p.L3+7] = before[p.L3+7]
	} else {
		h := frame[p.L3:p.L4]
		h[8], h[10], h[11] = before[p.L3+8], 0, 0
		binary.BigEndian.PutUint16(h[10:], naiveSum(h))
	}
	if !bytes.Equal(frame, before) {
		t.Fatalf("there and back\nis   % x\nwant % x", frame, before)
	}
}

func swapBytes(a, b []byte) {
	for i := range a {
		a[i], b[i] = b[i], a[i]
	}
}

// edgeWords are the words at which incremental updates go wrong (RFC 1624 section 3).
var edgeWords = []uint16{0, 1, 0x7fff, 0x8000, 0xfffe, 0xffff}

// TestDiffEdges updates the checksum of a few words, not all zero, and compares with computing it.
func TestDiffEdges(t *testing.T) {
	for _, other := range []uint16{1, 0x7fff, 0xfffe, 0xffff} {
		for _, old := range edgeWords {
			for _, new := range edgeWords {
				before, after := naiveWords(other, old), naiveWords(other, new)
				if got := update(before, uint32(PortDiff(old, new))); got != after {
					t.Errorf("port %#x to %#x beside %#x: %#x becomes %#x, not %#x", old, new, other, before, got, after)
				}
				if got := update(after, uint32(^PortDiff(old, new))); got != before {
					t.Errorf("port %#x to %#x beside %#x, back: %#x becomes %#x, not %#x", old, new, other, after, got, before)
				}
			}
		}
	}
	for a := range 6 * 6 * 6 * 6 {
		old := [2]uint16{edgeWords[a%6], edgeWords[a/6%6]}
		new := [2]uint16{edgeWords[a/36%6], edgeWords[a/216]}
		for _, other := range []uint16{1, 0xffff} {
			before, after := naiveWords(other, old[0], old[1]), naiveWords(other, new[0], new[1])
			oldAddr, newAddr := flow.AddrFrom4(uint32(old[0])<<16|uint32(old[1])), flow.AddrFrom4(uint32(new[0])<<16|uint32(new[1]))
			diff := AddrDiff(oldAddr, newAddr)
			if got := update(before, uint32(diff)); got != after {
				t.Errorf("%x to %x beside %#x: %#x becomes %#x, not %#x", old, new, other, before, got, after)
			}
			if got := update(after, uint32(^diff)); got != before {
				t.Errorf("%x to %x beside %#x, back: %#x becomes %#x, not %#x", old, new, other, after, got, before)
			}
			for _, ports := range [][2]uint16{{0, 0}, {0, 0xffff}, {0xffff, 0}, {0xffff, 0xffff}} {
				all := AddDiff(diff, PortDiff(ports[0], ports[1]))
				with, want := naiveWords(other, old[0], old[1], ports[0]), naiveWords(other, new[0], new[1], ports[1])
				if got := update(with, uint32(all)); got != want {
					t.Errorf("%x to %x, ports %x, beside %#x: %#x, not %#x", old, new, ports, other, got, want)
				}
			}
		}
	}
}

func TestDiffRandom(t *testing.T) {
	r := seeded(t)
	for range 100000 {
		var old, new [8]uint16
		for i := range old {
			old[i], new[i] = randomWord(r), randomWord(r)
		}
		before, after := naiveWords(append(old[:], 1)...), naiveWords(append(new[:], 1)...)
		diff := AddrDiff(wordsAddr(old), wordsAddr(new))
		if got := update(before, uint32(diff)); got != after {
			t.Fatalf("%x to %x: %#x, not %#x", old, new, got, after)
		}
		if got := update(after, uint32(^diff)); got != before {
			t.Fatalf("%x to %x and back: %#x, not %#x", old, new, got, before)
		}
	}
	for ttl := 1; ttl < 256; ttl++ {
		for _, proto := range []uint16{0, 6, 255} {
			for _, other := range []uint16{0x4500, 0xffff} {
				before, after := naiveWords(other, uint16(ttl)<<8|proto), naiveWords(other, uint16(ttl-1)<<8|proto)
				if got := update(before, ttlDiff); got != after {
					t.Errorf("TTL %d: %#x, not %#x", ttl, got, after)
				}
			}
		}
	}
}

func naiveWords(words ...uint16) uint16 {
	var b []byte
	for _, w := range words {
		b = binary.BigEndian.AppendUint16(b, w)
	}
	return naiveSum(b)
}

func wordsAddr(w [8]uint16) (a flow.Addr) {
	for i := range 4 {
		a.Hi = a.Hi<<16 | uint64(w[i])
		a.Lo = a.Lo<<16 | uint64(w[i+4])
	}
	return a
}

func TestRewriteAllocations(t *testing.T) {
	frame := basicPacket(true, flow.UDP).build(t)
	var p Packet
	var k flow.Key
	l2 := MakeL2([6]byte{2}, [6]byte{4})
	n := testing.AllocsPerRun(100, func() {
		Parse(frame, &p, &k)
		l3, l4 := diffs(k.Dst, k.Src, 1, 2)
		ToServer(frame, &p, &l2, k.Src, 2, l3, l4)
		ToClient(frame, &p, &l2, k.Dst, 1, ^l3, ^l4)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
	if got := SourceMAC(frame); got != [6]byte{4} {
		t.Errorf("source MAC % x", got)
	}
}
