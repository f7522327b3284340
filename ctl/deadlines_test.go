package ctl

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"sluice/engine"
)

// A drain's deadline comes once, not before its time and not again in a process that reads the orders later. An order that is given
// anew has its own.
func TestOrderDeadlines(t *testing.T) {
	base := filepath.Join(t.TempDir(), "net-1")
	h, dict := newHealth(slog.New(slog.DiscardHandler)), engine.NewDictionary()
	var err error
	if h.orders, err = loadOrders(base); err != nil {
		t.Fatal(err)
	}
	f, err := Parse("f", fmt.Appendf(nil, healthConfig, "up", "192.168.20.2:80"))
	if err != nil {
		t.Fatal(err)
	}
	states(t, h, f, dict)
	deadline := time.Now().Add(time.Hour)
	leave, reset := memberKey{"web", "s1"}, memberKey{"web", "s2"}
	for k, then := range map[memberKey]string{leave: ThenLeave, reset: ThenReset} {
		if err := h.note(k, memberOrder{Pool: k.pool, Member: k.member, Action: OrderDrain, Deadline: deadline, Then: then}); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string, over bool) {
		t.Helper()
		o, err := loadOrders(base)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range []memberKey{leave, reset} {
			if got := o.of(k); got == nil || got.Over != over || h.orders.of(k).Over != over {
				t.Errorf("%s: %s is %+v in the file, and %+v", when, k.member, got, h.orders.of(k))
			}
		}
	}
	h.orderDeadlines(deadline.Add(-time.Millisecond))
	check("before", false)
	h.orderDeadlines(deadline)
	check("at the deadline", true)
	o := *h.orders.of(reset)
	o.Over, o.Deadline = false, deadline.Add(time.Hour)
	if err := h.note(reset, o); err != nil {
		t.Fatal(err)
	}
	h.orderDeadlines(deadline.Add(time.Minute))
	if h.orders.of(reset).Over || !h.orders.of(leave).Over {
		t.Errorf("after a new order: %+v, %+v", h.orders.of(reset), h.orders.of(leave))
	}
	h.orderDeadlines(deadline.Add(time.Hour))
	check("at the new deadline", true)
}
