package ctl

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"sluice/engine"
)

// HEAD has no effect, and holds nothing up, on any route: what it would stream or look for is not begun, and where there is no GET it is
// refused.
func TestHeadHasNoEffect(t *testing.T) {
	b := newAPIBed(t, apiBedConfig, nil, engine.PollAdaptive)
	list := b.routes()
	began := map[string]int{}
	gets := map[string]bool{}
	for i := range list {
		r := &list[i]
		gets[r.path] = gets[r.path] || r.method == http.MethodGet
		handle := r.handle
		r.handle = func(w http.ResponseWriter, req *http.Request) {
			began[r.method+" "+r.path]++
			handle(w, req)
		}
	}
	g := newGuard(b.access, b.log, list)
	head := func(target string) *http.Response {
		t.Helper()
		w := httptest.NewRecorder()
		req, err := http.NewRequestWithContext(context.WithValue(t.Context(), peerKey{}, peer{name: "user 0", role: RoleAdmin}), http.MethodHead, target, nil)
		if err != nil {
			t.Fatal(err)
		}
		at := time.Now()
		g.ServeHTTP(w, req)
		if took := time.Since(at); took > maxWait {
			t.Errorf("HEAD %s took %s", target, took)
		}
		return w.Result()
	}
	for i := range list {
		r := &list[i]
		targets := []string{r.path}
		if r.example != "" {
			targets[0] += "?" + r.example
		}
		if r.watch {
			targets = append(targets, r.path+"?watch=100ms")
		}
		for _, target := range targets {
			resp := head(target)
			switch {
			case !gets[r.path]:
				if resp.StatusCode != http.StatusMethodNotAllowed {
					t.Errorf("HEAD %s, which has no GET: %s", target, resp.Status)
				}
			case resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") == "":
				t.Errorf("HEAD %s: %s %q", target, resp.Status, resp.Header.Get("Content-Type"))
			}
			if want := r.media; want != "" && gets[r.path] && r.method == http.MethodGet && resp.Header.Get("Content-Type") != want {
				t.Errorf("HEAD %s: Content-Type %q, want %q", target, resp.Header.Get("Content-Type"), want)
			}
		}
	}
	for i := range list {
		if r := &list[i]; began[r.method+" "+r.path] > 0 && (r.method != http.MethodGet || r.streams || r.scans) {
			t.Errorf("HEAD has run %s %s", r.method, r.path)
		}
	}
	// It is checked as a GET is.
	if resp := head("/v1/capture?cuont=1"); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a wrong parameter: %s", resp.Status)
	}
	if resp, _ := b.do(http.MethodHead, "/v1/capture?duration=1h", nil); resp.StatusCode != http.StatusOK || !strings.Contains(resp.Header.Get("Content-Type"), "pcapng") {
		t.Errorf("over the socket: %s", resp.Status)
	}
	if b.captures.stop(endStopped) {
		t.Error("a capture goes on")
	}
}
