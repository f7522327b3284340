package rewrite

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/flow"
)

// naiveCRC32c is the checksum of RFC 9260 appendix A bit by bit; a field of 0 in its place.
func naiveCRC32c(b []byte) uint32 {
	c := ^uint32(0)
	for i, v := range b {
		if i >= sctpSumAt && i < sctpSumAt+4 {
			v = 0
		}
		c ^= uint32(v)
		for range 8 {
			c = c>>1 ^ 0x82f63b78*(c&1)
		}
	}
	return ^c
}

func sctpSumValid(b []byte) bool { return binary.LittleEndian.Uint32(b[sctpSumAt:]) == naiveCRC32c(b) }

// sctpPacket is an SCTP packet with its checksum by gopacket.
func sctpPacket(t testing.TB, sport, dport uint16, tag uint32, chunks ...[]byte) []byte {
	l := &layers.SCTP{SrcPort: layers.SCTPPort(sport), DstPort: layers.SCTPPort(dport), VerificationTag: tag}
	return serialize(t, l, gopacket.Payload(bytes.Join(chunks, nil)))
}

// chunk is a chunk of n bytes with its header, padded.
func chunk(kind, flags uint8, n int, value ...byte) []byte {
	b := append([]byte{kind, flags, 0, 0}, value...)
	binary.BigEndian.PutUint16(b[2:], uint16(n))
	for len(b) < (n+3)&^3 {
		b = append(b, 0)
	}
	return b
}

var initValue = []byte{0x9e, 0x37, 0x79, 0xb9, 0, 1, 0xa0, 0, 0, 10, 8, 0, 0xde, 0xad, 0xbe, 0xef}

type sctpCase struct {
	name   string
	tag    uint32
	chunks [][]byte
	want   flow.Chunks
}

// packet has the transport header in its payload: testPacket knows TCP and UDP only.
func (c sctpCase) packet(t testing.TB, v6 bool) testPacket {
	return basicPacket(v6, flow.SCTP).with(func(p *testPacket) { p.payload = sctpPacket(t, p.sport, p.dport, c.tag, c.chunks...) })
}

func sctpCases() []sctpCase {
	bit := func(kinds ...int) (m uint16) {
		for _, k := range kinds {
			m |= 1 << k
		}
		return m
	}
	return []sctpCase{
		{"init", 0, [][]byte{chunk(1, 0, 20, initValue...)}, flow.Chunks{InitTag: 0x9e3779b9, Types: bit(1)}},
		{"init ack with a cookie", 7, [][]byte{chunk(2, 0, 27, initValue...)}, flow.Chunks{Tag: 7, InitTag: 0x9e3779b9, Types: bit(2)}},
		{"init cut short", 0, [][]byte{chunk(1, 0, 19, initValue...)}, flow.Chunks{}},
		{"init with something beside it", 0, [][]byte{chunk(1, 0, 20, initValue...), chunk(3, 0, 16)}, flow.Chunks{InitTag: 0x9e3779b9, Types: bit(1, 3)}},
		{"cookie echo, data", 8, [][]byte{chunk(10, 0, 9), chunk(0, 3, 21)}, flow.Chunks{Tag: 8, Types: bit(10, 0)}},
		{"what follows data", 8, [][]byte{chunk(0, 3, 21), chunk(6, 0, 4)}, flow.Chunks{Tag: 8, Types: bit(0)}},
		{"auth, cookie echo", 8, [][]byte{chunk(15, 0, 28), chunk(10, 0, 8)}, flow.Chunks{Tag: 8, Types: bit(15, 10)}},
		{"error, abort", 8, [][]byte{chunk(9, 0, 8), chunk(6, 0, 8)}, flow.Chunks{Tag: 8, Types: bit(9, 6)}},
		{"abort reflected", 8, [][]byte{chunk(6, 1, 4)}, flow.Chunks{Tag: 8, Types: bit(6), Reflected: true}},
		{"shutdown complete reflected", 8, [][]byte{chunk(14, 1, 4)}, flow.Chunks{Tag: 8, Types: bit(14), Reflected: true}},
		{"the highest type", 8, [][]byte{chunk(255, 0, 4)}, flow.Chunks{Tag: 8, Types: bit(15)}},
		{"no chunk", 8, nil, flow.Chunks{Tag: 8}},
		{"a chunk of length 0", 8, [][]byte{chunk(3, 0, 16), chunk(6, 0, 0)}, flow.Chunks{Tag: 8}},
		{"a chunk that is too long", 8, [][]byte{chunk(3, 0, 16), {6, 0, 0, 5}}, flow.Chunks{Tag: 8}},
		{"half a chunk header", 8, [][]byte{chunk(3, 0, 16), {6, 0}}, flow.Chunks{Tag: 8}},
		{"padding left out", 8, [][]byte{chunk(7, 0, 8), {9, 0, 0, 5, 0}}, flow.Chunks{Tag: 8, Types: bit(7, 9)}},
		{"too many to look at", 8, append(slices.Repeat([][]byte{chunk(3, 0, 4)}, maxChunks), chunk(6, 0, 4)), flow.Chunks{Tag: 8, Types: bit(3)}},
	}
}

