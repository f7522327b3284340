package rewrite

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"sluice/flow"
)

// synOptions are TCP options in random order: MSS among them at any alignment, twice, or not at all.
func synOptions(r *rand.Rand, mss uint16) (options []byte, count int) {
	for range 1 + r.IntN(6) {
		var o []byte
		switch r.IntN(5) {
		case 0, 1:
			o = []byte{1}
		case 2:
			o = []byte{3, 3, 7}
		case 3:
			o = []byte{4, 2}
		case 4:
			o = binary.BigEndian.AppendUint16([]byte{2, 4}, mss)
			count++
		}
		options = append(options, o...)
	}
	for len(options)%4 != 0 {
		options = append(options, 0)
	}
	return options, count
}

// withOptions is a segment with these TCP options and a checksum over all of it.
func withOptions(t testing.TB, p testPacket, options []byte) []byte {
	t.Helper()
	p.proto = flow.TCP
	_, network := p.ipLayer()
	segment := p.transport(t, network) // for its header
	segment = append(slices.Clone(segment[:20]), options...)
	segment[12] = uint8(len(segment)/4) << 4
	segment[16], segment[17] = 0, 0
	var pseudo []byte
	pseudo = append(append(pseudo, p.src.AsSlice()...), p.dst.AsSlice()...)
	pseudo = append(binary.BigEndian.AppendUint32(pseudo, uint32(len(segment))), 0, 0, 0, flow.TCP)
	binary.BigEndian.PutUint16(segment[16:], naiveSum(pseudo, segment))
	p.dataSum, p.payload = false, segment
	// As payload of a protocol that transport leaves alone; then the number is put right.
	p.proto = 253
	frame := p.build(t)
	got, _ := parsed(t, frame, NoPorts)
	if p.src.Is4() {
		h := frame[got.L3:got.L4]
		h[9], h[10], h[11] = flow.TCP, 0, 0
		binary.BigEndian.PutUint16(h[10:], naiveSum(h))
	} else {
		frame[got.L3+6] = flow.TCP
	}
	return frame
}

// TestClampMSS compares with the segment built anew with another MSS.
func TestClampMSS(t *testing.T) {
	r := seeded(t)
	odd := 0
	for range 10000 {
		p := basicPacket(r.IntN(2) == 0, flow.TCP)
		p.flags = []uint8{flow.FlagSYN, flow.FlagSYN | flow.FlagACK, flow.FlagACK}[r.IntN(3)]
		p.sport, p.dport, p.seq = randomWord(r), randomWord(r), r.Uint32()
		from, to := randomWord(r), randomWord(r)
		seed := r.Uint64()
		options, count := synOptions(rand.New(rand.NewPCG(seed, 0)), from)
		changed, _ := synOptions(rand.New(rand.NewPCG(seed, 0)), min(from, to))
		if len(options) > 40 {
			continue
		}
		frame := exact(withOptions(t, p, options))
		want := withOptions(t, p, changed)
		changes := count > 0 && to < from
		if p.flags&flow.FlagSYN == 0 {
			want, changes = slices.Clone(frame), false
		}
		q, _ := parsed(t, frame, OK)
		if got := ClampMSS(frame, &q, to); got != changes || !slices.Equal(frame, want) {
			t.Fatalf("options % x to %d: %v\nis   % x\nwant % x", options, to, got, frame, want)
		}
		if at := slices.Index(options, 2); changes && at%2 != 0 {
			odd++
		}
	}
	if odd == 0 {
		t.Error("no option was at an odd offset")
	}
}

// TestClampMSSMalformed: options that cannot be read are left as they are, with what follows.
func TestClampMSSMalformed(t *testing.T) {
	for _, options := range [][]byte{
		{}, {2, 3, 0xff, 0}, {2, 5, 0xff, 0xff, 0, 0, 0, 0}, {3, 0, 2, 4, 0xff, 0xff, 0, 0}, {3, 1, 2, 4, 0xff, 0xff, 0, 0},
		{3, 9, 2, 4, 0xff, 0xff, 0, 0}, {0, 0, 2, 4, 0xff, 0xff, 0, 0}, {1, 1, 1, 2}, {1, 1, 2, 4}, {1, 2, 4, 0xff}, {254, 255, 0, 0},
	} {
		frame := exact(withOptions(t, basicPacket(false, flow.TCP).with(func(p *testPacket) { p.flags = flow.FlagSYN }), options))
		input := slices.Clone(frame)
		p, _ := parsed(t, frame, OK)
		if ClampMSS(frame, &p, 100) || !slices.Equal(frame, input) {
			t.Errorf("options % x were changed", options)
		}
	}
	udp := basicPacket(true, flow.UDP).build(t)
	if p, _ := parsed(t, udp, OK); ClampMSS(udp, &p, 1) {
		t.Error("UDP was changed")
	}
}

