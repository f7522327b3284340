package flow

import "math/bits"

// Placing is what it takes to place IPv4 tuples of a burst: to hash them, to ask for their buckets, and to note both for Find. It is for a
// loop of another package that has them at hand before they are stored (rewrite.ParseAndPlace). The upper halves of IPv4 addresses are
// always the same, so that one of the three products of Secret.Hash is a constant.
type Placing struct {
	Src, Dst uint64 // to be added, modulo 2, to the addresses' numbers: the secret and the prefix of IPv4
	Rest     uint64 // to the product of these: the other product, and the secret
	Ports    uint64 // to ports and protocol
	Number   uint64 // of buckets
	Buckets  *bucket
	Bucket   *[Burst]uint64 // of each tuple of the burst
	Tag      *[Burst]uint16
	Far      bool // the buckets are best asked for as from far away (Table.far)
}

func newPlacing(s *Secret, buckets []bucket, notes *scratch) Placing {
	return Placing{
		Src: s[0] ^ v4Prefix, Dst: s[1] ^ v4Prefix, Rest: fold(s[2], s[3]) ^ s[1], Ports: s[2],
		Number: uint64(len(buckets)), Buckets: &buckets[0], Bucket: &notes.bucket, Tag: &notes.tag,
	}
}

// Placing is that of the table's bursts; what it has noted is valid until the next one.
func (t *Table) Placing() *Placing {
	if t.placing.Buckets != &t.buckets[0] { // it was never asked for
		t.placing = newPlacing(&t.secret, t.buckets, &t.scratch)
	}
	t.placing.Far = t.far()
	return &t.placing
}

// Note places tuple i of a burst, which is of IPv4, as Table.Hash does, but does not ask for its bucket. It is the reference of loops in assembly.
func (p *Placing) Note(i int, k *Key) {
	h := fold(uint64(k.Src.V4())^p.Src, uint64(k.Dst.V4())^p.Dst)
	h = fold(h^p.Rest, (uint64(k.Ports)<<8|uint64(k.Proto))^p.Ports)
	p.Tag[i] = max(uint16(h), 1)
	p.Bucket[i], _ = bits.Mul64(h, p.Number)
}
