package flow

import "math/bits"

// SourcePorts are the source ports, and ICMP query ids, that a worker's connections have at SNAT addresses. Ports are
// partitioned by bin: port mod 256 is the bin of the connection's client, so that the owner of an answer follows from its
// destination port alone, and workers share no ports. A port is free for a destination as long as no connection to that very
// destination has it: each SNAT address, destination and bin has a set of its own, 256 bits, that exists while one is taken.
//
//	heads  hash of address, destination, bin ──▶ portSet ──▶ portSet    (chains)
//
// Finding a port reads one set, one cache line, however full it is. There is never more than one set a connection, so the
// capacity of the table bounds them; memory that no set has used is never touched.
type SourcePorts struct {
	secret  Secret
	heads   []uint32
	sets    []portSet // index 0 is never used
	free    uint32    // head of the list of free sets
	fresh   uint32    // sets from here on have never been used
	live    int
	crowded int
	turn    uint8
}

// Destination is what a source port is unique for: an address and port of a server, a protocol, and the id of the SNAT address
// that connections to it come from.
type Destination struct {
	Server Addr
	SNAT   uint32
	Port   uint16
	Proto  uint8
	bin    uint8
}

// PortRange are the ports that may be given, First to Last.
type PortRange struct{ First, Last uint16 }

// portSet is the ports of a bin that are in use for a destination: bit i stands for port 256*i + bin. 64 bytes.
type portSet struct {
	used    [4]uint64
	key     Destination
	next    uint32 // in its chain, or in the list of free sets
	taken   uint8  // how many bits are set, less 1
	size    uint8  // how many ports the range has here, less 1
	cursor  uint8  // where the search begins: behind the port given last, so that a freed one rests for as long as possible
	crowded bool
}

// PortBins is how many bins ports are partitioned into.
const PortBins = 256

// NewSourcePorts makes an empty one for as many connections as fit a table.
func NewSourcePorts(capacity int, secret Secret) *SourcePorts {
	heads := 1 << bits.Len(uint(max(capacity, 8)-1))
	return &SourcePorts{secret: secret, heads: make([]uint32, heads), sets: make([]portSet, capacity+2), fresh: 1} // one is taken before a full table is noticed
}

// Sets is how many sets are in use. Crowded is how many of them have at most an eighth of their ports left: what fills up
// next.
func (p *SourcePorts) Sets() int { return p.live }

// Crowded is described at Sets.
func (p *SourcePorts) Crowded() int { return p.crowded }

// Span is the range of bit indices that a range of ports has in a bin; it is empty if last < first.
func (r PortRange) span(bin uint8) (first, last int) {
	return (int(r.First) - int(bin) + PortBins - 1) >> 8, (int(r.Last) - int(bin)) >> 8
}

// Ports is how many ports of the range a bin has.
func (r PortRange) Ports(bin uint8) int {
	first, last := r.span(bin)
	return max(0, last-first+1)
}

// Contains reports whether a port is in the range.
func (r PortRange) Contains(port uint16) bool { return port >= r.First && port <= r.Last }

// Take gives a free port of the bin for destination d: prefer if that is one, else the next in turn.
func (p *SourcePorts) Take(d Destination, bin uint8, r PortRange, prefer uint16) (port uint16, ok bool) {
	first, last := r.span(bin)
	if first > last {
		return 0, false
	}
	d.bin = bin
	head := p.head(&d)
	s := p.find(head, &d)
	if s == nil {
		if s = p.add(head, &d); s == nil {
			return 0, false
		}
		// A set that was empty begins somewhere else than the last time.
		p.turn += turnStep
		s.cursor = p.turn
	}
	i := s.choose(first, last, bin, r, prefer)
	s.size = uint8(last - first)
	if i < 0 {
		p.judge(s)
		return 0, false
	}
	s.put(i)
	p.judge(s)
	return uint16(i<<8) | uint16(bin), true
}

// choose is the bit of the port to give, or -1: that of prefer if it can be had, else the next from the cursor on, which then
// moves behind it.
func (s *portSet) choose(first, last int, bin uint8, r PortRange, prefer uint16) int {
	if uint8(prefer) == bin && r.Contains(prefer) && !s.has(int(prefer>>8)) {
		return int(prefer >> 8)
	}
	i := s.unused(first, last)
	if i >= 0 {
		s.cursor = uint8(i + 1)
	}
	return i
}

// Freed is a port that is about to be given back.
type Freed struct {
	Destination
	Port uint16
}

// Peek is the port that Take would give if freed, which may be nil, had been given back before, and takes nothing.
func (p *SourcePorts) Peek(d Destination, bin uint8, r PortRange, prefer uint16, freed *Freed) (port uint16, ok bool) {
	first, last := r.span(bin)
	if first > last {
		return 0, false
	}
	d.bin = bin
	s := p.find(p.head(&d), &d)
	empty := s == nil
	var copied portSet
	if s != nil {
		copied = *s
	}
	if freed != nil && s != nil && uint8(freed.Port) == bin {
		f := freed.Destination
		f.bin = bin
		if f == d && s.has(int(freed.Port>>8)) {
			empty = s.taken == 0 // it is the last one, and the set goes with it
			copied.used[freed.Port>>14] &^= 1 << (freed.Port >> 8 & 63)
		}
	}
	if empty {
		if s == nil && p.free == 0 && int(p.fresh) >= len(p.sets) && freed == nil {
			return 0, false
		}
		copied = portSet{cursor: p.turn + turnStep}
	}
	i := copied.choose(first, last, bin, r, prefer)
	return uint16(i<<8) | uint16(bin), i >= 0
}

