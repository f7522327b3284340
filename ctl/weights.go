package ctl

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/engine"
	"sluice/sched"
)

// A weight that an operator orders stands before the one of the file. Like an order it is in the file under /run/sluice before it is
// confirmed, and holds over reloads and restarts until it is taken back or its member is gone from the file. The workers get it
// as a new configuration, which changes who is chosen and nothing of the connections that are there.

// WeightOfFile is the word that takes an ordered weight back.
const WeightOfFile = "file"

// maxWeight is the largest weight, as of the file.
const maxWeight = 65535

// weightOrder is a weight that an operator has ordered.
type weightOrder struct {
	Pool, Member string
	Weight       int
	At           time.Time
	File         int `json:"-"` // what the file says
}

// WeightView is the answer to the order of a weight.
type WeightView struct {
	Pool    string `json:"pool"`
	Member  string `json:"member"`
	Weight  int    `json:"weight"`  // in force
	File    int    `json:"file"`    // what the file says
	Ordered bool   `json:"ordered"` // an order stands
	TookUS  int64  `json:"took_us"` // until the last worker went by it
	// Warning says that the weight changes nothing, because the pool's scheduler does not look at it.
	Warning string `json:"warning,omitempty"`
}

// weight is the order for a member, or nil.
func (o *orderFile) weight(k memberKey) *weightOrder {
	if o == nil {
		return nil
	}
	return o.weights[k]
}

// applyWeight puts an ordered weight into what the engine compiles.
func (o *orderFile) applyWeight(k memberKey, file int, m *engine.MemberSpec) {
	if w := o.weight(k); w != nil {
		w.File = file
		m.Weight = uint32(w.Weight)
	}
}

// setWeight changes the weight ordered for a member, nil for none, and writes it down; on an error nothing has changed.
func (o *orderFile) setWeight(k memberKey, w *weightOrder) error {
	was := o.weights[k]
	put := func(w *weightOrder) {
		if w == nil {
			delete(o.weights, k)
		} else {
			o.weights[k] = w
		}
	}
	put(w)
	err := o.save()
	if err != nil {
		put(was)
	}
	return err
}

// hasWeights reports whether any is ordered.
func (h *health) hasWeights() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.orders != nil && len(h.orders.weights) > 0
}

func sortedWeights(of map[memberKey]*weightOrder) []*weightOrder {
	return slices.SortedFunc(maps.Values(of), func(a, b *weightOrder) int {
		return strings.Compare(a.Pool+"/"+a.Member, b.Pool+"/"+b.Member)
	})
}

// orderWeight writes a weight down, nil to take it back, and returns the one before.
func (h *health) orderWeight(k memberKey, w *weightOrder) (was *weightOrder, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.members[k] == nil || h.orders == nil {
		return nil, fmt.Errorf("%w: %s", ErrNoMember, k.checked())
	}
	was = h.orders.weights[k]
	return was, h.orders.setWeight(k, w)
}

// Weight gives a member, known by name or address, another weight than the file; nil takes that back.
func (s *Server) Weight(ctx context.Context, pool, member string, weight *int) (v *WeightView, err error) {
	name, err := s.memberNamed(pool, member)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if doErr := s.do(ctx, func(ctx context.Context) { v, err = s.putWeight(ctx, memberKey{pool, name}, weight) }); doErr != nil {
		return nil, doErr
	}
	if err != nil {
		return nil, err
	}
	v.TookUS = time.Since(start).Microseconds()
	s.log.Info("weight ordered", "pool", pool, "member", name, "weight", v.Weight, "file", v.File, "ordered", v.Ordered)
	return v, nil
}

