package ctl

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"sluice/engine"
)

// CaptureView is a capture that goes on.
type CaptureView struct {
	Who     string `json:"who"`     // has asked for it: user UID, or client NAME of a certificate
	Since   string `json:"since"`   // RFC 3339
	Until   string `json:"until"`   // at the latest; RFC 3339
	Packets uint64 `json:"packets"` // at most
	Filter  string `json:"filter"`  // as the flags of sluice capture; empty: every packet
}

// captureView describes the capture that p asks for with the parameters v.
func captureView(p peer, v url.Values, q *captureRequest) CaptureView {
	var filter []string
	for _, k := range []string{"protocol", "end", "virtual", "member", "port", "worker", "reason", "sample"} {
		for _, text := range v[k] {
			filter = append(filter, "--"+k+" "+text)
		}
	}
	if q.Filter.Drops {
		filter = append(filter, "--drops")
	}
	now := time.Now().UTC()
	return CaptureView{Who: p.name, Since: now.Format(time.RFC3339), Until: now.Add(q.duration).Format(time.RFC3339), Packets: q.count, Filter: strings.Join(filter, " ")}
}

// CaptureEndView says that a capture was told to end.
type CaptureEndView struct {
	Ended bool `json:"ended"`
}

// captureEnd lets one request see and end what another one does.
type captureEnd struct {
	mu   sync.Mutex
	now  *captureStop // nil while there is no capture
	last bool         // none begins any more
	view CaptureView
}

// captureStop tells a capture to end.
type captureStop struct {
	said chan struct{} // closed when it shall
	why  string        // set before that, once
}

// begin is for a capture that begins; what is returned tells it to end. It reports false where none may begin any more.
func (e *captureEnd) begin(v CaptureView) (*captureStop, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.last {
		return nil, false
	}
	e.now, e.view = &captureStop{said: make(chan struct{})}, v
	return e.now, true
}

// end is for the one that has ended, known by what begin returned: the next may have begun.
func (e *captureEnd) end(c *captureStop) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.now == c {
		e.now = nil
	}
}

// stop ends the capture and reports whether there is one.
func (e *captureEnd) stop(why string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last = e.last || why != endStopped
	if e.now != nil && e.now.why == "" {
		e.now.why = why
		close(e.now.said)
	}
	return e.now != nil
}

// list are the captures that go on: one, or none.
func (e *captureEnd) list() []CaptureView {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.now == nil {
		return []CaptureView{}
	}
	return []CaptureView{e.view}
}

// endCapture answers DELETE /v1/capture: the capture ends as if its time were over, and whoever reads it gets the rest and the
// counts.
func (s *Server) endCapture(w http.ResponseWriter, _ *http.Request) {
	if !s.captures.stop(endStopped) {
		refuse(w, http.StatusNotFound, errors.New("no capture goes on; `sluice capture list` would show it"))
		return
	}
	reply(w, http.StatusOK, CaptureEndView{true})
}

// captureRoutes are those of captures.
func (s *Server) captureRoutes() []apiRoute {
	return []apiRoute{
		{method: http.MethodGet, path: "/v1/capture", summary: "packets as they come and as they go, with what became of each, until a bound is reached", role: RoleAdmin, media: "application/x-pcapng", streams: true, handle: s.capture, example: "count=10&duration=1s",
			params: slices.Clip(captureParams)},
		{method: http.MethodDelete, path: "/v1/capture", summary: "end the capture that goes on, as if its time were over", role: RoleAdmin, answer: CaptureEndView{}, handle: s.endCapture},
		{method: http.MethodGet, path: "/v1/captures", summary: "captures that go on", role: RoleRead, answer: []CaptureView{}, watch: true,
			handle: s.withSnapshots(func([]engine.Snapshot) any { return s.captures.list() })},
	}
}
