package flow

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// randomRecord is one of few addresses and ports, so that records and keys often differ in one field only.
func randomRecord(r *rand.Rand) (rec Record) {
	addr := func() Addr {
		if r.IntN(2) == 0 {
			return AddrFrom4(r.Uint32N(2))
		}
		return Addr{Hi: r.Uint64N(2) << 63, Lo: r.Uint64N(2) << (63 * r.IntN(2))}
	}
	port := func() uint16 { return uint16(r.Uint32N(2) << (15 * r.IntN(2))) }
	rec = Record{Client: addr(), Virtual: addr(), CPort: port(), VPort: port(), SPort: port(), NPort: port(), Node: 1 + r.Uint32N(3)}
	rec.state = liveBit | r.Uint64()&^kindMask&^(0xff<<protoShift) | uint64([]uint8{TCP, UDP, SCTP}[r.IntN(3)])<<protoShift
	if r.IntN(8) == 0 {
		rec.SNAT = 1
	}
	if r.IntN(8) == 0 {
		rec.state |= uint64(r.IntN(4)) << kindShift
	}
	if r.IntN(16) == 0 {
		rec.Node = 1 << (2 + r.IntN(30)) // nobody's
	}
	return rec
}

// Tuples are hashed, and compared with their candidates, in assembly as in Go; and what is confirmed matches.
func TestBurst(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 3))
	nodes := []Addr{{}, AddrFrom4(0), AddrFrom4(1), {Hi: 1 << 63}}
	table := Table{nodes: nodes, records: make([]Record, 50), buckets: make([]bucket, 1001)}
	confirmed, others := 0, 0
	for range 2000 {
		for i := range table.records[1:] {
			table.records[1+i] = randomRecord(r)
		}
		for i := range table.secret {
			table.secret[i] = r.Uint64()
		}
		n := r.IntN(Burst + 1)
		keys := make([]Key, n)
		var fast scratch
		for i := range keys {
			index, side := 1+r.Uint32N(49), Side(r.IntN(2))
			fast.cand[i] = ref(index, side)
			rec := &table.records[index]
			keys[i].Proto = TCP // no tuple is all zeros
			if int(rec.Node) < len(nodes) {
				if keys[i] = rec.ClientKey(); side == FromServer {
					keys[i] = table.ServerKey(rec)
				}
			}
			switch k := &keys[i]; r.IntN(12) {
			case 0:
				k.Src.Lo ^= 1 << r.IntN(64)
			case 1:
				k.Src.Hi ^= 1 << r.IntN(64)
			case 2:
				k.Dst.Lo ^= 1 << r.IntN(64)
			case 3:
				k.Dst.Hi ^= 1 << r.IntN(64)
			case 4:
				k.Ports ^= 1 << r.IntN(32)
			case 5:
				k.Proto = 1 << r.IntN(8)
			case 6:
				fast.cand[i] = 0
			}
		}
		slow, from := fast, r.IntN(n+1)
		hashKeys(&table.secret, table.buckets, keys, &fast, from)
		hashEach(&table.secret, table.buckets, keys, &slow, from)
		if fast != slow {
			t.Fatalf("bucket and tag of %+v from %d on differ:\n%+v\n%+v", keys, from, fast, slow)
		}
		refs, want := make([]Ref, n), make([]Ref, n)
		sure := confirmEach(table.records, nodes, keys, &slow, want)
		var got uint64
		for way, confirm := range confirmWays() {
			got = confirm(table.records, nodes, keys, &fast, refs)
			if got != sure || fast != slow || !slices.Equal(refs, want) {
				t.Fatalf("%s: %b are sure, not %b, with %v and %v", way, got, sure, refs, want)
			}
		}
		for i := range keys {
			if refs[i] != fast.cand[i] {
				t.Fatalf("candidate %d is %v, not %v", i, refs[i], fast.cand[i])
			}
			rec := &table.records[refs[i].Index()]
			matches := refs[i] != 0 && rec.Plain() && int(rec.Node) < len(nodes) && table.matches(refs[i], &keys[i])
			if is := got>>i&1 != 0; is != matches && int(rec.Node) < len(nodes) {
				t.Fatalf("%+v is sure: %v; it matches %+v on side %d: %v", keys[i], is, *rec, refs[i].Side(), matches)
			} else if is {
				confirmed++
			} else {
				others++
			}
		}
	}
	if t.Logf("%d confirmed, %d others", confirmed, others); confirmed < 5000 || others < 5000 {
		t.Error("too few of a kind")
	}
}
