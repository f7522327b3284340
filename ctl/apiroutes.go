package ctl

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/engine"
)

// The routes are the API: requests are checked by this list before anything is done for them, and openapi.json is generated from
// it (go test ./ctl -run OpenAPI -update) with the comments of the views. A new route needs an entry here and no more.

// apiRoute is one method of one path.
type apiRoute struct {
	method, path string
	summary      string
	role         Role // the least that may
	params       []param
	answer       any    // a value of the answer's type; nil: media says what it is
	media        string // of an answer that is not JSON
	watch        bool   // takes watch: the answer again and again
	streams      bool   // the answer is written as it comes
	scans        bool   // goes through all connections
	example      string // of a query, where there must be one
	handle       http.HandlerFunc
}

// param is a parameter in the query.
type param struct {
	name, text string
	kind       paramKind
	words      []string // of a word
	low, high  int      // of a number
	required   bool
	times      int // how often it may be given; 0 is once
}

type paramKind string

const (
	textParam     paramKind = "text"
	wordParam     paramKind = "word"
	numberParam   paramKind = "number"
	flagParam     paramKind = "flag"     // true or false
	durationParam paramKind = "duration" // such as 500ms
)

const (
	leastWatch   = 100 * time.Millisecond
	longestWatch = 24 * time.Hour
	maxText      = 256 // bytes of a parameter
)

//go:embed openapi.json
var openAPI []byte

// OpenAPI is the description of the API, as /v1/openapi.json serves it.
func OpenAPI() []byte { return openAPI }

var watchParam = param{name: "watch", kind: durationParam, text: "Answer again each time this has passed, 100ms to 24h, a JSON document a line (application/x-ndjson), until the client ends it."}

var connectionFilters = []param{
	{name: "client", kind: textParam, text: "Only those of this client: an address, or address:port."},
	{name: "virtual", kind: textParam, text: "Only those to this virtual server: its name, address or address:port."},
	{name: "member", kind: textParam, text: "Only those to this member: its name, address or address:port."},
	{name: "state", kind: wordParam, words: ConnStates(), text: "Only those in this state."},
	{name: "protocol", kind: textParam, text: "Only those of this protocol: tcp, udp, sctp, icmp or its number."},
}

var memberParams = []param{
	{name: "pool", kind: textParam, required: true, text: "Name of the pool."},
	{name: "member", kind: textParam, required: true, text: "Name or address of the member."},
}

var captureParams = []param{
	{name: "protocol", kind: textParam, text: "Only this protocol: tcp, udp, sctp, icmp or a number."},
	{name: "end", kind: textParam, times: 2, text: "Only packets from or to this ADDRESS or ADDRESS:PORT; given twice: between both."},
	{name: "virtual", kind: textParam, text: "Only those of this virtual server."},
	{name: "member", kind: textParam, text: "Only those of this member: NAME or POOL/NAME."},
	{name: "port", kind: textParam, text: "Only those that arrive on or leave by this port."},
	{name: "worker", kind: numberParam, high: engine.Bins, text: "Only those of this worker."},
	{name: "drops", kind: flagParam, text: "Only what is dropped."},
	{name: "reason", kind: textParam, text: "Only what is dropped, or answered, for this reason."},
	{name: "count", kind: numberParam, low: 1, high: 1 << 40, text: "End after so many packets; 10000 if it is left out."},
	{name: "bytes", kind: numberParam, low: 1, high: 1 << 40, text: "End after so many bytes of frames; 268435456 if it is left out."},
	{name: "duration", kind: durationParam, text: "End after this time, at most 24h; 1m if it is left out."},
	{name: "snap", kind: numberParam, high: 1 << 16, text: "Keep so many bytes of each frame; all if it is left out."},
	{name: "sample", kind: numberParam, low: 1, high: 1 << 30, text: "Look at one in so many packets."},
	{name: "ring", kind: numberParam, low: 1 << 14, high: maxCaptureRing, text: "How many bytes a worker may be ahead of the reader; 4194304 if it is left out."},
}

