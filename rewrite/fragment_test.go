package rewrite

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"sluice/flow"
)

// cut makes parts of at most size bytes (a multiple of 8) out of a datagram, by the words of RFC 791 section 3.2 and
// RFC 8200 section 4.5. In IPv6 the extension headers go into the fragmentable part.
func cut(t testing.TB, p testPacket, size int, id uint32) (parts [][]byte) {
	t.Helper()
	p.padding = 0
	ip := p
	ip.payload, ip.proto, ip.dataSum, ip.ext = nil, 253, false, nil
	header := 14 + 4*len(p.tags) + 20 + 4*p.options
	if p.src.Is6() {
		header = 14 + 4*len(p.tags) + 40
	}
	whole := p.build(t)
	first := whole[header-34] // next header of an IPv6 packet
	body := whole[header:]
	for at := 0; at < len(body); at += size {
		piece := body[at:min(at+size, len(body))]
		more := at+size < len(body)
		part := ip
		if p.src.Is6() {
			field := uint16(at)
			if more {
				field |= 1
			}
			rest := binary.BigEndian.AppendUint16([]byte{0}, field)
			part.ext = []extension{{extFragment, binary.BigEndian.AppendUint32(rest, id)}}
			part.proto = first
		} else {
			part.mf, part.offset, part.id, part.proto = more, uint16(at/8), uint16(id), p.proto
		}
		part.payload = piece
		parts = append(parts, part.rawBuild(t))
	}
	return parts
}

// rawBuild is build for a packet whose payload has the transport header, whatever the protocol.
func (p testPacket) rawBuild(t testing.TB) []byte {
	t.Helper()
	proto := p.proto
	p.proto = 253
	frame := p.build(t)
	l3 := 14 + 4*len(p.tags)
	if p.src.Is6() {
		frame[l3+40] = proto // behind a fragment header
		return frame
	}
	h := frame[l3 : l3+20+4*p.options]
	h[9], h[10], h[11] = proto, 0, 0
	binary.BigEndian.PutUint16(h[10:], naiveSum(h))
	return frame
}

// TestTranslateFragments translates the parts of a datagram one by one, the first with its ports, the others by address,
// and compares each with a part of the datagram that was built anew: so the whole has the right checksum.
func TestTranslateFragments(t *testing.T) {
	r := seeded(t)
	for range 1500 {
		p := randomAny(r)
		for p.proto == flow.SCTP {
			p = randomAny(r)
		}
		p.ext = slices.DeleteFunc(slices.Clone(p.ext), func(e extension) bool { return e.proto == extFragment })
		p.payload = append(p.payload, randomBytes(r, 64+r.IntN(3000))...)
		p.padding = 0
		to, l2, id, size := randomEnds(r, &p), randomMAC(r), r.Uint32(), 128+8*r.IntN(150)
		parts := cut(t, p, size, id)
		want := cut(t, p.withEnds(to).with(func(p *testPacket) { p.mac = l2; p.ttl-- }), size, id)
		if len(parts) == 1 {
			continue
		}
		from := p.ends()
		if !p.hasPorts() {
			from.SrcPort, from.DstPort = 0, 0
		}
		l3, l4 := EndsDiff(&from, &to, p.proto)
		seen := 0
		for i, part := range parts {
			frame := exact(part)
			got, k := parsed(t, frame, Fragment)
			var f FragmentPart
			if why := f.Read(frame, &got); why != Done {
				t.Fatal(why)
			}
			wantID, wantProto := id, uint8(extFragment)
			if !got.V6 {
				wantID, wantProto = id&0xffff, p.proto
			}
			if f.ID != wantID || f.Proto != wantProto || int(f.Offset) != seen || f.More != (i+1 < len(parts)) || f.Check(&got) != Done {
				t.Fatalf("%+v of %+v, part %d at %d", f, p, i, seen)
			}
			seen += int(f.Len)
			if f.Offset == 0 {
				if why := ReadFirst(frame, &got, &k); why != Done || EndsOf(&k) != from || k.Proto != p.proto {
					t.Fatalf("%q %+v of %+v", why, k, p)
				}
				Translate(frame, &got, &l2, &to, l3, l4)
			} else {
				TranslateAddresses(frame, &got, &l2, to.Src, to.Dst, l3)
			}
			if !slices.Equal(frame, want[i]) {
				t.Fatalf("part %d of %+v\nis   % x\nwant % x", i, p, frame, want[i])
			}
		}
		reassembled(t, want, p.withEnds(to))
	}
}