func TestParseSCTP(t *testing.T) {
	for _, c := range sctpCases() {
		for _, v6 := range []bool{false, true} {
			frame := c.packet(t, v6).with(func(p *testPacket) { p.padding = 6 }).build(t)
			var p Packet
			var k flow.Key
			v := Parse(frame, &p, &k)
			if v != OK || k.Ports != flow.Ports(40000, 443) || k.Proto != flow.SCTP || p.Payload != p.L4+sctpLen || p.SCTP != c.want || p.Opens != c.want.Opens() {
				t.Errorf("%s: verdict %d, %+v %+v, want %+v", c.name, v, k, p, c.want)
			}
		}
	}
	short := basicPacket(false, flow.SCTP).with(func(p *testPacket) { p.payload = make([]byte, sctpLen-1); p.padding = 6 }).build(t)
	if v := Parse(short, new(Packet), new(flow.Key)); v != Truncated {
		t.Errorf("a header of 11 bytes: verdict %d", v)
	}
	if !sctpCases()[0].want.Opens() {
		t.Error("an INIT does not open")
	}
	for _, c := range sctpCases()[1:] {
		if c.want.Opens() {
			t.Errorf("%s opens", c.name)
		}
	}
}

// TestRewriteSCTP compares both rewrites with packets that gopacket builds anew.
func TestRewriteSCTP(t *testing.T) {
	r := seeded(t)
	for i := range 4000 {
		value := make([]byte, r.IntN(1400))
		for j := range value {
			value[j] = uint8(r.Uint32())
		}
		tag, body := r.Uint32(), chunk(0, 3, 4+len(value), value...)
		original := randomPacket(r)
		original.proto, original.sport, original.dport = flow.SCTP, randomWord(r), randomWord(r)
		l2, addr, port, forward := randomMAC(r), randomAddr(r, original.src.Is6()), randomWord(r), i%2 == 0
		if r.IntN(4) == 0 {
			port = original.dport
		}
		original.payload = sctpPacket(t, original.sport, original.dport, tag, body)
		want := original.with(func(p *testPacket) {
			p.mac, p.ttl = l2, p.ttl-1
			if forward {
				p.dst, p.dport = addr, port
			} else {
				p.src, p.sport = addr, port
			}
			p.payload = sctpPacket(t, p.sport, p.dport, tag, body)
		}).build(t)
		frame := original.build(t)
		damaged := slices.Clone(frame)
		var p Packet
		var k flow.Key
		if v := Parse(frame, &p, &k); v != OK {
			t.Fatalf("verdict %d of %+v", v, original)
		}
		change := func(b []byte) {
			to := flow.AddrFrom(addr)
			if forward {
				l3, l4 := diffs(k.Dst, to, k.DstPort(), port)
				ToServer(b, &p, &l2, to, port, l3, l4)
			} else {
				l3, l4 := diffs(to, k.Src, port, k.SrcPort())
				ToClient(b, &p, &l2, to, port, ^l3, ^l4)
			}
		}
		change(frame)
		if !bytes.Equal(frame, want) {
			t.Fatalf("forward %v of %+v\nis   % x\nwant % x", forward, original, frame, want)
		}
		if _, l4 := sumsValid(frame, &p); !l4 {
			t.Fatal("gopacket and the naive checksum differ")
		}
		// A packet that was damaged on its way must not get a checksum that hides it.
		damaged[int(p.Payload)+r.IntN(int(p.End-p.Payload))] ^= 0x10
		change(damaged)
		if _, l4 := sumsValid(damaged, &p); l4 {
			t.Fatal("a damaged packet has a right checksum")
		}
	}
}

// TestRewriteSCTPWithoutChecksum: ends may agree to send 0 (RFC 9653), which then must stay.
func TestRewriteSCTPWithoutChecksum(t *testing.T) {
	frame := sctpCases()[4].packet(t, false).build(t)
	var p Packet
	var k flow.Key
	Parse(frame, &p, &k)
	sum := frame[p.L4+sctpSumAt : p.L4+sctpSumAt+4]
	clear(sum)
	ToServer(frame, &p, &L2{}, k.Src, 8080, 0, 0)
	if !bytes.Equal(sum, make([]byte, 4)) {
		t.Errorf("checksum % x", sum)
	}
	if got := binary.BigEndian.Uint16(frame[p.L4+2:]); got != 8080 {
		t.Errorf("port %d", got)
	}
}

func TestSCTPAllocations(t *testing.T) {
	frame := sctpCases()[4].packet(t, true).build(t)
	var p Packet
	var k flow.Key
	l2 := MakeL2([6]byte{2}, [6]byte{4})
	if n := testing.AllocsPerRun(100, func() {
		Parse(frame, &p, &k)
		ToServer(frame, &p, &l2, k.Src, 2, 0, 0)
		ToClient(frame, &p, &l2, k.Dst, 1, 0, 0)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkSCTPPort(b *testing.B) {
	for _, size := range []int{64, 1452} {
		b.Run(map[int]string{64: "bytes=64", 1452: "bytes=1452"}[size], func(b *testing.B) {
			packet := make([]byte, size)
			b.ReportAllocs()
			for i := range b.N {
				setPortSCTP(packet, 0, 2, uint16(i)|1)
				packet[sctpSumAt] = 1 // else it would be one without a checksum
			}
		})
	}
}
