package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sluice/ctl"
	"sluice/perf/lab"
)

// Everything that an operator may do, at the same time and in any order, beside transfers: reloads of many kinds, SIGHUP,
// listings, deletions of other connections, takeovers. Every request is answered or refused by a sentence, the transfers arrive
// intact, and the end accounts for every frame.
func TestEverythingAtOnce(t *testing.T) {
	long := 12 * time.Second
	if testing.Short() {
		long = 4 * time.Second
	}
	b := newBed(t, lab.TwoArmOptions{Servers: 4, Queues: 2}, settings{engine: "workers: 2"})
	b.serve(bulkPort, func(h *lab.Host, addr, _ string) (*lab.Server, error) { return lab.TransferServer(h, addr) })
	b.serve(webPort, func(h *lab.Host, addr, identity string) (*lab.Server, error) {
		return lab.HTTPServer(h, addr, identity)
	})
	d := b.start()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var over atomic.Bool
	var moved atomic.Int64
	var wg sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	vips := b.vips(bulkPort)
	for i := range 20 {
		conn := must(b.Client.Dial(ctx, "tcp", vips[i%2].String()))(t)
		wg.Go(func() {
			defer conn.Close()
			c := &paced{meter: meter{conn, &moved}, rate: 2e5, begin: time.Now(), hurry: &over}
			if _, err := lab.Transfer(ctx, c, 4<<20, uint64(i)); err != nil {
				t.Errorf("transfer %d: %v", i, err)
			}
		})
	}
	original := b.configText(settings{engine: "workers: 2"})
	variants := []string{
		original,
		b.configText(settings{engine: "workers: 1"}),
		b.configText(settings{engine: "workers: 2, connections: 5000, polling: interrupt"}),
		b.configText(settings{engine: "workers: 2", scheduler: "maglev"}),
		b.configText(settings{engine: "workers: 2", scheduler: "least-connections", weights: []int{1, 0, 2, 1}}),
		dropMember(original, "server-3"),
		dropVirtual(original, "dns"),
		original + "bad: 1\n",
		strings.Replace(original, "workers: 2", "workers: 2, frame-size: 4096", 1),
	}
	var process atomic.Pointer[daemon]
	process.Store(d)
	// What may be said while another change is on its way, or an engine is replaced by another.
	allowed := []string{"nsense", "bad", "frame-size", "does not answer", "does not take messages", "is it running", "engine is stopped",
		"busy", "EOF", "reset by peer", "being taken over", "taken over", "context deadline", "closed"}
	var actions atomic.Int64
	done := make(chan struct{})
	var actors sync.WaitGroup
	act := func(name string, f func(rng *rand.Rand) error) {
		rng := rand.New(rand.NewPCG(seed, uint64(len(name))))
		actors.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(time.Duration(rng.IntN(40)) * time.Millisecond):
				}
				if err := f(rng); err != nil && !slices.ContainsFunc(allowed, func(w string) bool { return strings.Contains(err.Error(), w) }) {
					t.Errorf("%s: %v", name, err)
				}
				actions.Add(1)
			}
		})
	}
	var file sync.Mutex
	for i := range 2 {
		act(fmt.Sprint("reload ", i), func(rng *rand.Rand) error {
			file.Lock()
			b.write(variants[rng.IntN(len(variants))])
			file.Unlock()
			var v ctl.ReloadView
			return ctl.Post(ctx, b.socket, "/v1/reload", &v)
		})
	}
	act("hangup", func(rng *rand.Rand) error {
		time.Sleep(100 * time.Millisecond)
		_ = process.Load().Signal(syscall.SIGHUP) // of one that has just been replaced it is too late
		return nil
	})
	act("listing", func(rng *rand.Rand) error {
		path := []string{"/v1/members", "/v1/workers", "/v1/ports", "/v1/status", "/v1/drops", "/v1/connections?limit=50"}[rng.IntN(6)]
		var v any
		return ctl.Get(ctx, b.socket, path, &v)
	})
	act("deleting", func(rng *rand.Rand) error {
		var v any
		return ctl.Delete(ctx, b.socket, "/v1/connections?virtual=web", &v)
	})
	act("visiting", func(rng *rand.Rand) error {
		_, _ = ask(b.Client, b.vips(webPort)[rng.IntN(2)], 500*time.Millisecond) // which deletions may cut
		return nil
	})
	for begin, n := time.Now(), 0; time.Since(begin) < long; n++ {
		time.Sleep(long / 4)
		file.Lock() // a successor has the workers and the table that the running one has
		b.write(original)
		var v ctl.ReloadView
		if ctl.Post(ctx, b.socket, "/v1/reload", &v) != nil {
			file.Unlock()
			continue
		}
		next := b.launch("--takeover")
		if next.awaitTakeoverOrRefusal() {
			process.Load().ended()
			process.Store(next)
		}
		file.Unlock()
	}
	close(done)
	actors.Wait()
	d = process.Load()
	b.write(original)
	eventually(t, "a last reload", func() bool {
		var v ctl.ReloadView
		return ctl.Post(ctx, b.socket, "/v1/reload", &v) == nil
	})
	over.Store(true)
	wg.Wait()
	t.Logf("%d actions, %d MB moved, dropped %v", actions.Load(), moved.Load()>>20, b.drops())
	if t.Failed() {
		t.Log(d.log)
	}
	d.stop()
}

// awaitTakeoverOrRefusal waits until d serves or has been refused, as when workers are being changed.
func (d *daemon) awaitTakeoverOrRefusal() bool {
	t := d.bed.t
	t.Helper()
	for deadline := time.Now().Add(startTime); ; time.Sleep(2 * time.Millisecond) {
		var s ctl.StatusView
		if ctl.Get(t.Context(), d.bed.socket, "/v1/status", &s) == nil && s.PID == d.PID() {
			return true
		}
		select {
		case <-d.Done():
			t.Logf("refused: %s", d.log)
			return false
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("sluice run --takeover neither serves nor ends:\n%s", d.log)
		}
	}
}