// reassembled puts translated parts together and has the checksums of the whole verified.
func reassembled(t *testing.T, parts [][]byte, want testPacket) {
	t.Helper()
	if want.proto != flow.TCP && want.proto != flow.UDP || len(want.ext) > 0 {
		return
	}
	p, _ := parsed(t, parts[0], Fragment)
	var segment []byte
	for _, part := range parts {
		q, _ := parsed(t, part, Fragment)
		segment = append(segment, part[q.L4:q.End]...)
	}
	pseudo := slices.Concat(want.src.AsSlice(), want.dst.AsSlice())
	pseudo = append(binary.BigEndian.AppendUint32(pseudo, uint32(len(segment))), 0, 0, 0, p.Proto)
	if !(p.Proto == flow.UDP && segment[6]|segment[7] == 0) && naiveSum(pseudo, segment) != 0 {
		t.Fatal("checksum of the whole is wrong")
	}
}

// TestReadFirst: what is found in a first part is what Parse finds in the whole.
func TestReadFirst(t *testing.T) {
	r := seeded(t)
	for range 1000 {
		p := randomAny(r)
		p.ext = slices.DeleteFunc(slices.Clone(p.ext), func(e extension) bool { return e.proto == extFragment })
		p.payload, p.padding = append(p.payload, randomBytes(r, 2000)...), 0
		if p.proto == flow.SCTP { // its chunks are read to the end
			p.payload = slices.Concat(chunk(1, 0, 20, initValue...), make([]byte, 4000))
			p.payload[20+3] = 4
		}
		whole := p.build(t)
		want, wantKey := parsed(t, whole, OK, NoPorts)
		parts := cut(t, p, 1200, 7)
		got, k := parsed(t, parts[0], Fragment)
		if why := ReadFirst(parts[0], &got, &k); why != Done || k != wantKey {
			t.Fatalf("%q %+v, not %+v", why, k, wantKey)
		}
		shift := 0
		if p.src.Is6() {
			shift = 8
		}
		want.Shift(shift)
		want.L3 = got.L3
		want.TCP.Len = got.TCP.Len
		if want.Proto == flow.TCP && int(got.TCP.Len) != max(int(got.End-got.Payload), largestSegment) {
			t.Fatalf("%d bytes of payload", got.TCP.Len)
		}
		want.End = got.End
		if p.proto == flow.SCTP {
			want.SCTP = got.SCTP
		}
		if valid(got) != valid(want) {
			t.Fatalf("%+v, not %+v", got, want)
		}
	}
}

// TestReadFirstRefused: a first part that does not have all of the transport header, or has one that contradicts itself.
func TestReadFirstRefused(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		tcp := basicPacket(v6, flow.TCP).with(func(p *testPacket) { p.tcpOption, p.payload = 10, make([]byte, 100) })
		udp, sctp, echo := basicPacket(v6, flow.UDP), basicPacket(v6, flow.SCTP), basicPacket(v6, flow.ICMP)
		sctp.dataSum, echo.dataSum, echo.kind = true, true, 8
		if v6 {
			echo.proto, echo.kind = flow.ICMPv6, 128
		}
		udp.payload, sctp.payload, echo.payload = make([]byte, 100), make([]byte, 100), make([]byte, 100)
		first := func(p testPacket, size int) []byte { return cut(t, p, size, 1)[0] }
		change := func(b []byte, at int, v ...byte) []byte {
			p, _ := parsed(t, b, Fragment)
			copy(b[int(p.L4)+at:], v)
			return b
		}
		for _, c := range []struct {
			name  string
			frame []byte
			want  Refusal
		}{
			{"8 bytes of TCP", first(tcp, 8), FragmentTiny},
			{"16 bytes of TCP", first(tcp, 16), FragmentTiny},
			{"TCP without all of its options", first(tcp, 24), FragmentTiny},
			{"TCP with its header", first(tcp, 32), Done},
			{"8 bytes of UDP", first(udp, 8), Done},
			{"8 bytes of SCTP", first(sctp, 8), FragmentTiny},
			{"16 bytes of SCTP", first(sctp, 16), Done},
			{"8 bytes of an echo request", first(echo, 8), Done},
			{"UDP of 7 bytes", change(first(udp, 16), 4, 0, 7), FragmentHeader},
			{"TCP header of 16 bytes", change(first(tcp, 32), 12, 0x40), FragmentHeader},
		} {
			p, k := parsed(t, c.frame, Fragment)
			if got := ReadFirst(exact(c.frame), &p, &k); got != c.want {
				t.Errorf("%s, IPv6 %v: %q, not %q", c.name, v6, got, c.want)
			}
		}
	}
	udp := basicPacket(true, flow.UDP).with(func(p *testPacket) { p.payload = make([]byte, 100) })
	for name, c := range map[string]struct {
		ext    []extension
		change func(b []byte)
		want   Refusal
	}{
		"headers behind the fragment header": {[]extension{destination, auth}, func([]byte) {}, Done},
		"no checksum":                        {nil, func(b []byte) { b[62+6], b[62+7] = 0, 0 }, FragmentHeader},
		"a second fragment header":           {[]extension{firstPart}, func([]byte) {}, FragmentHeader},
		"a header that goes on elsewhere":    {[]extension{destination}, func(b []byte) { b[62+1] = 20 }, FragmentTiny},
		"a source route":                     {[]extension{routing}, func(b []byte) { b[62+3] = 1 }, FragmentHeader},
	} {
		frame := exact(cut(t, udp.with(func(p *testPacket) { p.ext = c.ext }), 80, 1)[0])
		c.change(frame)
		p, k := parsed(t, frame, Fragment)
		if got := ReadFirst(frame, &p, &k); got != c.want {
			t.Errorf("%s: %q, not %q", name, got, c.want)
		}
	}
}

