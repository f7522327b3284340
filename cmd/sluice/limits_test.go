package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"sluice/ctl"
	"sluice/perf/lab"
)

// Two servers with a limit of 50 connections each and a sorry server, over two workers: connections 101 and on get the sorry
// server, exactly, also when all come at once; when one closes, the next goes to a normal server.
func TestSorryServer(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 3, Queues: 2}, settings{engine: "workers: 2"})
	config := b.configText(settings{engine: "workers: 2"})
	for _, s := range []string{"server-1", "server-2"} {
		config = strings.ReplaceAll(config, "{name: "+s+",", "{name: "+s+", priority: 10, connection-limit: 50,")
	}
	b.write(strings.Replace(config, "engine:", "timeouts: {tcp-closed: 20s}\nengine:", 1)) // a place is free before that
	for i, h := range b.Servers {
		b.echoServer(h, netip.AddrPortFrom(b.ServerAddr4[i], webPort))
	}
	d := b.start()
	web := netip.AddrPortFrom(b.VIP4, webPort)
	var mu sync.Mutex
	var sessions []*session
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range 14 {
				s, err := openSession(b.Client, web)
				if err == nil {
					err = s.say(waitTime)
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				sessions = append(sessions, s)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	counts := func() string {
		var out []string
		for _, m := range query[[]ctl.MemberView](b, "member") {
			if m.Pool == "all" {
				out = append(out, fmt.Sprint(m.Connections))
			}
		}
		return strings.Join(out, " ")
	}
	if got := counts(); got != "50 50 40" {
		t.Errorf("140 connections are %s", got)
	}
	// One of a normal server closes.
	servers := map[string]string{}
	for _, c := range query[[]ctl.ConnView](b, "conn", "list", "--limit", "1000") {
		servers[c.ClientSideClient] = c.Member
	}
	for _, s := range sessions {
		if servers[s.LocalAddr().String()] == "server-2" {
			s.Close()
			break
		}
	}
	eventually(t, "it to be closed", func() bool {
		return slices.ContainsFunc(query[[]ctl.ConnView](b, "conn", "list", "--limit", "1000"), func(c ctl.ConnView) bool { return c.State == "closed" })
	})
	more := must(openSession(b.Client, web))(t)
	ok(t, more.say(waitTime))
	if got := counts(); got != "50 51 40" { // with the one that is closed
		t.Errorf("after one closed and one opened: %s", got)
	}
	more2 := must(openSession(b.Client, web))(t)
	ok(t, more2.say(waitTime))
	if got := counts(); got != "50 51 41" {
		t.Errorf("and one more: %s", got)
	}
	if drops := b.drops(); len(drops) > 0 {
		t.Errorf("dropped %v", drops)
	}
	for _, s := range append(sessions, more, more2) {
		s.Close()
	}
	d.stop()
}
