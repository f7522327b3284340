package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sluice/ctl"
	"sluice/perf/lab"
)

// traffic is transfers that go on, one after the other on each of its lanes, while something is done to the host. Each must
// come through by byte and SHA-256.
type traffic struct {
	b    *bed
	done atomic.Int64
	stop func()
}

const (
	loadLanes = 2
	loadSize  = 2 << 20
	loadTime  = 60 * time.Second // bounds one transfer: TCP waits longer and longer for a port that is away
)

func (b *bed) traffic() *traffic {
	b.t.Helper()
	b.serve(bulkPort, func(h *lab.Host, addr, _ string) (*lab.Server, error) { return lab.TransferServer(h, addr) })
	l := &traffic{b: b}
	ctx, cancel := context.WithCancel(b.t.Context())
	ended := make(chan error, 2*loadLanes)
	for f, vip := range b.vips(bulkPort) {
		for lane := range loadLanes {
			go func() {
				for n := 0; ctx.Err() == nil; n++ {
					if err := l.transfer(vip.String(), uint64(1000*f+100*lane+n)); err != nil {
						ended <- fmt.Errorf("%s: transfer %d: %w", vip, n, err)
						return
					}
					l.done.Add(1)
				}
				ended <- nil
			}()
		}
	}
	l.stop = func() {
		b.t.Helper()
		cancel()
		for range cap(ended) {
			if err := <-ended; err != nil {
				b.t.Errorf("%v\ndropped: %v", err, b.drops())
			}
		}
		b.t.Logf("%d transfers", l.done.Load())
	}
	return l
}

func (l *traffic) transfer(to string, seed uint64) error {
	ctx, cancel := context.WithTimeout(context.Background(), loadTime)
	defer cancel()
	conn, err := l.b.Client.Dial(ctx, "tcp", to)
	for errors.Is(err, unix.ENETUNREACH) && ctx.Err() == nil { // the client's own link is down, and its routes are gone
		time.Sleep(5 * time.Millisecond)
		conn, err = l.b.Client.Dial(ctx, "tcp", to)
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = lab.Transfer(ctx, conn, loadSize, seed)
	return err
}

// advances waits until every lane has finished what it had begun.
func (l *traffic) advances(what string) {
	l.b.t.Helper()
	before, start := l.done.Load(), time.Now()
	for l.done.Load() < before+3*loadLanes {
		if time.Since(start) > loadTime {
			l.b.t.Fatalf("%s: %d transfers ended within %s\n%s", what, l.done.Load()-before, loadTime, l.b.daemons[len(l.b.daemons)-1].log)
		}
		time.Sleep(5 * time.Millisecond)
	}
	l.b.t.Logf("%s: transfers go on after %s", what, time.Since(start).Round(time.Millisecond))
}

// said counts the log's lines with text.
func (d *daemon) said(text string) int { return strings.Count(d.log.String(), text) }

// once runs something and asserts that it made the log say text once, which it waits for.
func (d *daemon) once(text string, do func()) {
	t := d.bed.t
	t.Helper()
	before := d.said(text)
	do()
	eventually(t, fmt.Sprintf("the log to say %q", text), func() bool { return d.said(text) > before })
	time.Sleep(50 * time.Millisecond) // for a second time
	if n := d.said(text) - before; n != 1 {
		t.Errorf("the log says %d times %q:\n%s", n, text, d.log)
	}
}

// An interface is deleted and made anew, with other index, MACs and numbers of queues: connections go on.
func TestInterfaceReplaced(t *testing.T) {
	for _, driver := range []string{"xsk", "asavie"} {
		t.Run(driver, func(t *testing.T) {
			b := newBed(t, lab.TwoArmOptions{Servers: 2, Queues: 2}, settings{engine: "driver: " + driver})
			b.replugged = true
			b.serve(webPort, lab.HTTPServer)
			d := b.start()
			l := b.traffic()
			l.advances("at first")
			rounds := []int{2, 1}
			if driver == "asavie" {
				rounds = rounds[1:]
			}
			for round, queues := range rounds {
				for _, name := range []string{b.Outside, b.Inside} {
					what := fmt.Sprintf("round %d, %s with %d queues", round, name, queues)
					d.once("the interface of a port is gone", func() { ok(t, b.Unplug(name)) })
					eventually(t, name+" to be reported gone", func() bool { return portState(b, name) == "gone" })
					if r := b.sluice(nil, "reload", "--socket", b.socket); r.code != 0 {
						t.Errorf("%s: reload: %s", what, r.stderr)
					}
					d.once("a port was opened again", func() { ok(t, b.Plug(name, lab.WireOptions{Queues: queues})) })
					eventually(t, name+" to be reported up", func() bool { return portState(b, name) == "up" })
					l.advances(what)
					b.serves(what)
					for _, p := range query[[]ctl.PortView](b, "port") {
						if p.Interface == name && (p.Queues != queues || p.XDP != "native") {
							t.Errorf("%s: %+v", what, p)
						}
					}
				}
			}
			l.stop()
			// The end comes while an interface is away.
			d.once("the interface of a port is gone", func() { ok(t, b.Unplug(b.Inside)) })
			d.stop()
			ok(t, b.Plug(b.Inside, lab.WireOptions{Queues: 2}))
		})
	}
}

// The end comes at the same time as that of both interfaces.
func TestStopsWhileInterfacesGo(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 2}, settings{})
	b.replugged = true
	b.serve(webPort, lab.HTTPServer)
	d := b.start()
	b.serves("at first")
	ok(t, b.Unplug(b.Outside))
	ok(t, b.Unplug(b.Inside))
	d.stop()
	ok(t, b.Plug(b.Outside, lab.WireOptions{Queues: 2}))
	ok(t, b.Plug(b.Inside, lab.WireOptions{Queues: 2}))
}

