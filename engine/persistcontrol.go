package engine

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	"sluice/flow"
)

// Persistence between bursts: configurations, what control sees and deletes, and how entries come through a change of workers,
// a restart and a takeover.

// coming is a configuration that every worker knows of before the first goes by it, so that what one decides by it another
// understands.
type coming struct {
	cfg    *Config
	slots  []uint8
	counts counts
}

// openPersistence lays the table of entries behind that of connections. capacity 0 is none.
func (w *worker) openPersistence(mem []byte, connections, capacity int, secret flow.Secret, attach bool) (err error) {
	if capacity == 0 {
		return nil
	}
	w.persist = &persist{}
	open := flow.NewPersistence
	if attach {
		open = flow.AttachPersistence
	}
	w.persist.table, err = open(flow.PersistenceMemory(mem, connections), flow.PersistenceConfig{Capacity: capacity, Secret: secret})
	return err
}

// configurePersistence goes by the rules of the configuration.
func (w *worker) configurePersistence() {
	if !w.cfg.persists && w.persist == nil {
		return
	}
	p := w.needPersist()
	for len(p.stats) < len(w.cfg.persistenceRules) {
		p.stats = append(p.stats, PersistenceStats{})
	}
	if p.table != nil {
		p.table.Configure(w.cfg.persistenceRules)
	}
}

func (w *worker) needPersist() *persist {
	if w.persist == nil {
		w.persist = &persist{}
	}
	return w.persist
}

// catchUp takes the configuration that comes next now, if there is one: a packet has come that another worker has decided about
// by it.
func (w *worker) catchUp() {
	if c := w.runtime.coming; c.cfg != nil {
		w.applyConfig(c.cfg, c.slots, c.counts)
	}
}

// agingBudget bounds the entries that a step removes.
const agingBudget = 8

// agePersistence removes entries whose time is over.
func (w *worker) agePersistence() {
	t := w.persist.table
	if t == nil || t.Len() == 0 {
		return
	}
	t.Expire(w.now, agingBudget)
}

// persistenceStats are the worker's counters, with the entries that there are.
func (w *worker) persistenceStats() []PersistenceStats {
	if w.persist == nil {
		return nil
	}
	out := slices.Clone(w.persist.stats)
	for i := range out {
		if w.persist.table != nil {
			out[i].Entries = uint64(w.persist.table.Count(uint32(i)))
		}
	}
	return out
}

// PersistenceEntry is a copy of an entry with its ids resolved.
type PersistenceEntry struct {
	Persistence  string // empty: no configuration has it any more
	Client       netip.Prefix
	Pool, Member string // where it was made; empty: the member is gone
	Server       netip.Addr
	Node         uint32
	Worker       int
	IdleMS       uint64
	LeftMS       uint64 // until it is over if it is not used
	slot         int
	entry        flow.PersistenceEntry
}

// resolveEntry makes a copy for people.
func (c *Config) resolveEntry(e *flow.PersistenceEntry, now uint64) PersistenceEntry {
	out := PersistenceEntry{entry: *e, Node: e.Node, IdleMS: now - min(e.Used, now)}
	bits4, bits6 := 32, 128
	for i := range c.persistences {
		if p := &c.persistences[i]; p.id == e.Kind {
			out.Persistence, bits4, bits6 = p.Name, p.Bits4, p.Bits6
			out.LeftMS = uint64(p.Timeout) - min(uint64(p.Timeout), out.IdleMS)
		}
	}
	out.Client = clientPrefix(e.Client, bits4, bits6)
	if n := c.names[e.Node]; n != nil {
		out.Pool, out.Member = n.pool, n.Name
	}
	if int(e.Node) < len(c.addrs) {
		out.Server = c.addrs[e.Node].Netip()
	}
	return out
}

func clientPrefix(client flow.Addr, bits4, bits6 int) netip.Prefix {
	if client.Is4() {
		return netip.PrefixFrom(client.Netip(), bits4)
	}
	return netip.PrefixFrom(client.Netip(), bits6)
}

// entriesChunk is how many entries a worker copies between two bursts.
const entriesChunk = 256

// PersistenceEntries copies up to limit entries that match, those of one worker after the other.
func (e *Engine) PersistenceEntries(ctx context.Context, limit int, match func(*PersistenceEntry) bool) (out []PersistenceEntry, err error) {
	e.changing.Lock() // while workers change, entries are in two places
	defer e.changing.Unlock()
	return e.entries(ctx, limit, match)
}

