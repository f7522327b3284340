package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Limits of requests. What is beyond a limit waits for maxWait at most and is refused then, with a Retry-After.
const (
	requestRate   = 500 // a second, of one user or certificate
	requestBurst  = 500
	maxRequests   = 16 // under way; see places for one user's share
	maxStreams    = 16
	maxScans      = 4 // requests that go through all connections
	maxLarge      = 8 // answers of more than largeAnswer bytes that are being sent
	largeAnswer   = 256 << 10
	maxWait       = time.Second
	maxBodyBytes  = 64 << 10
	maxQueryBytes = 8 << 10
	maxPeers      = 1024 // whose rates are kept
)

// guard stands before the routes: what it lets through is a request that openapi.json describes, of somebody who may, and not
// too many of them.
//
//	path 404 ─▶ method 405 ─▶ role 403 ─▶ body 413, 400 ─▶ parameters 400 ─▶ rate 429 ─▶ places 429, 503 ─▶ handler
type guard struct {
	access *access
	log    *slog.Logger
	routes map[string]map[string]*apiRoute // by path and method
	paths  []string

	quick, streams, scans places
	large                 places        // answers that wait for their readers
	answered              atomic.Uint64 // requests, refused ones too

	mu    sync.Mutex
	rates map[string]*rate.Limiter // by peer
}

func newGuard(a *access, log *slog.Logger, list []apiRoute) *guard {
	g := &guard{access: a, log: log, routes: map[string]map[string]*apiRoute{}, rates: map[string]*rate.Limiter{},
		quick:   newPlaces("requests", maxRequests, "wait until some have ended"),
		streams: newPlaces("streams", maxStreams, "end some of its watches, screens (sluice top), exports or captures, or ask now and then without watch"),
		large:   newPlaces("large answers", maxLarge, "read them, or ask for less"),
		scans:   newPlaces("lists of connections", maxScans, "wait until some have ended")}
	for i := range list {
		r := &list[i]
		if g.routes[r.path] == nil {
			g.routes[r.path] = map[string]*apiRoute{}
			g.paths = append(g.paths, r.path)
		}
		g.routes[r.path][r.method] = r
	}
	return g
}

// ServeHTTP is http.Handler's.
func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer g.answered.Add(1)
	defer func() {
		if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // it is that very value
			g.log.Error("a request of the API has failed", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			refuse(w, http.StatusInternalServerError, errors.New("a mistake in sluice: see its log, and report it"))
		}
	}()
	p := g.access.peerOf(r.Context(), r.TLS)
	route, code, err := g.find(w, r)
	if err == nil && !p.role.may(route.role) {
		code, err = http.StatusForbidden, fmt.Errorf("%s %s needs the role %s, and %s is %s: %s", r.Method, r.URL.Path, route.role, p.name, p.role, p.why)
	}
	if err == nil {
		code, err = noBody(w, r)
	}
	if err == nil {
		if len(r.URL.RawQuery) > maxQueryBytes {
			code, err = http.StatusRequestURITooLong, fmt.Errorf("the query has %d bytes, at most %d are allowed", len(r.URL.RawQuery), maxQueryBytes)
		} else if err = route.checkQuery(r); err != nil {
			code = http.StatusBadRequest
		}
	}
	if err == nil {
		code, err = g.slow(r.Context(), p)
	}
	if err != nil {
		refuse(w, code, err)
		return
	}
	if r.Method == http.MethodHead && (route.streams || route.scans || r.URL.Query().Has("watch")) {
		// Its header, as far as it is known before: nothing is captured, watched or gone through for an answer without a body.
		w.Header().Set("Content-Type", route.kind(r))
		w.WriteHeader(http.StatusOK)
		return
	}
	at := &g.quick
	switch {
	case route.streams || r.URL.Query().Has("watch"):
		at = &g.streams
	case route.scans:
		at = &g.scans
	}
	leave, code, err := at.enter(r.Context(), p)
	if err != nil {
		refuse(w, code, err)
		return
	}
	// Before it has a place a request may be as slow as it likes to be: its connection counts as idle, and gives way to others.
	done := busy(r.Context())
	if at != &g.quick {
		defer leave()
		defer done()
		route.handle(w, r)
		return
	}
	// A client that does not read its answer must not hold a place: these are short enough to be kept for it.
	a := keptAnswer{header: w.Header(), code: http.StatusOK}
	func() {
		defer leave()
		defer done()
		route.handle(&a, r)
	}()
	if a.body.Len() > largeAnswer { // of small ones there are as many as connections
		now, cancel := context.WithCancel(r.Context())
		cancel()
		leave, code, err := g.large.enter(now, p)
		if err != nil {
			refuse(w, code, err)
			return
		}
		defer leave()
	}
	w.WriteHeader(a.code)
	_, _ = w.Write(a.body.Bytes()) // the client has gone
}

// keptAnswer is an answer that is sent later.
type keptAnswer struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

// Header is http.ResponseWriter's, as are the others.
func (a *keptAnswer) Header() http.Header { return a.header }

// WriteHeader notes the status.
func (a *keptAnswer) WriteHeader(code int) { a.code = code }

