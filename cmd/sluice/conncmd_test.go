package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"sluice/ctl"
	"sluice/perf/lab"
)

// Connections are exported a line each, deleted by filter, and reset at both ends where that is asked.
func TestConnDeleteAndExport(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 2, Queues: 2}, settings{engine: "workers: 2"})
	for i, h := range b.Servers {
		b.echoServer(h, netip.AddrPortFrom(b.ServerAddr4[i], webPort))
		b.echoServer(h, netip.AddrPortFrom(b.ServerAddr6[i], webPort))
	}
	d := b.start()
	var sessions []*session
	for i := range 40 {
		s, err := openSession(b.Client, b.vips(webPort)[i%2])
		ok(t, err)
		defer s.Close()
		ok(t, s.say(waitTime))
		sessions = append(sessions, s)
	}
	run := func(args string) string {
		t.Helper()
		r := b.sluice(nil, append(strings.Fields(args), "--socket", b.socket)...)
		if r.code != exitOK || r.stderr != "" {
			t.Fatalf("sluice %s: %+v", args, r)
		}
		return r.stdout
	}
	export := func(args string) (n int) {
		t.Helper()
		for lines := bufio.NewScanner(strings.NewReader(run("conn export " + args))); lines.Scan(); n++ {
			var v ctl.ConnView
			ok(t, json.Unmarshal(lines.Bytes(), &v))
			if v.State != "established" {
				t.Errorf("%+v", v)
			}
		}
		return n
	}
	if n := export(""); n != len(sessions) {
		t.Errorf("%d of %d connections exported", n, len(sessions))
	}
	if n := export("--virtual web6"); n != len(sessions)/2 {
		t.Errorf("%d connections to web6 exported", n)
	}

	if got := run("conn delete " + sessions[0].LocalAddr().String()); got != "1 connection deleted\n" {
		t.Errorf("%q", got)
	}
	if err := sessions[0].say(listenTime); !timedOut(err) {
		t.Errorf("on a deleted connection: %v, want silence", err)
	}
	if got := run("conn delete --reset --virtual web6"); got != "20 connections deleted\n" {
		t.Errorf("%q", got)
	}
	for i := 1; i < len(sessions); i += 2 {
		if err := sessions[i].say(waitTime); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("on a connection that was reset: %v", err)
		}
	}
	for i := 2; i < len(sessions); i += 2 {
		ok(t, sessions[i].say(waitTime))
	}
	if got := run("conn delete --all"); got != "19 connections deleted\n" || export("") != 0 {
		t.Errorf("%q, %d left", got, export(""))
	}
	d.stop()
}
