package engine

import (
	"context"
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
	owner    *worker // only to be compared
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

// scan copies a chunk of connections from index from on; it returns where to go on, 0 at the end. Those on their way to another worker
// are copied too: until they are in its table, they are in no other.
func (w *worker) scan(from uint32, out *[]Conn) uint32 {
	return w.table.Each(from, scanChunk, func(i uint32, r *flow.Record) {
		*out = append(*out, w.copyOf(i, r))
	})
}

// copyOf copies a connection.
func (w *worker) copyOf(i uint32, r *flow.Record) Conn {
	now := uint32(w.now)
	c := Conn{Record: *r, Worker: w.id, owner: w, Index: i, Server: w.table.ServerKey(r), NodeAddr: w.cfg.addrs[r.Node], IdleMS: now - r.Seen, AgeMS: now - r.Start}
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
