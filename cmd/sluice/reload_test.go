package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sluice/ctl"
	"sluice/perf/lab"
)

// reload has the running engine read config.
func (b *bed) reload(config string) ctl.ReloadView {
	b.t.Helper()
	b.write(config)
	return query[ctl.ReloadView](b, "reload")
}

func (b *bed) generation() uint64 {
	b.t.Helper()
	var s ctl.StatusView
	ok(b.t, ctl.Get(b.t.Context(), b.socket, "/v1/status", &s))
	return s.Generation
}

// member is how the engine sees a member now; the zero value if it does not know it.
func (b *bed) member(pool, name string) ctl.MemberView {
	b.t.Helper()
	for _, m := range query[[]ctl.MemberView](b, "member") {
		if m.Pool == pool && m.Name == name {
			return m
		}
	}
	return ctl.MemberView{}
}

// What a reload changes, what it leaves alone, and what it refuses.
func TestReload(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 4, Queues: 2}, settings{engine: "workers: 2"})
	for i, h := range b.Servers {
		b.echoServer(h, netip.AddrPortFrom(b.ServerAddr4[i], webPort))
		b.echoServer(h, netip.AddrPortFrom(b.ServerAddr4[i], 8080))
	}
	d := b.start()
	web := netip.AddrPortFrom(b.VIP4, webPort)
	open := func(to netip.AddrPort) *session {
		t.Helper()
		s := must(openSession(b.Client, to))(t)
		ok(t, s.say(waitTime))
		return s
	}
	first, second := open(web), open(web) // by turns: server-1 and server-2
	original := b.configText(settings{engine: "workers: 2"})
	if v := b.reload(original); len(v.Changes) != 0 {
		t.Errorf("the same file changes %v", v.Changes)
	}
	opened := b.member("all", "server-1").Opened

	added := original + fmt.Sprintf("  - {name: alt, address: \"%s:8080\", protocol: tcp, pool: all}\n", b.VIP4)
	added = strings.Replace(added, `weight: 1}`, `weight: 7}`, 1)
	v := b.reload(added)
	if got := fmt.Sprint(v.Changes); got != "[~ pools[all].members[server-1].weight: 1 > 7 + virtual-servers[alt]]" || v.AppliedUS <= 0 {
		t.Errorf("%s, applied in %d us", got, v.AppliedUS)
	}
	open(netip.AddrPortFrom(b.VIP4, 8080)).Close()
	if m := b.member("all", "server-1"); m.Weight != 7 || m.Opened < opened {
		t.Errorf("%+v after a reload, it had opened %d before", m, opened)
	}

	// A member that is gone keeps its connection and gets no new one.
	without := dropMember(original, "server-1")
	v = b.reload(without)
	if got := fmt.Sprint(v.Changes); v.Draining != 2 || !strings.Contains(got, "- pools[all].members[server-1]") || !strings.Contains(got, "- virtual-servers[alt]") {
		t.Errorf("%s, draining %d", got, v.Draining)
	}
	ok(t, first.say(waitTime))
	ok(t, second.say(waitTime))
	eventually(t, "the unused member of the other pool to be forgotten", func() bool { return b.member("all6", "server-1") == ctl.MemberView{} })
	if m := b.member("all", "server-1"); m.State != "draining" || m.Connections != 1 {
		t.Errorf("%+v", m)
	}
	for range 8 {
		open(web).Close()
	}
	if m := b.member("all", "server-1"); m.Connections != 1 {
		t.Errorf("a member that drains got a connection: %+v", m)
	}
	for _, c := range query[[]ctl.ConnView](b, "conn", "list") {
		if strings.HasPrefix(c.ServerSideServer, b.ServerAddr4[0].String()) && (c.Member != "server-1" || c.Pool != "all") {
			t.Errorf("the name of a member that drains is lost: %+v", c)
		}
	}
	first.Close()
	eventually(t, "the drained member to be forgotten", func() bool { return b.member("all", "server-1") == ctl.MemberView{} })

	// A virtual server that is gone, likewise.
	b.reload(dropVirtual(original, "web"))
	ok(t, second.say(waitTime))
	if _, err := b.Client.Dial(shortly(t), "tcp", web.String()); err == nil {
		t.Error("a new connection to a virtual server that is gone")
	}
	if drops := b.drops(); drops["no_virtual_server"] == 0 || len(drops) != 1 {
		t.Errorf("dropped %v", drops)
	}
	b.reload(original) // both come back
	ok(t, second.say(waitTime))
	open(web).Close()

	// Refusals change nothing.
	before := b.generation()
	for _, c := range []struct{ config, want string }{
		{strings.Replace(original, "pool: all}", "pool: none}", 1), "none"},
		{original + "nonsense: 1\n", "nonsense"},
		{strings.Replace(original, "workers: 2", "workers: 2, ring-size: 1024", 1), "ring-size: 512 > 1024: cannot be changed while the engine runs"},
		{strings.Replace(original, b.ServerAddr4[3].String(), "203.0.113.9", 1), "no route"},
	} {
		b.write(c.config)
		r := b.sluice(nil, "reload", "--socket", b.socket)
		if r.code != 1 || !strings.Contains(r.stderr, c.want) || strings.Count(r.stderr, "\n") != 1 {
			t.Errorf("exit code %d, %q; want 1 and a line with %q", r.code, r.stderr, c.want)
		}
	}
	ok(t, os.Remove(b.config))
	if r := b.sluice(nil, "reload", "--socket", b.socket); r.code != 1 {
		t.Errorf("without a file: exit code %d, %q", r.code, r.stderr)
	}
	if g := b.generation(); g != before {
		t.Errorf("generation %d after refused reloads, %d before", g, before)
	}
	b.write(original)
	ok(t, d.Signal(syscall.SIGHUP))
	eventually(t, "SIGHUP to reload", func() bool { return b.generation() > before })
	ok(t, second.say(waitTime))
	second.Close()
	d.stop()
}

