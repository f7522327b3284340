package main

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/ctl"
	"sluice/perf/lab"
)

// churned is what a worker and the collector did while control was kept busy.
type churned struct {
	reloads, collections, pauses float64
	stopped, paused              float64 // seconds: by collections, of all pauses
	largest                      time.Duration
}

// Workers go on while control is kept busy: 100 reloads a second that change weights, and lists and scrapes beside them.
// With SLUICE_CHURN=1m the collector's settings are compared for so long (docs/design/005-runtime.md).
func TestWorkersUnderChurn(t *testing.T) {
	length := 2 * time.Second
	environments := []string{""}
	rounds := 1
	if v := os.Getenv("SLUICE_CHURN"); v != "" {
		environments, rounds = []string{"GOGC=100", "GOGC=200", "GOGC=400", "", "GOGC=off", "GOGC=100 GOMAXPROCS=8", "GOMAXPROCS=8"}, 6
		length = must(time.ParseDuration(v))(t) / time.Duration(len(environments)*rounds)
	}
	all := map[string][]churned{}
	for range rounds {
		for _, env := range environments {
			all[env] = append(all[env], churn(t, env, length))
		}
	}
	for _, env := range environments {
		var sum churned
		var largest []time.Duration
		for _, c := range all[env] {
			sum.collections += c.collections
			sum.pauses += c.pauses
			sum.reloads += c.reloads
			sum.stopped += c.stopped
			sum.paused += c.paused
			largest = append(largest, c.largest)
		}
		slices.Sort(largest)
		s := (length * time.Duration(rounds)).Seconds()
		t.Logf("%-21s %6.1f reloads/s, %5.2f collections/s, %7.1f us/s stopped by them; pauses > 100 us: %6.1f/s, %7.2f ms/s, largest of a round: median %v, most %v",
			env, sum.reloads/s, sum.collections/s, sum.stopped*1e6/s, sum.pauses/s, sum.paused*1e3/s, largest[len(largest)/2], largest[len(largest)-1])
	}
}

// churnEngine is polled without a sleep, so that every gap is seen; the core is not the first.
const churnEngine = "workers: 1, polling: busy, cores: [1]"

func churn(t *testing.T, env string, length time.Duration) (c churned) {
	for _, name := range []string{"GOGC", "GOMAXPROCS", "GOMEMLIMIT"} {
		t.Setenv(name, "") // sluice's own
	}
	for _, v := range strings.Fields(env) {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
	of := func(weight int) settings {
		return settings{engine: churnEngine, metrics: "127.0.0.1:9109", weights: []int{weight, 2, 3}}
	}
	b := newBed(t, lab.TwoArmOptions{Servers: 4, Queues: 1}, of(1))
	d := b.start()
	for i := range 200 { // connections to be listed
		conn := must(b.Client.Dial(t.Context(), "udp", b.vips(dnsPort)[i%2].String()))(t)
		_, err := conn.Write([]byte("?"))
		ok(t, errors.Join(err, conn.Close()))
	}
	scraper := b.Balancer.HTTPClient(true)
	begin, before := time.Now(), b.scrape(t, scraper)
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		for ctx.Err() == nil {
			<-ticker.C
			b.write(b.configText(of(2 + int(c.reloads)%5)))
			var v ctl.ReloadView
			if err := ctl.Post(t.Context(), b.socket, "/v1/reload", &v); err != nil || len(v.Changes) == 0 {
				t.Errorf("%+v, %v", v, err)
				return
			}
			c.reloads++
		}
	})
	wg.Go(func() {
		for ctx.Err() == nil {
			b.scrape(t, scraper)
			var conns []ctl.ConnView
			if err := ctl.Get(t.Context(), b.socket, "/v1/connections?limit=2000", &conns); err != nil {
				t.Error(err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	wg.Wait()
	after := b.scrape(t, scraper)
	c.collections = after["go_gc_duration_seconds_count"] - before["go_gc_duration_seconds_count"]
	c.stopped = after["go_gc_duration_seconds_sum"] - before["go_gc_duration_seconds_sum"]
	c.pauses = after[`sluice_worker_pause_seconds_count{worker="0"}`] - before[`sluice_worker_pause_seconds_count{worker="0"}`]
	c.paused = after[`sluice_worker_pause_seconds_sum{worker="0"}`] - before[`sluice_worker_pause_seconds_sum{worker="0"}`]
	eventually(t, "a sample of the worker", func() bool {
		w := query[[]ctl.WorkerView](b, "worker")[0]
		at, err := time.Parse(time.RFC3339, w.LargestPauseAt)
		if err == nil && at.After(begin) {
			c.largest = time.Duration(w.LargestPauseUS) * time.Microsecond
		}
		return w.LargestPauseAt != ""
	})
	if c.reloads < length.Seconds() { // of 100 a second, on a machine that may do much else
		t.Errorf("%.0f reloads in %v", c.reloads, length)
	}
	if after[`sluice_worker_busy_seconds_total{worker="0"}`] == 0 || after["go_goroutines"] == 0 {
		t.Error("the metrics do not say what happened")
	}
	d.stop()
	return c
}

// scrape is what the metrics endpoint says, by name with labels.
func (b *bed) scrape(t *testing.T, client *http.Client) map[string]float64 {
	resp, err := client.Get("http://127.0.0.1:9109/metrics")
	if err != nil {
		t.Error(err)
		return nil
	}
	defer resp.Body.Close()
	out := map[string]float64{}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if i := strings.LastIndexByte(lines.Text(), ' '); i > 0 && lines.Text()[0] != '#' {
			if v, err := strconv.ParseFloat(lines.Text()[i+1:], 64); err == nil {
				out[lines.Text()[:i]] = v
			}
		}
	}
	return out
}
