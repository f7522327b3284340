package flow

// The records that were freed last are taken first: they are still in the cache. They wait in a ring of indexes; what it does not
// hold is in a list through links. A list alone would cost each connection a miss for its record and one for the next in the list,
// one after the other: here both are asked for as many connections before as the ring keeps. The order is that of one stack.
type spare struct {
	ring [spareSize]uint32
	top  uint32 // index of the last one in the ring, modulo its size
	n    uint32
}

const (
	spareSize = 128 // a power of two
	spareKept = 64  // at least as many are in the ring, while there are as many: a burst
)

// take gets a free record: the most recently freed, which is still in the cache, else one never used.
func (t *Table) take() uint32 {
	s := &t.spare
	if s.n == 0 {
		s.pull(t)
	}
	if s.n > 0 {
		i := s.ring[s.top%spareSize]
		s.top--
		s.n--
		for n := 0; n < 2 && s.n < spareKept; n++ { // one for the one taken, and one to come to as many
			s.pull(t)
		}
		return i
	}
	if int(t.fresh) < len(t.records) {
		t.fresh++
		return t.fresh - 1
	}
	return 0
}

// pull puts the first record of the list below those in the ring, where there is room, and asks for it.
func (s *spare) pull(t *Table) {
	i := t.free
	if i == 0 {
		return
	}
	prefetchRecord(&t.records[i])
	t.free = t.links[i].next
	prefetchLinks(&t.links[t.free]) // for the next call
	s.ring[(s.top-s.n)%spareSize] = i
	s.n++
}

func (t *Table) give(i uint32) {
	s := &t.spare
	if s.n == spareSize {
		s.spill(t)
	}
	s.top++
	s.ring[s.top%spareSize] = i
	s.n++
}

// spill puts the lowest record of the ring into the list.
func (s *spare) spill(t *Table) {
	s.n--
	i := s.ring[(s.top-s.n)%spareSize]
	t.links[i] = link{next: t.free}
	t.free = i
}

// spillAll leaves all free records in the list, in their order.
func (t *Table) spillAll() {
	for t.spare.n > 0 {
		t.spare.spill(t)
	}
}
