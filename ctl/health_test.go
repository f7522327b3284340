package ctl

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice/ctl/monitor"
	"sluice/engine"
)

const healthConfig = `ports: [{interface: eth1}]
monitors: [{name: a, type: icmp}]
pools:
  - {name: web, monitors: [a], start-up: %s, on-down: reset, members: [{name: s1, address: 192.168.20.1:80}, {name: s2, address: %s}]}
virtual-servers: [{name: v, address: 10.10.1.100:80, protocol: tcp, pool: web}]
`

// states compiles a configuration as a server does and returns the members' states in it.
func states(t *testing.T, h *health, f *File, dict *engine.Dictionary) string {
	t.Helper()
	topo, err := f.offline()
	if err != nil {
		t.Fatal(err)
	}
	spec := f.spec(topo, 1, 1)
	cfg, err := h.compile(f, &spec, dict)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range cfg.Pools()[0].Members {
		out = append(out, m.State.Kind.String())
	}
	return strings.Join(out, " ")
}

// What monitors say and operators order comes into every configuration that is compiled; an order goes before a verdict, and a
// member that is elsewhere now begins anew.
func TestHealthStates(t *testing.T) {
	parse := func(startUp, second string) *File {
		t.Helper()
		f, err := Parse("f", fmt.Appendf(nil, healthConfig, startUp, second))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	base := filepath.Join(t.TempDir(), "net-1")
	h, dict := newHealth(slog.New(slog.DiscardHandler)), engine.NewDictionary()
	var err error
	if h.orders, err = loadOrders(base); err != nil {
		t.Fatal(err)
	}
	f := parse("up", "192.168.20.2:80")
	check := func(f *File, want string) {
		t.Helper()
		if got := states(t, h, f, dict); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	check(f, "up up")
	h.changed(monitor.Event{Member: "web/s2", From: monitor.Up, To: monitor.Down, Cause: "monitor a: timeout", At: time.Now()})
	check(f, "up down")
	check(parse("up", "192.168.20.9:80"), "up up")
	check(f, "up up") // a verdict about another address says nothing
	h.changed(monitor.Event{Member: "web/s2", To: monitor.Down, At: time.Now()})
	k := memberKey{"web", "s2"}
	for _, c := range []struct{ action, want string }{{OrderDrain, "up draining"}, {OrderDisable, "up disabled"}, {OrderForceOff, "up disabled"}, {OrderEnable, "up down"}} {
		if err := h.order(k, memberOrder{Pool: k.pool, Member: k.member, Action: c.action}); err != nil {
			t.Fatal(err)
		}
		check(f, c.want)
	}
	h.changed(monitor.Event{Member: "web/gone", To: monitor.Down}) // a late word about a member that there is not
	if err := h.order(memberKey{"web", "gone"}, memberOrder{Action: OrderDrain}); err == nil {
		t.Error("an order for a member that there is not")
	}
	v := h.verdicts()
	fresh := newHealth(h.log)
	fresh.inherit(v)
	h = fresh
	check(f, "up down") // a successor goes on with it
	h, dict = newHealth(h.log), engine.NewDictionary()
	check(parse("checking", "192.168.20.2:80"), "down down")
	if c := h.changesView(); c != (ChangesView{}) {
		t.Errorf("%+v", c)
	}
	h.mu.Lock()
	for i := 1; i <= 5000; i++ {
		h.took.add(time.Duration(i) * time.Microsecond)
	}
	h.mu.Unlock()
	if c := h.changesView(); c.Count != 5000 || c.MaxUS != 5000 || c.P50US < 2900 || c.P50US > 3000 || c.P99US < 4900 {
		t.Errorf("%+v", c)
	}
}

// Orders are read back as they were given, but not those of another namespace that had the same number, and not half a file.
func TestOrderFile(t *testing.T) {
	base := filepath.Join(t.TempDir(), "net-7")
	load := func() *orderFile {
		t.Helper()
		o, err := loadOrders(base)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	o := load()
	if o.cookie == 0 {
		t.Log("this kernel tells no cookies")
	}
	one, two := memberKey{"web", "s1"}, memberKey{"web", "s2"}
	deadline := time.Now().Add(time.Hour).Round(0)
	for k, order := range map[memberKey]*memberOrder{
		one: {Pool: "web", Member: "s1", Action: OrderDrain, At: time.Now(), Deadline: deadline, Then: ThenReset},
		two: {Pool: "web", Member: "s2", Action: OrderForceOff, At: time.Now()},
	} {
		if err := o.set(k, order); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := os.Stat(ordersPath(base)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st, err)
	}
	o = load()
	if a := o.of(one); a == nil || a.Action != OrderDrain || !a.Deadline.Equal(deadline) || a.Then != ThenReset || o.of(two).Action != OrderForceOff {
		t.Errorf("%+v %+v", a, o.of(two))
	}
	o.cookie++
	if err := o.save(); err != nil {
		t.Fatal(err)
	}
	if n := len(load().list); n != 0 {
		t.Errorf("%d orders of another namespace", n)
	}
	if err := o.keep(func(k memberKey) bool { return k == two }); err != nil || len(o.list) != 1 {
		t.Errorf("%v %v", err, o.list)
	}
	if err := o.set(two, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(ordersPath(base)); !os.IsNotExist(err) {
		t.Errorf("the file of no orders: %v", err)
	}
	if err := os.WriteFile(ordersPath(base), []byte(`{"Orders": [{"Pool"`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadOrders(base); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("half a file: %v", err)
	}
	// What cannot be written down is not in force.
	gone := &orderFile{path: filepath.Join(t.TempDir(), "none", "x"), list: map[memberKey]*memberOrder{two: {Action: OrderDrain}}}
	if err := gone.set(one, &memberOrder{}); err == nil || gone.of(one) != nil || gone.of(two) == nil {
		t.Errorf("%v %v", err, gone.list)
	}
	if err := gone.set(two, &memberOrder{Action: OrderDisable}); err == nil || gone.of(two).Action != OrderDrain {
		t.Errorf("%v %v", err, gone.list)
	}
}

// Names of members may hold what addresses do.
func TestKeyOfChecked(t *testing.T) {
	k := memberKey{"web", "[2001:db8::1]:80"}
	if got := keyOfChecked(k.checked()); got != k {
		t.Errorf("%+v", got)
	}
	if _, err := netip.ParseAddrPort(k.member); err != nil {
		t.Error(err)
	}
}