func TestFragmentCheck(t *testing.T) {
	for _, c := range []struct {
		f     FragmentPart
		proto uint8
		want  Refusal
	}{
		{FragmentPart{Len: 64, More: true}, flow.TCP, Done},
		{FragmentPart{Len: 8, More: true}, flow.TCP, Done}, // ReadFirst refuses it
		{FragmentPart{Len: 65, More: true}, flow.TCP, FragmentLength},
		{FragmentPart{Len: 0, More: true}, flow.UDP, FragmentLength},
		{FragmentPart{Offset: 64, Len: 0}, flow.UDP, FragmentLength},
		{FragmentPart{Offset: 64, Len: 3}, flow.UDP, Done},
		{FragmentPart{Offset: 65528, Len: 8}, flow.UDP, FragmentLength},
		{FragmentPart{Offset: 65504, Len: 12}, flow.UDP, FragmentLength}, // with a header of 20 bytes: 65,536
		{FragmentPart{Offset: 65504, Len: 11}, flow.UDP, Done},
		{FragmentPart{Offset: 8, Len: 64}, flow.TCP, FragmentOverlap}, // RFC 1858 section 3
		{FragmentPart{Offset: 16, Len: 64, More: true}, flow.TCP, FragmentOverlap},
		{FragmentPart{Offset: 24, Len: 64}, flow.TCP, Done},
		{FragmentPart{Offset: 8, Len: 64}, flow.SCTP, FragmentOverlap},
		{FragmentPart{Offset: 16, Len: 64}, flow.SCTP, Done},
		{FragmentPart{Offset: 8, Len: 64}, flow.UDP, Done},
		{FragmentPart{Offset: 8, Len: 64}, flow.ICMP, Done},
	} {
		if got := c.f.Check(&Packet{L3: 14, L4: 34, Proto: c.proto}); got != c.want {
			t.Errorf("%+v of protocol %d: %q, not %q", c.f, c.proto, got, c.want)
		}
	}
	for _, v6 := range []bool{false, true} {
		for _, ext := range [][]extension{nil, {atomic}, {hopByHop}, {atomic, destination}} {
			p := basicPacket(v6, flow.TCP)
			if v6 {
				p.ext = ext
			}
			frame := p.build(t)
			got, _ := parsed(t, frame, OK)
			if why := new(FragmentPart).Read(frame, &got); why != FragmentHeader {
				t.Errorf("a whole packet: %q", why)
			}
		}
	}
}