// Links go down and up at both ends: connections go on.
func TestLinksFlap(t *testing.T) {
	for _, driver := range []string{"xsk", "asavie"} {
		t.Run(driver, func(t *testing.T) {
			b := newBed(t, lab.TwoArmOptions{Servers: 2, Queues: 2}, settings{engine: "driver: " + driver})
			b.serve(webPort, lab.HTTPServer)
			d := b.start()
			l := b.traffic()
			l.advances("at first")
			rounds := 2
			if driver == "asavie" {
				rounds = 1
			}
			for round := range rounds {
				for _, c := range []struct {
					host       *lab.Host
					link, port string
					state      string
					joins      func() error
				}{
					{b.Balancer, b.Outside, b.Outside, "down", func() error { return b.Balancer.Addr(b.Outside, b.Outside6.String()+"/64") }},
					{b.Balancer, b.Inside, b.Inside, "down", func() error { return b.Balancer.Addr(b.Inside, b.Inside6.String()+"/64") }},
					{b.Client, "eth0", b.Outside, "no carrier", b.JoinClient},
					{b.Switch, "lb", b.Inside, "no carrier", func() error { return nil }},
				} {
					what := fmt.Sprintf("round %d, %s of %s down", round, c.link, c.host.Name())
					d.once("a port has no link", func() { ok(t, c.host.SetLink(c.link, false)) })
					eventually(t, what+" to be reported", func() bool { return portState(b, c.port) == c.state })
					d.once("a port has its link again", func() { ok(t, c.host.SetLink(c.link, true)) })
					ok(t, c.joins())
					l.advances(what)
					b.serves(what)
				}
			}
			if n := b.drops(); n["port_down"]+n["no_neighbour"] == 0 { // by which way depends on the kernel's own notes
				t.Errorf("nothing was dropped for a port without a link: %v", b.drops())
			}
			l.stop()
			d.stop()
		})
	}
}

