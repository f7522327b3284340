package engine

import (
	"net/netip"
	"slices"

	"sluice/flow"
)

// Adoption is what became of the connections that an earlier engine left.
type Adoption struct {
	Adopted int
	Unsound int // failed validation
	Doubled int // another connection has one of the tuples
	NoRoom  int
	Entries int // of persistence
	Strange int // on a port that there is no more, or with a SNAT port of another owner than its client
}

// InUse is what sound records refer to, by ids and by the server ends of their connections.
type InUse struct {
	Nodes, Virtuals map[uint32]bool // SNAT addresses are among the nodes
	Ends            map[ServerEnd]bool

	ends [][]ServerEnd // by node id: most nodes have one, and a map would be asked for every record
}

// ServerEnd is where a member serves: its end of connections.
type ServerEnd struct {
	Addr  netip.Addr
	Proto uint8
	Port  uint16
}

// NewInUse makes an empty one.
func NewInUse() *InUse {
	return &InUse{Nodes: map[uint32]bool{}, Virtuals: map[uint32]bool{}, Ends: map[ServerEnd]bool{}}
}

// Survey collects what is in use, so that a configuration can keep what it no longer names for as long as it is needed.
func (u *InUse) Survey(records []flow.Record, dict *Dictionary) {
	for len(u.ends) < len(dict.values) {
		u.ends = append(u.ends, nil)
	}
	for i := range records {
		r := &records[i]
		if live, sound := r.Sound(len(dict.values)); !live || !sound {
			continue
		}
		u.Virtuals[r.VS] = true
		if r.SNAT != 0 {
			u.Nodes[r.SNAT] = true
		}
		if r.OneSided() || r.Movable() { // no end of theirs sends to us
			u.Nodes[r.Node] = true
			continue
		}
		known := slices.ContainsFunc(u.ends[r.Node], func(e ServerEnd) bool { return e.Port == r.NPort && e.Proto == r.Proto() })
		if known {
			continue
		}
		end := ServerEnd{Addr: dict.values[r.Node].Netip(), Proto: r.Proto(), Port: r.NPort}
		u.ends[r.Node] = append(u.ends[r.Node], end)
		u.Nodes[r.Node], u.Ends[end] = true, true
	}
}

// Adopt gives the connections among records to the workers that own them. ports says what the ports of the records are
// now; -1 is one that is gone. The engine must not have been started.
func (e *Engine) Adopt(records []flow.Record, ports []int, a *Adoption) {
	cfg := e.Config()
	for i := range records {
		live, sound := records[i].Sound(len(cfg.addrs))
		if !live {
			continue
		}
		rec := records[i]
		if !sound || int(rec.VS) >= e.workers[0].virtual.len() || int(rec.ClientIf) >= len(ports) || int(rec.ServerIf) >= len(ports) {
			a.Unsound++
			continue
		}
		client, server := ports[rec.ClientIf], ports[rec.ServerIf]
		if client < 0 || server < 0 {
			a.Strange++
			continue
		}
		if cfg.apart(&rec) {
			a.Strange++
			continue
		}
		rec.ClientIf, rec.ServerIf = uint16(client), uint16(server)
		w := e.workers[cfg.ownerOf(&rec)]
		w.adopt(&rec, a)
		e.adoptEntry(cfg, &rec)
	}
}

func (w *worker) adopt(rec *flow.Record, a *Adoption) {
	rec.Settle() // the earlier engine may have ended between the segment that established it and this
	deadline := w.timeoutOf(rec)
	i, res := w.table.Adopt(rec, w.now, deadline)
	if res == flow.Full && !rec.HalfOpen() && w.evict() { // in a smaller table the established go first
		a.Adopted--
		a.NoRoom++
		i, res = w.table.Adopt(rec, w.now, deadline)
	}
	switch res {
	case flow.Collision:
		a.Doubled++
		return
	case flow.Full:
		a.NoRoom++
		return
	}
	r := w.table.Record(i)
	if r.HalfOpen() {
		w.open(r)
	}
	if holds(r) {
		w.runtime.counts.add(r, 1)
	}
	w.enter(r)
	w.keepPort(r)
	a.Adopted++
}

// Entry is a line of a dictionary as it is kept in a file: what an id stands for.
type Entry struct {
	Kind  string     `json:"kind"` // virtual | node | snat | persistence
	ID    uint32     `json:"id"`
	Pool  string     `json:"pool,omitempty"`
	Addr  netip.Addr `json:"addr"`
	Port  uint16     `json:"port"`
	Proto uint8      `json:"proto,omitempty"`

	Name  string `json:"name,omitempty"` // of a persistence
	Bits4 int    `json:"bits4,omitempty"`
	Bits6 int    `json:"bits6,omitempty"`

	// Of a virtual server that has more than one port of one address.
	Last    uint16       `json:"last,omitempty"` // last port of a range
	Prefix  netip.Prefix `json:"prefix,omitzero"`
	Ingress string       `json:"ingress,omitempty"` // port that the prefix is bound to
}

// Same reports whether two entries stand for the same, whatever their ids.
func (e Entry) Same(o Entry) bool {
	e.ID, o.ID = 0, 0
	return e == o
}

// Entries are all ids that were given since the first n.
func (d *Dictionary) Entries(n int) []Entry { return d.log[min(n, len(d.log)):] }

// Restore gives an id its old meaning; entries must come in their order. It reports whether the entry fits: ids of each
// kind are given without gaps.
func (d *Dictionary) Restore(e Entry) bool {
	id := d.Give(e)
	return id != 0 && id == e.ID
}

// Give is the id of what an entry of another dictionary stands for: a new one if it has none.
func (d *Dictionary) Give(e Entry) uint32 {
	switch e.Kind {
	case "virtual":
		return d.virtual(e)
	case "node":
		return d.node(e.Pool, e.Addr, e.Port)
	case "snat":
		return d.snat(e.Addr)
	case "persistence":
		return d.persistence(e.Name, e.Bits4, e.Bits6)
	}
	return 0
}

// Virtual is the address of a virtual server's id.
func (d *Dictionary) Virtual(id uint32) (Entry, bool) { return d.entry("virtual", id) }

// Node is the member of a node's id.
func (d *Dictionary) Node(id uint32) (Entry, bool) { return d.entry("node", id) }

// SNAT is the SNAT address of an id.
func (d *Dictionary) SNAT(id uint32) (Entry, bool) { return d.entry("snat", id) }

func (d *Dictionary) entry(kind string, id uint32) (Entry, bool) {
	for _, e := range d.log {
		if e.Kind == kind && e.ID == id {
			return e, true
		}
	}
	return Entry{}, false
}
