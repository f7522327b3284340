package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sluice/ctl"
	"sluice/perf/lab"
)

// withHealth adds a monitor and keys of the IPv4 pool to the configuration of a bed.
func (b *bed) withHealth(s settings, monitors, pool string) string {
	text := strings.Replace(b.configText(s), "pools:\n", "monitors:\n"+monitors+"pools:\n", 1)
	return strings.Replace(text, "  - name: all\n", "  - name: all\n"+pool, 1)
}

// changes are the times from verdicts to the last worker's acknowledgement.
func (b *bed) changes() ctl.ChangesView {
	b.t.Helper()
	var s ctl.StatusView
	ok(b.t, ctl.Get(b.t.Context(), b.socket, "/v1/status", &s))
	return s.Changes
}

// nginx runs an nginx on a server of the bed that answers with the server's name, and returns it.
func (b *bed) nginx(i int) *lab.Process {
	b.t.Helper()
	path, err := exec.LookPath("nginx")
	if err != nil {
		path = "/usr/sbin/nginx"
	}
	if _, err := os.Stat(path); err != nil {
		const why = "no nginx here (apt-get install nginx-light)"
		if os.Getenv("SLUICE_LAB") == "require" {
			b.t.Fatal(why)
		}
		b.t.Skip(why)
	}
	dir := fmt.Sprintf("%s/nginx-%d", b.dir, i+1)
	conf := fmt.Sprintf(`daemon off; master_process off; pid %[1]s.pid; error_log /dev/null;
events { worker_connections 512; }
http { access_log off; client_body_temp_path %[1]s-1; proxy_temp_path %[1]s-2; fastcgi_temp_path %[1]s-3; uwsgi_temp_path %[1]s-4; scgi_temp_path %[1]s-5;
 server { listen %[2]s:80; location / { add_header X-Server server-%[3]d; return 200 "server-%[3]d\n"; } } }
`, dir, b.ServerAddr4[i], i+1)
	ok(b.t, os.WriteFile(dir+".conf", []byte(conf), 0o644))
	cmd := exec.Command(path, "-c", dir+".conf")
	p := must(b.Servers[i].Start(cmd))(b.t)
	b.t.Cleanup(func() {
		_ = p.Signal(syscall.SIGKILL)
		_ = p.Wait()
	})
	eventually(b.t, "nginx serves", func() bool {
		conn, err := b.Servers[i].Dial(b.t.Context(), "tcp", netip.AddrPortFrom(b.ServerAddr4[i], 80).String())
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return p
}

// visitors ask for pages over new connections, from several goroutines, until stopped. Each answer and failure is noted with the
// time at which its attempt began.
type visitors struct {
	mu      sync.Mutex
	answers []visit
}

type visit struct {
	began, ended time.Time
	server       string
	err          error
}

func (b *bed) visitors(n int, to netip.AddrPort) (v *visitors, stop func()) {
	v = &visitors{}
	ctx, cancel := context.WithCancel(b.t.Context())
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				one := visit{began: time.Now()}
				one.server, one.err = ask(b.Client, to, 3*time.Second)
				one.ended = time.Now()
				v.mu.Lock()
				v.answers = append(v.answers, one)
				v.mu.Unlock()
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	return v, func() {
		cancel()
		wg.Wait()
	}
}

func (v *visitors) since(t time.Time) (out []visit) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, a := range v.answers {
		if a.began.After(t) {
			out = append(out, a)
		}
	}
	return out
}

// A server is killed under load: the monitor finds out within its fall time, from then on nobody is sent there, and nobody who
// was not with it notices. When it is back it serves again.
func TestServerDies(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 3, Queues: 2}, settings{})
	const interval, fall = 200 * time.Millisecond, 2
	b.write(b.withHealth(settings{engine: "workers: 2"},
		fmt.Sprintf("  - {name: page, type: http, interval: %s, timeout: 200ms, jitter: 0, rise: 2, fall: %d, http: {pattern: '^server-'}, port: 80}\n", interval, fall),
		"    monitors: [page]\n    start-up: checking\n"))
	victim := b.nginx(1)
	b.nginx(0)
	b.nginx(2)
	d := b.start()
	up := func(name string) bool { return b.member("all", name).State == "active" }
	eventually(t, "all to be up", func() bool { return up("server-1") && up("server-2") && up("server-3") })
	for _, m := range query[[]ctl.MonitorView](b, "monitor", "list") {
		if m.Pool != "all" || m.Monitor != "page" || m.Verdict != "up" || m.Probes < 2 || m.Failures != 0 || !strings.Contains(m.LastCause, "200") {
			t.Errorf("%+v", m)
		}
	}
	v, stop := b.visitors(4, netip.AddrPortFrom(b.VIP4, webPort))
	time.Sleep(time.Second)
	killed := time.Now()
	ok(t, victim.Signal(syscall.SIGKILL))
	_ = victim.Wait()
	eventually(t, "the monitor to find out", func() bool { return b.member("all", "server-2").State == "down" })
	found := time.Now()
	m := b.member("all", "server-2")
	if m.Cause != "monitor page: connection refused" || m.Verdict != "down" || m.Changes < 1 {
		t.Errorf("%+v", m)
	}
	if wide := b.sluice(nil, "member", "list", "-o", "wide", "--socket", b.socket).stdout; !strings.Contains(wide, "connection refused") || !strings.Contains(wide, "down") {
		t.Errorf("member list -o wide:\n%s", wide)
	}
	time.Sleep(time.Second)
	took := found.Sub(killed)
	if limit := fall*interval + interval + 2*time.Second; took > limit {
		t.Errorf("found out after %s", took)
	}
	after := v.since(found)
	for _, a := range after {
		if a.err != nil || a.server == "server-2" {
			t.Errorf("%s after the kill: %q, %v", a.began.Sub(killed), a.server, a.err)
		}
	}
	before, failed := v.since(killed.Add(-time.Hour)), 0
	for _, a := range before {
		if a.err != nil {
			failed++
			if a.ended.Before(killed) || a.began.After(found) {
				t.Errorf("%s before the kill: %v", killed.Sub(a.ended), a.err)
			}
		}
	}
	b.nginx(1)
	eventually(t, "it to be up again", func() bool { return up("server-2") })
	back := time.Now()
	eventually(t, "it to serve again", func() bool {
		for _, a := range v.since(back) {
			if a.server == "server-2" {
				return true
			}
		}
		return false
	})
	stop()
	t.Logf("found out after %s (interval %s, fall %d); %d of %d attempts failed until then, 0 of %d after it; from verdict to the last worker %+v",
		took.Round(time.Millisecond), interval, fall, failed, len(before), len(after), b.changes())
	d.stop()
}

