package engine

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/rewrite"
)

// Ports of vlans beside outside, inside and host.
const (
	red  = 3 + iota // 10 on outside
	blue            // 20 on inside
	qinq            // 30, 40 on inside
	lime            // 11 on outside
)

var vlanMACs = map[int][6]byte{red: {2, 0, 0, 0, 1, 10}, blue: {2, 0, 0, 0, 2, 20}, qinq: {2, 0, 0, 0, 2, 30}, lime: {2, 0, 0, 0, 1, 11}}

// vlans is a4 with VLANs on both sides, whose members are on the port given.
func vlans(workers, members int) Spec {
	s := answering(workers, 1000)
	add := func(name string, parent int, ids ...uint16) {
		p := PortSpec{Name: name, MAC: vlanMACs[len(s.Ports)], Addr4: outside4, Addr6: outside6, MTU: 1500}
		p.VLAN = VLANSpec{Parent: parent, Tags: rewrite.VLANTags{N: uint8(len(ids))}}
		copy(p.VLAN.Tags.IDs[:], ids)
		s.Ports = append(s.Ports, p)
	}
	add("red", outside, 10)
	add("blue", inside, 20)
	add("qinq", inside, 30, 40)
	add("lime", outside, 11)
	for i := range s.Pools {
		for j := range s.Pools[i].Members {
			s.Pools[i].Members[j].Hop.Port = members
		}
	}
	for i := range s.Virtuals {
		s.Virtuals[i].Echo = EchoEngine
	}
	return s
}

