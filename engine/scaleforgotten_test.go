package engine

import (
	"net/netip"
	"testing"

	"sluice/flow"
)

// Workers that have counters of a virtual server that is gone from the dictionary's end leave them to workers that never knew it.
func TestScaleForgottenVirtual(t *testing.T) {
	s := newScaleBench(t, 2, 200, nil)
	kept := s.spec.Virtuals
	last := VirtualSpec{Name: "last", Addr: netip.MustParseAddr("10.10.1.101"), Port: 80, Proto: flow.TCP, Pool: 0}
	for _, virtuals := range [][]VirtualSpec{append(kept[:len(kept):len(kept)], last), kept} {
		s.spec.Virtuals = virtuals
		s.spec.Generation++
		cfg, err := NewConfig(s.spec, s.dict)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Apply(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	s.established(1)
	opened := s.stats().Opened
	s.scale(1, 200)
	s.scale(2, 200)
	s.established(2)
	if got := s.stats().Opened; got != opened+1 {
		t.Errorf("%d connections opened, want %d", got, opened+1)
	}
	snaps, err := s.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sum := uint64(0)
	for i := range snaps {
		for id := range snaps[i].Virtual {
			sum += snaps[i].Virtual[id].Opened
		}
	}
	if sum != opened+1 {
		t.Errorf("virtual servers have opened %d, want %d", sum, opened+1)
	}
	s.check()
	s.close()
}

// Whoever asks a worker that has ended meanwhile hears what its successors have, and is not left waiting.
func TestAskedWorkerEnds(t *testing.T) {
	s := newScaleBench(t, 1, 2000, realTime())
	s.now = s.Now()
	const conns = 2 * scanChunk // one chunk is not all
	for port := uint16(1); port <= conns; port++ {
		s.established(port)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	seen := map[uint16]bool{}
	err := s.EachConnection(t.Context(), nil, func(c *Conn) bool {
		if len(seen) == 0 { // between its chunks
			s.scale(2, 2000)
		}
		seen[c.CPort] = true
		return true
	})
	if err != nil || len(seen) != conns {
		t.Errorf("%d connections of %d, %v", len(seen), conns, err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.close()
}
