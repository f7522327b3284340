package monitor

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// loadServer answers on every address of loopback, each connection after a while, and counts those it has at once.
type loadServer struct {
	port      uint16
	now, most atomic.Int64
}

func newLoadServer(t testing.TB, after time.Duration) *loadServer {
	s := &loadServer{}
	l := must(net.Listen("tcp", "0.0.0.0:0"))(t)
	s.port = uint16(l.Addr().(*net.TCPAddr).Port)
	serveOn(t, l, func(conn net.Conn) {
		n := s.now.Add(1)
		for m := s.most.Load(); n > m && !s.most.CompareAndSwap(m, n); m = s.most.Load() {
		}
		conn.Read(make([]byte, 1024))
		time.Sleep(after)
		s.now.Add(-1) // before the client can see the end, so that the count is never too high
		io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
	})
	return s
}

// members are n members, each an address of its own.
func (s *loadServer) members(n int, m *Monitor) (list []Member) {
	for i := range n {
		addr := netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)})
		list = append(list, Member{Name: addr.String(), Address: netip.AddrPortFrom(addr, s.port), Monitors: []*Monitor{m}})
	}
	return list
}

// TestThousandsReal: 5,000 real members with 64 places: the rate is kept, and what it costs is printed.
func TestThousandsReal(t *testing.T) {
	needNamespace(t)
	const limit = 64
	targets := 5000
	if testing.Short() { // and under the race detector, which costs several times as much
		targets = 1000
	}
	for _, typ := range []Type{TCP, HTTP} {
		t.Run(string(typ), func(t *testing.T) {
			s := newLoadServer(t, 0)
			m := testMonitor(typ, func(m *Monitor) {
				m.Rise = 1
				if m.Timeout = m.Interval; typ == TCP {
					m.TCP.Send, m.TCP.Expect = "ping", "204"
				}
			})
			var ups atomic.Int64
			c := must(New(t.Context(), Options{Limit: limit, OnMember: func(e Event) {
				if e.To == Up {
					ups.Add(1)
				} else {
					t.Errorf("%+v", e)
				}
			}}))(t)
			ok(t, c.Apply(s.members(targets, &m)))
			// Others use this machine, too: a window in which the rate is right is looked for, and most often the first.
			// A machine that is too busy for the rate must at least see all places in use.
			var rate float64
			var busy bool
			for range 6 {
				before, start, cpu := c.Statistics(), time.Now(), cpuTime(t)
				time.Sleep(m.Interval)
				after, used, took := c.Statistics(), cpuTime(t)-cpu, time.Since(start)
				n := after.Started - before.Started
				rate = float64(n) / (float64(targets) * took.Seconds() / m.Interval.Seconds())
				t.Logf("%s: %d targets, %.0f probes/s (%.1f%%), at most %d at once (%d at the server), latest %v; CPU %.1f%% of one core, %v a probe, both ends",
					typ, targets, float64(n)/took.Seconds(), 100*rate, after.Peak, s.most.Load(), after.Latest.Round(time.Microsecond),
					100*used.Seconds()/took.Seconds(), (used / time.Duration(max(n, 1))).Round(time.Microsecond))
				if rate > 0.95 && rate < 1.05 {
					break
				}
				busy = after.Running == limit && after.Waiting > 0
			}
			if rate >= 1.05 || rate <= 0.95 && !busy {
				t.Errorf("%.1f%% of the rate, and places are free", 100*rate)
			}
			eventually(t, "all members are up", func() bool { return ups.Load() == int64(targets) })
			ok(t, c.Close())
			if peak := c.Statistics().Peak; peak > limit || s.most.Load() > limit {
				t.Errorf("%d probes at once, %d at the server; the limit is %d", peak, s.most.Load(), limit)
			}
		})
	}
}

// TestSaturatedReal: with a server so slow that all places are taken, the server sees 64 connections, never 65.
func TestSaturatedReal(t *testing.T) {
	needNamespace(t)
	s := newLoadServer(t, 100*time.Millisecond)
	m := testMonitor(HTTP, func(m *Monitor) { m.Timeout = m.Interval })
	c := must(New(t.Context(), Options{Limit: 64}))(t)
	ok(t, c.Apply(s.members(5000, &m)))
	eventually(t, "all places are taken", func() bool { return s.most.Load() == 64 })
	time.Sleep(3 * time.Second)
	if st := c.Statistics(); st.Peak != 64 || st.Waiting == 0 || s.most.Load() != 64 {
		t.Errorf("%d at the server, %+v", s.most.Load(), st)
	}
	ok(t, c.Close())
}

