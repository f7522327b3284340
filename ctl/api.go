package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"sluice/engine"
)

// Version is the program's version.
const Version = "0.1.0"

// api serves HTTP/JSON over a unix socket that only its owner and group may use, and metrics over TCP where set.
// A request never holds up a worker: what it asks of one is answered between two bursts, in bounded pieces.
type api struct {
	servers []*http.Server
	socket  string
	// The listeners, for a successor.
	control, metrics net.Listener
}

// askTimeout bounds what a request waits for the workers.
const askTimeout = 2 * time.Second

func (s *Server) listen() (*api, error) {
	control, err := listenControl(s.file.Control.Socket)
	if err != nil {
		return nil, err
	}
	var metrics net.Listener
	if addr := s.metricsAddr(); addr != "" {
		if metrics, err = listenMetrics(addr); err != nil {
			control.Close()
			_ = os.Remove(s.file.Control.Socket)
			return nil, err
		}
	}
	return s.serve(control, metrics), nil
}

// listenControl listens on the control socket. The lock of the namespace is ours; a socket that is there is either dead or of
// another namespace.
func listenControl(path string) (net.Listener, error) {
	if _, err := os.Stat(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("open the control socket: make its folder first, or set control.socket to another path: %w", err)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("the control socket %s belongs to a running sluice; set control.socket to another path", path)
	}
	if st, err := os.Lstat(path); err == nil {
		if st.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("open the control socket: %s is there and is not a socket; remove it or set control.socket to another path", path)
		}
		_ = os.Remove(path)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("open the control socket: %w", err)
	}
	ln.SetUnlinkOnClose(false) // a successor may have it by then
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, errors.Join(err, ln.Close(), os.Remove(path))
	}
	return ln, nil
}

func listenMetrics(addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for metrics (control.metrics): %w", err)
	}
	return ln, nil
}

// serve answers on listeners, of which metrics may be nil.
func (s *Server) serve(control, metrics net.Listener) *api {
	a := &api{socket: s.file.Control.Socket, control: control, metrics: metrics}
	a.serve(control, s.handler())
	if metrics != nil {
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", s.metrics())
		a.serve(metrics, mux)
	}
	return a
}

func (a *api) serve(ln net.Listener, h http.Handler) {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	a.servers = append(a.servers, srv)
	go func() { _ = srv.Serve(ln) }() // ends with ErrServerClosed
}

func (a *api) close() {
	if a == nil {
		return
	}
	a.leave()
	_ = os.Remove(a.socket)
}

// leave ends the answering here; a successor has the socket.
func (a *api) leave() {
	for _, srv := range a.servers {
		_ = srv.Close()
	}
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", s.withSnapshots(func(n []engine.Snapshot) any { return s.statusView(n) }))
	mux.HandleFunc("GET /v1/virtuals", s.withSnapshots(func(n []engine.Snapshot) any { return s.virtualViews(n) }))
	mux.HandleFunc("GET /v1/pools", s.withSnapshots(func(n []engine.Snapshot) any { return s.poolViews(n) }))
	mux.HandleFunc("GET /v1/members", s.withSnapshots(func(n []engine.Snapshot) any { return s.memberViews(n) }))
	mux.HandleFunc("GET /v1/workers", s.withSnapshots(func(n []engine.Snapshot) any { return s.workerViews(n) }))
	mux.HandleFunc("GET /v1/ports", s.withSnapshots(func(n []engine.Snapshot) any { return s.portViews(n) }))
	mux.HandleFunc("GET /v1/drops", s.withSnapshots(func(n []engine.Snapshot) any {
		sum := total(n)
		return Drops(&sum)
	}))
	mux.HandleFunc("GET /v1/config", s.config)
	mux.HandleFunc("POST /v1/reload", s.reload)
	mux.HandleFunc("GET /v1/monitors", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, s.health.monitorViews()) })
	mux.HandleFunc("POST /v1/members/order", s.postOrder)
	mux.HandleFunc("POST /v1/virtuals/order", s.postVirtualOrder)
	mux.HandleFunc("GET /v1/connections", s.connections)
	mux.HandleFunc("GET /v1/connections/export", s.exportConnections)
	mux.HandleFunc("DELETE /v1/connections", s.deleteConnections)
	return mux
}

func total(snaps []engine.Snapshot) (sum engine.Stats) {
	for i := range snaps {
		sum.Add(&snaps[i].Stats)
	}
	return sum
}

