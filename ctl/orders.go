package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sluice/engine"
)

// An order is what an operator has decided about a member. It holds whatever monitors say, until it is taken back, and outlives
// reloads, restarts and kill -9: it is in a file under /run/sluice before it is confirmed.

// The orders; enable takes any back.
const (
	OrderDrain    = "drain"     // no new connections; those that are there go on
	OrderDisable  = "disable"   // the same, also for what persistence would place
	OrderForceOff = "force-off" // no new connections, and those that are there end with a RST
	OrderEnable   = "enable"
)

// What happens at a drain's deadline.
const (
	ThenLeave = "leave" // connections that are still there stay
	ThenReset = "reset" // they end
)

// memberOrder is one order.
type memberOrder struct {
	Pool, Member string
	Action       string
	At           time.Time
	Deadline     time.Time // zero: none
	Then         string
	Over         bool // the deadline has come
}

// orderFile keeps orders. The lock of health guards it.
type orderFile struct {
	path   string
	cookie uint64
	list   map[memberKey]*memberOrder

	virtuals map[string]time.Time // virtual servers that are disabled, since when
	weights  map[memberKey]*weightOrder
}

type orderNote struct {
	// Cookie is that of the network namespace: the inode in the file's name may be that of another by now.
	Cookie uint64
	Orders []*memberOrder
	// Virtuals are the virtual servers that are disabled.
	Virtuals map[string]time.Time `json:",omitempty"`

	Weights []*weightOrder
}

func ordersPath(base string) string { return base + ".orders" }

// loadOrders reads the orders of this network namespace.
func loadOrders(base string) (*orderFile, error) {
	o := &orderFile{path: ordersPath(base), cookie: namespaceCookie(), list: map[memberKey]*memberOrder{}, virtuals: map[string]time.Time{}, weights: map[memberKey]*weightOrder{}}
	b, err := os.ReadFile(o.path)
	if errors.Is(err, os.ErrNotExist) {
		return o, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what operators have ordered: %w", err)
	}
	var n orderNote
	if err := json.Unmarshal(b, &n); err != nil {
		return nil, fmt.Errorf("%s cannot be read (%w); remove it, and give the orders for members again", o.path, err)
	}
	if n.Cookie == o.cookie {
		for _, order := range n.Orders {
			o.list[memberKey{order.Pool, order.Member}] = order
		}
		maps.Copy(o.virtuals, n.Virtuals)
		for _, w := range n.Weights {
			o.weights[memberKey{w.Pool, w.Member}] = w
		}
	}
	return o, nil
}

// namespaceCookie tells network namespaces apart as long as the kernel runs; 0 from a kernel before 5.14.
func namespaceCookie() uint64 {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	// Eight bytes, which the library reads as this structure.
	l, err := unix.GetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0
	}
	return uint64(uint32(l.Onoff)) | uint64(uint32(l.Linger))<<32
}

// of is the order for a member, or nil.
func (o *orderFile) of(k memberKey) *memberOrder {
	if o == nil {
		return nil
	}
	return o.list[k]
}

// set changes the order for a member, nil for none, and writes it down; on an error nothing has changed.
func (o *orderFile) set(k memberKey, order *memberOrder) error {
	was, had := o.list[k]
	if order == nil {
		delete(o.list, k)
	} else {
		o.list[k] = order
	}
	err := o.save()
	if err != nil && had {
		o.list[k] = was
	} else if err != nil {
		delete(o.list, k)
	}
	return err
}

// keep forgets the orders for members that want does not report.
func (o *orderFile) keep(want func(memberKey) bool) error {
	if o == nil {
		return nil
	}
	before := len(o.list) + len(o.weights)
	maps.DeleteFunc(o.list, func(k memberKey, _ *memberOrder) bool { return !want(k) })
	maps.DeleteFunc(o.weights, func(k memberKey, _ *weightOrder) bool { return !want(k) })
	if len(o.list)+len(o.weights) == before {
		return nil
	}
	return o.save()
}

func (o *orderFile) save() error {
	if len(o.list)+len(o.virtuals)+len(o.weights) == 0 {
		if err := os.Remove(o.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("note what was ordered: %w", err)
		}
		return nil
	}
	n := orderNote{Cookie: o.cookie, Virtuals: o.virtuals, Orders: slices.SortedFunc(maps.Values(o.list), func(a, b *memberOrder) int {
		return strings.Compare(a.Pool+"/"+a.Member, b.Pool+"/"+b.Member)
	}), Weights: sortedWeights(o.weights)}
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	tmp := o.path + ".new"
	if err := writeFresh(tmp, b); err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("note what was ordered: %w", err)
	}
	return os.Rename(tmp, o.path)
}

// OrderView is the answer to an order.
type OrderView struct {
	Pool   string `json:"pool"`
	Member string `json:"member"`
	Action string `json:"action"`
	TookUS int64  `json:"took_us"` // until the last worker went by it
}

// ErrNoMember is returned for an order about a member that there is not.
var ErrNoMember = errors.New("no such member")

