package engine

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// sumAt is where the transport checksum of a frame of packet.build is.
func sumAt(p packet) int {
	at := 14 + 20 + 16
	if p.src.Is6() {
		at += 20
	}
	if p.udp {
		at -= 10
	}
	return at
}

// partial leaves the checksum of a frame as Linux does for a device: the sum of the pseudo-header, not complemented.
func partial(p packet, frame []byte) []byte {
	at, proto, length := sumAt(p), uint32(6), uint32(0)
	if p.udp {
		proto = 17
	}
	sum := proto
	addresses := frame[26:34]
	length = uint32(binary.BigEndian.Uint16(frame[16:])) - 20
	if p.src.Is6() {
		addresses, length = frame[22:54], uint32(binary.BigEndian.Uint16(frame[18:]))
	}
	sum += length + uint32(sum16(addresses))
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(frame[at:], uint16(sum))
	return frame
}

func damagedTransport(p packet, frame []byte) []byte {
	frame[sumAt(p)] ^= 0x55
	return frame
}

func damagedPayload(_ packet, frame []byte) []byte {
	frame[len(frame)-1] ^= 1
	return frame
}

func damagedHeader(p packet, frame []byte) []byte {
	if p.src.Is4() {
		frame[24] ^= 0x11
	}
	return frame
}

// Every policy, protocol and family: what arrives, and whether what leaves has the checksums that gopacket makes.
func TestChecksumPolicies(t *testing.T) {
	right := func(_ packet, frame []byte) []byte { return frame }
	const leavesRight, leavesWrong = -1, -2
	for _, c := range []struct {
		name   string
		policy SumPolicy
		what   string
		change func(packet, []byte) []byte
		want   int // a Reason, or how it leaves
	}{
		{"auto", SumAuto, "right", right, leavesRight}, {"auto", SumAuto, "damaged", damagedTransport, leavesWrong}, {"auto", SumAuto, "partial", partial, leavesRight},
		{"trust", SumTrust, "right", right, leavesRight}, {"trust", SumTrust, "damaged", damagedPayload, leavesWrong}, {"trust", SumTrust, "partial", partial, leavesWrong},
		{"verify", SumVerify, "right", right, leavesRight}, {"verify", SumVerify, "damaged", damagedTransport, int(BadChecksum)},
		{"verify", SumVerify, "payload", damagedPayload, int(BadChecksum)}, {"verify", SumVerify, "partial", partial, int(PartialChecksum)},
		{"verify", SumVerify, "header", damagedHeader, int(BadChecksum)},
		{"recompute", SumRecompute, "right", right, leavesRight}, {"recompute", SumRecompute, "damaged", damagedTransport, leavesRight},
		{"recompute", SumRecompute, "partial", partial, leavesRight}, {"recompute", SumRecompute, "header", damagedHeader, leavesRight},
	} {
		for _, e := range errorCases() {
			t.Run(c.name+"-"+c.what+"-"+e.name, func(t *testing.T) {
				spec := a4(1)
				spec.Ports[outside].Checksum = c.policy
				b := newBench(t, spec, 1000, 1024)
				defer b.close()
				want := c.want
				if e.request.src.Is6() && c.what == "header" { // it has no checksum
					want = leavesRight
				}
				request := e.request
				request.srcMAC, request.dstMAC, request.payload = clientMAC, outsideMAC, "longer than the padding of a frame"
				out := b.send(outside, c.change(request, request.build(t)))
				if want >= 0 {
					none(t, out)
					if s := b.stats(); s.Drops[want] != 1 || s.Dropped() != 1 || s.Opened != 0 {
						t.Errorf("%+v", s)
					}
					return
				}
				got := only(t, out, inside)
				request.srcMAC, request.dstMAC, request.dst, request.dport, request.ttl = insideMAC, serverMAC(1), e.server, e.answer.sport, 63
				if same := bytes.Equal(got, request.build(t)); same != (want == leavesRight) {
					t.Errorf("right: %v\n%x\n%x", same, got, request.build(t))
				}
				if seen := len(b.PartialPorts()) == 1; seen != (c.what == "partial" && c.policy == SumAuto) {
					t.Errorf("partial checksums on ports %v", b.PartialPorts())
				}
			})
		}
	}
}