// TestVLAN compares tags that are put in, set and taken away with frames built with them.
func TestVLAN(t *testing.T) {
	r := seeded(t)
	tpid := layers.EthernetTypeDot1Q
	for range 5000 {
		p := randomAny(r)
		frame := p.build(t)
		want, wantKey := parsed(t, frame, OK, NoPorts)
		if tags, n := Tags(frame); n != len(p.tags) || n > 0 && tags[0] != 5<<13|100 || n > 1 && tags[1] != 5<<13|101 {
			t.Fatalf("tags %x, %d, of %+v", tags, n, p)
		}
		head := 4 + r.IntN(3)
		b := exact(append(make([]byte, head), frame...))
		id := uint16(min(r.IntN(3)*r.IntN(4096), 4095))
		got := want
		start, why := SetVLAN(b, head, &got, id)
		if why != Done {
			t.Fatal(why)
		}
		expect := p
		var rest []byte
		switch {
		case len(p.tags) == 0 && id != 0:
			rest = binary.BigEndian.AppendUint16([]byte{0x81, 0}, id)
		case len(p.tags) > 0 && id == 0:
			rest = frame[16:18] // the inner tag's type goes along
			expect = p.with(func(p *testPacket) { p.tags = nil })
		}
		var anew []byte
		switch {
		case len(p.tags) == 0 || id != 0:
			anew = slices.Insert(slices.Clone(frame), 12, rest...)
			if len(p.tags) > 0 {
				binary.BigEndian.PutUint16(anew[14:], 5<<13|id)
			}
		case len(p.tags) == 1:
			anew = expect.build(t)
		default: // the inner tag is VLAN 101 and stays
			anew = slices.Insert(expect.build(t), 12, frame[16:20]...)
		}
		if !slices.Equal(b[start:], anew) {
			t.Fatalf("%v to %d\nis   % x\nwant % x", p.tags, id, b[start:], anew)
		}
		parsedAgain, k := parsed(t, anew, OK, NoPorts)
		parsedAgain.TCP, got.TCP = flow.Segment{}, flow.Segment{}
		if parsedAgain.Proto != flow.SCTP {
			parsedAgain.SCTP, got.SCTP = flow.Chunks{}, flow.Chunks{}
		}
		if k != wantKey || parsedAgain != got {
			t.Fatalf("%+v, parsed anew %+v", got, parsedAgain)
		}
		// Two tags in, two tags out.
		if start, why = PushTag(b, head, new(Packet), uint16(tpid), 0xffff); len(p.tags) == 0 && id == 0 && (why != Done || start != head-4) {
			t.Fatalf("%q, %d", why, start)
		}
	}
	frame := basicPacket(false, flow.UDP).build(t)
	b := append(make([]byte, 8), frame...)
	p, _ := parsed(t, frame, OK)
	before := p
	start, _ := PushTag(b, 8, &p, etherVLAN, 3<<13|20)
	start, why := PushTag(b, start, &p, etherQinQ, 7<<13|30)
	tagged := basicPacket(false, flow.UDP).with(func(p *testPacket) { p.tags = qinq }).build(t)
	binary.BigEndian.PutUint16(tagged[14:], 7<<13|30)
	binary.BigEndian.PutUint16(tagged[18:], 3<<13|20)
	if why != Done || start != 0 || !slices.Equal(b, tagged) || p.VLAN != 7<<13|30 || p.L4 != before.L4+8 {
		t.Errorf("two tags: %q, %d, %+v\n% x", why, start, p, b)
	}
	if _, why := PushTag(b, 3, &p, etherVLAN, 1); why != NoRoom {
		t.Errorf("without headroom: %q", why)
	}
	if _, why := SetVLAN(append([]byte{0, 0, 0}, frame...), 3, new(Packet), 5); why != NoRoom {
		t.Errorf("without headroom: %q", why)
	}
	start = PopTag(b, PopTag(b, 0, &p), &p)
	if start != 8 || !slices.Equal(b[8:], frame) || p != before {
		t.Errorf("taken away again: %d %+v\n% x", start, p, b[8:])
	}
}
