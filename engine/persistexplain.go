package engine

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