// A drain breaks nothing, waits and ends at zero; orders outlive a reload, kill -9 and a restart, until they are taken back.
func TestDrain(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 2}, settings{})
	for i, h := range b.Servers {
		b.echoServer(h, netip.AddrPortFrom(b.ServerAddr4[i], webPort))
	}
	b.serve(bulkPort, func(h *lab.Host, addr, _ string) (*lab.Server, error) { return lab.TransferServer(h, addr) })
	b.start()
	web := netip.AddrPortFrom(b.VIP4, webPort)
	var sessions [4]*session
	for i := range sessions {
		sessions[i] = must(openSession(b.Client, web))(t)
		ok(t, sessions[i].say(waitTime))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var moved, broken atomic.Int64
	var wg sync.WaitGroup
	for range 4 { // the load: transfers whose every byte is checked
		wg.Go(func() {
			for seed := uint64(1); ctx.Err() == nil; seed++ {
				conn, err := b.Client.Dial(t.Context(), "tcp", netip.AddrPortFrom(b.VIP4, bulkPort).String())
				if err == nil {
					var r lab.TransferResult
					r, err = lab.Transfer(t.Context(), conn, 200_000, seed)
					moved.Add(r.Sent)
					conn.Close()
				}
				if err != nil {
					broken.Add(1)
					t.Errorf("a transfer: %v", err)
				}
			}
		})
	}
	// The sessions end one by one while the drain waits.
	go func() {
		for _, s := range sessions {
			time.Sleep(600 * time.Millisecond)
			if err := s.say(waitTime); err != nil {
				t.Errorf("a session of a member that drains: %v", err)
			}
			s.Close()
		}
	}()
	r := b.sluice(nil, "member", "drain", "all", "server-1", "--deadline", "60s", "--socket", b.socket)
	if r.code != 0 || !strings.Contains(r.stdout, "all server-1: drain") || !strings.HasSuffix(r.stdout, "\n0 connections\n") {
		t.Errorf("drain: %+v", r)
	}
	t.Logf("the drain said:\n%s", r.stdout)
	opened := b.member("all", "server-1").Opened
	for range 4 {
		openAndClose(t, b, web)
	}
	m := b.member("all", "server-1")
	if m.State != "draining" || m.Opened != opened || m.Connections != 0 || !strings.HasPrefix(m.Cause, "ordered: drain") {
		t.Errorf("%+v, had opened %d", m, opened)
	}
	cancel()
	wg.Wait()
	t.Logf("%d bytes moved, %d transfers broken", moved.Load(), broken.Load())

	// A reload and a restart after a kill.
	b.reload(strings.Replace(b.configText(settings{}), "weight: 1}", "weight: 5}", 1))
	if m := b.member("all", "server-1"); m.State != "draining" || m.Weight != 5 {
		t.Errorf("after a reload: %+v", m)
	}
	b.daemons[0].kill()
	rmSocket(b)
	d := b.start()
	if m := b.member("all", "server-1"); m.State != "draining" {
		t.Errorf("after kill -9: %+v", m)
	}
	for range 4 {
		openAndClose(t, b, web)
	}
	if m := b.member("all", "server-1"); m.Opened != 0 {
		t.Errorf("after kill -9: %+v", m)
	}
	d.stop()
	d = b.start()
	if m := b.member("all", "server-1"); m.State != "draining" {
		t.Errorf("after an orderly end: %+v", m)
	}
	order := func(args ...string) finished {
		t.Helper()
		r := b.sluice(nil, append(append([]string{"member"}, args...), "--socket", b.socket)...)
		if r.code != 0 {
			t.Fatalf("%v: %+v", args, r)
		}
		return r
	}
	order("enable", "all", b.ServerAddr4[0].String()) // by its address
	if m := b.member("all", "server-1"); m.State != "active" {
		t.Errorf("after enable: %+v", m)
	}

	// force-off ends what is there, and only there.
	order("disable", "all", "server-2")
	one := must(openSession(b.Client, web))(t)
	defer one.Close()
	ok(t, one.say(waitTime))
	order("enable", "all", "server-2")
	order("disable", "all", "server-1")
	two := must(openSession(b.Client, web))(t)
	defer two.Close()
	ok(t, two.say(waitTime))
	order("force-off", "all", "server-1", "--wait")
	if err := one.say(waitTime); err == nil {
		t.Error("a connection of a member that is forced off goes on")
	}
	ok(t, two.say(waitTime))
	if m := b.member("all", "server-1"); m.State != "forced-off" || m.Connections != 0 {
		t.Errorf("%+v", m)
	}
	if n := b.totals().Ended; n != 1 {
		t.Errorf("%d connections ended", n)
	}
	// At a drain's deadline the rest is reset.
	r = order("drain", "all", "server-2", "--deadline", "500ms", "--then", "reset")
	if err := two.say(waitTime); err == nil || !strings.HasSuffix(r.stdout, "\n0 connections\n") {
		t.Errorf("after the deadline: %v, %s", err, r.stdout)
	}
	for _, args := range [][]string{{"drain", "none", "server-1"}, {"enable", "all", "server-9"}} {
		if r := b.sluice(nil, append(append([]string{"member"}, args...), "--socket", b.socket)...); r.code != 1 || !strings.Contains(r.stderr, "no such member") {
			t.Errorf("%v: %+v", args, r)
		}
	}
	if r := b.sluice(nil, "member", "drain", "all", "server-1", "--then", "reset", "--socket", b.socket); r.code != 2 {
		t.Errorf("then reset without a deadline: %+v", r)
	}
	order("enable", "all", "server-1")
	order("enable", "all", "server-2")
	d.stop()
}

func openAndClose(t *testing.T, b *bed, to netip.AddrPort) {
	t.Helper()
	conn, err := b.Client.Dial(t.Context(), "tcp", to.String())
	ok(t, err)
	_ = conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}