// Write keeps the text.
func (a *keptAnswer) Write(b []byte) (int, error) { return a.body.Write(b) }

// find is the route of a request.
func (g *guard) find(w http.ResponseWriter, r *http.Request) (*apiRoute, int, error) {
	methods := g.routes[r.URL.Path]
	if methods == nil {
		err := fmt.Errorf("there is no %s; GET /v1/openapi.json describes what there is", shorten(r.URL.Path))
		if near := g.nearestPath(r.URL.Path); near != "" {
			err = fmt.Errorf("there is no %s; did you mean %s? GET /v1/openapi.json describes what there is", shorten(r.URL.Path), near)
		}
		return nil, http.StatusNotFound, err
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if route := methods[method]; route != nil {
		return route, 0, nil
	}
	var allowed []string
	for m := range methods {
		allowed = append(allowed, m)
		if m == http.MethodGet {
			allowed = append(allowed, http.MethodHead)
		}
	}
	slices.Sort(allowed)
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	return nil, http.StatusMethodNotAllowed, fmt.Errorf("%s is not for %s, which takes %s", shorten(r.Method), r.URL.Path, strings.Join(allowed, ", "))
}

// otherWords are what one may call what the API names otherwise.
var otherWords = map[string]string{
	"virtual-server": "virtuals", "vs": "virtuals", "virtualservers": "virtuals", "server": "members", "node": "members", "conn": "connections",
	"flow": "connections", "session": "connections", "interface": "ports", "metric": "stats", "health": "monitors", "info": "status", "settings": "config",
}

// nearestPath is the path that was most likely meant: the one that differs by the fewest edits, also without its version, of
// one thing instead of all, or by another word for it.
func (g *guard) nearestPath(path string) string {
	words := strings.Split(strings.Trim(plainName(path), "/"), "/")
	if len(words) > 0 && (words[0] == "api" || words[0] == "v1" || words[0] == "v2") {
		words = words[1:]
	}
	if len(words) > 0 && words[0] == "v1" {
		words = words[1:]
	}
	for n := len(words); n > 0; n-- { // a name may follow the thing
		last := words[n-1]
		for _, plain := range []string{last, strings.TrimSuffix(last, "s")} {
			if other := otherWords[plain]; other != "" {
				last = other
			}
		}
		if near := nearest("/v1/"+strings.Join(append(words[:n-1:n-1], last), "/"), g.paths); near != "" {
			return near
		}
		if exact := "/v1/" + strings.Join(append(words[:n-1:n-1], last), "/"); slices.Contains(g.paths, exact) {
			return exact
		}
	}
	return ""
}

// noBody refuses a request with a body: no route has a use for one, and what is silently left unread is a mistake unseen.
// It reads no more than maxBodyBytes.
func noBody(w http.ResponseWriter, r *http.Request) (int, error) {
	if r.ContentLength == 0 {
		return 0, nil
	}
	tooLarge := fmt.Errorf("the body has more than %d bytes; no request needs one, parameters are in the query", maxBodyBytes)
	if r.ContentLength > maxBodyBytes {
		w.Header().Set("Connection", "close") // else the server would read some of it
		return http.StatusRequestEntityTooLarge, tooLarge
	}
	n, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, maxBodyBytes))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return http.StatusRequestEntityTooLarge, tooLarge
	case err != nil:
		w.Header().Set("Connection", "close")
		return http.StatusBadRequest, fmt.Errorf("the body cannot be read: %w", err)
	case n > 0:
		return http.StatusBadRequest, errors.New("the request has a body; leave it out, parameters are in the query")
	}
	return 0, nil
}

// slow holds a request of a peer that sends too many, and refuses what would wait for long.
func (g *guard) slow(ctx context.Context, p peer) (int, error) {
	g.mu.Lock()
	l := g.rates[p.name]
	if l == nil {
		if len(g.rates) >= maxPeers { // of those that have not come for long nothing is lost
			for name, l := range g.rates {
				if l.Tokens() >= requestBurst {
					delete(g.rates, name)
				}
			}
		}
		l = rate.NewLimiter(requestRate, requestBurst)
		if len(g.rates) < maxPeers {
			g.rates[p.name] = l
		}
	}
	g.mu.Unlock()
	res := l.Reserve()
	wait := res.Delay()
	if wait == 0 {
		return 0, nil
	}
	if wait > maxWait {
		res.Cancel()
		return http.StatusTooManyRequests, retryLater{wait, fmt.Errorf("%s sends more than %d requests a second: send fewer, or ask for a stream (watch=1s)", p.name, requestRate)}
	}
	select {
	case <-time.After(wait):
		return 0, nil
	case <-ctx.Done():
		return http.StatusServiceUnavailable, ctx.Err()
	}
}

// retryLater is a refusal that ends by itself.
type retryLater struct {
	after time.Duration
	error
}

// apiError is every answer that is not what was asked for.
type apiError struct {
	Error string `json:"error"` // what is wrong, and what to do
}

// refuse answers with an error.
func refuse(w http.ResponseWriter, code int, err error) {
	var later retryLater
	if errors.As(err, &later) {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(later.after.Seconds()))))
	}
	reply(w, code, apiError{err.Error()})
}

func reply(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client has gone
}
