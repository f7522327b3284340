package rewrite

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/flow"
)

// testError is an ICMP error of the tests: a message about inner, of which quoted bytes are in it.
type testError struct {
	outer      testPacket // without payload
	inner      testPacket
	quoted     int
	kind, code uint8
	word       uint32 // behind the checksum
	extension  []byte // RFC 4884: the quote is then padded to 128 bytes, and word has its length
	oldSum     []byte // stands in the quoted transport header at oldSumAt: a checksum that cannot be computed from what is quoted
	oldSumAt   int
}

// quote is the quoted packet as its bytes are in the message.
func (e *testError) quote(t testing.TB) []byte {
	t.Helper()
	frame := e.inner.build(t)
	return frame[etherLen:][:e.quoted]
}

func (e *testError) build(t testing.TB) []byte {
	t.Helper()
	data := slices.Clone(e.quote(t))
	if at := e.innerHeaders(t) + e.oldSumAt; e.oldSum != nil && at < len(data) {
		copy(data[at:], e.oldSum)
	}
	word := e.word
	if e.extension != nil {
		unit := 4
		if e.outer.src.Is6() {
			unit = 8
		}
		for len(data) < 128 || len(data)%unit != 0 {
			data = append(data, 0)
		}
		if e.outer.src.Is6() {
			word |= uint32(len(data)/unit) << 24
		} else {
			word |= uint32(len(data)/unit) << 16
		}
		data = append(data, e.extension...)
	}
	return e.outer.with(func(p *testPacket) { p.payload = e.message(t, word, data) }).build(t)
}

func (e *testError) message(t testing.TB, word uint32, data []byte) []byte {
	t.Helper()
	if !e.outer.src.Is6() {
		l := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(e.kind, e.code), Id: uint16(word >> 16), Seq: uint16(word)}
		return serialize(t, l, gopacket.Payload(data))
	}
	l := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(e.kind, e.code)}
	_, network := e.outer.ipLayer()
	must(t, l.SetNetworkLayerForChecksum(network))
	return serialize(t, l, gopacket.Payload(append(binary.BigEndian.AppendUint32(nil, word), data...)))
}

// innerHeaders is how many bytes of the quoted packet are in front of its transport header.
func (e *testError) innerHeaders(t testing.TB) int {
	t.Helper()
	_, network := e.inner.ipLayer()
	return len(e.inner.build(t)) - etherLen - len(e.inner.transport(t, network))
}

func randomError(t testing.TB, r *rand.Rand) testError {
	t.Helper()
	inner := randomAny(r)
	for !inner.hasPorts() && r.IntN(4) > 0 {
		inner = randomAny(r)
	}
	inner.tags, inner.padding, inner.mac = nil, 0, L2{}
	inner.payload = inner.payload[:min(len(inner.payload), 1500)&^3]
	v6 := inner.src.Is6()
	if v6 {
		inner.ext = inner.ext[:min(len(inner.ext), 2)]
		if len(inner.payload)%8 == 0 && r.IntN(5) == 0 {
			inner.ext = slices.DeleteFunc(slices.Clone(inner.ext), func(e extension) bool { return e.proto == extFragment })
			inner.ext = slices.Insert(inner.ext, r.IntN(len(inner.ext)+1), firstPart)
		}
	} else {
		inner.mf = r.IntN(5) == 0
	}
	e := testError{outer: basicPacket(v6, flow.ICMP), inner: inner}
	o := randomPacket(r)
	e.outer.mac, e.outer.tags, e.outer.ttl, e.outer.tos, e.outer.id = o.mac, o.tags, max(o.ttl, 3), o.tos, o.id
	e.outer.src, e.outer.dst = randomAddr(r, v6), inner.src
	if r.IntN(2) == 0 {
		e.outer.src = inner.dst
	}
	if v6 {
		e.outer.proto, e.kind, e.code = flow.ICMPv6, uint8(1+r.IntN(4)), uint8(r.IntN(3))
		if r.IntN(3) == 0 {
			e.outer.ext = []extension{hopByHop}
		}
	} else {
		e.outer.options = r.IntN(2) * r.IntN(11)
		e.kind, e.code = []uint8{3, 3, 4, 11, 12}[r.IntN(5)], uint8(r.IntN(5))
	}
	headers := e.innerHeaders(t)
	full := len(inner.build(t)) - etherLen
	least := headers + 8
	if least > full { // too little payload for 8 bytes: give it some
		e.inner.payload = append(e.inner.payload, randomBytes(r, 8)...)
		full += 8
	}
	e.quoted = []int{least, full, least + r.IntN(full-least+1), min(full, 548), min(full, headers+17)}[r.IntN(5)]
	e.quoted = max(e.quoted, least)
	switch {
	case e.kind == 3 && e.code == 4 && !v6, v6 && e.kind == 2:
		e.word = uint32(1280 + r.IntN(200))
	case (!v6 && e.kind != 4 || v6 && e.kind != 4) && r.IntN(3) == 0 && full < 900: // RFC 4884: less than all is at least 128 bytes, with no padding
		if e.quoted &^= 7; e.quoted < max(128, least) {
			e.quoted = full
		}
		e.extension = append([]byte{0x20, 0, 0, 0, 0, 8, 1, 1}, randomBytes(r, 4)...)
	}
	return e
}

