package flow

import "math/bits"

// MixedPlacing is Placing for tuples of both families: what the table's hash needs, and where it notes what it comes to.
type MixedPlacing struct {
	Secret  Secret
	Number  uint64 // of buckets
	Buckets *bucket
	Bucket  *[Burst]uint64 // of each tuple of the burst
	Tag     *[Burst]uint16
	Far     bool // see Placing
}

func newMixedPlacing(s *Secret, buckets []bucket, notes *scratch) MixedPlacing {
	return MixedPlacing{Secret: *s, Number: uint64(len(buckets)), Buckets: &buckets[0], Bucket: &notes.bucket, Tag: &notes.tag}
}

// MixedPlacing is that of the table's next burst; it is valid until then.
func (t *Table) MixedPlacing() *MixedPlacing {
	t.mixed = newMixedPlacing(&t.secret, t.buckets, &t.scratch)
	t.mixed.Far = t.far()
	return &t.mixed
}

// Note places tuple i of a burst as Table.Hash does, but does not ask for its bucket.
func (p *MixedPlacing) Note(i int, k *Key) {
	h := p.Secret.Hash(k)
	p.Tag[i&(Burst-1)] = max(uint16(h), 1)
	p.Bucket[i&(Burst-1)], _ = bits.Mul64(h, p.Number)
}