// Packets of one burst, some of which are refused: the others keep their order and places.
func TestChecksumVerifyBurst(t *testing.T) {
	spec := a4(1)
	spec.Ports[outside].Checksum = SumVerify
	b := newBench(t, spec, 1000, 1024)
	defer b.close()
	var want []uint16
	for i := range uint16(40) {
		p := fromClient(5000+i, "S")
		frame := p.build(t)
		if i%3 == 1 {
			frame = damagedTransport(p, frame)
		} else {
			want = append(want, p.sport)
		}
		if !b.wire(0, outside).Send(frame) {
			t.Fatal("the wire is full")
		}
	}
	b.Step(b.now)
	var got []uint16
	b.wire(0, inside).Recv(func(frame []byte) { got = append(got, binary.BigEndian.Uint16(frame[34:])) })
	if len(got) != len(want) {
		t.Fatalf("%d leave, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			t.Errorf("place %d: port %d, want %d", i, got[i], want[i])
		}
	}
	if s := b.stats(); s.Drops[BadChecksum] != 13 || s.Opened != uint64(len(want)) {
		t.Errorf("%+v", s)
	}
}

// ICMP errors and parts of datagrams are looked at too.
func TestChecksumVerifyUnusual(t *testing.T) {
	spec := a4(1)
	spec.Ports[outside].Checksum, spec.Ports[inside].Checksum = SumVerify, SumVerify
	b := newBench(t, spec, 1000, 1024)
	defer b.close()
	request := errorCases()[0].request
	request.srcMAC, request.dstMAC = clientMAC, outsideMAC
	sent := only(t, b.send(outside, request.build(t)), inside)[14:]
	e := tooBig{serverMAC(1), insideMAC, serverIP(1), request.src, 64, sent}.build(t)
	only(t, b.send(inside, e), outside)
	e[len(e)-1] ^= 1
	none(t, b.send(inside, e))
	p := packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: clientIP, dst: vip, sport: 9, dport: 53, udp: true, payload: string(make([]byte, 2000))}
	parts := cut(p.build(t), 5, 800)
	parts[1][24] ^= 1 // of the IP header
	only(t, b.send(outside, parts[0]), inside)
	none(t, b.send(outside, parts[1]))
	only(t, b.send(outside, parts[2]), inside)
	if s := b.stats(); s.Drops[BadChecksum] != 2 || s.Dropped() != 2 {
		t.Errorf("%+v", s)
	}
}

// A partial checksum that comes late is still found, by samples; from then on each is repaired, also on the other worker's behalf,
// and a new configuration does not forget it.
func TestChecksumSamples(t *testing.T) {
	b := newBench(t, a4(2), 4000, 2048)
	defer b.close()
	for i := range uint16(100) {
		b.send(outside, fromClient(1000+i, "S").build(t))
	}
	n := 0
	for ; len(b.PartialPorts()) == 0; n++ {
		if n > 2*sampleEvery {
			t.Fatal("not found")
		}
		p := fromClient(3000, "S")
		b.send(outside, partial(p, p.build(t)))
	}
	for i := range uint16(8) {
		if i == 4 {
			cfg, err := NewConfig(a4(2), b.dict)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.Apply(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
		}
		p := fromClient(4000+i, "S")
		got := only(t, b.send(outside, partial(p, p.build(t))), inside)
		member := b.lookupMember(got)
		p.srcMAC, p.dstMAC, p.dst, p.ttl = insideMAC, serverMAC(member), serverIP(member), 63
		if !bytes.Equal(got, p.build(t)) {
			t.Errorf("%x, want\n%x", got, p.build(t))
		}
	}
	if s := b.stats(); s.Recomputed != 9 {
		t.Errorf("%d repaired after %d that were not", s.Recomputed, n-1)
	}
}

// lookupMember is the number of the member that a frame goes to.
func (b *bench) lookupMember(frame []byte) int { return int(frame[33]) }
