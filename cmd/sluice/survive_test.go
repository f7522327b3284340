package main

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/ctl"
	"sluice/perf/lab"
)

// meter counts what a connection has moved, so that a test sees transfers stand still and go on.
type meter struct {
	net.Conn
	moved *atomic.Int64
}

func (m meter) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	m.moved.Add(int64(n))
	return n, err
}

// CloseWrite keeps the half-close of the connection within reach of lab.Transfer.
func (m meter) CloseWrite() error { return m.Conn.(interface{ CloseWrite() error }).CloseWrite() }

// A hundred transfers run through sluice while it is killed and started again, with the same file, with another number of
// workers, and with a file from which a member and a virtual server are gone: every transfer ends with the right digest.
func TestConnectionsSurviveKill(t *testing.T) {
	const conns, queues = 100, 2
	size := int64(12 << 20)
	if testing.Short() {
		size = 3 << 20
	}
	b := newBed(t, lab.TwoArmOptions{Servers: 4, Queues: queues}, settings{engine: "workers: 2"})
	b.serve(bulkPort, func(h *lab.Host, addr, _ string) (*lab.Server, error) { return lab.TransferServer(h, addr) })
	d := b.start()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var moved atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, conns)
	var pace sync.WaitGroup // all are open before the first kill
	pace.Add(conns)
	vips := b.vips(bulkPort)
	for i := range conns {
		wg.Go(func() {
			conn, err := b.Client.Dial(ctx, "tcp", vips[i%2].String())
			pace.Done()
			if err != nil {
				errs <- err
				return
			}
			defer conn.Close()
			if _, err := lab.Transfer(ctx, meter{conn, &moved}, size, uint64(i)); err != nil {
				errs <- fmt.Errorf("transfer %d: %w", i, err)
			}
		})
	}
	pace.Wait()
	original := b.configText(settings{engine: "workers: 2"})
	changed := dropVirtual(dropMember(original, "server-2"), "bulk6")
	for round, config := range []string{original, b.configText(settings{engine: "workers: 1"}), changed, original} {
		before := moved.Load()
		eventually(t, "the transfers to go on", func() bool { return moved.Load() > before+4<<20 })
		d.kill()
		killed, at := time.Now(), moved.Load()
		b.write(config)
		d = b.start()
		started := time.Since(killed)
		eventually(t, "the transfers to go on after a restart", func() bool { return moved.Load() > at+1<<20 })
		s := query[[]ctl.ConnView](b, "conn", "list", "--limit", "1000")
		t.Logf("round %d: serving again after %s, data again after %s; %d connections", round, started.Round(time.Millisecond), time.Since(killed).Round(time.Millisecond), len(s))
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	if t.Failed() {
		t.Logf("dropped %v, counted %+v, left in the table %+v\n%s", b.drops(), b.totals(), query[[]ctl.ConnView](b, "conn", "list", "--limit", "1000"), d.log)
	}
	d.stop()
}

// dropMember takes the lines of a member out of a configuration.
func dropMember(config, name string) string { return dropLines(config, "name: "+name+",") }

// dropVirtual takes the line of a virtual server out of a configuration.
func dropVirtual(config, name string) string { return dropLines(config, "{name: "+name+", address") }

func dropLines(config, with string) string {
	var out []string
	for _, l := range strings.Split(config, "\n") {
		if !strings.Contains(l, with) {
			out = append(out, l)
		}
	}
	return strings.Join(out, "\n")
}