// TestVerify: what gopacket builds is right, any change of a bit that a checksum covers is wrong, what a sender leaves to
// its device is told from damage, and Recompute makes all of them right.
func TestVerify(t *testing.T) {
	r := seeded(t)
	partials := 0
	for range 3000 {
		p := randomAny(r)
		if r.IntN(8) == 0 {
			e := randomError(t, r)
			e.inner.payload = slices.Clone(e.inner.payload)
			p = e.outer.with(func(p *testPacket) { p.payload = e.message(t, 0, e.quote(t)) })
		}
		original := p.build(t)
		q, _ := parsed(t, original, OK, NoPorts)
		known := p.proto == flow.TCP || p.proto == flow.UDP && !p.noSum || p.proto == flow.SCTP || isICMP(&q)
		frame := exact(original)
		if got := Verify(frame, &q, false); got != SumsRight {
			t.Fatalf("%d: %+v", got, p)
		}
		Recompute(frame, &q, false)
		if !slices.Equal(frame, original) {
			t.Fatalf("recomputed\nis   % x\nwant % x", frame, original)
		}
		frame[int(q.L4)+r.IntN(int(q.End-q.L4)+1)-1] ^= 1 << r.IntN(8)
		verifyDamaged(t, frame, original, &q, known)
		if !q.V6 {
			frame = exact(original)
			frame[q.L3+8] ^= 0x10
			if got := Verify(frame, &q, r.IntN(2) == 0); got != SumsWrongIP {
				t.Fatalf("header: %d", got)
			}
			frame = exact(original)
			frame[q.L3+10] ^= 0x10
			Recompute(frame, &q, true)
			if !slices.Equal(frame, original) {
				t.Fatal("header not recomputed")
			}
		}
		if p.proto == flow.TCP || p.proto == flow.UDP && !p.noSum || p.proto == flow.SCTP {
			partials += verifyPartial(t, original, &q)
		}
	}
	if partials < 500 {
		t.Errorf("only %d partial checksums", partials)
	}
}

func verifyDamaged(t *testing.T, frame, original []byte, q *Packet, known bool) {
	t.Helper()
	got := Verify(frame, q, true)
	want, headerRight := SumsRight, got == SumsRight
	if !headerRight {
		return // it was the byte in front of the transport header
	}
	if known && !slices.Equal(frame, original) {
		want = SumsWrongTransport
	}
	if q.V6 && !slices.Equal(frame[:q.L4], original[:q.L4]) {
		return // an extension header, or an address
	}
	udp := q.Proto == flow.UDP
	if udp && frame[q.L4+4] != original[q.L4+4] || udp && frame[q.L4+5] != original[q.L4+5] || udp && !known {
		return // Parse would judge it anew
	}
	got = Verify(frame, q, false)
	if at := q.L4 + 6; udp && got == SumsPartial && binary.BigEndian.Uint16(frame[at:]) == naivePseudo(frame, q) {
		return // one damaged packet in 65536 looks like that
	}
	if at := q.L4 + 16; q.Proto == flow.TCP && got == SumsPartial && binary.BigEndian.Uint16(frame[at:]) == naivePseudo(frame, q) {
		return
	}
	if got != want {
		t.Fatalf("%d, not %d\nis  % x\nwas % x", got, want, frame, original)
	}
}

// naivePseudo is the sum of the pseudo-header of a whole packet.
func naivePseudo(frame []byte, q *Packet) uint16 {
	pseudo := slices.Clone(frame[q.L3+12 : q.L3+20])
	if q.V6 {
		pseudo = slices.Clone(frame[q.L3+8 : q.L3+40])
	}
	return ^naiveSum(append(binary.BigEndian.AppendUint32(pseudo, uint32(q.End-q.L4)), 0, 0, 0, q.Proto))
}

// verifyPartial does what a sender does that leaves the checksum to its device: TCP and UDP get the folded sum of the
// pseudo-header, SCTP gets 0.
func verifyPartial(t *testing.T, original []byte, q *Packet) int {
	t.Helper()
	frame := exact(original)
	at := q.L4 + 16
	if q.Proto == flow.UDP {
		at = q.L4 + 6
	}
	if q.Proto == flow.SCTP {
		at = q.L4 + 8
		clear(frame[at : at+4])
	} else {
		binary.BigEndian.PutUint16(frame[at:], naivePseudo(frame, q))
	}
	if slices.Equal(frame, original) || q.Proto == flow.UDP && frame[at]|frame[at+1] == 0 {
		return 0
	}
	if got := Verify(frame, q, false); got != SumsPartial {
		t.Fatalf("%d of % x", got, frame)
	}
	Recompute(frame, q, false)
	if !slices.Equal(frame, original) {
		t.Fatal("not made right")
	}
	return 1
}

// TestOnesSum compares with the sum in its plainest form, at every length and with values that carry.
func TestOnesSum(t *testing.T) {
	r := seeded(t)
	for n := range 300 {
		for range 20 {
			b := randomBytes(r, n)
			switch r.IntN(4) {
			case 0:
				for i := range b {
					b[i] = 0xff
				}
			case 1:
				clear(b)
			}
			b = exact(b)
			if got, want := ^onesSum(b), naiveSum(b); got != want {
				t.Fatalf("%#x, not %#x, of % x", got, want, b)
			}
		}
	}
	big := make([]byte, 1<<16)
	for i := range big {
		big[i] = uint8(rand.Uint32())
	}
	if ^onesSum(big) != naiveSum(big) {
		t.Error("64 KB")
	}
}