// Order does what an operator wants of a member, known by name or address.
func (s *Server) Order(pool, member string, order memberOrder) (*OrderView, error) {
	name, err := s.memberNamed(pool, member)
	if err != nil {
		return nil, err
	}
	order.Pool, order.Member, order.At = pool, name, time.Now()
	start := time.Now()
	if err := s.health.order(memberKey{pool, name}, order); err != nil {
		return nil, err
	}
	fields := []any{"pool", pool, "member", name, "order", order.Action}
	if !order.Deadline.IsZero() {
		fields = append(fields, "deadline", order.Deadline.UTC().Format(time.RFC3339), "then", order.Then)
	}
	s.log.Info("ordered", fields...)
	return &OrderView{pool, name, order.Action, time.Since(start).Microseconds()}, nil
}

// memberNamed is the name of a member of the file, known by name or address.
func (s *Server) memberNamed(pool, member string) (string, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	p := s.file.Pool(pool)
	if p == nil {
		var names []string
		for i := range s.file.Pools {
			names = append(names, s.file.Pools[i].Name)
		}
		return "", fmt.Errorf("%w: no pool named %q%s; `sluice pool` lists them", ErrNoMember, shorten(pool), didYouMean(pool, names))
	}
	var names []string
	for i := range p.Members {
		m := &p.Members[i]
		if m.Name == member || m.Address.String() == member || m.Address.Addr().String() == member && countAddr(p, m.Address.Addr()) == 1 {
			return m.Name, nil
		}
		names = append(names, m.Name)
	}
	return "", fmt.Errorf("%w: pool %s has no member %q%s; `sluice member` lists them", ErrNoMember, pool, shorten(member), didYouMean(member, names))
}

// didYouMean names what is most like a word, or says nothing.
func didYouMean(word string, names []string) string {
	if near := nearest(word, names); near != "" {
		return "; did you mean " + strconv.Quote(near) + "?"
	}
	return ""
}

func countAddr(p *Pool, a netip.Addr) (n int) {
	for i := range p.Members {
		if p.Members[i].Address.Addr() == a {
			n++
		}
	}
	return n
}

// order puts an order in force.
func (h *health) order(k memberKey, order memberOrder) error {
	if err := h.note(k, order); err != nil {
		return err
	}
	return h.flush()
}

// note writes an order down and changes the member's state.
func (h *health) note(k memberKey, order memberOrder) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.members[k]
	if m == nil || h.orders == nil {
		return fmt.Errorf("%w: %s", ErrNoMember, k.checked())
	}
	var next *memberOrder
	if order.Action != OrderEnable {
		next = &order
	}
	if err := h.orders.set(k, next); err != nil {
		return err
	}
	if next == nil && m.order != nil {
		m.enabled = order.At
	}
	m.order = next
	end := engine.EndNone
	if order.Action == OrderForceOff {
		end = engine.EndReset
	}
	h.change(m, end)
	return nil
}

// orderDeadlines ends the drains whose time is over. That a deadline is over is written down after the connections have ended: who is
// killed between the two does it at the next start.
func (h *health) orderDeadlines(now time.Time) {
	var over []memberOrder
	h.mu.Lock()
	if h.orders != nil {
		for k, o := range h.orders.list {
			m := h.members[k]
			if m == nil || o.Over || o.Deadline.IsZero() || now.Before(o.Deadline) {
				continue
			}
			o.Over = true
			over = append(over, *o)
			if o.Then == ThenReset {
				h.change(m, engine.EndReset)
			}
		}
	}
	h.mu.Unlock()
	if len(over) == 0 {
		return
	}
	told := h.flush()
	h.mu.Lock()
	written := h.orders.save()
	h.mu.Unlock()
	for _, o := range over {
		h.log.Info("a drain's deadline is over", "pool", o.Pool, "member", o.Member, "connections", o.Then)
		if told != nil {
			h.log.Error("workers were not told that a drain's deadline is over", "pool", o.Pool, "member", o.Member, "error", told)
		}
		if written != nil {
			h.log.Error("that a drain's deadline is over could not be written down", "pool", o.Pool, "member", o.Member, "error", written)
		}
	}
}

// reread takes up orders that a predecessor got while this process prepared.
func (h *health) reread(base string) error {
	o, err := loadOrders(base)
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.orders = o
	for k, m := range h.members {
		m.order = o.of(k)
		h.change(m, engine.EndNone)
	}
	err = h.tellVirtuals()
	h.mu.Unlock()
	return errors.Join(err, h.flush())
}

// WaitDrained asks the API until a member has no connection, calling progress with how many there are each time; it
// ends early with ctx, and at the deadline if that is not zero. It returns how many are left.
func WaitDrained(ctx context.Context, c *Client, pool, member string, deadline time.Time, progress func(int64)) (int64, error) {
	for {
		var list []MemberView
		if err := c.Get(ctx, "/v1/members", &list); err != nil {
			return 0, err
		}
		left := int64(-1)
		for i := range list {
			if list[i].Pool == pool && list[i].Name == member {
				left = list[i].Connections
			}
		}
		if left < 0 {
			return 0, nil // it is gone from the file and has drained
		}
		progress(left)
		if left == 0 || !deadline.IsZero() && time.Now().After(deadline) {
			return left, nil
		}
		select {
		case <-ctx.Done():
			return left, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}
