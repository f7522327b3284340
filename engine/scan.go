package engine

import (
	"context"
	"fmt"
	"slices"
	"time"

	"sluice/flow"
)

// A list of connections is whole while workers change, too. A connection leaves a table only when it is in its next one, at an index
// that is its own there; so whoever goes through the old tables first and then through the new ones passes each connection at least
// once:
//
//	old table:  listed, if it is there when its index is passed
//	new table:  else it was there already, before this table was begun

// EachConnection calls f with a copy of every connection that matches, a chunk at a time, worker by worker, in the
// caller's goroutine. It ends when f wants no more. While workers change, a connection that moves may come twice, the second time as it
// is with its new worker; none is left out.
func (e *Engine) EachConnection(ctx context.Context, match func(*Conn) bool, f func(*Conn) (more bool)) error {
	var out []Conn
	workers := e.seated()
	changed := false // workers were seen that leave, or have left
	for i := 0; ; i++ {
		if i == len(workers) && changed {
			workers = e.successors(workers)
			changed = false
		}
		if i == len(workers) {
			return nil
		}
		w := workers[i]
		for from := uint32(1); from != 0; {
			out = out[:0]
			if e.running.Load() {
				if err := e.scans.wait(ctx, w); err != nil {
					return err
				}
			}
			answered, leaves := false, false
			err := e.wait(ctx, w, func(w *worker) { from, answered, leaves = w.scan(from, &out), true, w.leaving != nil })
			if err != nil {
				return err
			}
			changed = changed || leaves || !answered
			if !answered { // it has ended since, and others have what it had
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
}

// successors appends the workers that have come since.
func (e *Engine) successors(asked []*worker) []*worker {
	for _, n := range e.seated() {
		if !slices.Contains(asked, n) {
			asked = append(asked, n)
		}
	}
	return asked
}

// Connections copies up to limit connections that match, each once.
func (e *Engine) Connections(ctx context.Context, limit int, match func(*Conn) bool) ([]Conn, error) {
	var out []Conn
	var at map[flow.Key]int // where a connection is in out; only while workers change
	err := e.EachConnection(ctx, match, func(c *Conn) bool {
		if at == nil && len(out) > 0 && c.owner.runtime.generation != out[0].owner.runtime.generation {
			at = map[flow.Key]int{}
			for i := range out {
				at[out[i].ClientKey()] = i
			}
		}
		if i, twice := at[c.ClientKey()]; twice {
			out[i] = *c // as it is now
			return true
		}
		if at != nil {
			at[c.ClientKey()] = len(out)
		}
		out = append(out, *c)
		return len(out) < limit
	})
	return out, err
}

// deleteAgain is how long connections that were on their way to another worker are left alone.
const deleteAgain = time.Millisecond

// DeleteConnections removes the connections that match, at most limit, and returns how many. With reset both ends of a TCP
// connection get a RST. A connection that ends by itself meanwhile is not counted. One that moves to another worker is removed there.
func (e *Engine) DeleteConnections(ctx context.Context, limit int, reset bool, match func(*Conn) bool) (deleted int, err error) {
	for {
		found, err := e.Connections(ctx, limit-deleted, match)
		if err != nil {
			return deleted, err
		}
		n, moving, err := e.deleteFound(ctx, found, reset)
		deleted += n
		if err != nil || len(moving) == 0 || deleted >= limit {
			return deleted, err
		}
		match = func(c *Conn) bool { return moving[c.ClientKey()] == c.Start && c.Start != 0 }
		select {
		case <-time.After(deleteAgain):
		case <-ctx.Done():
			return deleted, fmt.Errorf("%d connections move from worker to worker and were not deleted: %w", len(moving), ctx.Err())
		}
	}
}

// deleteFound removes connections; moving are those that are another worker's by now, or will be, with their start.
func (e *Engine) deleteFound(ctx context.Context, found []Conn, reset bool) (deleted int, moving map[flow.Key]uint32, err error) {
	moving = map[flow.Key]uint32{}
	for len(found) > 0 {
		n := 1
		for n < min(len(found), scanChunk) && found[n].owner == found[0].owner {
			n++
		}
		chunk := found[:n]
		found = found[n:]
		asked := false
		for _, w := range e.seated() {
			if w != chunk[0].owner {
				continue
			}
			err := e.wait(ctx, w, func(w *worker) {
				done, left := w.deleteConns(chunk, reset)
				deleted, asked = deleted+done, true
				for _, c := range left {
					moving[c.ClientKey()] = c.Start
				}
			})
			if err != nil {
				return deleted, moving, err
			}
		}
		if !asked { // it has ended since
			for i := range chunk {
				moving[chunk[i].ClientKey()] = chunk[i].Start
			}
		}
	}
	return deleted, moving, nil
}

// deleteConns removes the connections that are still those that were copied: an index may have been used again since. It returns how
// many, and those that are on their way to another worker.
func (w *worker) deleteConns(conns []Conn, reset bool) (n int, moving []Conn) {
	for i := range conns {
		r := w.table.Record(conns[i].Index)
		if !r.Live() || r.ClientKey() != conns[i].ClientKey() || r.Start != conns[i].Start {
			if w.leaving != nil {
				moving = append(moving, conns[i])
			}
			continue
		}
		if w.leaving != nil && w.leaving.isSent(conns[i].Index) {
			moving = append(moving, conns[i])
			continue
		}
		if reset && r.Proto() == flow.TCP {
			w.sendResets(r)
		}
		w.remove(conns[i].Index)
		n++
	}
	return n, moving
}
