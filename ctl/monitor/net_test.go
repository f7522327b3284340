package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sluice/perf/lab"
)

// serveTCP runs handle for each connection on loopback.
func serveTCP(t testing.TB, handle func(net.Conn)) netip.AddrPort {
	t.Helper()
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	serveOn(t, l, handle)
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func serveOn(t testing.TB, l net.Listener, handle func(net.Conn)) {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				stop := context.AfterFunc(ctx, func() { conn.Close() })
				defer stop()
				defer conn.Close()
				handle(conn)
			}()
		}
	}()
}

// closedPort is a port of loopback on which nothing listens.
func closedPort(t testing.TB) netip.AddrPort {
	t.Helper()
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func silent(conn net.Conn) { io.Copy(io.Discard, conn) }

func says(text string) func(net.Conn) {
	return func(conn net.Conn) { io.WriteString(conn, text); silent(conn) }
}

func TestTCP(t *testing.T) {
	ssh := serveTCP(t, says("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"))
	slowly := serveTCP(t, func(conn net.Conn) {
		for _, c := range "220 mail ready\r\n" {
			time.Sleep(5 * time.Millisecond)
			io.WriteString(conn, string(c))
		}
		silent(conn)
	})
	redis := serveTCP(t, func(conn net.Conn) {
		buf := make([]byte, 64)
		if n, _ := conn.Read(buf); string(buf[:n]) == "PING\r\n" {
			io.WriteString(conn, "+PONG\r\n")
		}
	})
	mute := serveTCP(t, silent)
	closing := serveTCP(t, func(net.Conn) {})
	resetting := serveTCP(t, func(conn net.Conn) { conn.(*net.TCPConn).SetLinger(0) })
	floods := serveTCP(t, func(conn net.Conn) {
		for junk := strings.Repeat("x", 1000); ; {
			if _, err := io.WriteString(conn, junk); err != nil {
				return
			}
		}
	})
	tcp := func(send, expect, pattern string) Monitor {
		return testMonitor(TCP, func(m *Monitor) {
			m.Timeout = time.Second
			m.TCP.Send, m.TCP.Expect, m.TCP.Pattern = send, expect, pattern
		})
	}
	quick := func(m Monitor) Monitor { m.Timeout = 150 * time.Millisecond; return m }
	for _, c := range []probeCase{
		{"connect", tcp("", "", ""), ssh, Success, "connected"},
		{"banner", tcp("", "SSH-2.0-", ""), ssh, Success, "answer matches"},
		{"banner by pattern", tcp("", "", `^SSH-(1\.99|2\.0)-`), ssh, Success, "answer matches"},
		{"in many pieces", tcp("", "ready\r\n", ""), slowly, Success, "answer matches"},
		{"send and expect", tcp("PING\r\n", "+PONG", ""), redis, Success, "answer matches"},
		{"down", tcp("", "", ""), closedPort(t), Failure, "connection refused"},
		{"other banner", quick(tcp("", "SSH-1.99", "")), ssh, Failure, `timeout after 150ms (answer does not match so far: "SSH-2.0-OpenSSH`},
		{"slow", quick(tcp("", "SSH-", "")), mute, Failure, "timeout after 150ms (waiting for the expected answer)"},
		{"closes", tcp("", "SSH-", ""), closing, Failure, "answer does not match: connection closed after nothing"},
		{"closes after another answer", tcp("PING\r\n", "+OK", ""), redis, Failure, `answer does not match: connection closed after "+PONG\r\n"`},
		{"resets", tcp("", "SSH-", ""), resetting, Failure, "connection reset"},
		{"endless", tcp("", "SSH-", ""), floods, Failure, `answer does not match in its first 4096 bytes: "xxx`},
	} {
		c.run(t)
	}
}

// TestTCPReset: with Reset the server sees a reset, without it the end of the stream.
func TestTCPReset(t *testing.T) {
	ends := make(chan error, 1)
	to := serveTCP(t, func(conn net.Conn) {
		_, err := conn.Read(make([]byte, 1))
		ends <- err
	})
	for _, c := range []struct {
		reset bool
		want  error
	}{{false, io.EOF}, {true, unix.ECONNRESET}} {
		probeOnce(t, testMonitor(TCP, func(m *Monitor) { m.TCP.Reset = c.reset }), to)
		if err := <-ends; !errors.Is(err, c.want) {
			t.Errorf("reset %v: the server's end was %v, not %v", c.reset, err, c.want)
		}
	}
}

func TestUDP(t *testing.T) {
	r := newRemote(t)
	echo := must(lab.UDPEcho(r.host, ":7", "echo"))(t)
	mute := must(r.host.ListenPacket("udp", ":9"))(t)
	t.Cleanup(func() { mute.Close() })
	udp := func(timeout time.Duration, expect, pattern string) Monitor {
		return testMonitor(UDP, func(m *Monitor) {
			m.Timeout = timeout
			m.UDP.Send, m.UDP.Expect, m.UDP.Pattern = "\x00ping", expect, pattern
		})
	}
	const short, long = 200 * time.Millisecond, 4 * time.Second
	for _, c := range []probeCase{
		{"echo", udp(long, "\x00ping", ""), r.to4(7), Success, "answer matches"},
		{"echo v6", udp(long, "echo ", ""), r.to6(7), Success, "answer matches"},
		{"pattern", udp(long, "", "^echo .ping$"), r.to4(7), Success, "answer matches"},
		{"any answer", udp(long, "", ""), r.to4(7), Success, "answered"},
		{"wrong answer", udp(long, "pong", ""), r.to4(7), Failure, `answer does not match: "echo \x00ping"`},
		{"no answer, none needed", udp(short, "", ""), r.to4(9), Success, "no answer and no refusal"},
		{"slow", udp(short, "x", ""), r.to4(9), Failure, "timeout after 200ms (no answer)"},
		{"refused", udp(long, "", ""), r.to4(10), Failure, "port unreachable"},
		{"refused v6", udp(long, "x", ""), r.to6(10), Failure, "port unreachable"},
		{"nobody there", udp(long+time.Second, "", ""), netip.MustParseAddrPort("10.9.0.99:7"), Failure, "host unreachable"},
	} {
		c.run(t)
	}
	if echo.Requests.Load() != 5 {
		t.Errorf("the echo server got %d datagrams, not 5", echo.Requests.Load())
	}
}

// pingSockets lets every group open ping sockets in our namespace, or none.
func pingSockets(t testing.TB, on bool) {
	t.Helper()
	value := "1 0"
	if on {
		value = "0 2147483647"
	}
	ok(t, os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte(value), 0))
}

