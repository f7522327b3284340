package main

import (
	"context"
	"fmt"
	"testing"
	"time"

	"sluice/ctl"
	"sluice/perf/lab"
)

// Large transfers of the kernel's own TCP, both directions at once, arrive intact by byte and by SHA-256, with both
// drivers, in native and generic mode, over both families.
func TestTransfers(t *testing.T) {
	for _, c := range []struct {
		driver, mode, xdp string
		queues            int
	}{
		{"xsk", "auto", "native", 1},
		{"xsk", "copy", "native", 1},
		{"xsk", "generic", "generic", 1},
		{"asavie", "auto", "native", 1},
		{"asavie", "generic", "generic", 1},
		{"xsk", "auto", "native", 4}, // two workers, which hand half of the packets to each other
		{"asavie", "copy", "native", 4},
	} {
		t.Run(fmt.Sprintf("%s-%s-%d", c.driver, c.mode, c.queues), func(t *testing.T) {
			b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: c.queues}, settings{engine: fmt.Sprintf("driver: %s, mode: %s", c.driver, c.mode)})
			servers := b.serve(bulkPort, func(h *lab.Host, addr, _ string) (*lab.Server, error) { return lab.TransferServer(h, addr) })
			d := b.start()
			for _, p := range query[[]ctl.PortView](b, "port") {
				if p.Name == ctl.HostPortName {
					continue
				}
				if p.Driver != c.driver || p.XDP != c.xdp || p.Mode != "copy" || p.Queues != c.queues {
					t.Errorf("%+v, want %+v, and copy mode on a veth", p, c)
				}
			}
			for f, vip := range b.vips(bulkPort) {
				transfer(b, vip.String(), uint64(f))
				if n := servers[0][f].Connections.Load(); n != 1 {
					t.Errorf("%s: the server has seen %d connections", vip, n)
				}
			}
			d.stop()
		})
	}
}

func transfer(b *bed, to string, seed uint64) {
	t := b.t
	t.Helper()
	size := int64(256 << 20)
	if testing.Short() {
		size = 16 << 20
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	before := b.totals()
	conn := must(b.Client.Dial(ctx, "tcp", to))(t)
	defer conn.Close()
	r, err := lab.Transfer(ctx, conn, size, seed)
	if err != nil {
		t.Fatalf("%s: %v\ndropped: %v", to, err, b.drops())
	}
	after := b.totals()
	t.Logf("%s: %d MiB each way in %s: %.0f MB/s in all, %d packets, dropped %v", to, size>>20, r.Elapsed.Round(time.Millisecond),
		float64(2*size)/1e6/r.Elapsed.Seconds(), after.Received-before.Received, b.drops())
	// The engine must have carried it: as many segments as the bytes need.
	if least := uint64(2 * size / 1460); after.Received-before.Received < least {
		t.Errorf("%s: the engine has received %d packets, the transfer needs %d", to, after.Received-before.Received, least)
	}
}
