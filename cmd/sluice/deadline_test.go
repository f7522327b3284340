package main

import (
	"errors"
	"io"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sluice/ctl"
	"sluice/perf/lab"
)

// endings are how the connections of servers have ended, by the client's address.
type endings struct {
	mu sync.Mutex
	by map[string]error
}

func (e *endings) of(client string) (err error, ended bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	err, ended = e.by[client]
	return err, ended
}

// echoAndNote is echoServer that keeps how each connection ended: nil is a FIN.
func (b *bed) echoAndNote(h *lab.Host, at netip.AddrPort, e *endings) {
	b.t.Helper()
	ln := must(h.Listen("tcp", at.String()))(b.t)
	b.t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, err := io.Copy(conn, conn)
				e.mu.Lock()
				e.by[conn.RemoteAddr().String()] = err
				e.mu.Unlock()
			}()
		}
	}()
}

// At a drain's deadline, connections that are left stay, or end with a RST to both ends, as ordered; those of other members are
// not touched. A reload and a kill -9 with a new start in the middle of the drain change nothing about it, and what was done at
// the deadline is not done again at the next start.
func TestDrainDeadline(t *testing.T) {
	const each, deadline = 5, 4 * time.Second
	for _, then := range []string{ctl.ThenLeave, ctl.ThenReset} {
		t.Run(then, func(t *testing.T) {
			config := settings{engine: "workers: 2"}
			b := newBed(t, lab.TwoArmOptions{Servers: 2, Queues: 2}, config)
			noted := &endings{by: map[string]error{}}
			for i, h := range b.Servers {
				b.echoAndNote(h, netip.AddrPortFrom(b.ServerAddr4[i], webPort), noted)
			}
			b.start()
			web := netip.AddrPortFrom(b.VIP4, webPort)
			var sessions []*session
			for range 2 * each {
				s := must(openSession(b.Client, web))(t)
				defer s.Close()
				ok(t, s.say(waitTime))
				sessions = append(sessions, s)
			}
			drained, others := []*session{}, []*session{}
			at := map[string]string{}
			for _, c := range query[[]ctl.ConnView](b, "conn", "list", "--limit", "1000") {
				at[c.ClientSideClient] = c.Member
			}
			for _, s := range sessions {
				if at[s.LocalAddr().String()] == "server-1" {
					drained = append(drained, s)
				} else {
					others = append(others, s)
				}
			}
			if len(drained) != each || len(others) != each {
				t.Fatalf("%d and %d connections", len(drained), len(others))
			}
			goOn := func(when string, list []*session) {
				t.Helper()
				for _, s := range list {
					if err := s.say(waitTime); err != nil {
						t.Errorf("%s: a connection with %s: %v", when, at[s.LocalAddr().String()], err)
					}
				}
			}

			ordered := time.Now()
			if r := b.sluice(nil, "member", "drain", "all", "server-1", "--deadline", deadline.String(), "--then", then, "--wait=false", "--socket", b.socket); r.code != 0 {
				t.Fatalf("%+v", r)
			}
			// Before the deadline nothing ends; what takes so long on a busy machine that it may have come is not asked.
			before := func(when string) {
				t.Helper()
				for _, s := range drained {
					err := s.say(waitTime)
					if time.Since(ordered) > deadline-100*time.Millisecond {
						t.Logf("%s: too late to ask", when)
						return
					}
					if err != nil {
						t.Errorf("%s: a connection that may go on ended: %v", when, err)
					}
				}
			}
			before("draining")
			b.reload(strings.Replace(b.configText(config), "weight: 1}", "weight: 5}", 1))
			if m := b.member("all", "server-1"); m.State != "draining" || m.Weight != 5 {
				t.Errorf("after a reload: %+v", m)
			}
			before("after a reload")
			b.daemons[0].kill()
			rmSocket(b)
			d := b.start()
			before("after kill -9 and a start")
			eventually(t, "the deadline", func() bool { return strings.Contains(d.log.String(), "a drain's deadline is over") })
			if passed := time.Since(ordered); passed < deadline {
				t.Errorf("the deadline of %s came after %s", deadline, passed)
			}
			check := func(when string, d *daemon) {
				t.Helper()
				left, ended := int64(0), 0
				if then == ctl.ThenLeave {
					left = each
				} else if len(b.daemons) == 2 {
					ended = each
				}
				eventually(t, when+": the member to have what it may keep", func() bool { return b.member("all", "server-1").Connections == left })
				m, other := b.member("all", "server-1"), b.member("all", "server-2")
				if m.State != "draining" || other.State != "active" || other.Connections != each {
					t.Errorf("%s: %+v and %+v", when, m, other)
				}
				if n := b.totals().Ended; n != uint64(ended) {
					t.Errorf("%s: %d connections were ended, want %d", when, n, ended)
				}
				goOn(when, others)
				for _, s := range others {
					if err, is := noted.of(s.LocalAddr().String()); is {
						t.Errorf("%s: a connection of the other server ended there: %v", when, err)
					}
				}
				if then == ctl.ThenLeave {
					goOn(when, drained)
				}
			}
			check("after the deadline", d)
			if then == ctl.ThenReset {
				for _, s := range drained {
					_ = s.SetReadDeadline(time.Now().Add(waitTime))
					if _, err := s.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
						t.Errorf("the client's end: %v, want a reset", err)
					}
					client := s.LocalAddr().String()
					eventually(t, "the server's end to end", func() bool { _, is := noted.of(client); return is })
					if err, _ := noted.of(client); !errors.Is(err, syscall.ECONNRESET) {
						t.Errorf("the server's end: %v, want a reset", err)
					}
				}
			}
			d.kill() // an end in order would take the connections with it
			rmSocket(b)
			d = b.start()
			check("after one more start", d)
			if n := strings.Count(d.log.String(), "a drain's deadline is over"); n != 0 {
				t.Errorf("the deadline came again after a start:\n%s", d.log)
			}
			if r := b.sluice(nil, "member", "enable", "all", "server-1", "--socket", b.socket); r.code != 0 {
				t.Fatalf("%+v", r)
			}
			opened := b.member("all", "server-1").Opened
			for range 4 {
				openAndClose(t, b, web)
			}
			if m := b.member("all", "server-1"); m.State != "active" || m.Opened == opened {
				t.Errorf("after enable: %+v", m)
			}
			d.stop()
		})
	}
}