func TestICMP(t *testing.T) {
	r := newRemote(t)
	hole := r.blackhole(t)
	icmp := func(timeout time.Duration, edit func(*Monitor)) Monitor {
		return testMonitor(ICMP, func(m *Monitor) {
			m.Timeout = timeout
			if edit != nil {
				edit(m)
			}
		})
	}
	const long = 4500 * time.Millisecond
	for name, on := range map[string]bool{"raw": false, "unprivileged": true} {
		t.Run(name, func(t *testing.T) {
			pingSockets(t, on)
			s := must(openEcho(&attempt{monitor: &Monitor{}, addr: r.to4(0)}))(t)
			s.file.Close()
			if s.raw == on {
				t.Fatalf("the socket is raw: %v", s.raw)
			}
			for _, c := range []probeCase{
				{"v4", icmp(long, nil), r.to4(0), Success, "echo reply"},
				{"v6", icmp(long, nil), r.to6(0), Success, "echo reply"},
				{"v4 in v6 form", icmp(long, nil), netip.MustParseAddrPort("[::ffff:10.9.0.2]:0"), Success, "echo reply"},
				{"large", icmp(long, func(m *Monitor) { m.ICMP.Size = 8000 }), r.to4(0), Success, "echo reply"},
				{"small v6", icmp(long, func(m *Monitor) { m.ICMP.Size = 16 }), r.to6(0), Success, "echo reply"},
				{"silent", icmp(200*time.Millisecond, nil), netip.AddrPortFrom(hole, 0), Failure, "timeout after 200ms (no reply)"},
				{"nobody there", icmp(long, nil), netip.MustParseAddrPort("10.9.0.98:0"), Failure, "host unreachable"},
				{"no route", icmp(long, nil), netip.MustParseAddrPort("203.0.113.1:0"), Failure, "network unreachable"},
			} {
				c.run(t)
			}
			// Many at once: each gets its own reply and not another's.
			p := must(NewProber(icmp(long, nil)))(t)
			results := make(chan Result)
			for range 50 {
				go func() { results <- p.Probe(context.Background(), Target{Address: r.to4(0)}) }()
			}
			for range 50 {
				if r := <-results; r.Outcome != Success {
					t.Errorf("one of many at once: %v %s", r.Outcome, r.Cause)
				}
			}
		})
	}
}

