package main

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"sluice/ctl"
	"sluice/perf/lab"
)

// The running engine names the member that the connection then goes to, and shows the connection afterwards; what it asks
// leaves no trace. Its words are those of the file alone, where that knows as much.
func TestExplainRunning(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 3, Queues: 2}, settings{engine: "workers: 2"})
	for i, h := range b.Servers {
		b.echoServer(h, netip.AddrPortFrom(b.ServerAddr4[i], webPort))
		b.echoServer(h, netip.AddrPortFrom(b.ServerAddr6[i], webPort))
	}
	d := b.start()
	workers := map[int]bool{}
	for i := range 12 {
		vip := b.vips(webPort)[i%2]
		local := netip.AddrPortFrom([]netip.Addr{b.Client4, b.Client6}[i%2], uint16(21000+37*i))
		args := []string{"explain", "tcp", local.String(), vip.String()}
		want := query[ctl.ExplainView](b, args...)
		for range 3 {
			query[ctl.ExplainView](b, args...) // takes no turn
		}
		if want.Verdict != "connect" || want.Member == "" || want.ToServer == nil || want.ToServer.Port != "inside" || want.ToServer.NextHop == "" {
			t.Fatalf("%v: %+v", args, want)
		}
		c, err := openSessionFrom(b.Client, local, vip, waitTime)
		ok(t, err)
		defer c.Close()
		conns := query[[]ctl.ConnView](b, "conn", "--client", local.String())
		if len(conns) != 1 || conns[0].Member != want.Member || conns[0].Worker != want.Worker || conns[0].ServerSideServer != want.ToServer.DestinationAfter || conns[0].ServerSideClient != want.ToServer.SourceAfter {
			t.Errorf("explained as %+v, %+v, became %+v", want, want.ToServer, conns)
		}
		workers[want.Worker] = true
		again := query[ctl.ExplainView](b, args...)
		if again.Verdict != "forward" || again.Side != "client" || again.Connection == nil || again.Connection.ClientSideClient != local.String() || again.ToClient.Port != "outside" {
			t.Errorf("of its connection: %+v", again)
		}
		back := query[ctl.ExplainView](b, "explain", "tcp", again.ToServer.DestinationAfter, again.ToServer.SourceAfter, "--port", "outside")
		if back.Verdict != "drop" || back.Reason != "wrong_side" || back.Side != "server" {
			t.Errorf("the answer on the wrong port: %+v", back)
		}
	}
	if len(workers) != 2 {
		t.Errorf("all on workers %v", workers)
	}
	vip := netip.AddrPortFrom(b.VIP4, webPort).String()
	for _, c := range []struct{ args, want string }{
		{"tcp 172.16.10.55:9 " + vip, `(?s)packet +tcp .*virtual server +web\n.*not bulk: it has port 9000.*not dns: it has another protocol.*not the 3 virtual servers at other addresses.*limits +table: \d+ of \d+ used.*pool +all, round-robin, turn 6\n.*priority 0 of pool all: asked, 3 members can.*  > server-1 at [0-9.:]+: weight 1, 2 connections.*owner +worker.*verdict +a new connection to server-1\nto the server.*out of port inside to ..:.*to the client.*out of port that`},
		{"tcp 172.16.10.55:9 " + b.VIP4.String() + ":81", `(?s)virtual server  none\n.*verdict +dropped, counted as no_virtual_server`},
		{"udp 172.16.10.55:9 1.2.3.4:5", `verdict +to the kernel`},
		{"icmp 172.16.10.55 " + b.VIP4.String(), `verdict +to the kernel: ICMP to the address is the host's own`},
		{"47 172.16.10.55 " + b.VIP4.String(), `packet +47 172.16.10.55 > `},
		{"tcp 0.0.0.0:9 " + vip, `bad_source`},
	} {
		for _, offline := range []bool{false, true} {
			args := append([]string{"explain"}, strings.Fields(c.args)...)
			if offline {
				args = append(args, "-c", b.config)
			} else {
				args = append(args, "--socket", b.socket)
			}
			want := c.want
			if offline {
				want = strings.NewReplacer("turn 6", "turn 0", "2 connections", "0 connections", `.*limits +table: \d+ of \d+ used`, "",
					"to ..:", "to a MAC that the file does not say").Replace(want)
			}
			if r := b.sluice(nil, args...); r.code != exitOK || !regexp.MustCompile(want).MatchString(r.stdout) {
				t.Errorf("sluice %s: %d %s\n%s\nwant %s", args, r.code, r.stderr, r.stdout, want)
			}
		}
	}
	for _, c := range []struct {
		args, want string
		code       int
	}{
		{"tcp 172.16.10.55 " + vip, "not ADDRESS:PORT", exitUsage},
		{"tpc 172.16.10.55:1 " + vip, "none of tcp, udp", exitUsage},
		{"tcp [fd00::1]:1 " + vip, "different address families", exitUsage},
		{"tcp 172.16.10.55:1 " + vip + " --port nowhere", `no port "nowhere"`, exitFailed},
		{"tcp 172.16.10.55:1 " + vip + " -o yaml", "no output format", exitUsage},
	} {
		r := b.sluice(nil, append(strings.Fields("explain "+c.args), "--socket", b.socket)...)
		if r.code != c.code || !strings.Contains(r.stderr, c.want) || strings.Count(r.stderr, "\n") != 1 {
			t.Errorf("sluice explain %s: %+v, want %q", c.args, r, c.want)
		}
	}
	var v any
	if err := ctl.Get(t.Context(), b.socket, "/v1/explain?protocol=tcp&sourc=1", &v); err == nil || !strings.Contains(fmt.Sprint(err), "no parameter \"sourc\"") {
		t.Errorf("%v", err)
	}
	d.stop()
}
