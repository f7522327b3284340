package engine

import (
	"context"
	"slices"
	"sync"
	"time"

	"sluice/flow"
)

// What the control side sees of connections: copies, taken by the worker a chunk at a time between bursts. Names, filters
// and everything else that takes time are done with the copies, outside the worker.

// Conn is a copy of a connection's record with its ids resolved to addresses.
type Conn struct {
	flow.Record
	Worker   int
	slot     int
	Index    uint32
	Server   flow.Key  // the tuple of packets from the server
	NodeAddr flow.Addr // of the member, whatever is in packets
	IdleMS   uint32
	AgeMS    uint32
	LeftMS   uint64 // until it expires if it stays idle
	Virtual  string
	Pool     string
	Member   string
	Ports    [2]string // client side, server side
}

// scanChunk is how many connections a worker copies between two bursts.
const scanChunk = 64

// A worker that has packets copies at most one chunk each scanGap for all who ask, so that no number of lists takes a
// hundredth of its time; who comes after a while without gets scanAhead chunks at once. A worker that sleeps has the time.
const (
	scanGap   = 400 * time.Microsecond
	scanAhead = 64
)

// scanPace is shared by all scans.
type scanPace struct {
	mu   sync.Mutex
	next time.Time
}

// wait waits for the turn of one chunk of w.
func (p *scanPace) wait(ctx context.Context, w *worker) error {
	if w.runtime.waker.sleeping.Load() {
		return nil
	}
	now := time.Now()
	p.mu.Lock()
	if earliest := now.Add(-scanAhead * scanGap); p.next.Before(earliest) {
		p.next = earliest
	}
	p.next = p.next.Add(scanGap)
	wait := p.next.Sub(now)
	p.mu.Unlock()
	if wait <= 0 {
		return nil
	}
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// scan copies a chunk of connections from index from on; it returns where to go on, 0 at the end.
func (w *worker) scan(from uint32, out *[]Conn) uint32 {
	return w.table.Each(from, scanChunk, func(i uint32, r *flow.Record) {
		if w.leaving != nil && w.leaving.isSent(i) {
			return // its next owner has it
		}
		*out = append(*out, w.copyOf(i, r))
	})
}

// copyOf copies a connection.
func (w *worker) copyOf(i uint32, r *flow.Record) Conn {
	now := uint32(w.now)
	c := Conn{Record: *r, Worker: w.id, slot: w.slot, Index: i, Server: w.table.ServerKey(r), NodeAddr: w.cfg.addrs[r.Node], IdleMS: now - r.Seen, AgeMS: now - r.Start}
	c.LeftMS = r.End(w.now, w.cfg.timeouts(r).of(r)) - w.now
	return c
}

// name fills in names; what the configuration no longer has stays empty.
func (c *Config) name(conn *Conn) {
	if v := conn.VS; int(v) < len(c.virtuals) {
		conn.Virtual = c.virtuals[v].Name
	}
	if n := c.names[conn.Node]; n != nil {
		conn.Pool, conn.Member = n.pool, n.Name
	}
	for i, port := range [2]uint16{conn.ClientIf, conn.ServerIf} {
		if int(port) < len(c.Ports) {
			conn.Ports[i] = c.Ports[port].Name
		}
	}
}

// EachConnection calls f with a copy of every connection that matches, a chunk at a time, worker by worker, in the
// caller's goroutine. It ends when f wants no more. While workers change, a connection that moves may come twice.
func (e *Engine) EachConnection(ctx context.Context, match func(*Conn) bool, f func(*Conn) (more bool)) error {
	var out []Conn
	workers := e.seated()
	for i := 0; i < len(workers); i++ {
		w := workers[i]
		for from := uint32(1); from != 0; {
			out = out[:0]
			if e.running.Load() {
				if err := e.scans.wait(ctx, w); err != nil {
					return err
				}
			}
			answered := false
			if err := e.wait(ctx, w, func(w *worker) { from, answered = w.scan(from, &out), true }); err != nil {
				return err
			}
			if !answered { // it has ended since: those that have come in its place are asked too
				for _, n := range e.seated() {
					if !slices.Contains(workers, n) {
						workers = append(workers, n)
					}
				}
				break
			}
			cfg := e.Config()
			for i := range out {
				cfg.name(&out[i])
				if (match == nil || match(&out[i])) && !f(&out[i]) {
					return nil
				}
			}
		}
	}
	return nil
}

// Connections copies up to limit connections that match.
func (e *Engine) Connections(ctx context.Context, limit int, match func(*Conn) bool) ([]Conn, error) {
	var out []Conn
	err := e.EachConnection(ctx, match, func(c *Conn) bool {
		out = append(out, *c)
		return len(out) < limit
	})
	return out, err
}

// DeleteConnections removes the connections that match, at most limit, and returns how many. With reset both ends of a TCP
// connection get a RST. A connection that ends by itself meanwhile is not counted.
func (e *Engine) DeleteConnections(ctx context.Context, limit int, reset bool, match func(*Conn) bool) (int, error) {
	found, err := e.Connections(ctx, limit, match)
	if err != nil {
		return 0, err
	}
	deleted := 0
	for len(found) > 0 {
		n := 1
		for n < min(len(found), scanChunk) && found[n].slot == found[0].slot {
			n++
		}
		chunk := found[:n]
		found = found[n:]
		for _, w := range e.seated() {
			if w.slot != chunk[0].slot {
				continue
			}
			if err := e.wait(ctx, w, func(w *worker) { deleted += w.deleteConns(chunk, reset) }); err != nil {
				return deleted, err
			}
		}
	}
	return deleted, nil
}

// deleteConns removes the connections that are still those that were copied: an index may have been used again since.
func (w *worker) deleteConns(conns []Conn, reset bool) (n int) {
	for i := range conns {
		r := w.table.Record(conns[i].Index)
		if w.leaving != nil && w.leaving.isSent(conns[i].Index) {
			continue
		}
		if !r.Live() || r.ClientKey() != conns[i].ClientKey() || r.Start != conns[i].Start {
			continue
		}
		if reset && r.Proto() == flow.TCP {
			w.sendResets(r)
		}
		w.remove(conns[i].Index)
		n++
	}
	return n
}