// TestTranslateError translates errors about packets of every protocol, of which 8 bytes to all are quoted, and compares
// them with errors that are built anew; then it goes back.
func TestTranslateError(t *testing.T) {
	r := seeded(t)
	found := map[string]int{}
	for range 4000 {
		e := randomError(t, r)
		frame := exact(e.build(t))
		input := slices.Clone(frame)
		p, _ := parsed(t, frame, NoPorts)
		var q Quote
		var k flow.Key
		if why := ReadQuote(frame, &p, &q, &k); why != Done {
			t.Fatalf("%q of %+v", why, e)
		}
		ends := e.inner.ends()
		want := ends.Reverse()
		if EndsOf(&k) != want || k.Proto != e.inner.proto || q.Type != e.kind || q.Code != e.code || q.MTU != e.mtu() {
			t.Fatalf("%+v %+v of %+v", q, k, e)
		}
		to, l2, hide := randomEnds(r, &e.inner), randomMAC(r), r.IntN(4) == 0
		TranslateError(frame, &p, &q, &l2, &to, hide)
		full := len(e.inner.build(t)) - etherLen
		if e.inner.proto == flow.SCTP && (!wholeInner(&e.inner) || e.quoted < full) { // cannot be computed from what is quoted
			e.oldSum, e.oldSumAt = e.inner.transport(t, nil)[sctpSumAt:sctpSumAt+4], sctpSumAt
			found["SCTP in part"]++
		}
		if e.inner.proto == flow.TCP && e.quoted == e.innerHeaders(t)+17 { // half a checksum
			_, network := e.inner.ipLayer()
			e.oldSum, e.oldSumAt = e.inner.transport(t, network)[16:18], 16
			found["TCP checksum in part"]++
		}
		there := e
		there.inner = e.inner.withEnds(to)
		speaks := e.outer.src == e.inner.dst
		there.outer.mac, there.outer.dst = l2, to.Src.Netip()
		there.outer.ttl--
		if speaks || hide {
			there.outer.src = to.Dst.Netip()
		}
		if want := there.build(t); !slices.Equal(frame, want) {
			t.Fatalf("%+v to %+v\nis   % x\nwant % x", e, to, frame, want)
		}
		found[map[bool]string{false: "quoted in part", true: "quoted to the end"}[e.quoted == full]]++
		if e.extension != nil {
			found["extension"]++
		}
		if hide && !speaks {
			continue
		}
		p, _ = parsed(t, frame, NoPorts)
		if why := ReadQuote(frame, &p, &q, &k); why != Done {
			t.Fatalf("%q on the way back of %+v", why, e)
		}
		TranslateError(frame, &p, &q, &e.outer.mac, &ends, false)
		e.outer.ttl -= 2
		if want := e.build(t); !slices.Equal(frame, want) {
			t.Fatalf("%+v to %+v and back\nis   % x\nwant % x\nwas  % x", e, to, frame, want, input)
		}
	}
	for _, name := range []string{"SCTP in part", "TCP checksum in part", "quoted in part", "quoted to the end", "extension"} {
		if found[name] == 0 {
			t.Errorf("no error was %s", name)
		}
	}
}