func (s *Server) withSnapshots(view func([]engine.Snapshot) any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
		defer cancel()
		snaps, err := s.engine.Snapshots(ctx)
		if err != nil {
			reply(w, http.StatusServiceUnavailable, apiError{err.Error()})
			return
		}
		s.mu.RLock()
		v := view(snaps)
		s.mu.RUnlock()
		reply(w, http.StatusOK, v)
	}
}

type apiError struct {
	Error string `json:"error"`
}

func reply(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client has gone
}

func (s *Server) statusView(snaps []engine.Snapshot) StatusView {
	sum := total(snaps)
	v := StatusView{
		Version: Version, PID: os.Getpid(), UptimeMS: time.Since(s.began).Milliseconds(), File: s.file.Name,
		Generation: s.engine.Config().Generation, Workers: s.plan.workers, Memory: s.memoryViews(), Changes: s.health.changesView(),
		Totals: TotalsView{
			Opened: sum.Opened, Received: sum.RxPackets, ToServer: sum.ToServer, ToClient: sum.ToClient,
			ToHost: sum.ToHost, Sent: sum.TxPackets, Dropped: sum.Dropped(),
			Ended: sum.Ended, Evicted: sum.Evicted, Resets: sum.Resets, OutOfWindow: sum.Outside, ICMPErrors: sum.Errors, ICMPSent: sum.ICMPSent, Echoes: sum.Echoes,
		},
	}
	for i := range snaps {
		v.Totals.Connections += snaps[i].Connections
	}
	return v
}

func (s *Server) reload(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	v, err := s.Reload(ctx)
	if err != nil {
		reply(w, http.StatusConflict, apiError{err.Error()})
		return
	}
	reply(w, http.StatusOK, v)
}

// MaxConnections bounds one answer.
const MaxConnections = 10_000

func (s *Server) connections(w http.ResponseWriter, r *http.Request) {
	match, limit, err := parseFilter(r)
	if err != nil {
		reply(w, http.StatusBadRequest, apiError{err.Error()})
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
	defer cancel()
	conns, err := s.engine.Connections(ctx, limit, match)
	if err != nil {
		reply(w, http.StatusServiceUnavailable, apiError{err.Error()})
		return
	}
	out := make([]ConnView, len(conns))
	for i := range conns {
		out[i] = connView(&conns[i])
	}
	reply(w, http.StatusOK, out)
}

// exportConnections writes every connection that matches, one JSON object a line, as the workers hand them out.
func (s *Server) exportConnections(w http.ResponseWriter, r *http.Request) {
	match, _, err := parseFilter(r)
	if err != nil {
		reply(w, http.StatusBadRequest, apiError{err.Error()})
		return
	}
	// Ten million lines take longer than other answers; a reader that stands still is given up.
	ctl := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := json.NewEncoder(w)
	_ = s.engine.EachConnection(r.Context(), match, func(c *engine.Conn) bool {
		_ = ctl.SetWriteDeadline(time.Now().Add(10 * time.Second))
		return out.Encode(connView(c)) == nil
	}) // without the engine the lines end
}

// deleteConnections removes the connections that match. Without any filter but a limit it refuses: all is said by all=true.
func (s *Server) deleteConnections(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	all, reset := q.Get("all") == "true", q.Get("reset") == "true"
	q.Del("all")
	q.Del("reset")
	r.URL.RawQuery = q.Encode()
	match, limit, err := parseFilter(r)
	if q.Get("limit") == "" {
		limit = math.MaxInt
	}
	q.Del("limit")
	if err == nil && len(q) == 0 && !all {
		err = errors.New("say which connections, by client, virtual, member, state or protocol, or all")
	}
	if err != nil {
		reply(w, http.StatusBadRequest, apiError{err.Error()})
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
	defer cancel()
	n, err := s.engine.DeleteConnections(ctx, limit, reset, match)
	if err != nil {
		reply(w, http.StatusServiceUnavailable, apiError{err.Error()})
		return
	}
	reply(w, http.StatusOK, DeletedView{n})
}

// DeletedView is the answer to a deletion.
type DeletedView struct {
	Deleted int `json:"deleted"`
}

// parseFilter reads client, virtual, member, state, protocol and limit. An address may stand with or without port.
func parseFilter(r *http.Request) (match func(*engine.Conn) bool, limit int, err error) {
	q := r.URL.Query()
	limit = 100
	if l := q.Get("limit"); l != "" {
		if limit, err = strconv.Atoi(l); err != nil || limit < 1 || limit > MaxConnections {
			return nil, 0, fmt.Errorf("limit %q is not a number from 1 to %d", l, MaxConnections)
		}
	}
	for k := range q {
		switch k {
		case "limit", "client", "virtual", "member", "state", "protocol":
		default:
			return nil, 0, fmt.Errorf("unknown filter %q; there are client, virtual, member, state, protocol, limit", k)
		}
	}
	if v := q.Get("state"); v != "" && !slices.Contains(connStates(), v) {
		return nil, 0, fmt.Errorf("unknown state %q; there are %s", v, strings.Join(connStates(), ", "))
	}
	for _, k := range []string{"client", "virtual", "member"} {
		if v := q.Get(k); v != "" && k == "client" && !isEndpoint(v) {
			return nil, 0, fmt.Errorf("client %q is neither an address nor address:port", v)
		}
	}
	client, virtual, member := canonical(q.Get("client")), canonical(q.Get("virtual")), canonical(q.Get("member"))
	state, proto := q.Get("state"), q.Get("protocol")
	return func(c *engine.Conn) bool {
		v := connView(c)
		return (client == "" || isAt(v.ClientSideClient, client)) &&
			(virtual == "" || v.VirtualServer == virtual || isAt(v.ClientSideServer, virtual)) &&
			(member == "" || v.Member == member || isAt(v.ServerSideServer, member)) &&
			(state == "" || v.State == state) && (proto == "" || v.Protocol == proto)
	}, limit, nil
}

// isAt reports whether the endpoint is at want, an address or address:port.
func isAt(endpoint, want string) bool {
	if endpoint == want {
		return true
	}
	ap, err := netip.ParseAddrPort(endpoint)
	return err == nil && ap.Addr().String() == want
}

func isEndpoint(s string) bool {
	_, errA := netip.ParseAddr(s)
	_, errP := netip.ParseAddrPort(s)
	return errA == nil || errP == nil
}

// canonical writes an address the way views do; other words stay.
func canonical(s string) string {
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return a.String()
	}
	if p, err := netip.ParseAddrPort(s); err == nil {
		return p.String()
	}
	return s
}

// metrics is the Prometheus endpoint.
func (s *Server) metrics() http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(&collectorOf{s}, collectors.NewGoCollector())
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
}