func (s *Server) routes() []apiRoute {
	limit := param{name: "limit", kind: numberParam, low: 1, high: MaxConnections, text: "At most so many; 100 if it is left out."}
	list := func(path, summary string, answer any, view func([]engine.Snapshot) any) apiRoute {
		return apiRoute{method: http.MethodGet, path: path, summary: summary, role: RoleRead, answer: answer, watch: true, handle: s.withSnapshots(view)}
	}
	return append([]apiRoute{
		{method: http.MethodGet, path: "/v1/openapi.json", summary: "this description", role: RoleRead, media: "application/json", handle: getOpenAPI},
		list("/v1/status", "the engine as a whole", StatusView{}, func(n []engine.Snapshot) any { return s.statusView(n) }),
		list("/v1/stats", "everything that lists show, at one moment", StatsView{}, func(n []engine.Snapshot) any { return s.statsView(n) }),
		list("/v1/virtuals", "virtual servers", []VirtualView{}, func(n []engine.Snapshot) any { return s.virtualViews(n) }),
		list("/v1/pools", "pools", []PoolView{}, func(n []engine.Snapshot) any { return s.poolViews(n) }),
		list("/v1/members", "members of pools", []MemberView{}, func(n []engine.Snapshot) any { return s.memberViews(n) }),
		list("/v1/workers", "workers", []WorkerView{}, func(n []engine.Snapshot) any { return s.workerViews(n) }),
		list("/v1/ports", "ports", []PortView{}, func(n []engine.Snapshot) any { return s.portViews(n) }),
		list("/v1/drops", "reasons for dropped packets, and their counts", []DropView{}, func(n []engine.Snapshot) any {
			sum := total(n)
			return Drops(&sum)
		}),
		list("/v1/monitors", "what monitors say about members", []MonitorView{}, func([]engine.Snapshot) any { return s.health.monitorViews() }),
		{method: http.MethodGet, path: "/v1/config", summary: "the configuration in force, and what operators have ordered beside it", role: RoleRead, answer: ConfigView{}, handle: s.config},
		{method: http.MethodPost, path: "/v1/reload", summary: "read the file again and apply what differs", role: RoleAdmin, answer: ReloadView{}, handle: s.reload},
		{method: http.MethodPost, path: "/v1/members/order", summary: "order something about a member, or take it back", role: RoleAdmin, answer: OrderView{}, handle: s.postOrder,
			params: append(slices.Clip(memberParams),
				param{name: "action", kind: wordParam, words: []string{OrderDrain, OrderDisable, OrderForceOff, OrderEnable}, required: true, text: "What is ordered; enable takes it back."},
				param{name: "deadline", kind: durationParam, text: "Of a drain: how long connections may take to end."},
				param{name: "then", kind: wordParam, words: []string{ThenLeave, ThenReset}, text: "Of a drain with a deadline: what happens to the rest then; leave if it is left out."})},
		{method: http.MethodPost, path: "/v1/members/weight", summary: "give a member another weight than the file, or take that back", role: RoleAdmin, answer: WeightView{}, handle: s.postWeight,
			params: append(slices.Clip(memberParams), param{name: "weight", kind: textParam, required: true, text: "A number from 0 to 65535, or the word file: what the file says."})},
		{method: http.MethodPost, path: "/v1/virtuals/order", summary: "give a virtual server no new connections, or take that back", role: RoleAdmin, answer: VirtualOrderView{}, handle: s.postVirtualOrder,
			params: []param{{name: "name", kind: textParam, required: true, text: "Name of the virtual server."},
				{name: "action", kind: wordParam, words: []string{OrderDisable, OrderEnable}, required: true, text: "What is ordered; enable takes it back."}}},
		{method: http.MethodGet, path: "/v1/explain", summary: "what the running engine would do with a packet, without doing it", role: RoleRead, answer: ExplainView{}, handle: s.explain, example: "protocol=tcp&source=172.16.10.55:4003&destination=10.10.1.100:80",
			params: []param{{name: "protocol", kind: textParam, required: true, text: "tcp, udp, sctp, icmp or a number."},
				{name: "source", kind: textParam, required: true, text: "ADDRESS:PORT of the packet's source."},
				{name: "destination", kind: textParam, required: true, text: "ADDRESS:PORT of its destination."},
				{name: "port", kind: textParam, text: "Name of the port on which it arrives."}}},
		{method: http.MethodGet, path: "/v1/connections", summary: "connections", role: RoleRead, answer: []ConnView{}, scans: true, handle: s.connections,
			params: append(slices.Clip(connectionFilters), limit)},
		{method: http.MethodGet, path: "/v1/connections/export", summary: "all connections, one as JSON a line; while workers change one may come twice, the second time as it is then", role: RoleRead, media: "application/x-ndjson", answer: ConnView{}, scans: true, streams: true,
			params: connectionFilters, handle: s.exportConnections},
		{method: http.MethodDelete, path: "/v1/connections", summary: "take connections out of the table: those that a filter names, or all", role: RoleAdmin, answer: DeletedView{}, scans: true, handle: s.deleteConnections,
			params: append(slices.Clip(connectionFilters), limit,
				param{name: "all", kind: flagParam, text: "Every connection."},
				param{name: "reset", kind: flagParam, text: "Send a RST to both ends of each TCP connection."})},
	}, append(s.captureRoutes(), s.persistenceRoutes(limit)...)...)
}

func getOpenAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(openAPI)
}

// kind is the media type of the answer to a request.
func (r *apiRoute) kind(req *http.Request) string {
	switch {
	case req.URL.Query().Has("watch"):
		return "application/x-ndjson"
	case r.media != "":
		return r.media
	}
	return "application/json"
}

// checkQuery refuses parameters that the route does not have, and values that are none.
func (r *apiRoute) checkQuery(req *http.Request) error {
	params := r.params
	if r.watch {
		params = append(slices.Clip(params), watchParam)
	}
	q, err := url.ParseQuery(req.URL.RawQuery)
	if err != nil {
		return fmt.Errorf("the query cannot be read: %w", err)
	}
	var names []string
	for i := range params {
		names = append(names, params[i].name)
	}
	for k, values := range q {
		i := slices.Index(names, k)
		switch {
		case i < 0 && len(names) == 0:
			return fmt.Errorf("%s takes no parameters, not %q", r.path, shorten(k))
		case i < 0:
			if near := nearest(k, names); near != "" {
				return fmt.Errorf("no parameter %q; did you mean %s? There are %s", shorten(k), near, strings.Join(names, ", "))
			}
			return fmt.Errorf("no parameter %q; there are %s", shorten(k), strings.Join(names, ", "))
		case len(values) > max(1, params[i].times):
			return fmt.Errorf("%s is given %d times", k, len(values))
		}
		for _, v := range values {
			if v == "" {
				continue // as if it were not there
			}
			if err := params[i].check(v); err != nil {
				return err
			}
		}
	}
	for i := range params {
		if params[i].required && q.Get(params[i].name) == "" {
			return fmt.Errorf("%s %s needs %s", r.method, r.path, params[i].name)
		}
	}
	return nil
}

func (p *param) check(v string) error {
	if len(v) > maxText {
		return fmt.Errorf("%s has %d bytes, at most %d are allowed", p.name, len(v), maxText)
	}
	switch p.kind {
	case wordParam:
		if slices.Contains(p.words, v) {
			return nil
		}
		if near := nearest(v, p.words); near != "" {
			return fmt.Errorf("unknown %s %q; did you mean %s? There are %s", p.name, shorten(v), near, strings.Join(p.words, ", "))
		}
		return fmt.Errorf("unknown %s %q; there are %s", p.name, shorten(v), strings.Join(p.words, ", "))
	case numberParam:
		if n, err := strconv.Atoi(v); err != nil || n < p.low || n > p.high {
			return fmt.Errorf("%s %q is not a number from %d to %d", p.name, shorten(v), p.low, p.high)
		}
	case flagParam:
		if v != "true" && v != "false" {
			return fmt.Errorf("%s %q is neither true nor false", p.name, shorten(v))
		}
	case durationParam:
		d, err := time.ParseDuration(v)
		if err != nil || d <= 0 {
			return fmt.Errorf("%s %q is not a time such as 500ms or 10m", p.name, shorten(v))
		}
		if p.name == watchParam.name && (d < leastWatch || d > longestWatch) {
			return fmt.Errorf("watch %s is not between %s and %s", d, leastWatch, longestWatch)
		}
	}
	return nil
}

// withSnapshots answers with a view of what the workers count, once or with watch again and again.
func (s *Server) withSnapshots(view func([]engine.Snapshot) any) http.HandlerFunc {
	look := func(ctx context.Context) (any, error) {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		snaps, err := s.shots.get(ctx)
		if err != nil {
			return nil, err
		}
		s.mu.RLock()
		defer s.mu.RUnlock()
		return view(snaps), nil
	}
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := look(r.Context())
		if err != nil {
			refuse(w, http.StatusServiceUnavailable, err)
			return
		}
		every, err := time.ParseDuration(r.URL.Query().Get("watch"))
		if err != nil {
			reply(w, http.StatusOK, v)
			return
		}
		watch(w, r, every, v, look)
	}
}

// streamTime is how long a reader of a stream may stand still.
const streamTime = 10 * time.Second

// watch writes a document a line, first v and then what look finds each time, until the client ends it, stands still, or the
// engine ends.
func watch(w http.ResponseWriter, r *http.Request, every time.Duration, v any, look func(context.Context) (any, error)) {
	ctl := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	out := json.NewEncoder(w)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		_ = ctl.SetWriteDeadline(time.Now().Add(streamTime))
		if out.Encode(v) != nil || ctl.Flush() != nil {
			return
		}
		select {
		case <-ticker.C:
		case <-r.Context().Done():
			return
		}
		var err error
		if v, err = look(r.Context()); err != nil {
			return // the end of the lines says so
		}
	}
}
