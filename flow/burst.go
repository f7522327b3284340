package flow

// What is done to every packet of a burst is done here in loops of its own, which on amd64 are in assembly (burst_amd64.s): half
// the instructions. burst_test.go holds both against each other.

// hashEach asks for the bucket of each tuple from from on, and notes bucket and tag in the scratch.
func hashEach(secret *Secret, buckets []bucket, keys []Key, s *scratch, from int) {
	for i := from; i < len(keys); i++ {
		s.bucket[i&(Burst-1)], s.tag[i&(Burst-1)] = placeIn(secret.Hash(&keys[i]), uint64(len(buckets)))
	}
	prefetchBuckets(buckets, s.bucket[from:len(keys)])
}

// confirmEach makes the candidates of the scratch those of refs, and compares each with its tuple. It returns a bit for each that is
// it, of connections that are Plain: others are not looked at. Record 0, which stands for no candidate, is all zeros, and no packet's tuple is.
func confirmEach(records []Record, nodes []Addr, keys []Key, s *scratch, refs []Ref) (sure uint64) {
	for i := range keys {
		r, k := s.cand[i&(Burst-1)], &keys[i]
		refs[i] = r
		rec := &records[r.Index()]
		if rec.Proto() != k.Proto || !rec.Plain() {
			continue
		}
		if r.Side() == FromClient {
			if rec.Virtual == k.Dst && rec.Client == k.Src && rec.VPort == k.DstPort() && rec.CPort == k.SrcPort() {
				sure |= 1 << i
			}
		} else if int(rec.Node) < len(nodes) && rec.Client == k.Dst && nodes[rec.Node] == k.Src && rec.SPort == k.DstPort() && rec.NPort == k.SrcPort() {
			sure |= 1 << i
		}
	}
	return sure
}
