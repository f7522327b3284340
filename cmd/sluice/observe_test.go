package main

import (
	"context"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/ctl"
	"sluice/perf/lab"
)

// What workers do and what steering achieves is listed: veth has no hash to be set, so what arrives on another's queue is
// handed over, and the lists say so.
func TestWorkersAndSteeringAreListed(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 2, Queues: 2}, settings{engine: "workers: 2, polling: interrupt"})
	b.serve(webPort, lab.HTTPServer)
	d := b.start()
	steering := func(want string) {
		t.Helper()
		for _, p := range query[[]ctl.PortView](b, "port")[:2] {
			if !strings.HasPrefix(p.Steering, want) {
				t.Errorf("steering of %s: %q, want %q", p.Name, p.Steering, want)
			}
			if share := 0.5; (p.HandedOver == share) != (strings.HasPrefix(want, "none")) {
				t.Errorf("%s: expected share %v", p.Name, p.HandedOver)
			}
		}
	}
	steering("none (driver refuses: read RSS: operation not supported)")
	if out := b.sluice(nil, "port", "list", "--socket", b.socket, "-o", "wide"); !strings.Contains(out.stdout, "none (driver refuses") || !strings.Contains(out.stdout, "STEERING") {
		t.Errorf("%s", out.stdout)
	}
	if !strings.Contains(d.log.String(), "msg=steering port=outside result=\"none (driver refuses") || !strings.Contains(d.log.String(), "msg=cores workers=2") {
		t.Errorf("the log says\n%s", d.log)
	}

	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			_, err := ask(b.Client, b.vips(webPort)[0], waitTime)
			ok(t, err)
		}
	})
	eventually(t, "rates", func() bool {
		for _, w := range query[[]ctl.WorkerView](b, "worker") {
			if w.PacketsPerSecond == 0 || w.BusyShare <= 0 || w.BusyShare > 1 || w.LargestPauseUS == 0 || w.HandedIn == 0 || w.HandedOut == 0 {
				return false
			}
		}
		return true
	})
	stop()
	wg.Wait()
	for i, w := range query[[]ctl.WorkerView](b, "worker") {
		if w.Worker != i || w.Mode != "interrupt" || len(w.Queues) != 2 || math.Abs(w.HandedShare-float64(w.HandedOut)/float64(w.Received)) > 1e-9 {
			t.Errorf("%+v", w)
		}
		if at, err := time.Parse(time.RFC3339, w.LargestPauseAt); err != nil || time.Since(at) > time.Hour || time.Until(at) > time.Second {
			t.Errorf("largest pause at %q", w.LargestPauseAt)
		}
	}
	out := b.sluice(nil, "worker", "--socket", b.socket).stdout
	for _, column := range []string{"WORKER", "CORE", "MODE", "QUEUES", "CONNS", "PKTS/S", "BUSY", "HANDED-OUT", "HANDED-IN", "DROPPED", "MAX-PAUSE"} {
		if !strings.Contains(out, column) {
			t.Errorf("no column %s in\n%s", column, out)
		}
	}
	t.Logf("\n%s", out)
	b.reload(b.configText(settings{engine: "workers: 1, polling: interrupt"}))
	eventually(t, "the new number of workers", func() bool { return len(query[[]ctl.WorkerView](b, "worker")) == 1 })
	eventually(t, "steering to follow", func() bool { return query[[]ctl.PortView](b, "port")[0].Steering == "not needed: there is one worker" })
	b.reload(b.configText(settings{engine: "workers: 1, polling: interrupt, steering: off"}))
	steering("off")
	d.stop()
}