func cpuTime(t testing.TB) time.Duration {
	var u unix.Rusage
	ok(t, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func openFiles(t testing.TB) int {
	return len(must(filepath.Glob("/proc/self/fd/*"))(t))
}

// TestIdleCost: a pair that waits has no goroutine.
func TestIdleCost(t *testing.T) {
	m := testMonitor(TCP, func(m *Monitor) { m.Interval = 24 * time.Hour })
	var members []Member
	for i := range 20_000 {
		addr := netip.AddrFrom4([4]byte{127, 2, byte(i >> 8), byte(i)})
		members = append(members, Member{Name: fmt.Sprint(i), Address: netip.AddrPortFrom(addr, 1), Monitors: []*Monitor{&m}})
	}
	before := runtime.NumGoroutine()
	var a, b runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&a)
	c := must(New(t.Context(), Options{}))(t)
	ok(t, c.Apply(members))
	runtime.GC()
	runtime.ReadMemStats(&b)
	if n := runtime.NumGoroutine() - before; n > 4+64 {
		t.Errorf("%d goroutines for %d pairs", n, len(members))
	}
	t.Logf("%d bytes and %.4f goroutines a pair", (int64(b.HeapAlloc)-int64(a.HeapAlloc))/int64(len(members)),
		float64(runtime.NumGoroutine()-before)/float64(len(members)))
	ok(t, c.Close())
}

// TestCloseReal: with probes of every type under way that would take long, Close is quick and leaves no goroutine, no
// descriptor and no process.
func TestCloseReal(t *testing.T) {
	mute := serveTCP(t, silent)
	packets := must(net.ListenPacket("udp", "127.0.0.1:0"))(t)
	t.Cleanup(func() { packets.Close() })
	quiet := packets.LocalAddr().(*net.UDPAddr).AddrPort()
	pids := filepath.Join(t.TempDir(), "pids")
	var members []Member
	add := func(typ Type, to netip.AddrPort, edit func(*Monitor)) {
		m := complete(typ)
		m.Interval, m.Timeout, m.Jitter = 100*time.Second, 100*time.Second, 0
		edit(&m)
		for i := range 3 {
			members = append(members, Member{Name: fmt.Sprint(m.Name, to, i), Address: to, Monitors: []*Monitor{&m}})
		}
	}
	add(TCP, mute, func(m *Monitor) { m.TCP.Expect = "x" })
	add(HTTP, mute, func(*Monitor) {})
	add(HTTP, mute, func(m *Monitor) { m.Name, m.HTTP.Version = "h2", HTTP2 })
	add(HTTPS, mute, func(*Monitor) {})
	add(UDP, quiet, func(m *Monitor) { m.UDP.Expect = "x" })
	add(DNS, quiet, func(*Monitor) {})
	add(DNS, mute, func(m *Monitor) { m.DNS.TCP = true })
	add(Exec, mute, func(m *Monitor) { m.Exec.Argv = []string{"/bin/sh", "-c", "echo $$ >>" + pids + "; sleep 1000; true"} })
	if os.Getenv(insideVar) != "" {
		r := newRemote(t)
		hole := r.blackhole(t)
		add(ICMP, netip.AddrPortFrom(hole, 0), func(*Monitor) {})
		add(TCP, netip.AddrPortFrom(hole, 80), func(m *Monitor) { m.Name = "connect" })
	}
	// Once without measuring, for what is opened once per process.
	for round := range 3 {
		eventually(t, "the servers have closed", func() bool { return round == 0 || runtime.NumGoroutine() < 100 })
		goroutines, files := runtime.NumGoroutine(), openFiles(t)
		var mu sync.Mutex
		var events []Event
		c := must(New(t.Context(), Options{OnMonitor: func(e Event) { mu.Lock(); defer mu.Unlock(); events = append(events, e) }}))(t)
		// All at once, not over 100 s.
		c.mu.Lock()
		c.phase = 0
		c.mu.Unlock()
		ok(t, c.Apply(members))
		c.mu.Lock()
		for _, m := range c.members {
			for _, p := range m.pairs {
				c.schedule(p, time.Now())
			}
		}
		c.mu.Unlock()
		eventually(t, "all probes are under way", func() bool { return c.Statistics().Running == len(members) })
		time.Sleep(200 * time.Millisecond)
		start := time.Now()
		ok(t, c.Close())
		took := time.Since(start)
		if took > 3*time.Second {
			t.Errorf("closing took %v", took)
		}
		if left := leftovers(5 * time.Second); left != "" {
			t.Errorf("goroutines left:\n%s", left)
		}
		if len(events) > 0 {
			t.Errorf("cancelled probes counted: %+v", events)
		}
		if round > 0 {
			eventually(t, "goroutines and files are as before", func() bool {
				return runtime.NumGoroutine() <= goroutines && openFiles(t) <= files
			})
		}
		t.Logf("%d probes under way ended in %v", len(members), took)
	}
	b := must(os.ReadFile(pids))(t)
	var n int
	for line := range lines(string(b)) {
		if _, err := os.Stat("/proc/" + line); err == nil {
			t.Errorf("process %s is still there", line)
		}
		n++
	}
	if n != 9 {
		t.Errorf("%d programs ran, not 9", n)
	}
}

func lines(text string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for line := range strings.Lines(text) {
			if !yield(strings.TrimSpace(line)) {
				return
			}
		}
	}
}