// tagged puts tags, with their priority, into a frame of gopacket's, the outermost first.
func tagged(t testing.TB, frame []byte, tpid layers.EthernetType, tags ...uint16) []byte {
	t.Helper()
	eth := &layers.Ethernet{}
	if err := eth.DecodeFromBytes(frame, gopacket.NilDecodeFeedback); err != nil {
		t.Fatal(err)
	}
	inner, ls := eth.EthernetType, []gopacket.SerializableLayer{eth}
	for i, tag := range tags {
		q := &layers.Dot1Q{Priority: uint8(tag >> 13), DropEligible: tag>>12&1 != 0, VLANIdentifier: tag & 0xfff, Type: layers.EthernetTypeDot1Q}
		if i == len(tags)-1 {
			q.Type = inner
		}
		ls = append(ls, q)
	}
	if len(tags) > 0 {
		eth.EthernetType = tpid
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{}, append(ls, gopacket.Payload(eth.Payload))...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// stacks are ways into and out of the engine: port, tags of frames there, and their TPID.
type stack struct {
	name    string
	port    int // of the configuration
	wire    int // where frames are
	tpid    layers.EthernetType
	tags    []uint16
	carried bool // the last tag is the client's own, behind those of the port
}

const dot1q, dot1ad = layers.EthernetTypeDot1Q, layers.EthernetTypeQinQ

func clientStacks() []stack {
	return []stack{
		{"untagged", outside, outside, dot1q, nil, false},
		{"tagged", red, outside, dot1q, []uint16{10}, false},
		{"priority", red, outside, dot1q, []uint16{5<<13 | 1<<12 | 10}, false},
	}
}

func memberStacks() []stack {
	return []stack{
		{"untagged", inside, inside, dot1q, nil, false},
		{"tagged", blue, inside, dot1q, []uint16{20}, false},
		{"qinq", qinq, inside, dot1ad, []uint16{30, 40}, false},
	}
}

// A request and its answer, of every protocol and family, between all kinds of ends: each frame has the tags of the port that it
// leaves by, and the priority that it came with.
func TestVLANs(t *testing.T) {
	for _, workers := range []int{1, 3} {
		for _, from := range clientStacks() {
			for _, to := range memberStacks() {
				for _, c := range errorCases() {
					t.Run(fmt.Sprintf("%d/%s-%s-%s", workers, from.name, to.name, c.name), func(t *testing.T) {
						b := newBench(t, vlans(workers, to.port), 1000, 1024)
						defer b.close()
						cMAC, mMAC := b.Config().Ports[from.port].MAC, b.Config().Ports[to.port].MAC
						request, answer := c.request, c.answer
						request.srcMAC, request.dstMAC = clientMAC, cMAC[:]
						answer.srcMAC, answer.dstMAC = serverMAC(1), mMAC[:]
						priority := uint16(0)
						if len(from.tags) > 0 {
							priority = from.tags[0] &^ 0xfff
						}
						got := only(t, b.send(outside, tagged(t, request.build(t), from.tpid, from.tags...)), inside)
						want := request
						want.srcMAC, want.dstMAC, want.dst, want.dport, want.ttl = mMAC[:], serverMAC(1), c.server, c.answer.sport, 63
						if wire := tagged(t, want.build(t), to.tpid, prioritised(to.tags, priority)...); !bytes.Equal(got, wire) {
							t.Fatalf("to the member\n%x, want\n%x", got, wire)
						}
						got = only(t, b.send(inside, tagged(t, answer.build(t), to.tpid, prioritised(to.tags, 3<<13)...)), outside)
						back := answer
						back.srcMAC, back.dstMAC, back.src, back.sport, back.ttl = cMAC[:], clientMAC, c.virtual, c.request.dport, 63
						if priority = 0; len(to.tags) > 0 {
							priority = 3 << 13
						}
						plain := append([]uint16{}, from.tags...)
						for i := range plain {
							plain[i] &= 0xfff
						}
						if wire := tagged(t, back.build(t), from.tpid, prioritised(plain, priority)...); !bytes.Equal(got, wire) {
							t.Fatalf("to the client\n%x, want\n%x", got, wire)
						}
						if s := b.stats(); s.Dropped() != 0 || s.Opened != 1 || s.ToServer != 1 || s.ToClient != 1 {
							t.Errorf("%+v", s)
						}
					})
				}
			}
		}
	}
}

// prioritised has the priority and drop bits set in every tag.
func prioritised(tags []uint16, bits uint16) (out []uint16) {
	for _, t := range tags {
		out = append(out, t|bits)
	}
	return out
}

// The same tuple in another VLAN, or without one, is another packet: it neither meets the connection nor opens one.
func TestVLANsApart(t *testing.T) {
	b := newBench(t, vlans(1, blue), 1000, 1024)
	defer b.close()
	syn := tagged(t, fromClient(4000, "S").build(t), dot1q, 10)
	only(t, b.send(outside, syn), inside)
	answer := fromServer(1, 4000, "SA")
	only(t, b.send(inside, tagged(t, answer.build(t), dot1q, 20)), outside)
	data := fromClient(4000, "A")
	data.seq, data.ack = 1001, 9001
	for i, tags := range [][]uint16{{}, {11}} {
		none(t, b.send(outside, tagged(t, data.build(t), dot1q, tags...)))
		none(t, b.send(outside, tagged(t, fromClient(4000, "S").build(t), dot1q, tags...)))
		if s := b.stats(); s.Drops[WrongSide] != uint64(2*i+2) || s.Opened != 1 {
			t.Errorf("%v: %+v", tags, s)
		}
	}
	answer.flags, answer.seq = "A", 9001
	for i, tags := range [][]uint16{{}, {30, 40}} {
		none(t, b.send(inside, tagged(t, answer.build(t), dot1ad, tags...)))
		if s := b.stats(); s.Drops[WrongSide] != uint64(5+i) {
			t.Errorf("%v: %+v", tags, s)
		}
	}
	only(t, b.send(outside, tagged(t, data.build(t), dot1q, 10)), inside)
	for i, tags := range [][]uint16{{12}, {10 << 4, 1}, {0xfff}} { // nobody's
		none(t, b.send(outside, tagged(t, syn2(t), dot1q, tags...)))
		if s := b.stats(); s.Drops[VLANUnknown] != uint64(i+1) {
			t.Errorf("%v: %+v", tags, s)
		}
	}
}

func syn2(t testing.TB) []byte { return fromClient(4001, "S").build(t) }

// What the engine makes itself goes back with the tags that it came with: RSTs, ICMP errors, echo replies; and what is the
// kernel's goes there without.
func TestVLANAnswers(t *testing.T) {
	spec := vlans(2, blue)
	for i := range spec.Virtuals {
		spec.Virtuals[i].MidStream = MidStreamReset
	}
	b := newBench(t, spec, 1000, 1024)
	defer b.close()
	tags := func(frame []byte) (out []uint16) {
		p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
		for _, l := range p.Layers() {
			if q, ok := l.(*layers.Dot1Q); ok {
				out = append(out, q.VLANIdentifier|uint16(q.Priority)<<13)
			}
		}
		if p.ErrorLayer() != nil {
			t.Errorf("%x: %v", frame, p.ErrorLayer())
		}
		return out
	}
	expired := fromClient(5000, "S")
	expired.ttl = 1
	for _, c := range []struct {
		what  string
		frame []byte
	}{
		{"reset", fromClient(5001, "A").build(t)},
		{"time exceeded", expired.build(t)},
		{"echo", echoMessage{src: clientIP, dst: vip, id: 3, size: 30}.build(t)},
	} {
		got := only(t, b.send(outside, tagged(t, c.frame, dot1q, 2<<13|10)), outside)
		if ids := fmt.Sprint(tags(got)); ids != fmt.Sprint([]uint16{2<<13 | 10}) {
			t.Errorf("%s: tags %s", c.what, ids)
		}
	}
	stray := fromServer(2, 999, "A")
	if got := only(t, b.send(inside, tagged(t, stray.build(t), dot1q, 20)), host); len(tags(got)) != 0 {
		t.Errorf("the kernel gets %x", got)
	}
	// An established connection that expires: RSTs to both ends, of no packet.
	only(t, b.send(outside, tagged(t, fromClient(5002, "S").build(t), dot1q, 10)), inside)
	for i := range spec.Virtuals {
		spec.Virtuals[i].ResetExpired = true
	}
	cfg, err := NewConfig(spec, b.dict)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Apply(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	synAck := fromServer(1, 5002, "SA")
	synAck.ack = 1001
	only(t, b.send(inside, tagged(t, synAck.build(t), dot1q, 20)), outside)
	ack := fromClient(5002, "A")
	ack.seq, ack.ack = 1001, 9001
	only(t, b.send(outside, tagged(t, ack.build(t), dot1q, 10)), inside)
	b.now += uint64(DefaultTimeouts.Established) + 2000
	for range 200 {
		b.Step(b.now)
	}
	out := b.take()
	if len(out[outside]) != 1 || len(out[inside]) != 1 || fmt.Sprint(tags(out[outside][0]), tags(out[inside][0])) != "[10] [20]" {
		t.Errorf("resets: %x", out)
	}
}

// Parts of a datagram are tagged alike, those that wait for their first too.
func TestVLANFragments(t *testing.T) {
	for _, workers := range []int{1, 3} {
		b := newBench(t, vlans(workers, qinq), 1000, 1024)
		defer b.close()
		p := packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: clientIP6, dst: vip6, sport: 9, dport: 53, udp: true, payload: strings.Repeat("abcdefgh", 200)}
		parts := cut(p.build(t), 5, 800)
		var got [][]byte
		for _, i := range []int{2, 1, 0} {
			got = append(got, b.send(outside, tagged(t, parts[i], dot1q, 10))[inside]...)
		}
		if len(got) != len(parts) {
			t.Fatalf("%d of %d parts", len(got), len(parts))
		}
		for _, frame := range got {
			if ids, n := rewrite.Tags(frame); n != 2 || ids != [2]uint16{30, 40} {
				t.Errorf("%x", frame)
			}
		}
		if s := b.stats(); s.Dropped() != 0 {
			t.Errorf("%+v", s)
		}
	}
}

// A frame that would leave with three tags is dropped by name.
func TestVLANTooManyTags(t *testing.T) {
	b := newBench(t, vlans(1, qinq), 1000, 1024)
	defer b.close()
	none(t, b.send(outside, tagged(t, fromClient(1, "S").build(t), dot1q, 10, 99)))
	if s := b.stats(); s.Drops[VLANTags] != 1 {
		t.Errorf("%+v", s)
	}
}

// A customer's own tag behind that of the VLAN goes through.
func TestVLANCarriesTags(t *testing.T) {
	b := newBench(t, vlans(1, blue), 1000, 1024)
	defer b.close()
	got := only(t, b.send(outside, tagged(t, fromClient(1, "S").build(t), dot1q, 10, 99)), inside)
	if ids, n := rewrite.Tags(got); n != 2 || ids != [2]uint16{20, 99} {
		t.Errorf("%x", got)
	}
}

// Retag against gopacket: any tags, any change.
func TestRetag(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	plain := fromClient(1, "S").build(t)
	for range 5000 {
		have, own := make([]uint16, rnd.IntN(3)), rnd.IntN(3)
		for i := range have {
			have[i] = uint16(rnd.IntN(1 << 16))
		}
		to := rewrite.VLANTags{N: uint8(rnd.IntN(3)), IDs: [2]uint16{uint16(rnd.IntN(4095)), uint16(rnd.IntN(4095))}}
		inTPID := []layers.EthernetType{dot1q, dot1ad}[rnd.IntN(2)]
		frame := tagged(t, plain, inTPID, have...)
		head := rnd.IntN(12)
		b := append(make([]byte, head), frame...)
		start, r := rewrite.Retag(b, head, own, &to)

		taken := min(own, len(have))
		if own == 0 {
			taken = min(int(to.N), len(have))
		}
		var want []uint16
		for i := range int(to.N) {
			bits := uint16(0)
			if taken > 0 {
				bits = have[min(i, taken-1)] &^ 0xfff
			}
			want = append(want, bits|to.IDs[i])
		}
		want = append(want, have[taken:]...)
		outTPID := dot1q
		switch {
		case int(to.N) == taken || to.N == 0:
			outTPID = inTPID
			if taken > 0 && to.N == 0 {
				outTPID = dot1q // inner tags are 802.1Q
			}
		case to.N == 2:
			outTPID = dot1ad
		}
		switch grow := 4 * (int(to.N) - taken); {
		case len(want) > 2:
			if r != rewrite.Untaggable || !bytes.Equal(b[head:], frame) {
				t.Fatalf("%v, %d own, to %v: %v", have, own, to, r)
			}
		case grow > head:
			if r != rewrite.NoRoom || !bytes.Equal(b[head:], frame) {
				t.Fatalf("%v, %d own, to %v in %d bytes: %v", have, own, to, head, r)
			}
		default:
			if wire := tagged(t, plain, outTPID, want...); r != rewrite.Done || !bytes.Equal(b[start:], wire) {
				// An outer tag that is put in front of others keeps theirs as it is.
				if len(want) == 2 && len(have) > taken && r == rewrite.Done && bytes.Equal(b[start+18:], wire[18:]) {
					continue
				}
				t.Fatalf("%v (%x), %d own, to %v: %v\n%x, want\n%x", have, uint16(inTPID), own, to, r, b[start:], wire)
			}
		}
	}
}

func TestVLANConfigRefused(t *testing.T) {
	for _, change := range []func(*Spec){
		func(s *Spec) { s.Ports[lime].VLAN.Tags.IDs[0] = 10 },
		func(s *Spec) { s.Ports[lime].VLAN.Parent = red },
		func(s *Spec) { s.Ports[lime].VLAN.Parent = 99 },
		func(s *Spec) { s.Ports[lime].VLAN.Tags.N = 3 },
	} {
		s := vlans(1, blue)
		change(&s)
		if _, err := NewConfig(s, NewDictionary()); err == nil {
			t.Errorf("%+v is taken", s.Ports[lime])
		}
	}
}