// Neighbours are forgotten by the kernel, often, and a member goes away and comes back: connections of the others go on.
func TestNeighboursLost(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 2, Queues: 2}, settings{})
	b.serve(webPort, lab.HTTPServer)
	d := b.start()
	l := b.traffic()
	l.advances("at first")
	forget := func() {
		b.onBalancer(b.Inside, func(link netlink.Link) error {
			for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
				list, err := netlink.NeighList(link.Attrs().Index, family)
				if err != nil {
					return err
				}
				for _, n := range list {
					if n.State&netlink.NUD_NOARP == 0 {
						_ = netlink.NeighDel(&n) // it may be gone by now
					}
				}
			}
			return nil
		})
	}
	for i := range 5 {
		forget()
		time.Sleep(time.Duration(i) * 10 * time.Millisecond)
	}
	l.advances("after neighbours were forgotten")
	l.stop() // half of it is for the member that goes now

	state := func(pool, name string) string {
		for _, m := range query[[]ctl.MemberView](b, "member") {
			if m.Pool == pool && m.Name == name {
				return m.State
			}
		}
		return ""
	}
	for range 2 {
		d.once("members have lost their next hop", func() {
			ok(t, b.Servers[0].SetLink("eth0", false))
			forget()
			eventually(t, "the member to be without a neighbour", func() bool {
				return state("all", "server-1") == "no-neighbour" && state("all6", "server-1") == "no-neighbour" &&
					state("all", "server-2") == "active" && state("all6", "server-2") == "active"
			})
		})
		for _, vip := range b.vips(webPort) {
			for range 6 {
				if who, err := ask(b.Client, vip, waitTime); err != nil || who != "server-2" {
					t.Errorf("%s: %q %v, want server-2", vip, who, err)
				}
			}
		}
		ok(t, b.Servers[0].SetLink("eth0", true))
		ok(t, b.JoinServer(0))
		eventually(t, "the member to be back", func() bool { return state("all", "server-1") == "active" && state("all6", "server-1") == "active" })
		b.serves("after a member was back")
	}
	d.stop()
}

// An interface gets more queues while it is served: each gets a socket. The kernel refuses to take queues away that have one.
func TestQueuesChange(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 2, Queues: 4}, settings{})
	type end struct {
		host *lab.Host
		link string
	}
	ends, peers := []end{{b.Balancer, b.Outside}, {b.Balancer, b.Inside}}, []end{{b.Client, "eth0"}, {b.Switch, "lb"}}
	set := func(list []end, n int) {
		t.Helper()
		for _, e := range list {
			ok(t, e.host.SetQueues(e.link, n, n))
		}
	}
	set(peers, 1) // an XDP program wants as many receive queues as the other end has to send on
	set(ends, 1)
	b.serve(webPort, lab.HTTPServer)
	d := b.start()
	l := b.traffic()
	l.advances("at first")
	for _, n := range []int{2, 4} {
		// The peers last: a veth gives a new queue no XDP program until the program is replaced (drivers/net/veth.c,
		// veth_enable_range_safe), and the kernel would reset the connections of what came on it.
		set(ends, n)
		for _, name := range []string{b.Outside, b.Inside} {
			eventually(t, fmt.Sprintf("%d queues of %s", n, name), func() bool {
				for _, p := range query[[]ctl.PortView](b, "port") {
					if p.Interface == name {
						return p.Queues == n && p.State == "up"
					}
				}
				return false
			})
		}
		set(peers, n)
		l.advances(fmt.Sprintf("with %d queues", n))
		b.serves(fmt.Sprintf("with %d queues", n))
	}
	if n := d.said("the number of queues of a port has changed"); n != 4 {
		t.Errorf("the log says %d times that queues have changed, want 4:\n%s", n, d.log)
	}
	if err := b.Balancer.SetQueues(b.Inside, 1, 1); err == nil {
		t.Error("the kernel lets queues go that have sockets: fewer queues must be tested, then")
	} else {
		t.Log(err)
	}
	l.advances("after the kernel refused to take queues away")
	l.stop()
	d.stop()
	for _, p := range []string{b.Outside, b.Inside} {
		ok(t, b.Balancer.SetQueues(p, 4, 4))
	}
}
