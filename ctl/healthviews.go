package ctl

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"sluice/ctl/monitor"
	"sluice/engine"
)

// MonitorView is one monitor about one member.
type MonitorView struct {
	Pool         string  `json:"pool"`
	Member       string  `json:"member"`
	Monitor      string  `json:"monitor"`
	Type         string  `json:"type"`
	Address      string  `json:"address"` // that is probed
	Verdict      string  `json:"verdict"` // checking | up | down
	Since        string  `json:"since"`   // RFC 3339
	Cause        string  `json:"cause"`   // of the last change
	Changes      int     `json:"changes"`
	Last         string  `json:"last"`       // outcome of the last probe: success | failure | inconclusive
	LastCause    string  `json:"last_cause"` // what was seen, or wrong
	LastMS       float64 `json:"last_ms"`
	Consecutive  int     `json:"consecutive"` // results like the last
	Probes       uint64  `json:"probes"`
	Failures     uint64  `json:"failures"`
	Inconclusive uint64  `json:"inconclusive"` // probes that could not be made
}

// ChangesView is how fast changes of members reached the workers: from the verdict to the last acknowledgement.
type ChangesView struct {
	Count uint64 `json:"count"`
	P50US int64  `json:"p50_us"`
	P99US int64  `json:"p99_us"`
	MaxUS int64  `json:"max_us"` // of the last 4096, as the others
}

func (h *health) monitorViews() []MonitorView {
	out := []MonitorView{}
	if h.checker == nil {
		return out
	}
	for _, p := range h.checker.Pairs() {
		k := keyOfChecked(p.Member)
		out = append(out, MonitorView{
			Pool: k.pool, Member: k.member, Monitor: p.Monitor, Type: string(p.Type), Address: p.Address.String(),
			Verdict: p.Verdict.String(), Since: p.Since.UTC().Format(time.RFC3339), Cause: p.Cause, Changes: p.Changes,
			Last: p.LastOutcome.String(), LastCause: p.Last.Cause, LastMS: float64(p.Last.Latency.Microseconds()) / 1000,
			Consecutive: p.Consecutive, Probes: p.Probes, Failures: p.Failures, Inconclusive: p.Inconclusive,
		})
	}
	return out
}

func (h *health) changesView() ChangesView {
	h.mu.Lock()
	sorted, n := slices.Clone(h.took.list), h.took.n
	h.mu.Unlock()
	slices.Sort(sorted)
	at := func(q float64) int64 { return h.took.quantile(sorted, q).Microseconds() }
	return ChangesView{Count: n, P50US: at(0.5), P99US: at(0.99), MaxUS: at(1)}
}

// show fills in a member's state, its cause and since when. What an operator has ordered comes first, then what keeps packets
// from it, then what monitors say.
func (h *health) show(v *MemberView, m *engine.MemberInfo) {
	switch {
	case !m.Hop.OK:
		v.State = "no-neighbour"
	case m.Weight == 0:
		v.State = "disabled"
	}
	if h == nil {
		return // a replay has no monitors
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	k := h.members[memberKey{v.Pool, v.Name}]
	if k == nil {
		return // of a configuration that is on its way out
	}
	if w := h.orders.weight(memberKey{v.Pool, v.Name}); w != nil {
		file := w.File // the view outlives the lock
		v.FileWeight = &file
	}
	v.Verdict, v.Cause, v.Changes = k.verdict.String(), k.cause, k.changes
	since := k.since
	switch {
	case k.order != nil:
		v.State = map[string]string{OrderDrain: "draining", OrderDisable: "disabled", OrderForceOff: "forced-off"}[k.order.Action]
		v.Cause, since = "ordered: "+k.order.Action, k.order.At
		if d := k.order.Deadline; !d.IsZero() {
			v.Cause += fmt.Sprintf(", at %s %s", d.UTC().Format(time.RFC3339), k.order.Then)
		}
	case !m.Hop.OK:
	case k.verdict != monitor.Up:
		v.State = k.verdict.String()
	case m.Weight == 0:
		v.Cause = "weight 0"
	case k.enabled.After(since): // its monitors' verdict is older than its taking part again
		v.Cause, since = "ordered: "+OrderEnable, k.enabled
	}
	v.Since = since.UTC().Format(time.RFC3339)
}

// order is POST /v1/members/order: pool, member, action, and for a drain deadline (a duration) and then.
func (s *Server) postOrder(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	order := memberOrder{Action: q.Get("action"), Then: q.Get("then")}
	var err error
	if after, e := time.ParseDuration(q.Get("deadline")); e == nil { // else there is none: the guard has looked
		order.Deadline = time.Now().Add(after)
	}
	switch {
	case order.Action != OrderDrain && (order.Then != "" || !order.Deadline.IsZero()):
		err = errors.New("deadline and then are for drain")
	case order.Then == ThenReset && order.Deadline.IsZero():
		err = errors.New("then reset needs a deadline")
	case order.Then == "" && !order.Deadline.IsZero():
		order.Then = ThenLeave
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	v, err := s.Order(q.Get("pool"), q.Get("member"), order)
	switch {
	case errors.Is(err, ErrNoMember):
		refuse(w, http.StatusNotFound, err)
	case err != nil:
		refuse(w, http.StatusServiceUnavailable, err)
	default:
		reply(w, http.StatusOK, v)
	}
}
