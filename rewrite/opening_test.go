package rewrite

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"sluice/flow"
)

// A frame that ParseOpening takes reads as Parse reads it, and it takes every one that it is for.
func TestParseOpening(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	taken, left := 0, 0
	for range 300_000 {
		options := 4 * r.IntN(11)
		b := randomBytes(r, etherLen+ipv4Len+tcpLen+options+r.IntN(8))
		b[12], b[13], b[14] = 8, 0, 0x45
		binary.BigEndian.PutUint16(b[plainLength:], uint16(ipv4Len+tcpLen+options+r.IntN(6)))
		b[plainFragment], b[plainFragment+1] = 0x40, 0
		b[plainTTL+1], b[plainL4+12], b[plainL4+13] = flow.TCP, uint8(tcpLen+options)/4<<4, flow.FlagSYN
		if at := plainL4 + tcpLen; options > 0 {
			copy(b[at:], [][]byte{{1, 3, 3, 7}, {3, 3, 15, 0}, {2, 4, 5, 0xb4}, {8, 10, 0, 0}, {0}}[r.IntN(5)])
		}
		switch r.IntN(3) {
		case 0:
			b[plainL4+13] = uint8(r.Uint32())
		case 1:
			b[[]int{12, 13, 14, 15, 16, 17, 20, 21, 23, plainL4 + 12}[r.IntN(10)]] = uint8(r.Uint32())
		}
		if r.IntN(8) == 0 {
			b = b[:r.IntN(len(b)+1)]
		}
		b = b[:len(b):len(b)]
		p, fp := Packet{Plain: true, VLAN: 7, V6: true, ICMP: ICMPRelated}, Packet{Plain: true, VLAN: 9, V6: true, ICMP: ICMPError}
		k, fk := flow.Key{Proto: 3}, flow.Key{Proto: 4}
		v := Parse(b, &p, &k)
		got := ParseOpening(b, &fp, &fk)
		want := v == OK && !p.V6 && p.VLAN == 0 && p.L4 == plainL4 && p.Proto == flow.TCP && p.TCP.Flags&flow.FlagSYN != 0
		if got != want {
			t.Fatalf("%x: taken %t, Parse says %d %+v", b, got, v, p)
		}
		if !got {
			left++
			continue
		}
		taken++
		fp.SCTP = p.SCTP
		if p != fp || k != fk {
			t.Fatalf("%x:\n%+v %+v, Parse says\n%+v %+v", b, fp, fk, p, k)
		}
	}
	if taken < 10_000 || left < 10_000 {
		t.Errorf("%d taken, %d left", taken, left)
	}
}