func (e *Engine) entries(ctx context.Context, limit int, match func(*PersistenceEntry) bool) (out []PersistenceEntry, err error) {
	for _, w := range e.seated() {
		for from := uint32(1); from != 0; {
			var chunk []flow.PersistenceEntry
			now := uint64(0)
			if err := e.wait(ctx, w, func(w *worker) { from, now = w.copyEntries(from, &chunk), w.now }); err != nil {
				return nil, err
			}
			cfg := e.Config()
			for i := range chunk {
				r := cfg.resolveEntry(&chunk[i], now)
				r.Worker, r.slot = w.id, w.slot
				if r.Persistence == "" || r.LeftMS == 0 || match != nil && !match(&r) {
					continue // none that counts: it goes as the worker comes to it
				}
				if out = append(out, r); len(out) == limit {
					return out, nil
				}
			}
		}
	}
	return out, nil
}

// copyEntries copies a chunk of entries from index from on, and returns where to go on, 0 at the end.
func (w *worker) copyEntries(from uint32, out *[]flow.PersistenceEntry) uint32 {
	if w.persist == nil || w.persist.table == nil {
		return 0
	}
	return w.persist.table.Each(from, entriesChunk, func(_ uint32, e *flow.PersistenceEntry) { *out = append(*out, *e) })
}