// turnStep is by how much the place moves where an empty set begins.
const turnStep = 97

// Mark takes a port that a connection from elsewhere has, and reports whether it was free.
func (p *SourcePorts) Mark(d Destination, port uint16) bool {
	d.bin = uint8(port)
	head := p.head(&d)
	s := p.find(head, &d)
	if s == nil {
		if s = p.add(head, &d); s == nil {
			return false
		}
		s.size = PortBins - 1 // until Take knows better
	}
	if s.has(int(port >> 8)) {
		return false
	}
	s.put(int(port >> 8))
	p.judge(s)
	return true
}

// Free gives a port back.
func (p *SourcePorts) Free(d Destination, port uint16) {
	d.bin = uint8(port)
	head := p.head(&d)
	s := p.find(head, &d)
	if s == nil || !s.has(int(port>>8)) {
		return
	}
	s.used[port>>14] &^= 1 << (port >> 8 & 63)
	if s.taken > 0 {
		s.taken--
		p.judge(s)
		return
	}
	if s.crowded {
		p.crowded--
	}
	p.drop(head, s)
}

func (s *portSet) has(i int) bool { return s.used[i>>6]&(1<<(i&63)) != 0 }

// put sets bit i, which is clear. A set that was just added has taken 255, one less than 0.
func (s *portSet) put(i int) {
	s.used[i>>6] |= 1 << (i & 63)
	s.taken++
}

// judge keeps the count of crowded sets.
func (p *SourcePorts) judge(s *portSet) {
	crowded := (int(s.taken)+1)*8 >= (int(s.size)+1)*7
	if crowded == s.crowded {
		return
	}
	s.crowded = crowded
	if crowded {
		p.crowded++
	} else {
		p.crowded--
	}
}

// unused is a clear bit from first to last, the next from the cursor on, or -1.
func (s *portSet) unused(first, last int) int {
	from := int(s.cursor)
	if from < first || from > last {
		from = first
	}
	if i := s.clear(from, last); i >= 0 {
		return i
	}
	return s.clear(first, from-1)
}

// clear is the first clear bit from first to last, or -1.
func (s *portSet) clear(first, last int) int {
	for i := first; i <= last; i = (i | 63) + 1 {
		if w := ^s.used[i>>6] >> (i & 63); w != 0 {
			if i += bits.TrailingZeros64(w); i <= last {
				return i
			}
			return -1
		}
	}
	return -1
}

func (p *SourcePorts) head(d *Destination) *uint32 { return &p.heads[p.headOf(d)] }

func (p *SourcePorts) headOf(d *Destination) uint32 {
	h := p.secret.hash(d.Server, Addr{Hi: uint64(d.SNAT), Lo: uint64(d.bin)}, uint64(d.Port)<<8|uint64(d.Proto))
	return uint32(h & uint64(len(p.heads)-1))
}

func (p *SourcePorts) find(head *uint32, d *Destination) *portSet {
	for i := *head; i != 0; i = p.sets[i].next {
		if p.sets[i].key == *d {
			return &p.sets[i]
		}
	}
	return nil
}

// add makes an empty set, which must be given a port. It is nil only if there are more connections than were said.
func (p *SourcePorts) add(head *uint32, d *Destination) *portSet {
	i := p.free
	switch {
	case i != 0:
		p.free = p.sets[i].next
	case int(p.fresh) < len(p.sets):
		i = p.fresh
		p.fresh++
	default:
		return nil
	}
	p.sets[i] = portSet{key: *d, next: *head, taken: PortBins - 1}
	*head = i
	p.live++
	return &p.sets[i]
}

func (p *SourcePorts) drop(head *uint32, s *portSet) {
	for at := head; *at != 0; at = &p.sets[*at].next {
		if i := *at; &p.sets[i] == s {
			*at = s.next
			s.next = p.free
			p.free = i
			p.live--
			return
		}
	}
}

// DestinationOf is the destination of a connection from a SNAT address.
func (t *Table) DestinationOf(r *Record) Destination {
	server := r.Virtual
	if r.toNode() {
		server = t.nodes[r.Node]
	}
	return Destination{Server: server, SNAT: r.SNAT, Port: r.NPort, Proto: r.Proto()}
}

// Each calls f for every port that is taken.
func (p *SourcePorts) Each(f func(d Destination, port uint16)) {
	for _, i := range p.heads {
		for ; i != 0; i = p.sets[i].next {
			s := &p.sets[i]
			for w, word := range s.used {
				for ; word != 0; word &= word - 1 {
					d := s.key
					d.bin = 0
					f(d, uint16(w*64+bits.TrailingZeros64(word))<<8|uint16(s.key.bin))
				}
			}
		}
	}
}