// TestICMPMatching: a reply counts only with our identifier, sequence number and payload.
func TestICMPMatching(t *testing.T) {
	for _, v4 := range []bool{true, false} {
		s := &echoSocket{v4: v4, raw: v4, id: 77}
		payload := []byte("0123456789abcdef")
		request := must(s.request(5, payload))(t)
		reply := append([]byte(nil), request...)
		reply[0] = 129
		header := []byte{}
		if v4 {
			reply[0] = 0
			header = append([]byte{0x46}, make([]byte, 23)...) // an IPv4 header with one word of options
		}
		check := func(what string, want bool, edit func(b []byte) []byte) {
			t.Helper()
			b := append([]byte(nil), reply...)
			if edit != nil {
				b = edit(b)
			}
			if got := s.isReply(append(append([]byte(nil), header...), b...), 5, payload); got != want {
				t.Errorf("v4 %v, %s: %v", v4, what, got)
			}
		}
		check("ours", true, nil)
		check("our request", false, func(b []byte) []byte { b[0] = request[0]; return b })
		check("another identifier", false, func(b []byte) []byte { b[5]++; return b })
		check("another sequence number", false, func(b []byte) []byte { b[7]++; return b })
		check("another payload", false, func(b []byte) []byte { b[len(b)-1]++; return b })
		check("cut", false, func(b []byte) []byte { return b[:len(b)-1] })
		check("nothing", false, func(b []byte) []byte { return nil })
		if s.isReply([]byte{0x4f}, 5, payload) {
			t.Error("a part of a header is a reply")
		}
	}
}

