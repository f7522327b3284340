package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"sluice/ctl"
	"sluice/perf/lab"
)

// prometheus is a real one in the balancer's namespace, with the alert rules of deploy, whose patience is shortened.
type prometheus struct {
	t      *testing.T
	client http.Client
}

const (
	metricsAddr    = "127.0.0.1:9090"
	prometheusAddr = "127.0.0.1:9091"
)

func (b *bed) prometheus() *prometheus {
	b.t.Helper()
	program, err := exec.LookPath("prometheus")
	if err != nil {
		if os.Getenv("SLUICE_LAB") == "require" {
			b.t.Fatalf("%v (apt-get install prometheus), and SLUICE_LAB=require", err)
		}
		b.t.Skipf("%v (apt-get install prometheus)", err)
	}
	rules := must(os.ReadFile(filepath.Join(deployDir, "prometheus", "sluice.rules.yaml")))(b.t)
	ok(b.t, os.WriteFile(filepath.Join(b.dir, "rules.yaml"), regexp.MustCompile(`for: \w+`).ReplaceAll(rules, []byte("for: 1s")), 0o644))
	config := fmt.Sprintf("global: {scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 250ms}\nrule_files: [rules.yaml]\n"+
		"scrape_configs:\n  - {job_name: sluice, static_configs: [{targets: [\"%s\"]}]}\n", metricsAddr)
	file := filepath.Join(b.dir, "prometheus.yaml")
	ok(b.t, os.WriteFile(file, []byte(config), 0o644))
	said := &output{}
	cmd := exec.Command(program, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(b.dir, "tsdb"), "--web.listen-address="+prometheusAddr, "--log.level=warn")
	cmd.Stdout, cmd.Stderr = said, said
	process := must(b.Balancer.Start(cmd))(b.t)
	b.t.Cleanup(func() { _ = process.Stop(time.Second) })
	p := &prometheus{t: b.t, client: http.Client{Timeout: waitTime, Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return b.Balancer.Dial(ctx, network, addr)
	}}}}
	eventually(b.t, "prometheus is ready", func() bool {
		select {
		case <-process.Done():
			b.t.Fatalf("prometheus ended:\n%s", said)
		default:
		}
		_, err := p.get(prometheusAddr, "/-/ready")
		return err == nil
	})
	return p
}

func (p *prometheus) get(addr, path string) ([]byte, error) {
	resp, err := p.client.Get("http://" + addr + path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", resp.Status, b)
	}
	return b, err
}

// query asks for an expression that has one value; it is false where there is none (yet).
func (p *prometheus) query(expr string) (float64, bool) {
	p.t.Helper()
	b, err := p.get(prometheusAddr, "/api/v1/query?query="+url.QueryEscape(expr))
	if err != nil {
		p.t.Fatalf("query %s: %v", expr, err)
	}
	var r struct {
		Data struct{ Result []struct{ Value [2]any } }
	}
	ok(p.t, json.Unmarshal(b, &r))
	if len(r.Data.Result) == 0 {
		return 0, false
	}
	if len(r.Data.Result) > 1 {
		p.t.Fatalf("%s has %d values: %s", expr, len(r.Data.Result), b)
	}
	return must(strconv.ParseFloat(r.Data.Result[0].Value[1].(string), 64))(p.t), true
}

