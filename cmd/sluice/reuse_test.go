package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sluice/ctl"
	"sluice/perf/lab"
)

// quickServer greets with its name and closes first, so that the client's port is free at once: TIME_WAIT is at the
// server, whose kernel gives it up for a SYN that goes on in sequence (RFC 6191).
func quickServer(h *lab.Host, addr, identity string) (net.Listener, error) {
	ln, err := h.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	for range 4 {
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				_, _ = conn.Write([]byte(identity))
				conn.Close()
			}
		}()
	}
	return ln, nil
}

// visitQuick makes one connection from a port and returns the name of the server, and how long connecting took.
func visitQuick(h *lab.Host, from, to netip.AddrPort, buf []byte) (string, time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*waitTime)
	defer cancel()
	begin := time.Now()
	conn, err := h.DialFrom(ctx, "tcp", from, to.String())
	for errors.Is(err, syscall.EADDRNOTAVAIL) && ctx.Err() == nil {
		time.Sleep(50 * time.Microsecond) // the server has not acknowledged the last FIN from this port yet
		begin = time.Now()
		conn, err = h.DialFrom(ctx, "tcp", from, to.String())
	}
	took := time.Since(begin)
	if err != nil {
		return "", took, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * waitTime))
	n := 0
	for {
		k, err := conn.Read(buf[n:])
		n += k
		switch {
		case errors.Is(err, net.ErrClosed):
			return "", took, err
		case err != nil && n == 0:
			return "", took, err
		case err != nil:
			return string(buf[:n]), took, nil
		}
	}
}

// Connections in a row from few client ports to one virtual server: each starts anew over what is left of the one before
// it, none waits for a second, each is served by the member whose turn it is, and the engine counts what the
// servers saw.
func TestPortReuse(t *testing.T) {
	const ports, members, firstPort = 64, 4, 20000
	total := 200_000
	if testing.Short() {
		total = 20_000
	}
	b := newBed(t, lab.TwoArmOptions{Servers: members}, settings{})
	for i, h := range b.Servers {
		ln := must(quickServer(h, netip.AddrPortFrom(b.ServerAddr4[i], webPort).String(), fmt.Sprintf("server-%d", i+1)))(t)
		t.Cleanup(func() { ln.Close() })
	}
	d := b.start()
	to := netip.AddrPortFrom(b.VIP4, webPort)
	round := func() (longest time.Duration) {
		var next, served atomic.Int64
		var mu sync.Mutex
		seen := map[string]int{}
		var before, opened [members]uint64
		for i, m := range query[[]ctl.MemberView](b, "member")[:members] {
			before[i] = m.Opened
		}
		begin := time.Now()
		var wg sync.WaitGroup
		for i := range ports {
			wg.Go(func() {
				from, mine, slowest, buf := netip.AddrPortFrom(b.Client4, uint16(firstPort+i)), map[string]int{}, time.Duration(0), make([]byte, 32)
				for next.Add(1) <= int64(total) {
					who, took, err := visitQuick(b.Client, from, to, buf)
					if err != nil {
						t.Errorf("from port %d, after %d connections: %v", from.Port(), served.Load(), err)
						next.Add(int64(total)) // the others need not go on
						break
					}
					served.Add(1)
					mine[who]++
					slowest = max(slowest, took)
				}
				mu.Lock()
				defer mu.Unlock()
				longest = max(longest, slowest)
				for who, n := range mine {
					seen[who] += n
				}
			})
		}
		wg.Wait()
		took := time.Since(begin)
		for i, m := range query[[]ctl.MemberView](b, "member")[:members] {
			opened[i] = m.Opened - before[i]
		}
		t.Logf("%d connections from %d ports in %s, %.0f/s; longest connect %s; served by %v, opened to %v; %d in the table; dropped %v",
			served.Load(), ports, took.Round(time.Millisecond), float64(served.Load())/took.Seconds(), longest.Round(10*time.Microsecond), seen, opened, b.totals().Connections, b.drops())
		for i := range members {
			if name := fmt.Sprintf("server-%d", i+1); seen[name] != total/members || opened[i] != uint64(total/members) {
				t.Errorf("%s served %d connections and was given %d, its turn came %d times", name, seen[name], opened[i], total/members)
			}
		}
		return longest
	}
	// A machine that stands still for a second makes a client wait as a lost SYN does. The next round is without that.
	for i := 1; ; i++ {
		longest := round()
		if longest < time.Second || t.Failed() {
			break
		}
		if t.Logf("round %d: a connection took %s to open", i, longest); i == 3 {
			t.Errorf("in each of %d rounds a connection took a second or more to open", i)
			break
		}
	}
	d.stop()
}