func shortly(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// A thousand reloads under load: weights, members and virtual servers come and go, and not a packet is lost for it, no
// connection moves.
func TestReloadsUnderLoad(t *testing.T) {
	rounds := 1000
	if testing.Short() {
		rounds = 100
	}
	b := newBed(t, lab.TwoArmOptions{Servers: 4, Queues: 2}, settings{engine: "workers: 2"})
	b.serve(bulkPort, func(h *lab.Host, addr, _ string) (*lab.Server, error) { return lab.TransferServer(h, addr) })
	for i, h := range b.Servers {
		b.echoServer(h, netip.AddrPortFrom(b.ServerAddr4[i], webPort))
	}
	d := b.start()
	var sessions []*session
	for range 12 {
		s := must(openSession(b.Client, netip.AddrPortFrom(b.VIP4, webPort)))(t)
		ok(t, s.say(waitTime))
		defer s.Close()
		sessions = append(sessions, s)
	}
	placed := func() map[string]string {
		m := map[string]string{}
		for _, c := range query[[]ctl.ConnView](b, "conn", "list", "--virtual", "web") {
			m[c.ClientSideClient] = c.ServerSideServer
		}
		return m
	}
	before := placed()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	var transfers, moved atomic.Int64
	vips := b.vips(bulkPort)
	for i := range 4 {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				conn, err := b.Client.Dial(t.Context(), "tcp", vips[i%2].String())
				if err == nil { // at a rate: two cores that do all at once would overflow rings without any reload
					c := &paced{meter: meter{conn, &moved}, rate: 8e6, begin: time.Now()}
					_, err = lab.Transfer(t.Context(), c, 1<<20, uint64(i*1000+n))
					conn.Close()
				}
				if err != nil {
					t.Errorf("transfer %d.%d: %v", i, n, err)
					return
				}
				transfers.Add(1)
			}
		})
	}
	original := b.configText(settings{engine: "workers: 2"})
	variants := []string{
		original,
		b.configText(settings{engine: "workers: 2", weights: []int{3, 1, 0, 2}, scheduler: "weighted-round-robin"}),
		dropMember(original, "server-2"),
		dropVirtual(original, "dns6") + fmt.Sprintf("  - {name: alt, address: \"%s:8080\", protocol: tcp, pool: all}\n", b.VIP4),
		b.configText(settings{engine: "workers: 2", scheduler: "least-connections"}),
	}
	var took []time.Duration
	var whole []time.Duration
	for i := range rounds {
		b.write(variants[(i+1)%len(variants)])
		var v ctl.ReloadView
		start := time.Now()
		ok(t, ctl.Post(t.Context(), b.socket, "/v1/reload", &v))
		whole = append(whole, time.Since(start))
		took = append(took, time.Duration(v.AppliedUS)*time.Microsecond)
		if len(v.Changes) == 0 {
			t.Fatalf("reload %d changes nothing", i)
		}
	}
	cancel()
	wg.Wait()
	for i, s := range sessions {
		if err := s.say(waitTime); err != nil {
			t.Errorf("session %d: %v", i, err)
		}
	}
	after := placed()
	for client, server := range before {
		if after[client] != server {
			t.Errorf("the connection of %s moved from %s to %s", client, server, after[client])
		}
	}
	if drops := b.drops(); len(drops) > 0 {
		t.Errorf("dropped %v", drops)
	}
	slices.Sort(took)
	slices.Sort(whole)
	t.Logf("%d reloads, %d transfers of 1 MiB each way beside them: until the last worker had it median %s, 90%% %s, 99%% %s, longest %s; whole requests median %s, longest %s",
		rounds, transfers.Load(), quantile(took, .5), quantile(took, .9), quantile(took, .99), took[len(took)-1], quantile(whole, .5), whole[len(whole)-1])
	for _, s := range sessions {
		s.Close()
	}
	d.stop()
}
