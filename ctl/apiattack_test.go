package ctl

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/engine"
)

// Whatever is written to the socket gets an answer that says what is wrong, or the end of the connection, and the next client is served.
func TestAPIRawRequests(t *testing.T) {
	b := newAPIBed(t, apiBedConfig, nil, engine.PollAdaptive)
	const host = "\r\nHost: x\r\n"
	for _, c := range []struct{ what, text, want string }{
		{"absolute form", "GET http://evil.example.org/v1/status HTTP/1.1" + host + "\r\n", "200"}, // RFC 9112 section 3.2.2: the path counts
		{"absolute form with a user", "GET http://root:pw@x/v1/status HTTP/1.1" + host + "\r\n", "200"},
		{"authority form", "CONNECT x:443 HTTP/1.1" + host + "\r\n", "404"},
		{"asterisk form", "OPTIONS * HTTP/1.1" + host + "\r\n", "404"},
		{"trace", "TRACE /v1/status HTTP/1.1" + host + "\r\n", "405"},
		{"dots", "GET /v1/../v1/status HTTP/1.1" + host + "\r\n", "404"},
		{"two slashes", "GET //v1/status HTTP/1.1" + host + "\r\n", "404"},
		{"slash at the end", "POST /v1/reload/ HTTP/1.1" + host + "\r\n", "404"},
		{"another case", "GET /V1/STATUS HTTP/1.1" + host + "\r\n", "404"},
		{"a method in another case", "get /v1/status HTTP/1.1" + host + "\r\n", "405"},
		{"escapes in the path", "POST /v1/%72eload%00 HTTP/1.1" + host + "\r\n", "404"},
		{"control characters in the path", "GET /v1/\x1b[2J HTTP/1.1" + host + "\r\n", "400"},
		{"escaped control characters", "GET /v1/%1b%5b2J%0a HTTP/1.1" + host + "\r\n", "404"},
		{"semicolons in the query", "GET /v1/connections?limit=1;limit=2 HTTP/1.1" + host + "\r\n", "400"},
		{"a huge number", "GET /v1/connections?limit=99999999999999999999999999 HTTP/1.1" + host + "\r\n", "400"},
		{"a number of another kind", "GET /v1/connections?limit=0x10 HTTP/1.1" + host + "\r\n", "400"},
		{"a number in other digits", "GET /v1/connections?limit=%D9%A1 HTTP/1.1" + host + "\r\n", "400"},
		{"not a number", "GET /v1/members?watch=NaNs HTTP/1.1" + host + "\r\n", "400"},
		{"an endless time", "GET /v1/members?watch=99999999h HTTP/1.1" + host + "\r\n", "400"},
		{"a negative time", "GET /v1/capture?duration=-1s HTTP/1.1" + host + "\r\n", "400"},
		{"a body in JSON", "POST /v1/members/order HTTP/1.1" + host + "Content-Type: application/json\r\nContent-Length: 15\r\n\r\n{\"pool\":\"web\" }", "400"},
		{"no body, another type", "POST /v1/members/weight HTTP/1.1" + host + "Content-Type: text/evil\r\nContent-Length: 0\r\n\r\n", "400"},
		{"length and chunks", "POST /v1/members/weight HTTP/1.1" + host + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
		{"two lengths", "POST /v1/reload HTTP/1.1" + host + "Content-Length: 0\r\nContent-Length: 9\r\n\r\n", "400"},
		{"a negative length", "POST /v1/reload HTTP/1.1" + host + "Content-Length: -1\r\n\r\n", "400"},
		{"an unknown encoding", "POST /v1/reload HTTP/1.1" + host + "Transfer-Encoding: gzip\r\n\r\n", "501"},
		{"a broken chunk", "POST /v1/reload HTTP/1.1" + host + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", "400"},
		{"a huge chunk", "POST /v1/reload HTTP/1.1" + host + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", "400"},
		{"no host", "GET /v1/status HTTP/1.1\r\n\r\n", "400"},
		{"another version", "GET /v1/status HTTP/9.9" + host + "\r\n", "505"},
		{"a header of 20 kB", "GET /v1/status HTTP/1.1" + host + "X: " + strings.Repeat("x", 20<<10) + "\r\n\r\n", "431"},
		{"10,000 headers", "GET /v1/status HTTP/1.1" + host + strings.Repeat("a:b\r\n", 10_000) + "\r\n", "431"},
		{"a target of 30 kB", "GET /" + strings.Repeat("x", 30<<10) + " HTTP/1.1" + host + "\r\n", "431"},
		{"a line feed in a header", "GET /v1/status HTTP/1.1" + host + "X: a\nPOST /v1/reload HTTP/1.1\r\n\r\n", "400"},
		{"a space before the colon", "GET /v1/status HTTP/1.1" + host + "Content-Length : 3\r\n\r\n", "400"},
		{"HTTP/2 without TLS", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "404"},
		{"an upgrade", "GET /v1/status HTTP/1.1" + host + "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", "200"},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "400"},
		{"no HTTP", "hello\r\n\r\n", "400"},
	} {
		conn, err := net.Dial("unix", b.socket)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(conn, c.text)
		line, err := bufio.NewReader(conn).ReadString('\n')
		if words := strings.Fields(line); len(words) < 2 || words[1] != c.want {
			t.Errorf("%s: %q %v, want %s", c.what, line, err, c.want)
		}
		conn.Close()
	}
	// Many in one write are answered in order, and no more than the connection is asked for.
	conn, err := net.Dial("unix", b.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	const many = 200
	go func() {
		_, _ = io.WriteString(conn, strings.Repeat("GET /v1/drops HTTP/1.1"+host+"\r\nGET /nothing HTTP/1.1"+host+"\r\n", many))
	}()
	r := bufio.NewReader(conn)
	for i := range 2 * many {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		if want := []int{200, 404}[i%2]; resp.StatusCode != want {
			t.Fatalf("answer %d: %s, want %d", i, resp.Status, want)
		}
	}
}

// Large answers that nobody reads take a bounded amount of memory, and no place from others.
func TestAPISlowReaders(t *testing.T) {
	var virtuals strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&virtuals, "  - {name: v%d, address: 10.11.%d.%d:80, protocol: tcp, pool: web}\n", i, i/250, i%250+1)
	}
	b := newAPIBed(t, apiBedConfig+virtuals.String(), nil, engine.PollAdaptive)
	_, text := b.do("GET", "/v1/stats", nil)
	if len(text) < 2*largeAnswer {
		t.Fatalf("the answer has only %d bytes", len(text))
	}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	const clients = 200
	for range clients {
		c, err := net.Dial("unix", b.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprint(c, "GET /v1/stats HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	answered := b.api.answered.Load()
	waitFor(t, "all but those that are being sent are refused", func() bool { return b.api.answered.Load() >= answered+clients-maxLarge })
	grown := int64(heap()) - int64(before)
	t.Logf("%d clients that do not read answers of %d kB: %d kB of memory", clients, len(text)>>10, grown>>10)
	// Each has buffers of some kB; of the answers there are maxLarge, in a buffer that may be twice as large, and what was used to make
	// those that were refused may be kept for the next (sync.Pool, more so under the race detector).
	if most := int64(6*maxLarge*len(text) + clients*(64<<10)); grown > most || most > int64(clients*len(text)/2) {
		t.Errorf("%d bytes are in use, at most %d should be", grown, most)
	}
	if resp, text := b.do("GET", "/v1/status", nil); resp.StatusCode != http.StatusOK {
		t.Errorf("another client: %s %s", resp.Status, text)
	}
	if resp, text := b.do("GET", "/v1/stats", nil); resp.StatusCode != http.StatusTooManyRequests || !strings.Contains(text, "large answers under way") || resp.Header.Get("Retry-After") == "" {
		t.Errorf("one more large answer of who has all of his: %s %.100s", resp.Status, text)
	}
}

// A stop under requests of every kind ends in order: nobody asks an engine that has been taken apart.
func TestAPIStopUnderRequests(t *testing.T) {
	for range 3 {
		b := newAPIBed(t, apiBedConfig, nil, engine.PollAdaptive)
		b.loop.on.Store(true)
		var wg sync.WaitGroup
		var answers atomic.Int64
		for i := range 24 {
			target := []string{"/v1/stats", "/v1/connections?limit=50", "/v1/stats?watch=100ms", "/v1/connections/export", "/v1/explain?protocol=tcp&source=172.16.10.55:4003&destination=10.10.1.100:80", "/v1/capture?duration=10s"}[i%6]
			wg.Go(func() {
				c := NewClient(b.socket)
				defer c.Close()
				for {
					resp, err := c.http.Get("http://sluice" + target)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					answers.Add(1)
				}
			})
		}
		waitFor(t, "there are answers", func() bool { return answers.Load() > 200 })
		at := time.Now()
		b.api.close(&b.captures)
		if took := time.Since(at); took > 3*time.Second {
			t.Errorf("it has taken %s", took)
		}
		wg.Wait()
		if _, err := os.Lstat(b.socket); err == nil {
			t.Error("the socket is left")
		}
	}
}

// What is at the socket's path is never anybody else's to lose: not another engine's socket, not a file, not what has been put there since.
func TestControlSocketPath(t *testing.T) {
	b := newAPIBed(t, apiBedConfig, nil, engine.PollAdaptive)
	dir := t.TempDir()
	at := func(name string) string { return dir + "/" + name }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(at("file"), []byte("precious"), 0o600))
	must(os.Mkdir(at("folder"), 0o700))
	must(os.Symlink(at("file"), at("to-file")))
	must(os.Symlink(at("nothing"), at("to-nothing")))
	must(os.Symlink(b.socket, at("to-socket")))
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: at("stale"), Net: "unix"})
	must(err)
	stale.SetUnlinkOnClose(false)
	must(stale.Close()) // as a killed one leaves it
	must(os.Symlink(at("stale"), at("to-stale")))
	for _, c := range []struct{ path, want string }{
		{at("file"), "is there and is not a socket"}, {at("folder"), "is there and is not a socket"}, {at("to-file"), "is there and is not a socket"},
		{at("to-nothing"), "is there and is not a socket"}, {at("to-stale"), "is there and is not a socket"},
		{at("to-socket"), "belongs to a running sluice"}, {b.socket, "belongs to a running sluice"},
		{at("none/socket"), "make its folder first"}, {at("stale"), ""},
	} {
		ln, err := listenControl(c.path, -1)
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", c.path, err)
			} else {
				_ = ln.Close()
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "control") {
			t.Errorf("%s: %v, want %s", c.path, err, c.want)
		}
	}
	if text, err := os.ReadFile(at("file")); err != nil || string(text) != "precious" {
		t.Errorf("the file: %q %v", text, err)
	}
	if resp, _ := b.do("GET", "/v1/status", nil); resp.StatusCode != http.StatusOK {
		t.Error(resp.Status)
	}
	// Somebody has put a file in its place.
	must(os.Remove(b.socket))
	must(os.WriteFile(b.socket, []byte("precious"), 0o600))
	b.api.close(&b.captures)
	if text, err := os.ReadFile(b.socket); err != nil || string(text) != "precious" {
		t.Errorf("the file that was put there: %q %v", text, err)
	}
}
