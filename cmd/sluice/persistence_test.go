package main

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"sluice/ctl"
	"sluice/perf/lab"
)

// Clients of many addresses, with connections from the kernel: each client's land on one server, clients are spread, and that
// stays so through a drain, a reload that resizes the memory, kills and starts with other numbers of workers, and a takeover.
func TestPersistenceLab(t *testing.T) {
	const clients, servers, rounds = 12, 4, 8
	b := newBed(t, lab.TwoArmOptions{Servers: servers, Queues: 2}, settings{})
	for _, port := range []int{webPort, bulkPort} {
		for i, h := range b.Servers {
			ln := must(quickServer(h, netip.AddrPortFrom(b.ServerAddr4[i], uint16(port)).String(), fmt.Sprintf("server-%d", i+1)))(t)
			t.Cleanup(func() { ln.Close() })
		}
	}
	config := func(workers, entries int) string {
		text := b.configText(settings{engine: fmt.Sprintf("workers: %d", workers), metrics: "127.0.0.1:9109"})
		for _, name := range []string{"web", "bulk"} {
			text = strings.Replace(text, fmt.Sprintf("{name: %s, ", name), fmt.Sprintf("{name: %s, persistence: shop, ", name), 1)
		}
		return text + fmt.Sprintf("persistences:\n  - {name: shop, timeout: 10m, entries: %d}\n", entries)
	}
	addrs := make([]netip.Addr, clients+2)
	for i := range addrs {
		addrs[i] = netip.AddrFrom4([4]byte{172, 16, 10, byte(100 + i)})
		ok(t, b.Client.Addr("eth0", addrs[i].String()+"/24"))
	}
	port, buf := uint16(20000), make([]byte, 64)
	visit := func(client int, to uint16) string {
		port++
		who, _, err := visitQuick(b.Client, netip.AddrPortFrom(addrs[client], port), netip.AddrPortFrom(b.VIP4, to), buf)
		if err != nil {
			t.Fatalf("client %d: %v; dropped %v", client, err, b.drops())
		}
		return who
	}
	at := map[int]string{}
	same := func(when string) {
		t.Helper()
		for round := range rounds {
			for i := range clients {
				to := uint16(webPort)
				if round%4 == 3 { // the other virtual server shares the entries
					to = bulkPort
				}
				if who := visit(i, to); who != at[i] {
					t.Fatalf("%s: client %d went to %s, was with %s", when, i, who, at[i])
				}
			}
		}
	}
	b.write(config(2, 1000))
	d := b.start()
	spread := map[string]int{}
	for i := range clients {
		at[i] = visit(i, webPort)
		spread[at[i]]++
	}
	if len(spread) != servers || spread["server-1"] != clients/servers {
		t.Errorf("clients by server: %v", spread)
	}
	same("at first")

	order := func(action string) {
		t.Helper()
		args := []string{"member", action, "all", "server-1", "--socket", b.socket}
		if action != ctl.OrderEnable {
			args = append(args, "--wait=false")
		}
		if r := b.sluice(nil, args...); r.code != 0 {
			t.Fatal(r.stderr)
		}
	}
	order(ctl.OrderDrain)
	same("while server-1 drains")
	if who := visit(clients, webPort); who == "server-1" {
		t.Error("a new client went to a member that drains")
	}
	order(ctl.OrderEnable)

	list := func() []ctl.PersistenceEntryView { return query[[]ctl.PersistenceEntryView](b, "persistence", "list") }
	check := func(when string) {
		t.Helper()
		same(when)
		entries := list()
		if len(entries) != clients+1 {
			t.Fatalf("%s: %d entries: %+v", when, len(entries), entries)
		}
		for _, e := range entries {
			for i := range clients {
				if e.Client == addrs[i].String() && (e.Member != at[i] || e.Pool != "all" || e.Persistence != "shop") {
					t.Errorf("%s: the entry of %s is %+v, it goes to %s", when, addrs[i], e, at[i])
				}
			}
		}
	}
	check("listed")
	d.kill()
	d = b.start()
	check("after a kill and a start")
	d.kill()
	b.write(config(1, 500))
	d = b.start()
	check("after a kill and a start with one worker")
	b.write(config(2, 2000))
	if r := b.sluice(nil, "reload", "--socket", b.socket); r.code != 0 {
		t.Fatal(r.stderr)
	}
	check("after a reload with two workers and more room")
	d.stop()
	d = b.start()
	check("after an end in order and a start")
	d, pause := b.takeover(d)
	t.Logf("taken over in %s", pause)
	check("after a takeover")

	// Clients of a member that goes move once, and stay where they are when it is back.
	order(ctl.OrderDisable)
	for i := range clients {
		if at[i] == "server-1" {
			if at[i] = visit(i, webPort); at[i] == "server-1" {
				t.Error("a client went to a member that is disabled")
			}
		}
	}
	order(ctl.OrderEnable)
	same("after server-1 was disabled")

	status := query[[]ctl.PersistenceView](b, "persistence", "status")
	if len(status) != 1 || status[0].Moved != clients/servers || status[0].Hits == 0 || status[0].Limit != 2000 || len(status[0].Virtuals) != 2 {
		t.Errorf("%+v", status)
	}
	samples := b.scrape(t, b.Balancer.HTTPClient(false))
	for name, want := range map[string]float64{"entries": clients + 1, "entries_limit": 2000, "moved_total": clients / servers, "full_total": 0} {
		if got, ok := samples["sluice_persistence_"+name+`{persistence="shop"}`]; !ok || got != want {
			t.Errorf("sluice_persistence_%s is %v, want %v", name, got, want)
		}
	}
	if r := b.sluice(nil, "persistence", "delete", addrs[0].String(), "--socket", b.socket); r.code != 0 || r.stdout != "1 entries deleted\n" {
		t.Errorf("%+v", r)
	}
	if r := b.sluice(nil, "persistence", "delete", "--socket", b.socket); r.code != exitUsage {
		t.Errorf("%+v", r)
	}
	if entries := list(); len(entries) != clients {
		t.Errorf("%d entries after one was deleted", len(entries))
	}
	if r := b.sluice(nil, "persistence", "delete", "--all", "--socket", b.socket); r.code != 0 {
		t.Error(r.stderr) // else a file would be left for the next start
	}
	if drops := b.drops(); len(drops) != 0 {
		t.Errorf("dropped %v", drops)
	}
	d.stop()
}