// TestPath: probes of every kind leave from the right address, by the right interface and mark.
func TestPath(t *testing.T) {
	r := newRemote(t)
	var from atomic.Value
	note := func(a net.Addr) { from.Store(netip.MustParseAddrPort(a.String()).Addr().Unmap()) }
	serveOn(t, must(r.host.Listen("tcp", ":80"))(t), func(conn net.Conn) {
		note(conn.RemoteAddr())
		io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
	})
	packets := must(r.host.ListenPacket("udp", ":53"))(t)
	t.Cleanup(func() { packets.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			n, a, err := packets.ReadFrom(buf)
			if err != nil {
				return
			}
			note(a)
			buf[2] |= 0x80 // QR: an answer to a DNS query
			packets.WriteTo(buf[:n], a)
		}
	}()
	pingSockets(t, true)
	frames := must(r.host.Capture("eth0", 100))(t)
	path := Path{Source4: r.local4, Source6: r.local6, Interface: "probe0"}
	for _, c := range []struct {
		monitor Monitor
		port    uint16
	}{
		{testMonitor(TCP, nil), 80}, {testMonitor(HTTP, nil), 80}, {testMonitor(UDP, func(m *Monitor) { m.UDP.Send = "0123" }), 53},
		{testMonitor(DNS, func(m *Monitor) { m.DNS.Name = "a.example" }), 53}, {testMonitor(ICMP, nil), 0},
	} {
		for _, to := range []netip.AddrPort{r.to4(c.port), r.to6(c.port)} {
			c.monitor.Path = path
			from.Store(netip.Addr{})
			if res := probeOnce(t, c.monitor, to); res.Outcome != Success {
				t.Errorf("%s to %v: %v %s", c.monitor.Type, to, res.Outcome, res.Cause)
			}
			want := path.source(to.Addr())
			// A connection is open before the server has accepted it.
			if c.monitor.Type != ICMP {
				eventually(t, fmt.Sprintf("%s to %v came from %v", c.monitor.Type, to, want), func() bool { return from.Load() == want })
			}
		}
	}
	ok(t, frames.Close())
	echoes := map[netip.Addr]int{}
	for _, f := range frames.Frames() {
		switch b := f.Data; {
		case len(b) > 34 && b[12] == 8 && b[13] == 0 && b[23] == unix.IPPROTO_ICMP && b[34] == 8:
			echoes[netip.AddrFrom4([4]byte(b[26:30]))]++
		case len(b) > 54 && b[12] == 0x86 && b[20] == unix.IPPROTO_ICMPV6 && b[54] == 128:
			echoes[netip.AddrFrom16([16]byte(b[22:38]))]++
		}
	}
	if len(echoes) != 2 || echoes[r.local4] != 1 || echoes[r.local6] != 1 {
		t.Errorf("echo requests came from %v", echoes)
	}

	// Only the table for the mark knows the way.
	ok(t, netlink.RouteAdd(&netlink.Route{Table: 700, Dst: must(netlink.ParseIPNet("192.0.2.0/24"))(t), Gw: r.addr4.AsSlice()}))
	rule := netlink.NewRule()
	rule.Mark, rule.Table = 7, 700
	ok(t, netlink.RuleAdd(rule))
	t.Cleanup(func() { netlink.RuleDel(rule) })
	ok(t, r.host.Addr("lo", "192.0.2.5/32"))
	marked := netip.MustParseAddr("192.0.2.5")
	withMark := func(mark uint32) func(*Monitor) {
		return func(m *Monitor) { m.Path.Mark = mark }
	}
	for _, c := range []probeCase{
		{"tcp with mark", testMonitor(TCP, withMark(7)), netip.AddrPortFrom(marked, 80), Success, "connected"},
		{"tcp without", testMonitor(TCP, withMark(0)), netip.AddrPortFrom(marked, 80), Failure, "network unreachable"},
		{"icmp with mark", testMonitor(ICMP, withMark(7)), netip.AddrPortFrom(marked, 0), Success, "echo reply"},
		{"icmp with another", testMonitor(ICMP, withMark(8)), netip.AddrPortFrom(marked, 0), Failure, "network unreachable"},
		{"source is not ours", testMonitor(TCP, func(m *Monitor) { m.Path.Source4 = marked }), r.to4(80), Inconclusive,
			"source 192.0.2.5 is not an address of this host"},
		{"source is not ours, icmp", testMonitor(ICMP, func(m *Monitor) { m.Path.Source4 = marked }), r.to4(0), Inconclusive,
			"source 192.0.2.5 is not an address of this host"},
		{"no such interface", testMonitor(UDP, func(m *Monitor) { m.UDP.Send, m.Path.Interface = "x", "nosuch0" }), r.to4(53), Inconclusive,
			"bind to interface nosuch0: no such device"},
		{"wrong interface", testMonitor(TCP, func(m *Monitor) { m.Path.Interface, m.Timeout = "lo", 300*time.Millisecond }), r.to4(80), Failure, ""},
		{"port of the monitor", testMonitor(TCP, func(m *Monitor) { m.Port = 80 }), r.to4(81), Success, "connected"},
		{"silent", testMonitor(TCP, func(m *Monitor) { m.Timeout = 200 * time.Millisecond }), netip.AddrPortFrom(r.blackhole(t), 80), Failure,
			"timeout after 200ms (connect)"},
	} {
		c.run(t)
	}
}
