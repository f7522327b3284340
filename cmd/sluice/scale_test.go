package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/ctl"
	"sluice/perf/lab"
)

// A hundred transfers run while reloads change the number of workers, their way of polling and the size of the table, and
// while sluice is killed in the middle of that: every transfer ends with the right digest.
func TestScaleByReload(t *testing.T) {
	const conns = 100
	b := newBed(t, lab.TwoArmOptions{Servers: 4, Queues: 2}, settings{engine: "workers: 1"})
	b.serve(bulkPort, func(h *lab.Host, addr, _ string) (*lab.Server, error) { return lab.TransferServer(h, addr) })
	d := b.start()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	var moved atomic.Int64
	var over atomic.Bool
	var wg sync.WaitGroup
	vips := b.vips(bulkPort)
	for i := range conns {
		conn := must(b.Client.Dial(ctx, "tcp", vips[i%2].String()))(t)
		wg.Go(func() {
			defer conn.Close()
			c := &paced{meter: meter{conn, &moved}, rate: 1e5, begin: time.Now(), hurry: &over} // what two cores carry
			if _, err := lab.Transfer(ctx, c, 3<<20, uint64(i)); err != nil {
				t.Errorf("transfer %d: %v", i, err)
			}
		})
	}
	goOn := func(what string) {
		t.Helper()
		at := moved.Load()
		eventually(t, "the transfers to go on "+what, func() bool { return moved.Load() > at+1<<20 })
	}
	goOn("at first")
	for _, c := range []struct {
		engine  string
		workers int
	}{
		{"workers: 2", 2}, {"workers: 1", 1}, {"workers: 2, polling: interrupt", 2}, {"workers: 2, connections: 4096", 2}, {"workers: 1, connections: 500000", 1},
	} {
		v := b.reload(b.configText(settings{engine: c.engine}))
		if v.Scaled == nil || v.Scaled.Workers != c.workers || v.Scaled.Moved < conns || v.Scaled.Lost != 0 {
			t.Fatalf("%s: %+v", c.engine, v.Scaled)
		}
		goOn("with " + c.engine)
		list := query[[]ctl.WorkerView](b, "worker")
		queues := 0
		for _, w := range list {
			queues += len(w.Queues)
		}
		if len(list) != c.workers || queues != 4 {
			t.Errorf("%s: %+v", c.engine, list)
		}
		t.Logf("%s: %d connections moved in %d us", c.engine, v.Scaled.Moved, v.Scaled.TookUS)
	}
	drops := b.drops()
	t.Logf("dropped during the changes: %v", drops)
	for why := range drops {
		// A full ring says that a worker had no core for a while, as on a machine that does other work; nothing else may.
		if why != "handoff_full" && why != "tx_full" {
			t.Errorf("dropped %v", drops)
		}
	}
	for round := range 3 {
		workers := 1 + (round+1)%2
		b.write(b.configText(settings{engine: fmt.Sprintf("workers: %d", workers)}))
		asked := make(chan struct{})
		go func() {
			defer close(asked)
			var v ctl.ReloadView
			_ = ctl.Post(ctx, b.socket, "/v1/reload", &v) // its answer may not come
		}()
		time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
		d.kill()
		<-asked
		d = b.start()
		goOn(fmt.Sprintf("after kill %d", round))
	}
	over.Store(true)
	wg.Wait()
	if t.Failed() {
		t.Logf("dropped %v\n%s", b.drops(), d.log)
	}
	d.stop()
}
