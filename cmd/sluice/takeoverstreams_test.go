package main

import (
	"context"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/ctl"
	"sluice/perf/lab"
)

// A takeover in the middle of a capture, of watches and of requests of every kind: streams end and say so, the capture's file can be
// read, the successor serves both anew, and neither process fails.
func TestTakeoverDuringStreams(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 2, Queues: 2}, settings{engine: "workers: 2"})
	for i, h := range b.Servers {
		b.echoServer(h, netip.AddrPortFrom(b.ServerAddr4[i], bulkPort))
	}
	d := b.start()
	c := must(openSession(b.Client, b.vips(bulkPort)[0]))(t)
	defer c.Close()
	for round := range 2 {
		file := filepath.Join(b.dir, "capture.pcapng")
		capture := b.startCapture("-w", file, "--count", "1000000")
		ended := make(chan error, 1)
		watching := make(chan struct{})
		go func() {
			cl := ctl.NewClient(b.socket)
			defer cl.Close()
			first := sync.OnceFunc(func() { close(watching) })
			ended <- ctl.Stream(context.Background(), cl, "/v1/stats?watch=100ms", func(*ctl.StatsView) error { first(); return nil })
		}()
		<-watching
		var over atomic.Bool
		var wg sync.WaitGroup
		var answers atomic.Int64
		for i := range 6 {
			wg.Go(func() {
				cl := http.Client{Transport: &http.Transport{DialContext: unixDialer(b.socket)}, Timeout: 10 * time.Second}
				defer cl.CloseIdleConnections()
				for !over.Load() {
					var resp *http.Response
					var err error
					switch i {
					case 0:
						resp, err = cl.Post("http://sluice/v1/reload", "", nil)
					case 1:
						resp, err = cl.Post("http://sluice/v1/members/weight?pool=all&member=server-1&weight=3", "", nil)
					default:
						resp, err = cl.Get("http://sluice" + []string{"/v1/stats", "/v1/connections", "/v1/connections/export", "/v1/persistence/entries"}[i-2])
					}
					if err == nil { // between the two nobody may answer
						resp.Body.Close()
						answers.Add(1)
					}
					time.Sleep(5 * time.Millisecond)
				}
			})
		}
		for range 20 {
			ok(t, c.say(waitTime))
		}
		d, _ = b.takeover(d)
		select {
		case err := <-ended:
			if err == nil || !strings.Contains(err.Error(), "the stream has ended") {
				t.Errorf("round %d: a watch ends with %v", round, err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("round %d: a watch goes on", round)
		}
		select {
		case <-capture.Done():
		case <-time.After(10 * time.Second):
			t.Fatalf("round %d: a capture goes on: %s", round, capture.stderr.String())
		}
		t.Logf("the capture: %v, %q", capture.Wait(), capture.stderr.String())
		if rows := tsharkFields(t, file, "frame.number", "frame.comment"); len(rows) < 20 {
			t.Errorf("round %d: the capture has %d packets", round, len(rows))
		}
		if round == 0 {
			time.Sleep(300 * time.Millisecond)
			select {
			case <-d.Done():
				t.Fatalf("the successor has ended: %v\n%s", d.Wait(), d.log)
			default:
			}
		}
		before := answers.Load()
		eventually(t, "requests are answered by the successor", func() bool { return answers.Load() > before+20 })
		over.Store(true)
		wg.Wait()
		if err := c.say(waitTime); err != nil {
			t.Errorf("round %d: the connection: %v", round, err)
		}
		again := b.startCapture("-w", filepath.Join(b.dir, "again.pcapng"), "--count", "1000000")
		ok(t, c.say(waitTime))
		again.end("")
		if log := d.log.String(); strings.Contains(log, "panic") || strings.Contains(log, "a mistake in sluice") {
			t.Errorf("%s", log)
		}
	}
	if r := b.sluice(nil, "member", "weight", "all", "server-1", "file", "--socket", b.socket); r.code != exitOK { // an order outlives a stop
		t.Errorf("%+v", r)
	}
	d.stop()
}
