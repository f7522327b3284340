package flow

// A port that is taken or given back costs two misses, one after the other: the head of a chain, and the set behind it. Those of a burst
// are asked for together: first all heads, then all sets.

// FetchHead asks for the head of the chain in which the set is that Take of a port of this bin will look for, and returns its number for
// FetchSet.
func (p *SourcePorts) FetchHead(d Destination, bin uint8) (head uint32) {
	d.bin = bin
	head = p.headOf(&d)
	prefetchWord(&p.heads[head])
	return head
}

// FetchSet asks for the first set of a chain; few have another.
func (p *SourcePorts) FetchSet(head uint32) {
	if i := p.heads[head]; i != 0 {
		prefetchSet(&p.sets[i])
	}
}

// FetchPorts has Expire ask for what giving back the ports of connections will read.
func (t *Table) FetchPorts(p *SourcePorts) { t.ports = p }