// A real Prometheus scrapes the running engine: a query gives the rate of the traffic, its sums are those of what was sent, its linter
// has nothing to say, and the death of a member fires its alert.
func TestPrometheus(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 2}, settings{metrics: metricsAddr})
	web := b.serve(webPort, lab.HTTPServer)
	config := strings.Replace(b.configText(settings{metrics: metricsAddr}), "pools:\n",
		"monitors:\n  - {name: page, type: tcp, port: 80, interval: 100ms, timeout: 90ms, rise: 1, fall: 2}\npools:\n", 1)
	b.write(strings.Replace(config, "- name: all\n", "- name: all\n    monitors: [page]\n", 1))
	d := b.start()
	p := b.prometheus()
	eventually(t, "it is scraped", func() bool { v, there := p.query(`up{job="sluice"}`); return there && v == 1 })
	eventually(t, "the members are up", func() bool { v, _ := p.query(`sum(sluice_member_usable{pool="all"})`); return v == 2 })

	const rate = 200
	s := b.newStream(t, rate)
	time.Sleep(4 * time.Second) // what rates are taken over
	for _, q := range []struct {
		expr string
		want float64
	}{
		{`rate(sluice_virtual_packets_total{virtual="dns",side="client"}[3s])`, rate},
		{`rate(sluice_virtual_packets_total{virtual="dns",side="server"}[3s])`, rate},
		{`sum(rate(sluice_member_packets_total{pool="all",side="client"}[3s]))`, rate},
		{`rate(sluice_port_received_packets_total{port="outside"}[3s])`, rate},
	} {
		// A busy machine makes the sender late, and by how much is seen only at the end.
		if v, there := p.query(q.expr); !there || v < q.want/3 || v > q.want*1.5 {
			t.Errorf("%s is %v, sent are %v a second", q.expr, v, q.want)
		}
	}
	r := s.stop()
	if r.lostThere+r.lostBack > 0 {
		t.Errorf("%s", r)
	}
	for _, side := range []string{"client", "server"} {
		expr := fmt.Sprintf(`sluice_virtual_packets_total{virtual="dns",side=%q}`, side)
		eventually(t, expr+" is what was sent", func() bool { v, _ := p.query(expr); return v == float64(r.sent) })
	}

	text := must(p.get(metricsAddr, "/metrics"))(t)
	lint := exec.Command("promtool", "check", "metrics")
	lint.Stdin = strings.NewReader(string(text))
	if out, err := lint.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}

	firing := `ALERTS{alertname="SluiceMemberDown",alertstate="firing",pool="all",member="server-1"}`
	if _, there := p.query(firing); there {
		t.Error("the alert fires while the member lives")
	}
	for _, server := range web[0] {
		ok(t, server.Close())
	}
	eventually(t, "the alert fires", func() bool { _, there := p.query(firing); return there })
	if v, there := p.query(`sluice_member_up{pool="all",member="server-1"}`); !there || v != 0 {
		t.Errorf("the dead member is up: %v", v)
	}
	if _, there := p.query(`ALERTS{alertname="SluicePoolEmpty",alertstate="firing"}`); there {
		t.Error("the pool is not empty")
	}
	// With the other one its virtual servers go down, which is said with the cause, and one that is disabled is no alarm.
	down := `ALERTS{alertname="SluiceVirtualDown",alertstate="firing",virtual="web"}`
	if v, there := p.query(`sluice_virtual_up{virtual="web"}`); !there || v != 1 {
		t.Errorf("with one member the virtual server is up: %v", v)
	}
	if r := b.sluice(nil, "virtual", "disable", "bulk", "--socket", b.socket); r.code != exitOK {
		t.Errorf("%+v", r)
	}
	for _, server := range web[1] {
		ok(t, server.Close())
	}
	eventually(t, "the alert of the virtual server fires", func() bool { _, there := p.query(down); return there })
	if _, there := p.query(strings.Replace(down, "web", "bulk", 1)); there {
		t.Error("what an operator has disabled is an alarm")
	}
	for _, v := range query[[]ctl.VirtualView](b, "virtual") {
		since, err := time.Parse(time.RFC3339, v.Since)
		recent := err == nil && time.Since(since) < time.Minute
		switch v.Name {
		case "web":
			if v.State != ctl.VirtualDown || !recent || !strings.HasPrefix(v.Cause, "server-1: down, ") || !strings.Contains(v.Cause, "; server-2: down, ") {
				t.Errorf("%+v", v)
			}
		case "bulk":
			if v.State != ctl.VirtualDisabled || !recent || v.Cause != "ordered: disable" {
				t.Errorf("%+v", v)
			}
		case "web6":
			if v.State != ctl.VirtualUp || v.Since != "" || v.Cause != "" {
				t.Errorf("%+v", v)
			}
		}
	}
	if r := b.sluice(nil, "virtual", "enable", "bulk", "--socket", b.socket); r.code != exitOK {
		t.Errorf("%+v", r)
	}
	d.stop()
}
