package ctl

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice/ctl/monitor"
)

// Of events that come while a hook runs only the last is told; the events of one address never overlap, and nobody waits.
func TestHookRunner(t *testing.T) {
	dir := t.TempDir()
	told, gate := filepath.Join(dir, "told"), filepath.Join(dir, "gate")
	program := filepath.Join(dir, "hook")
	script := fmt.Sprintf("#!/bin/sh\necho begin $SLUICE_EVENT >> %[1]s\nwhile ! test -e %[2]s; do sleep 0.02; done\necho end $SLUICE_EVENT >> %[1]s\n", told, gate)
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	r := newHookRunner(slog.New(slog.NewTextHandler(io.Discard, nil)))
	h := hook{virtual: "v", address: "10.0.0.1", command: program}
	began := time.Now()
	for range 50 {
		r.tell(h, HookAnnounce)
		r.tell(h, HookWithdraw)
	}
	r.tell(h, HookWithdraw)
	if took := time.Since(began); took > hookTime/2 {
		t.Errorf("telling took %s", took)
	}
	if r.wait(10 * time.Millisecond) {
		t.Error("nothing runs")
	}
	if err := os.WriteFile(gate, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if !r.wait(hookTime) {
		t.Fatal("it does not end")
	}
	r.keep(nil) // it is withdrawn already
	r.tell(h, HookAnnounce)
	r.keep(nil)
	if !r.wait(hookTime) {
		t.Fatal("it does not end")
	}
	b, err := os.ReadFile(told)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	for i := 0; i < len(lines); i += 2 {
		if event, ok := strings.CutPrefix(lines[i], "begin "); !ok || i+1 == len(lines) || lines[i+1] != "end "+event {
			t.Fatalf("they overlap: %q", lines)
		}
	}
	if n := len(lines); n < 4 || n > 8 || lines[n-1] != "end withdraw" {
		t.Errorf("told %q", lines)
	}
}

// As many virtual servers come and go, some of them while they are down: only the hooks of those that are there are remembered.
func TestHooksForgotten(t *testing.T) {
	r := newHookRunner(slog.New(slog.NewTextHandler(io.Discard, nil)))
	h := hook{address: "10.0.0.1"}
	r.running[h.address] = true // nothing is run
	for i := range 1000 {
		h.virtual = fmt.Sprint("v", i)
		r.tell(h, []string{HookAnnounce, HookWithdraw}[i%2])
		r.keep(map[hook]string{h: HookAnnounce})
		if len(r.told) != 1 {
			t.Fatalf("%d hooks are remembered, one is wanted", len(r.told))
		}
	}
	if event := r.waiting[hook{address: "10.0.0.1", virtual: "v998"}]; event != HookWithdraw {
		t.Errorf("one that is gone is told %q", event)
	}
	r.keep(nil)
	if len(r.told) != 0 {
		t.Errorf("%d hooks are remembered, none is wanted", len(r.told))
	}
}

// A hook that a reload has changed is told of its address after the one before it was told that it is withdrawn, however long
// that takes: what stands in the end is the announcement.
func TestHookChanged(t *testing.T) {
	dir := t.TempDir()
	told, program := filepath.Join(dir, "told"), filepath.Join(dir, "hook")
	script := fmt.Sprintf("#!/bin/sh\n[ $SLUICE_EVENT = withdraw ] && sleep 0.3\necho $1 $SLUICE_EVENT >> %s\n", told)
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	s := &Server{assembly: assembly{log: slog.New(slog.NewTextHandler(io.Discard, nil)), file: &File{}, ifaces: []iface{{name: "eth1"}}}, health: &health{}}
	for _, argument := range []string{"old", "new"} {
		f, err := Parse("hook.yaml", []byte(fmt.Sprintf(`
ports: [{name: outside, interface: eth1}]
pools: [{name: a, members: [{name: a1, address: 192.168.20.1}]}]
virtual-servers: [{name: web, address: "10.10.1.100:80", protocol: tcp, pool: a, hook: [%s, %s]}]
`, program, argument)))
		if err != nil {
			t.Fatal(err)
		}
		s.file = f
		s.withdraw()
		if argument == "old" && !s.hooks.wait(hookTime) {
			t.Fatal("it does not end")
		}
	}
	if !s.hooks.wait(hookTime) {
		t.Fatal("it does not end")
	}
	b, err := os.ReadFile(told)
	if err != nil {
		t.Fatal(err)
	}
	if want := "old announce\nold withdraw\nnew announce\n"; string(b) != want {
		t.Errorf("told %q, want %q", b, want)
	}
}

// A hook that does not end is killed at its time, with what it has started.
func TestHookKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("takes the time of a hook")
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "hook")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho stuck\nsleep 1000 & sleep 1000\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	r := newHookRunner(slog.New(slog.NewTextHandler(&log, nil)))
	r.tell(hook{virtual: "v", address: "10.0.0.1", command: program}, HookAnnounce)
	if !r.wait(hookTime + 10*time.Second) {
		t.Fatal("it is not killed")
	}
	if text := log.String(); !strings.Contains(text, "hook failed") || !strings.Contains(text, "killed") || !strings.Contains(text, "output=stuck") {
		t.Error(text)
	}
}

