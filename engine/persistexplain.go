package engine

import (
	"context"
	"slices"

	"sluice/flow"
)

// PersistenceExplanation is what persistence says about a connection.
type PersistenceExplanation struct {
	Name   string
	Client string // address, or prefix
	Worker int    // owner of the entry
	Entry  string // the member that the entry names, as pool/member; empty: there is none
	// Outcome is what comes of the entry; empty where there is none.
	Outcome string
}

// explainMember is choose as an explanation does it: nothing is taken, and the entry stays as it is.
func (c *Config) explainMember(v *virtual, search *choice, node uint32) (*member, *PersistenceExplanation) {
	p := v.persistence
	client := p.prefix(search.key.Src)
	prefix := clientPrefix(client, p.Bits4, p.Bits6)
	x := &PersistenceExplanation{Name: p.Name, Client: prefix.String(), Worker: c.entryWorker(p, client)}
	if prefix.IsSingleIP() {
		x.Client = prefix.Addr().String()
	}
	if node == 0 {
		return search.next(), x
	}
	x.Entry = c.nodeName(node)
	m := search.persisted(c, v, node)
	switch {
	case m == nil && search.why == PersistenceRefused:
		x.Outcome = "its member does not take the connection, and no other may"
	case m == nil:
		x.Outcome = "no member takes the connection"
	case search.want.outcome == wantedTaken:
		x.Outcome = "its member takes the connection"
	case search.want.outcome == wantedUntried && search.want.pool == nil:
		x.Outcome = "its member is no longer of the pool; the entry moves"
	case search.want.outcome == wantedUntried:
		x.Outcome = "a higher priority takes connections again; the entry moves"
	case search.want.policy == PersistenceKeep:
		x.Outcome = "its member does not take the connection; another does, and the entry stays"
	default:
		x.Outcome = "its member does not take the connection; the entry moves"
	}
	return m, x
}

func (c *Config) nodeName(id uint32) string {
	if n := c.names[id]; n != nil {
		return n.pool + "/" + n.Name
	}
	if int(id) < len(c.addrs) {
		return c.addrs[id].Netip().String()
	}
	return "a member that is gone"
}

// passedGroups says until when groups are passed over after they had too few members, by pool and group: what each worker knows for
// itself.
type passedGroups [][]uint64

func (c *choice) passed() (out passedGroups) {
	for i := range c.pools {
		groups := make([]uint64, len(c.pools[i].groups))
		for j := range groups {
			groups[j] = c.pools[i].groups[j].passedUntil
		}
		out = append(out, groups)
	}
	return out
}

// exchange has the choice know what another worker knows, until it is undone. Nothing is changed where that one has another
// configuration, or there is none.
func (c *choice) exchange(with passedGroups) (undo func()) {
	own := c.passed()
	set := func(p passedGroups) {
		for i := range c.pools {
			for j := range c.pools[i].groups {
				c.pools[i].groups[j].passedUntil = p[i][j]
			}
		}
	}
	if !slices.EqualFunc(own, with, func(a, b []uint64) bool { return len(a) == len(b) }) {
		return func() {}
	}
	set(with)
	return func() { set(own) }
}

// passedByOwner asks the owner of the persistence entry of a packet's client, which chooses the member; without persistence nobody.
func (e *Engine) passedByOwner(ctx context.Context, k *flow.Key, ingress uint16) (out passedGroups, err error) {
	e.changing.Lock()
	defer e.changing.Unlock()
	cfg := e.Config()
	v := cfg.persistent(k, ingress)
	if v == nil {
		return nil, nil
	}
	w := e.seated()[cfg.entryWorker(v.persistence, k.Src)]
	err = e.wait(ctx, w, func(w *worker) { out = w.runtime.choice.passed() })
	return out, err
}