// wholeInner reports whether the packet is no part of a datagram.
func wholeInner(p *testPacket) bool {
	return !p.mf && !slices.ContainsFunc(p.ext, func(e extension) bool { return e.proto == extFragment && e.rest[2]&1 != 0 })
}

func (e *testError) mtu() uint32 {
	if v6 := e.outer.src.Is6(); v6 && e.kind == 2 || !v6 && e.kind == 3 && e.code == 4 {
		return e.word
	}
	return 0
}

func basicError(v6 bool, proto uint8) testError {
	inner := basicPacket(v6, proto).with(func(p *testPacket) { p.mac = L2{} })
	switch proto {
	case flow.ICMP, flow.ICMPv6:
		inner.dataSum, inner.kind, inner.dport = true, 8, 0
		if proto == flow.ICMPv6 {
			inner.kind = 128
		}
	case flow.SCTP:
		inner.dataSum = true
	}
	e := testError{outer: basicPacket(v6, flow.ICMP), inner: inner, kind: 3, code: 3, quoted: 28}
	e.outer.src, e.outer.dst = inner.dst, inner.src
	if v6 {
		e.outer.proto, e.kind, e.code, e.quoted = flow.ICMPv6, 1, 4, 48
	}
	return e
}

// TestReadQuoteRefused changes one thing of an error that can be read.
func TestReadQuoteRefused(t *testing.T) {
	const m4, m6 = 34, 54 // ICMP message
	set := func(at int, bytes ...byte) func([]byte) []byte {
		return func(b []byte) []byte { copy(b[at:], bytes); return b }
	}
	short := func(at int) func([]byte) []byte { // an IP packet that ends there
		return func(b []byte) []byte {
			b = b[:at]
			if b[12] == 8 {
				binary.BigEndian.PutUint16(b[16:], uint16(at-14))
			} else {
				binary.BigEndian.PutUint16(b[18:], uint16(at-54))
			}
			return b
		}
	}
	tcp4, tcp6, echo4, echo6 := basicError(false, flow.TCP), basicError(true, flow.TCP), basicError(false, flow.ICMP), basicError(true, flow.ICMPv6)
	withExt := func(ext ...extension) testError {
		e := tcp6
		e.inner.ext = ext
		e.quoted = len(e.inner.build(t)) - etherLen
		return e
	}
	options := tcp4
	options.inner.options, options.quoted = 2, 36
	for _, c := range []struct {
		name   string
		e      testError
		change func([]byte) []byte
		want   Refusal
	}{
		{"as it is", tcp4, nil, Done},
		{"as it is, IPv6", tcp6, nil, Done},
		{"about an echo request", echo4, nil, Done},
		{"about an echo request, IPv6", echo6, nil, Done},
		{"with options", options, nil, Done},
		{"about a packet with a first fragment's header", withExt(hopByHop, firstPart, destination), nil, Done},
		{"about an atomic fragment", withExt(atomic), nil, Done},
		{"a redirect", tcp4, set(m4, 5), QuoteNone},
		{"an echo request", tcp4, set(m4, 8), QuoteNone},
		{"ICMPv6 of an error type that is not known", tcp6, set(m6, 100), QuoteNone},
		{"ICMPv6 redirect", tcp6, set(m6, 137), QuoteNone},
		{"no quote", tcp4, short(m4 + 8), QuoteTruncated},
		{"19 bytes of header", tcp4, short(m4 + 8 + 19), QuoteTruncated},
		{"7 bytes of TCP", tcp4, short(m4 + 8 + 27), QuoteTruncated},
		{"no quote, IPv6", tcp6, short(m6 + 8), QuoteTruncated},
		{"39 bytes of header", tcp6, short(m6 + 8 + 39), QuoteTruncated},
		{"7 bytes of TCP, IPv6", tcp6, short(m6 + 8 + 47), QuoteTruncated},
		{"cut in the options", options, short(m4 + 8 + 24), QuoteTruncated},
		{"cut in an extension header", withExt(destination), short(m6 + 8 + 47), QuoteTruncated},
		{"RFC 4884 length inside the header", tcp4, set(m4+5, 4), QuoteTruncated},
		{"RFC 4884 length beyond the message", tcp4, set(m4+5, 200), Done},
		{"RFC 4884 length inside the header, IPv6", tcp6, set(m6+4, 5), QuoteTruncated},
		{"IPv6 in ICMP", tcp4, set(m4+8, 0x60), QuoteBad},
		{"IPv4 in ICMPv6", tcp6, set(m6+8, 0x45), QuoteBad},
		{"header of 16 bytes", tcp4, set(m4+8, 0x44), QuoteBad},
		{"a source route to go on", options, set(m4+8+20, 131, 8, 4), QuoteBad},
		{"a source route that has ended", options, set(m4+8+20, 131, 8, 9), Done},
		{"a routing header to go on", withExt(routing), set(m6+8+43, 1), QuoteBad},
		{"too many extension headers", withExt(slices.Repeat([]extension{destination}, 9)...), nil, QuoteBad},
		{"two fragment headers", withExt(firstPart, firstPart), nil, QuoteBad},
		{"a mapped address", tcp6, set(m6+8+8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff), QuoteBad},
		{"a later part", tcp4, set(m4+8+6, 0, 1), QuoteFragment},
		{"a later part, IPv6", withExt(laterPart), nil, QuoteFragment},
		{"about an error", echo4, set(m4+8+20, 3), QuoteError},
		{"about a redirect", echo4, set(m4+8+20, 5), QuoteError},
		{"about an error, IPv6", echo6, set(m6+8+40, 1), QuoteError},
		{"about a neighbour solicitation", echo6, set(m6+8+40, 135), QuoteError},
		{"about ICMPv6 in IPv4", echo4, set(m4+8+9, flow.ICMPv6), QuoteBad},
		{"about ICMP in IPv6", echo6, set(m6+8+6, flow.ICMP), QuoteBad},
		{"to somebody else", tcp4, set(14+16, 1, 2, 3, 4), QuoteForeign},
		{"to somebody else, IPv6", tcp6, set(14+24, 0x20, 3), QuoteForeign},
	} {
		frame := c.e.build(t)
		if c.change != nil {
			frame = c.change(frame)
		}
		frame = exact(frame)
		input := slices.Clone(frame)
		p, _ := parsed(t, frame, NoPorts)
		var q Quote
		if got := ReadQuote(frame, &p, &q, new(flow.Key)); got != c.want {
			t.Errorf("%s: %q, not %q", c.name, got, c.want)
		}
		if !slices.Equal(frame, input) {
			t.Errorf("%s: ReadQuote changed the frame", c.name)
		}
	}
	frame := basicPacket(false, flow.TCP).build(t)
	p, _ := parsed(t, frame, OK)
	if got := ReadQuote(frame, &p, new(Quote), new(flow.Key)); got != QuoteNone {
		t.Errorf("TCP: %q", got)
	}
}