// Orders about virtual servers are in the file before they are confirmed, are read again, and end with their virtual server.
func TestVirtualOrders(t *testing.T) {
	base := filepath.Join(t.TempDir(), "net-1")
	o, err := loadOrders(base)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.setVirtual("web", true); err != nil {
		t.Fatal(err)
	}
	since, _ := o.disabled("web")
	if again, err := loadOrders(base); err != nil {
		t.Fatal(err)
	} else if at, ok := again.disabled("web"); !ok || !at.Equal(since) {
		t.Errorf("read again: %v, %v", at, ok)
	}
	if err := o.setVirtual("web", true); err != nil {
		t.Fatal(err)
	}
	if at, _ := o.disabled("web"); at != since {
		t.Error("an order that stands already has begun anew")
	}
	h := &health{orders: o}
	if list := h.ordered(); len(list) != 1 || list[0].Path != "virtual-servers[web]" || list[0].Value != OrderDisable || list[0].TakeBack != "sluice virtual enable web" {
		t.Errorf("config diff has %+v", list)
	}
	f := &File{VirtualServers: []VirtualServer{{Name: "web"}}}
	if err := o.keepVirtuals(f); err != nil || len(o.virtuals) != 1 {
		t.Errorf("%v, %v", o.virtuals, err)
	}
	f.VirtualServers[0].Name = "other"
	if err := o.keepVirtuals(f); err != nil || len(o.virtuals) != 0 {
		t.Errorf("%v, %v", o.virtuals, err)
	}
	if _, err := os.Stat(o.path); err == nil {
		t.Error("the file of no orders is still there")
	}
	if err := o.setVirtual("web", true); err != nil {
		t.Fatal(err)
	}
	if err := o.setVirtual("dns", true); err != nil {
		t.Fatal(err)
	}
	o.path = filepath.Join(base, "nowhere", "orders")
	if err := o.setVirtual("web", false); err == nil {
		t.Error("an order that cannot be written down")
	} else if _, ok := o.disabled("web"); !ok {
		t.Error("it holds all the same")
	}
}

// An address is withdrawn when every member of every virtual server that has it is down by its monitors or forced off.
func TestWithdrawals(t *testing.T) {
	f, err := Parse("withdraw.yaml", []byte(`
ports: [{name: outside, interface: eth1}]
monitors: [{name: ping, type: icmp}]
pools:
  - {name: a, monitors: [ping], members: [{name: a1, address: 192.168.20.1}, {name: a2, address: 192.168.20.2}]}
  - {name: b, monitors: [ping], members: [{name: b1, address: 192.168.20.3}], all-down: pool c}
  - {name: c, monitors: [ping], members: [{name: c1, address: 192.168.20.4}]}
virtual-servers:
  - {name: web, address: "10.10.1.100:80", protocol: tcp, pool: a, withdraw-when-down: true}
  - {name: web2, address: "10.10.1.100:81", addresses: ["10.10.1.101:81", "10.20.0.0/16:81"], protocol: tcp, pool: b, withdraw-when-down: true, hook: [/bin/true]}
  - {name: web3, address: "10.10.1.101:82", protocol: tcp, pool: a}
`))
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{health: newHealth(slog.New(slog.NewTextHandler(io.Discard, nil)))}
	s.file = f
	members := map[string]*memberHealth{}
	for _, k := range []memberKey{{"a", "a1"}, {"a", "a2"}, {"b", "b1"}, {"c", "c1"}} {
		m := &memberHealth{verdict: monitor.Up}
		members[k.member], s.health.members[k] = m, m
	}
	check := func(want ...string) {
		t.Helper()
		got := map[string]bool{}
		for r := range s.withdrawals() {
			got[r.String()] = true
		}
		for _, w := range want {
			if !got[w] {
				t.Errorf("%s is not withdrawn", w)
			}
		}
		if len(got) != len(want) {
			t.Errorf("withdrawn: %v, want %v", got, want)
		}
	}
	check()
	members["a1"].verdict, members["a2"].verdict = monitor.Down, monitor.Down
	check() // the other virtual server of the address is up
	members["b1"].verdict = monitor.Down
	check() // another pool stands in
	members["c1"].order = &memberOrder{Action: OrderDrain}
	check() // it still has connections
	members["c1"].order = &memberOrder{Action: OrderForceOff}
	check("10.10.1.100/32", "10.20.0.0/16") // web3 has 10.10.1.101 and is not to be withdrawn
	members["a2"].verdict = monitor.Up
	check("10.20.0.0/16")
	members["c1"].order = nil
	check()
}
