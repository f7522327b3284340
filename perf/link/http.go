package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"sluice/perf/lab"
	"sluice/perf/result"
)

// placement says which core each has; with more of them the balancer's is always its own.
type placement struct {
	name                     string
	client, server, balancer int
	polling                  string // of the product: a core that is shared is not for busy polling
	mode                     string // of the product: what stacks send over veth costs less in generic mode (docs/TUNING.md)
	// No thread goes before another within the session. Where server and carrier share a core, a carrier that does wakes up
	// for every packet and carries a quarter; where they do not, the scheduler would give the session's part of the machine
	// to the carrier's core and leave client and server without.
}

func (o *Options) placements() []placement {
	g, c := o.GeneratorCore, o.CarrierCore
	return []placement{
		{"balancer-alone", g, g, c, "busy", "generic"},
		{"client-alone", g, c, c, "adaptive", "generic"},
	}
}

// httpCarriers are those that are compared over HTTP.
var httpCarriers = []string{"forward", "forward-inline", "nftables", "nftables-inline", "sluice", "haproxy", "haproxy-http"}

// httpKinds are the ways in which requests have connections.
var httpKinds = []string{"keep-alive", "close"}

const (
	httpConnections = 32
	httpRoom        = 1 << 18 // connections that a carrier must be able to hold
	nginxText       = `worker_processes 1;
daemon off;
pid %[1]s/nginx.pid;
error_log %[1]s/nginx.log;
events { worker_connections 4096; }
http {
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
  server { listen %[2]d backlog=4096; location / { return 200 "sluice\n"; } }
}
`
)

var requestsLine = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)

// http measures requests per second with one client thread, 32 connections and one server process.
func (b *bed) http(ctx context.Context, run int, rec *result.Recorder, modes Modes) error {
	if err := httpMissing(); err != nil {
		rec.Skip("http", err.Error())
		return nil
	}
	for _, p := range b.opt.placements() {
		server, err := b.nginx(ctx, p.server)
		if err != nil {
			return err
		}
		rates := map[string]map[string]float64{}
		for _, kind := range httpKinds {
			rates[kind] = map[string]float64{}
		}
		for _, c := range b.opt.httpTurn(run) {
			b.opt.step("run %d of %d: %s over HTTP, %s", run+1, b.opt.Runs, c.name, p.name)
			if err := b.httpCarrier(ctx, p, c, rec, modes, rates); err != nil {
				return errors.Join(fmt.Errorf("%s over HTTP: %w", c.name, err), server.Stop(stopTime))
			}
		}
		_ = server.Stop(stopTime) // exit code of the signal
		for kind, r := range rates {
			m := result.Metrics{}
			for peer, v := range r {
				if peer != "sluice" && v > 0 && r["sluice"] > 0 {
					m[result.Ratio("", peer)] = r["sluice"] / v
				}
			}
			if len(m) > 0 {
				rec.Add(httpCase("sluice", kind, p), m)
			}
		}
	}
	return nil
}

func httpCase(carrier, kind string, p placement) string {
	return fmt.Sprintf("%s/http=%s/placement=%s", carrier, kind, p.name)
}

func (b *bed) httpCarrier(ctx context.Context, p placement, c carrier, rec *result.Recorder, modes Modes, rates map[string]map[string]float64) (err error) {
	r, err := c.up(ctx, b, setup{core: p.balancer, connections: httpRoom, polling: p.polling, mode: p.mode, shared: true, stacks: true})
	if absent(err) {
		for kind := range rates {
			rec.Skip(httpCase(c.name, kind, p), err.Error())
		}
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.down()) }()
	modes[c.name+"/http/"+p.name] = r.mode()
	to := b.VIP4
	if c.direct {
		to = b.direct
	}
	for kind := range rates {
		used, at := cpuTime(r.tasks()), time.Now()
		n, err := b.wrk(ctx, p.client, to, kind == "close")
		if err != nil {
			return err
		}
		m := result.Metrics{"requests_per_second": n}
		if len(r.tasks()) > 0 {
			m["cpu_percent"] = 100 * (cpuTime(r.tasks()) - used).Seconds() / time.Since(at).Seconds()
		}
		rates[kind][c.name] = n
		rec.Add(httpCase(c.name, kind, p), m)
	}
	return nil
}

// nginx starts a server on a core, on all addresses of the servers.
func (b *bed) nginx(ctx context.Context, core int) (*lab.Process, error) {
	dir := filepath.Join(b.dir, "nginx")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(fmt.Sprintf(nginxText, dir, tcpPort)+"\nuser root;\n"), 0o644); err != nil {
		return nil, err
	}
	words := &strings.Builder{}
	cmd := exec.Command("taskset", "-c", strconv.Itoa(core), "nginx", "-p", dir, "-c", file)
	cmd.Stdout, cmd.Stderr = words, words
	p, err := b.Servers.Start(cmd)
	if err != nil {
		return nil, err
	}
	err = eventually(ctx, p, func() bool {
		limit, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		c, err := b.Servers.Dial(limit, "tcp", netip.AddrPortFrom(b.ServerAddr4[0], tcpPort).String())
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("nginx: %w: %s", err, words), p.Stop(stopTime))
	}
	return p, nil
}

// wrk asks for a page as often as it can and returns requests per second.
func (b *bed) wrk(ctx context.Context, core int, to netip.Addr, closing bool) (float64, error) {
	args := []string{"-c", strconv.Itoa(core), "wrk", "-t1", fmt.Sprintf("-c%d", httpConnections), fmt.Sprintf("-d%.0fs", b.opt.httpSeconds().Seconds())}
	if closing {
		args = append(args, "-H", "Connection: close")
	}
	out, err := b.Client.Run(ctx, "taskset", append(args, fmt.Sprintf("http://%s:%d/", to, tcpPort))...)
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, out)
	}
	m := requestsLine.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("wrk said nothing of requests: %s", out)
	}
	return strconv.ParseFloat(string(m[1]), 64)
}