// putWeight runs on the goroutine that configurations belong to.
func (s *Server) putWeight(ctx context.Context, k memberKey, weight *int) (*WeightView, error) {
	p := s.file.Pool(k.pool)
	i := -1
	if p != nil {
		i = slices.IndexFunc(p.Members, func(m Member) bool { return m.Name == k.member })
	}
	if i < 0 {
		return nil, fmt.Errorf("%w: %s has gone by a reload", ErrNoMember, k.checked())
	}
	v := &WeightView{Pool: k.pool, Member: k.member, File: p.Members[i].Weight, Weight: p.Members[i].Weight}
	var w *weightOrder
	if weight != nil {
		w = &weightOrder{Pool: k.pool, Member: k.member, Weight: *weight, At: time.Now(), File: v.File}
		v.Weight, v.Ordered = *weight, true
	}
	if v.Ordered && v.Weight != 0 && max(v.Weight, v.File) > 1 && !sched.UsesWeights(string(p.Scheduler)) {
		v.Warning = fmt.Sprintf("scheduler %s of pool %s looks at no weight but 0: the member takes part like any other; set pools[%s].scheduler to weighted-round-robin or another that does, and reload", p.Scheduler, p.Name, p.Name)
	}
	was, err := s.health.orderWeight(k, w)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, applyTime)
	defer cancel()
	if err := s.apply(ctx); err != nil {
		_, back := s.health.orderWeight(k, was)
		s.lastHops = "" // the next look at the kernel has it compiled again
		return nil, errors.Join(err, back)
	}
	return v, nil
}

// apply gives the workers the configuration as it is now.
func (s *Server) apply(ctx context.Context) error {
	hops := s.lastHops
	cfg, rules, err := s.compile(s.plan.workers)
	if err != nil {
		return err
	}
	if _, err := s.engine.Apply(ctx, cfg); err != nil {
		return err
	}
	if s.lastHops != hops { // they have them; what is said of them is said as always
		s.tellHops()
	}
	for i, p := range s.programs {
		if err := p.SetRules(rules[i]); err != nil {
			s.lastRules = nil // try again
			return fmt.Errorf("port %s: %w", s.file.Ports[i].Name, err)
		}
	}
	return nil
}

// postWeight is POST /v1/members/weight.
func (s *Server) postWeight(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	var weight *int
	if text := q.Get("weight"); text != WeightOfFile {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n > maxWeight {
			refuse(w, http.StatusBadRequest, fmt.Errorf("weight %q is neither a number from 0 to %d nor the word %s", shorten(text), maxWeight, WeightOfFile))
			return
		}
		weight = &n
	}
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	v, err := s.Weight(ctx, q.Get("pool"), q.Get("member"), weight)
	switch {
	case errors.Is(err, ErrNoMember):
		refuse(w, http.StatusNotFound, err)
	case err != nil:
		refuse(w, http.StatusServiceUnavailable, err)
	default:
		reply(w, http.StatusOK, v)
	}
}

// OrderedView is something that an operator has ordered, which stands before the file.
type OrderedView struct {
	Path     string `json:"path"`           // of a setting, or of an entry of a list, as in settings
	Value    string `json:"value"`          // in force
	File     string `json:"file,omitempty"` // what the file says, of a setting
	Since    string `json:"since"`          // RFC 3339
	TakeBack string `json:"take_back"`      // the command that takes it back
}

// ordered lists what operators have ordered, by path.
func (h *health) ordered() []OrderedView {
	out := []OrderedView{}
	if h == nil {
		return out
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.orders == nil {
		return out
	}
	path := func(pool, member string) string { return fmt.Sprintf("pools[%s].members[%s]", pool, member) }
	for _, o := range h.orders.list {
		out = append(out, OrderedView{Path: path(o.Pool, o.Member), Value: o.Action, Since: o.At.UTC().Format(time.RFC3339),
			TakeBack: fmt.Sprintf("sluice member enable %s %s", o.Pool, o.Member)})
	}
	for _, w := range h.orders.weights {
		out = append(out, OrderedView{Path: path(w.Pool, w.Member) + ".weight", Value: strconv.Itoa(w.Weight), File: strconv.Itoa(w.File), Since: w.At.UTC().Format(time.RFC3339),
			TakeBack: fmt.Sprintf("sluice member weight %s %s %s", w.Pool, w.Member, WeightOfFile)})
	}
	for name, since := range h.orders.virtuals {
		out = append(out, OrderedView{Path: fmt.Sprintf("virtual-servers[%s]", name), Value: OrderDisable, Since: since.UTC().Format(time.RFC3339),
			TakeBack: "sluice virtual enable " + name})
	}
	slices.SortFunc(out, func(a, b OrderedView) int { return strings.Compare(a.Path, b.Path) })
	return out
}