// TestQuoteLength: a quoted total length that some system has changed, or that is beyond what is quoted, does not matter.
func TestQuoteLength(t *testing.T) {
	for _, total := range []uint16{0, 20, 27, 28, 0x1c00, 0xffff} {
		e := basicError(false, flow.TCP)
		frame := e.build(t)
		binary.BigEndian.PutUint16(frame[34+8+2:], total)
		p, _ := parsed(t, frame, NoPorts)
		var q Quote
		var k flow.Key
		if why := ReadQuote(frame, &p, &q, &k); why != Done || q.Whole != (total == 28) || k.Ports != flow.Ports(443, 40000) {
			t.Errorf("total length %d: %q, %+v %+v", total, why, q, k)
		}
	}
}

// TestQuoteTunnel: an error about a packet of a tunnel tells who the tunnel's ends are and what fits.
func TestQuoteTunnel(t *testing.T) {
	e := basicError(false, 4)
	e.inner.src, e.inner.dst = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("192.168.20.1")
	e.outer.dst, e.code, e.word = e.inner.src, 4, 1400
	frame := e.build(t)
	p, _ := parsed(t, frame, NoPorts)
	var q Quote
	var k flow.Key
	if why := ReadQuote(frame, &p, &q, &k); why != Done || !q.TooBig(&p) || q.MTU != 1400 || k.Src != flow.AddrFrom(e.inner.dst) || k.Proto != 4 || k.Ports != 0 {
		t.Errorf("%q, %+v %+v", why, q, k)
	}
}