// AllPersistence copies every entry as it is.
func (e *Engine) AllPersistence(ctx context.Context) (all []flow.PersistenceEntry, err error) {
	e.changing.Lock()
	defer e.changing.Unlock()
	for _, w := range e.seated() {
		for from := uint32(1); from != 0; {
			if err := e.wait(ctx, w, func(w *worker) { from = w.copyEntries(from, &all) }); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// DeletePersistence removes the entries that match, at most limit, and returns how many. Their clients' next connections are
// scheduled.
func (e *Engine) DeletePersistence(ctx context.Context, limit int, match func(*PersistenceEntry) bool) (deleted int, err error) {
	e.changing.Lock()
	defer e.changing.Unlock()
	found, err := e.entries(ctx, limit, match)
	for len(found) > 0 && err == nil {
		n := 1
		for n < min(len(found), entriesChunk) && found[n].slot == found[0].slot {
			n++
		}
		chunk := found[:n]
		found = found[n:]
		for _, w := range e.seated() {
			if w.slot == chunk[0].slot && err == nil {
				err = e.wait(ctx, w, func(w *worker) { deleted += w.deleteEntries(chunk) })
			}
		}
	}
	return deleted, err
}

func (w *worker) deleteEntries(list []PersistenceEntry) (n int) {
	for i := range list {
		k := &list[i].entry
		if at := w.persist.table.Find(k.Client, k.Kind, w.now); at != 0 {
			w.persist.table.Remove(at)
			n++
		}
	}
	return n
}

// PersistenceEntry is the entry of a client at the virtual server that a packet would open a connection at that arrives on a port, as
// its owner has it.
// It changes nothing. ok is false where there is none.
func (e *Engine) PersistenceEntry(ctx context.Context, k *flow.Key, ingress int) (out PersistenceEntry, ok bool, err error) {
	e.changing.Lock()
	defer e.changing.Unlock()
	cfg := e.Config()
	v := cfg.persistent(k, uint16(ingress))
	if v == nil {
		return out, false, nil
	}
	p := v.persistence
	w := e.seated()[cfg.entryWorker(p, k.Src)]
	var entry flow.PersistenceEntry
	now := uint64(0)
	err = e.wait(ctx, w, func(w *worker) {
		if now = w.now; w.persist != nil && w.persist.table != nil {
			entry, ok = w.persist.table.Peek(p.prefix(k.Src), p.id, now)
		}
	})
	if ok {
		out = cfg.resolveEntry(&entry, now)
		out.Worker = w.id
	}
	return out, ok, err
}

// copyPersistence gives the entries of workers that leave, which are frozen, to those that own them in cfg.
func (e *Engine) copyPersistence(ctx context.Context, old, fresh []*worker, cfg *Config) (lost int, err error) {
	err = e.ask(ctx, fresh, func(w *worker) { // their shares are those of cfg, which they have yet to get
		if w.persist != nil && w.persist.table != nil {
			w.persist.table.Configure(cfg.persistenceRules)
		}
	})
	if err != nil {
		return 0, err
	}
	var all []flow.PersistenceEntry
	for _, w := range old {
		for from := uint32(1); from != 0; {
			if err := e.wait(ctx, w, func(w *worker) { from = w.copyEntries(from, &all) }); err != nil {
				return 0, err
			}
		}
	}
	sortEntries(all) // so that the lists of the new are in order, and the oldest give way
	for len(all) > 0 {
		n := min(len(all), 4*entriesChunk)
		shares := make([][]flow.PersistenceEntry, len(fresh))
		for _, x := range all[:n] {
			to := cfg.owners.worker[cfg.owners.bin(x.Client, 0)]
			shares[to] = append(shares[to], x)
		}
		all = all[n:]
		for i, list := range shares {
			if len(list) == 0 {
				continue
			}
			err := e.wait(ctx, fresh[i], func(w *worker) {
				for j := range list {
					if !w.plantEntry(&list[j]) {
						lost++
					}
				}
			})
			if err != nil {
				return lost, err
			}
		}
	}
	return lost, nil
}

// sortEntries puts entries into the order in which they were used.
func sortEntries(list []flow.PersistenceEntry) {
	slices.SortStableFunc(list, func(a, b flow.PersistenceEntry) int { return cmp.Compare(a.Used, b.Used) })
}

// inheritPersistence takes the counters of a worker that has ended.
func (w *worker) inheritPersistence(o *worker) {
	if o.persist == nil {
		return
	}
	p := w.needPersist()
	for len(p.stats) < len(o.persist.stats) {
		p.stats = append(p.stats, PersistenceStats{})
	}
	for i := range o.persist.stats {
		p.stats[i].Add(&o.persist.stats[i])
	}
}

// AdoptPersistence gives the entries that an earlier engine left to the workers that own them. It comes before Adopt, and the
// engine must not have been started. What no configuration has any more is passed over. Of a client's that are there twice, in the
// tables of two generations of workers, the later one counts.
func (e *Engine) AdoptPersistence(entries []flow.PersistenceEntry, a *Adoption) {
	cfg := e.Config()
	sortEntries(entries)
	for i := range entries {
		x := entries[i]
		w := e.workers[cfg.owners.worker[cfg.owners.bin(x.Client, 0)]]
		if int(x.Kind) >= len(cfg.persistenceRules) || cfg.persistenceRules[x.Kind].Limit == 0 || int(x.Node) >= len(cfg.addrs) {
			continue
		}
		x.Used = min(x.Used, w.now) // a store that a kill has torn
		if x.Used+cfg.persistenceRules[x.Kind].Timeout <= w.now || w.persist == nil || w.persist.table == nil {
			continue
		}
		t := w.persist.table
		if i := t.Find(x.Client, x.Kind, w.now); i != 0 {
			t.Assign(i, x.Node)
			t.Use(i, x.Used)
		} else if w.plantEntry(&x) {
			a.Entries++
		}
	}
}

// adoptEntry makes an entry of a connection that was adopted, for a client that has none: its persistence may be new.
func (e *Engine) adoptEntry(cfg *Config, r *flow.Record) {
	if int(r.VS) >= len(cfg.virtuals) || cfg.virtuals[r.VS].persistence == nil {
		return
	}
	p := cfg.virtuals[r.VS].persistence
	w := e.workers[cfg.entryWorker(p, r.Client)]
	began := w.now - min(w.now, uint64(uint32(w.now)-r.Start))
	if began+uint64(p.Timeout) <= w.now || w.persist.table == nil {
		return
	}
	x := flow.PersistenceEntry{Client: p.prefix(r.Client), Kind: p.id, Node: r.Node, Used: began}
	if w.persist.table.Find(x.Client, x.Kind, w.now) == 0 {
		w.persist.table.Insert(x)
	}
}

// exportPersistence writes what of persistence is not in shared memory.
func (w *worker) exportPersistence(out *encoder) {
	if w.persist == nil || w.persist.table == nil {
		out.count(0)
		return
	}
	out.count(w.persist.table.Cap())
	out.b = w.persist.table.AppendState(out.b)
	out.count(len(w.persist.stats))
	out.counters(w.persist.stats)
}

// restorePersistence is the successor's side.
func (w *worker) restorePersistence(in *decoder) (err error) {
	n := in.count()
	have := 0
	if w.persist != nil && w.persist.table != nil {
		have = w.persist.table.Cap()
	}
	if n != have && in.err == nil {
		return fmt.Errorf("%d entries of persistence, here %d", n, have)
	}
	if n == 0 || in.err != nil {
		return in.err
	}
	if in.b, err = w.persist.table.Resume(in.b); err != nil {
		return err
	}
	p := w.persist
	list := make([]PersistenceStats, in.limited(in.count(), 8))
	in.counters(list)
	for len(p.stats) < len(list) {
		p.stats = append(p.stats, PersistenceStats{})
	}
	copy(p.stats, list)
	return in.err
}
