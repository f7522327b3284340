package ctl

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sys/unix"

	"sluice/engine"
)

// Version is the program's version.
const Version = "0.1.0"

// api serves HTTP/JSON over a unix socket and, with mutual TLS, over TCP, and metrics over TCP where set. A request never holds up
// a worker: what it asks of one is answered between two bursts, in bounded pieces.
//
//	door: connections ─▶ guard: who, what, how many ─▶ a handler of routes
type api struct {
	servers []*http.Server
	doors   []*door
	socket  string
	// ownSocket is what was at that path when it began: what somebody has put there since is not ours to remove.
	ownSocket fileID
	listeners
	certs      atomic.Pointer[tls.Config] // of remote
	remoteDoor *door                      // nil: not set
	answered   *atomic.Uint64             // requests
	working    working
}

// listeners are where an api answers; a successor goes on with them.
type listeners struct {
	control         net.Listener
	remote, metrics net.Listener // nil: not set
}

func (l *listeners) close() {
	for _, ln := range []net.Listener{l.control, l.remote, l.metrics} {
		if ln != nil {
			_ = ln.Close()
		}
	}
}

// askTimeout bounds what a request waits for the workers.
const askTimeout = 2 * time.Second

func (s *Server) listen() (_ *api, err error) {
	var l listeners
	if l.control, err = listenControl(s.file.Control.Socket, s.access.group); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			l.close()
			_ = os.Remove(s.file.Control.Socket)
		}
	}()
	if a := s.file.Control.Listen; a.IsValid() {
		if l.remote, err = listenTCP("control.listen", a.String()); err != nil {
			return nil, err
		}
	}
	if addr := s.metricsAddr(); addr != "" {
		if l.metrics, err = listenTCP("control.metrics", addr); err != nil {
			return nil, err
		}
	}
	return s.serve(l), nil
}

// listenControl listens on the control socket, which gets that group unless it is -1. The lock of the namespace is ours; a socket that is there is either dead or of
// another namespace.
func listenControl(path string, group int) (net.Listener, error) {
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
	if err := openTo(path, group); err != nil {
		return nil, errors.Join(err, ln.Close(), os.Remove(path))
	}
	return ln, nil
}

// fileID tells a file from another one at its path.
type fileID struct{ dev, inode uint64 }

// fileAt is what is at a path, which is not followed; the zero value is nothing.
func fileAt(path string) fileID {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return fileID{}
	}
	return fileID{uint64(st.Dev), st.Ino}
}

func (f fileID) is(path string) bool { return f != fileID{} && fileAt(path) == f }

// openTo lets a group use the control socket.
func openTo(path string, group int) error {
	if group >= 0 {
		if err := os.Chown(path, -1, group); err != nil {
			return fmt.Errorf("give the control socket to group %d (control.group, control.admin-group): have sluice's user in that group, or start it with CAP_CHOWN: %w", group, err)
		}
	}
	return os.Chmod(path, 0o660)
}

func listenTCP(key, addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s (%s); is the address this host's, and free? %w", addr, key, err)
	}
	return ln, nil
}

// serve answers on listeners.
func (s *Server) serve(l listeners) *api {
	a := &api{socket: s.file.Control.Socket, ownSocket: fileAt(s.file.Control.Socket), listeners: l}
	s.shots.take = func(ctx context.Context) ([]engine.Snapshot, error) {
		if !a.working.enter() {
			return nil, engine.ErrStopped
		}
		defer a.working.leave()
		return s.engine.Snapshots(ctx)
	}
	g := newGuard(s.access, s.log, s.routes())
	a.answered = &g.answered
	a.serve(newDoor(l.control, s.access, s.log), g, nil)
	if l.remote != nil {
		a.certs.Store(s.certs)
		a.remoteDoor = newDoor(l.remote, s.access, s.log)
		a.serve(a.remoteDoor, a.onlyTrusted(g), a.secure())
	}
	if l.metrics != nil {
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", s.metrics())
		a.serve(newDoor(l.metrics, nil, s.log), mux, nil)
	}
	return a
}