// One client port to two virtual servers of the same members: the second connection gets another member than the first.
// With one member only it cannot be, and is refused by name until the first is over.
func TestSharedMember(t *testing.T) {
	for _, members := range []int{2, 1} {
		t.Run(fmt.Sprintf("%d-members", members), func(t *testing.T) {
			b := newBed(t, lab.TwoArmOptions{Servers: members}, settings{})
			// Both virtual servers lead to the same port of the members: theirs, which they have here.
			for i, h := range b.Servers {
				b.echoServer(h, netip.AddrPortFrom(b.ServerAddr4[i], 7))
			}
			b.write(b.sharedConfig())
			d := b.start()
			from := netip.AddrPortFrom(b.Client4, 21000)
			first, second := netip.AddrPortFrom(b.VIP4, webPort), netip.AddrPortFrom(b.VIP4, bulkPort)
			for round := range 4 { // whoever's turn it is
				one, err := openSessionFrom(b.Client, from, first, waitTime)
				ok(t, err)
				ok(t, one.say(waitTime))
				limit := waitTime
				if members == 1 {
					limit = listenTime
				}
				two, err := openSessionFrom(b.Client, from, second, limit)
				if members == 1 {
					if !timedOut(err) {
						t.Fatalf("round %d: %v; dropped %v; want a refusal by name", round, err, b.drops())
					}
					eventually(t, "the refusals are counted by name", func() bool { return b.drops()["tuple_collision"] > uint64(round) })
					ok(t, one.say(waitTime))
					abort(t, one)
					continue
				}
				ok(t, err)
				for range 3 {
					ok(t, one.say(waitTime))
					ok(t, two.say(waitTime))
				}
				used := map[string]bool{}
				for _, c := range query[[]ctl.ConnView](b, "conn", "--client", from.String(), "--state", "established") {
					used[c.Member] = true
				}
				if len(used) != 2 {
					t.Errorf("round %d: the connections are at %v, want one at each member", round, used)
				}
				abort(t, one)
				abort(t, two)
			}
			if members == 1 { // the first is over: its port may be used for the other at once
				two, err := openSessionFrom(b.Client, from, second, waitTime)
				ok(t, err)
				ok(t, two.say(waitTime))
				abort(t, two)
			} else if n := b.drops(); n["tuple_collision"] != 0 {
				t.Errorf("dropped %v", n)
			}
			d.stop()
		})
	}
}

// sharedConfig has two virtual servers of the same pool, whose members have a port of their own.
func (b *bed) sharedConfig() string {
	members := ""
	for i := range b.Servers {
		members += fmt.Sprintf("      - {name: server-%d, address: \"%s:7\"}\n", i+1, b.ServerAddr4[i])
	}
	return fmt.Sprintf(`control: {socket: %s}
ports:
  - {name: outside, interface: %s}
  - {name: inside, interface: %s}
pools:
  - name: all
    members:
%svirtual-servers:
  - {name: one, address: "%s:%d", protocol: tcp, pool: all}
  - {name: two, address: "%s:%d", protocol: tcp, pool: all}
`, b.socket, b.Outside, b.Inside, members, b.VIP4, webPort, b.VIP4, bulkPort)
}

func openSessionFrom(h *lab.Host, from, to netip.AddrPort, limit time.Duration) (*session, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	conn, err := h.DialFrom(ctx, "tcp", from, to.String())
	if err != nil {
		return nil, err
	}
	return &session{Conn: conn}, nil
}

// abort ends a connection with a RST, so that neither end keeps anything of it.
func abort(t *testing.T, s *session) {
	t.Helper()
	raw := must(s.Conn.(syscall.Conn).SyscallConn())(t)
	ok(t, raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptLinger(int(fd), syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
	}))
	ok(t, s.Close())
}