// ErrNoServer is returned when nothing answers at the control socket.
var ErrNoServer = errors.New("no sluice answers")

// Get asks the API at socket for path and decodes the answer into v.
func Get(ctx context.Context, socket, path string, v any) error {
	return call(ctx, http.MethodGet, socket, path, 30*time.Second, func(body io.Reader) error { return json.NewDecoder(body).Decode(v) })
}

// Delete asks the API at socket to delete what path names, and decodes the answer into v.
func Delete(ctx context.Context, socket, path string, v any) error {
	return call(ctx, http.MethodDelete, socket, path, 30*time.Second, func(body io.Reader) error { return json.NewDecoder(body).Decode(v) })
}

// Post asks the API at socket to do what path names, and decodes the answer into v.
func Post(ctx context.Context, socket, path string, v any) error {
	return call(ctx, http.MethodPost, socket, path, 30*time.Second, func(body io.Reader) error { return json.NewDecoder(body).Decode(v) })
}

// Copy writes the API's answer to path to w as it comes.
func Copy(ctx context.Context, socket, path string, w io.Writer) error {
	return call(ctx, http.MethodGet, socket, path, 0, func(body io.Reader) error {
		_, err := io.Copy(w, body)
		return err
	})
}

func call(ctx context.Context, method, socket, path string, timeout time.Duration, read func(io.Reader) error) error {
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}, Timeout: timeout}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, method, "http://sluice"+path, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("no permission for %s; run as root or in its group", socket)
		}
		return fmt.Errorf("%w at %s; is it running (sluice run -c FILE), with this control.socket? (%v)", ErrNoServer, socket, unwrapURL(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		var e apiError
		if json.NewDecoder(resp.Body).Decode(&e) != nil || e.Error == "" {
			e.Error = resp.Status
		}
		return errors.New(e.Error)
	}
	return read(resp.Body)
}

func unwrapURL(err error) error {
	if u := errors.Unwrap(err); u != nil {
		return u
	}
	return err
}
