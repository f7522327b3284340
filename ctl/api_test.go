package ctl

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sluice/engine"
)

// do sends a request over the socket and returns the answer, which must be as openapi.json describes it.
func (b *apiBed) do(method, target string, body io.Reader) (*http.Response, string) {
	b.t.Helper()
	c := NewClient(b.socket)
	defer c.Close()
	req, err := http.NewRequestWithContext(b.t.Context(), method, "http://sluice"+target, body)
	if err != nil {
		b.t.Fatal(err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	if method == http.MethodHead {
		return resp, ""
	}
	path, _, _ := strings.Cut(target, "?")
	if err := checkAnswer(apiSchema(b.t), method, path, resp.StatusCode, resp.Header.Get("Content-Type"), text); err != nil && resp.StatusCode != http.StatusNotFound && resp.StatusCode != http.StatusMethodNotAllowed {
		b.t.Error(err)
	}
	if resp.StatusCode != http.StatusOK { // one shape, whatever is wrong
		var e map[string]string
		if err := json.Unmarshal(text, &e); err != nil || len(e) != 1 || e["error"] == "" {
			b.t.Errorf("%s %s: %d with %q", method, target, resp.StatusCode, text)
		}
		return resp, e["error"]
	}
	return resp, string(text)
}

// Every route that reads is answered as openapi.json says, with traffic in the tables.
func TestAPIAnswers(t *testing.T) {
	b := newAPIBed(t, apiBedConfig, nil, engine.PollAdaptive)
	b.loop.on.Store(true)
	for b.loop.sent.Load() < 1000 {
		time.Sleep(time.Millisecond)
	}
	for _, r := range b.routes() {
		if r.method != http.MethodGet {
			continue
		}
		target := r.path
		if r.example != "" {
			target += "?" + r.example
		}
		resp, text := b.do(r.method, target, nil)
		if resp.StatusCode != http.StatusOK || len(text) < 3 && r.path != "/v1/monitors" {
			t.Errorf("%s: %d %s", r.path, resp.StatusCode, text)
		}
		if resp, _ := b.do(http.MethodHead, target, nil); resp.StatusCode != http.StatusOK {
			t.Errorf("HEAD %s: %s", r.path, resp.Status)
		}
	}
	if err := checkAnswer(apiSchema(t), "GET", "/v1/drops", 200, "application/json", []byte(`[{"reason":"x","text":"y","count":1,"more":2}]`)); err == nil {
		t.Error("a field that is not described goes through")
	}
	_, text := b.do("DELETE", "/v1/connections?client=172.16.10.55:1030", nil)
	if text != "{\"deleted\":1}\n" {
		t.Errorf("%q", text)
	}
}

// What is not a request of the API is refused with what to do.
func TestAPIRefusals(t *testing.T) {
	b := newAPIBed(t, apiBedConfig, nil, engine.PollAdaptive)
	for _, c := range []struct {
		method, target, body string
		code                 int
		want                 string
	}{
		{"GET", "/v1/membres", "", 404, "did you mean /v1/members?"},
		{"GET", "/v1/virtual-servers", "", 404, "did you mean /v1/virtuals?"},
		{"GET", "/v1/virtual_servers/web", "", 404, "did you mean /v1/virtuals?"},
		{"GET", "/v1/virtual", "", 404, "did you mean /v1/virtuals?"},
		{"GET", "/members", "", 404, "did you mean /v1/members?"},
		{"GET", "/api/v1/member/s1", "", 404, "did you mean /v1/members?"},
		{"GET", "/v1/conns", "", 404, "did you mean /v1/connections?"},
		{"GET", "/v1/xyzzy", "", 404, "there is no /v1/xyzzy; GET"},
		{"GET", "/", "", 404, "there is no /"},
		{"GET", "/v1/reload", "", 405, "takes POST"},
		{"PUT", "/v1/members", "", 405, "takes GET, HEAD"},
		{"BREW", "/v1/connections", "", 405, "takes DELETE, GET, HEAD"},
		{"POST", "/v1/reload", strings.Repeat("x", maxBodyBytes+1), 413, "no request needs one"},
		{"GET", "/v1/status", "{}", 400, "leave it out"},
		{"GET", "/v1/members?pol=web", "", 400, `no parameter "pol"; there are watch`},
		{"GET", "/v1/connections?clinet=1.2.3.4", "", 400, "did you mean client?"},
		{"GET", "/v1/connections?client=nobody", "", 400, "neither an address"},
		{"GET", "/v1/connections?limit=0", "", 400, "number from 1 to 10000"},
		{"GET", "/v1/connections?limit=1&limit=2", "", 400, "given 2 times"},
		{"GET", "/v1/connections?state=establishd", "", 400, "did you mean established?"},
		{"GET", "/v1/connections?client=%zz", "", 400, "cannot be read"},
		{"GET", "/v1/connections?virtual=" + strings.Repeat("x", maxText+1), "", 400, "at most 256"},
		{"GET", "/v1/connections?virtual=" + strings.Repeat("x", maxQueryBytes), "", 414, "at most 8192"},
		{"GET", "/v1/members?watch=1us", "", 400, "between 100ms"},
		{"GET", "/v1/openapi.json?x=1", "", 400, "takes no parameters"},
		{"DELETE", "/v1/connections", "", 400, "say which connections"},
		{"DELETE", "/v1/connections?all=yes", "", 400, "neither true nor false"},
		{"POST", "/v1/members/order?pool=web&member=s1", "", 400, "needs action"},
		{"POST", "/v1/members/order?pool=web&member=s1&action=drian", "", 400, "did you mean drain?"},
		{"POST", "/v1/members/order?pool=wbe&member=s1&action=drain", "", 404, `did you mean "web"?`},
		{"POST", "/v1/members/order?pool=web&member=s3&action=drain", "", 404, "has no member"},
		{"POST", "/v1/members/order?pool=web&member=s1&action=enable&deadline=1s", "", 400, "are for drain"},
		{"POST", "/v1/members/weight?pool=web&member=s1&weight=-1", "", 400, "from 0 to 65535"},
	} {
		var body io.Reader
		if c.body != "" {
			body = strings.NewReader(c.body)
		}
		resp, text := b.do(c.method, c.target, body)
		if resp.StatusCode != c.code || !strings.Contains(text, c.want) {
			t.Errorf("%s %.60s: %d %s; want %d %s", c.method, c.target, resp.StatusCode, text, c.code, c.want)
		}
		if c.code == 405 && resp.Header.Get("Allow") == "" {
			t.Errorf("%s %s: no Allow", c.method, c.target)
		}
	}
	// A body without a length is cut off too.
	endless, w := io.Pipe()
	defer endless.Close()
	go func() {
		for {
			if _, err := w.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	}()
	if resp, text := b.do("POST", "/v1/reload", endless); resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("an endless body: %s %s", resp.Status, text)
	}
}

// A watch is a document each interval; streams end with the server.
func TestAPIWatch(t *testing.T) {
	b := newAPIBed(t, apiBedConfig, nil, engine.PollAdaptive)
	c := NewClient(b.socket)
	defer c.Close()
	n, enough := 0, errors.New("enough")
	began := time.Now()
	err := Stream(t.Context(), c, "/v1/stats?watch=100ms", func(v *StatsView) error {
		if len(v.Virtuals) != 2 || len(v.Members) != 3 {
			t.Errorf("%+v", v)
		}
		if n++; n == 3 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || time.Since(began) < 190*time.Millisecond {
		t.Errorf("%v after %s", err, time.Since(began))
	}
	ended := make(chan error, 1)
	first := make(chan bool, 1)
	go func() {
		ended <- Stream(context.Background(), c, "/v1/status?watch=1h", func(*StatusView) error { first <- true; return nil })
	}()
	<-first
	b.api.leave(false)
	select {
	case err := <-ended:
		if err == nil {
			t.Error("a stream that was cut says nothing")
		}
	case <-time.After(5 * time.Second):
		t.Error("a stream outlives the server")
	}
}

// Who asks for too much waits, is told so, and keeps nobody else out; an administrator gets in whatever readers hold.
func TestAPIPlaces(t *testing.T) {
	p := newPlaces("streams", 16, "end some")
	var leave []func()
	enter := func(name string, role Role, n int) {
		t.Helper()
		for range n {
			l, _, err := p.enter(t.Context(), peer{name: name, role: role})
			if err != nil {
				t.Fatal(err)
			}
			leave = append(leave, l)
		}
	}
	refused := func(name string, role Role, code int, text string) {
		t.Helper()
		began := time.Now()
		if _, got, err := p.enter(t.Context(), peer{name: name, role: role}); got != code || err == nil || !strings.Contains(err.Error(), text) || time.Since(began) < maxWait/2 {
			t.Errorf("%s: %d %v after %s", name, got, err, time.Since(began))
		}
	}
	enter("user 1000", RoleRead, 4)
	refused("user 1000", RoleRead, 429, "user 1000 has 4 streams under way, which is all that it may have: end some")
	enter("user 1001", RoleRead, 4)
	enter("user 1002", RoleRead, 4)
	refused("user 1003", RoleRead, 429, "readers have 12 streams under way")
	enter("user 0", RoleAdmin, 4)
	refused("user 0", RoleAdmin, 503, "16 streams are under way")
	leave[0]()
	leave[1]()
	leave = leave[2:]
	enter("user 0", RoleAdmin, 2)
	for _, l := range leave {
		l()
	}
	enter("user 0", RoleAdmin, 8)
	refused("user 0", RoleAdmin, 429, "user 0 has 8 streams")
	for _, l := range leave[16:] {
		l()
	}
	if len(p.of) != 0 || len(p.total) != 0 || len(p.readers) != 0 {
		t.Errorf("%d peers and %d places are left", len(p.of), len(p.total))
	}
}

// Requests beyond a rate are held.
func TestAPIRate(t *testing.T) {
	g := newGuard(&access{}, nil, nil)
	began, over := time.Now(), 0
	for range requestBurst + requestRate/2 { // the burst, and more than goes by in no time
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if code, _ := g.slow(ctx, peer{name: "user 1"}); code != 0 {
			over++
		}
	}
	if took := time.Since(began); over == 0 || over > requestRate/2 || took > 5*time.Second {
		t.Errorf("%d were held in %s", over, took)
	}
	if code, err := g.slow(t.Context(), peer{name: "user 2"}); code != 0 {
		t.Errorf("another one is held too: %v", err)
	}
}

// Idle connections go when there are too many, the oldest of who has the most first.
func TestDoor(t *testing.T) {
	b := newAPIBed(t, apiBedConfig, nil, engine.PollAdaptive)
	var held []net.Conn
	for range maxGuests + 20 {
		c, err := net.Dial("unix", b.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		held = append(held, c)
	}
	if resp, _ := b.do("GET", "/v1/status", nil); resp.StatusCode != http.StatusOK {
		t.Error(resp.Status)
	}
	if err := held[0].SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := held[0].Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the oldest idle connection: %v, want that it was closed", err)
	}
	last := held[len(held)-1]
	fmt.Fprintf(last, "GET /v1/drops HTTP/1.1\r\nHost: x\r\n\r\n")
	if resp, err := http.ReadResponse(bufio.NewReader(last), nil); err != nil || resp.StatusCode != 200 {
		t.Errorf("the youngest: %v %v", resp, err)
	}
	d := b.api.doors[0]
	d.mu.Lock()
	n, turned := len(d.guests), d.turned
	d.mu.Unlock()
	if n > maxGuests || turned < 20 {
		t.Errorf("%d connections, %d were closed for others", n, turned)
	}
}

// Requests that come at once share a snapshot, and each gets one that began after it came.
func TestSharedSnapshots(t *testing.T) {
	var began, taken atomic.Int64
	s := &sharedSnapshots{take: func(context.Context) ([]engine.Snapshot, error) {
		n := began.Add(1)
		time.Sleep(time.Millisecond)
		taken.Add(1)
		return []engine.Snapshot{{Worker: int(n)}}, nil
	}}
	start := time.Now()
	results := make(chan bool)
	for range 100 {
		go func() {
			for range 20 {
				before := began.Load()
				snaps, err := s.get(context.Background())
				if err != nil || int64(snaps[0].Worker) <= before {
					results <- false
					return
				}
			}
			results <- true
		}()
	}
	for range 100 {
		if !<-results {
			t.Fatal("a snapshot that began before the request")
		}
	}
	if most := int64(time.Since(start)/snapshotGap) + 2; taken.Load() > most {
		t.Errorf("%d snapshots for 2000 requests in %s", taken.Load(), time.Since(start))
	}
}