func (a *api) serve(d *door, h http.Handler, secure *tls.Config) {
	srv := d.server(a.working.around(h))
	a.servers, a.doors = append(a.servers, srv), append(a.doors, d)
	var ln net.Listener = d
	if secure != nil {
		ln = tls.NewListener(d, secure)
	}
	go func() { _ = srv.Serve(ln) }() // ends with ErrServerClosed
}

func (a *api) close(captures *captureEnd) {
	if a == nil {
		return
	}
	a.leave(captures.stop(endShutdown))
	a.working.close()
	if a.ownSocket.is(a.socket) {
		_ = os.Remove(a.socket)
	}
}

// captureEndTime is how long a capture that was told to end has for the rest of its packets and its counts.
const captureEndTime = time.Second

// leave ends the answering here; a successor has the socket. What still asks the engine is waited for by working.close. An answer
// that is about to end by itself, a capture's, gets a moment for that.
func (a *api) leave(ending bool) {
	if ending {
		ctx, cancel := context.WithTimeout(context.Background(), captureEndTime)
		defer cancel()
		for _, srv := range a.servers {
			_ = srv.Shutdown(ctx) // listens no more, and waits
		}
	}
	for i, srv := range a.servers {
		_ = srv.Close()
		_ = a.doors[i].Close()
	}
}

func total(snaps []engine.Snapshot) (sum engine.Stats) {
	for i := range snaps {
		sum.Add(&snaps[i].Stats)
	}
	return sum
}

func (s *Server) statusView(snaps []engine.Snapshot) StatusView {
	sum := total(snaps)
	v := StatusView{
		Version: Version, PID: os.Getpid(), UptimeMS: time.Since(s.began).Milliseconds(), File: s.file.Name,
		Generation: s.engine.Config().Generation, Workers: s.plan.workers, Memory: s.memoryViews(), Changes: s.health.changesView(),
		Totals: TotalsView{
			Opened: sum.Opened, Received: sum.RxPackets, ToServer: sum.ToServer, ToClient: sum.ToClient,
			ToHost: sum.ToHost, Sent: sum.TxPackets, Answered: sum.Answered, Dropped: sum.Dropped(), Unsent: sum.Unsent, Made: sum.Made,
			Ended: sum.Ended, Moved: sum.Moved, Evicted: sum.Evicted, Resets: sum.Resets, OutOfWindow: sum.Outside, ICMPErrors: sum.Errors, ICMPSent: sum.ICMPSent, Split: sum.Split, Echoes: sum.Echoes, Recomputed: sum.Recomputed,
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
	var partly *PartlyInForceError
	switch {
	case errors.As(err, &partly): // no conflict with the file
		refuse(w, http.StatusInternalServerError, err)
		return
	case err != nil:
		refuse(w, http.StatusConflict, err)
		return
	}
	reply(w, http.StatusOK, v)
}

// MaxConnections bounds one answer.
const MaxConnections = 10_000

func (s *Server) connections(w http.ResponseWriter, r *http.Request) {
	match, limit, err := parseFilter(r)
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
	defer cancel()
	conns, err := s.engine.Connections(ctx, limit, match)
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, err)
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
		refuse(w, http.StatusBadRequest, err)
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
	match, limit, err := parseFilter(r)
	if q.Get("limit") == "" {
		limit = math.MaxInt
	}
	filtered := slices.ContainsFunc(connectionFilters, func(p param) bool { return q.Get(p.name) != "" })
	if err == nil && !filtered && q.Get("all") != "true" {
		err = errors.New("say which connections, by client, virtual, member, state or protocol, or all")
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
	defer cancel()
	n, err := s.engine.DeleteConnections(ctx, limit, q.Get("reset") == "true", match)
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, err)
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
		limit, _ = strconv.Atoi(l) // a number: the guard has looked
	}
	if v := q.Get("client"); v != "" && !isEndpoint(v) {
		return nil, 0, fmt.Errorf("client %q is neither an address nor address:port", v)
	}
	client, virtual, member := canonical(q.Get("client")), canonical(q.Get("virtual")), canonical(q.Get("member"))
	state, proto := q.Get("state"), q.Get("protocol")
	if proto != "" {
		n, err := parseProtocol(proto)
		if err != nil {
			return nil, 0, err
		}
		proto = protocolName(n)
	}
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
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}
