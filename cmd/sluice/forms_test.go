package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sluice/ctl"
	"sluice/perf/lab"
)

// withVirtuals is a configuration with these virtual servers.
func (b *bed) withVirtuals(s settings, lines ...string) string {
	text := b.configText(s)
	return text[:strings.Index(text, "virtual-servers:\n")] + "virtual-servers:\n  - " + strings.Join(lines, "\n  - ") + "\n"
}

// refusals are the packets that were refused for a reason, with an answer or without.
func (b *bed) refusals(reason string) uint64 {
	b.t.Helper()
	for _, d := range query[[]ctl.DropView](b, "drop") {
		if d.Reason == reason {
			return d.Count + d.Answered
		}
	}
	b.t.Fatalf("there is no reason %s", reason)
	return 0
}

// opened is how many connections each virtual server has had.
func (b *bed) opened() map[string]uint64 {
	b.t.Helper()
	n := map[string]uint64{}
	for _, v := range query[[]ctl.VirtualView](b, "virtual") {
		n[v.Name] = v.Opened
	}
	return n
}

// Ranges of ports, lists of addresses and prefixes, between real kernels: each connection goes to the virtual server that fits it
// best and answers from the address that the client asked for; the host's own addresses are reached all the same.
func TestVirtualForms(t *testing.T) {
	s := settings{engine: "workers: 2"}
	b := newBed(t, lab.TwoArmOptions{Servers: 2, Queues: 2}, s)
	for _, port := range []uint16{8003, 8010, 9100} {
		b.serve(port, lab.HTTPServer)
	}
	b.serve(5303, lab.UDPEcho)
	b.write(b.withVirtuals(s,
		fmt.Sprintf(`{name: range, address: "%s:8000-8009,9100", addresses: ["10.10.1.101:8003"], protocol: tcp, pool: all}`, b.VIP4),
		fmt.Sprintf(`{name: any, address: "%s:any", protocol: tcp, pool: all}`, b.VIP4),
		`{name: net, address: "10.20.0.0/16:8003", protocol: tcp, pool: all}`,
		`{name: wide, address: "10.0.0.0/8:8000-8999", protocol: tcp, pool: all}`,
		`{name: rest, address: "0.0.0.0/0:any", protocol: any, pool: all}`,
		`{name: net6, address: "[fd00:20::/32]:8003", addresses: ["[::/0]:9100"], protocol: tcp, pool: all6}`,
	))
	d := b.start()
	want := map[string]uint64{}
	for _, c := range []struct{ to, virtual string }{
		{b.VIP4.String() + ":8003", "range"}, {b.VIP4.String() + ":9100", "range"}, {"10.10.1.101:8003", "range"},
		{b.VIP4.String() + ":8010", "any"}, {"10.20.3.4:8003", "net"}, {"10.20.3.4:8010", "wide"}, {"10.99.0.1:8003", "wide"},
		{"10.99.0.1:9100", "rest"}, {"192.0.2.1:8010", "rest"},
		{"[fd00:20::7]:8003", "net6"}, {"[fd00:77::7]:9100", "net6"},
	} {
		to := netip.MustParseAddrPort(c.to)
		for range 8 {
			if _, err := ask(b.Client, to, waitTime); err != nil { // a socket takes answers from where it is connected to only
				t.Errorf("%s: %v", to, err)
			}
		}
		want[c.virtual] += 8
	}
	conn := must(b.Client.Dial(t.Context(), "udp", "198.51.100.1:5303"))(t)
	defer conn.Close()
	for i := range 5 {
		if _, err := datagram(conn, fmt.Sprint("query ", i), waitTime); err != nil {
			t.Error(err)
		}
	}
	want["rest"]++
	if got := b.opened(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("opened %v, want %v", got, want)
	}
	// The host's own: its addresses answer pings though everything is a virtual server's, and the program says so.
	ok(t, ping(b.Client, b.Outside4, 1))
	ok(t, ping(b.Client, b.Inside4, 2))
	ok(t, ping(b.Client, b.Outside6, 3))
	if conns := query[[]ctl.ConnView](b, "conn", "list", "--virtual", "rest"); len(conns) == 0 || !strings.Contains(fmt.Sprint(conns), "198.51.100.1:5303") {
		t.Errorf("%+v", conns)
	}
	if r := b.sluice(nil, "explain", "-c", b.config, "tcp", "172.16.10.55:4003", "10.20.3.4:8010"); !strings.Contains(r.stdout, "wide") || r.code != 0 {
		t.Errorf("%+v", r)
	}
	if drops := b.drops(); len(drops) > 0 {
		t.Errorf("dropped %v", drops)
	}
	d.stop()
}

// Sources that may not, sources that are too quick, and a virtual server that is disabled: new connections are refused by their
// reason, those that are there go on, and the order outlives a reload and a restart.
func TestVirtualAccess(t *testing.T) {
	s := settings{}
	b := newBed(t, lab.TwoArmOptions{Servers: 2}, s)
	for i, h := range b.Servers {
		b.echoServer(h, netip.AddrPortFrom(b.ServerAddr4[i], webPort))
	}
	config := func(keys string) string {
		return b.withVirtuals(s, fmt.Sprintf(`{name: web, address: "%s:%d", protocol: tcp, pool: all, refused: reset%s}`, b.VIP4, webPort, keys))
	}
	b.write(config(""))
	d := b.start()
	to := netip.AddrPortFrom(b.VIP4, webPort)
	old := must(openSession(b.Client, to))(t)
	defer old.Close()
	ok(t, old.say(waitTime))
	refused := func(reason string, try func() error) {
		t.Helper()
		before := b.refusals(reason)
		err := try()
		if err == nil || b.refusals(reason) == before {
			t.Errorf("%s: %v, counted %d before and %d now", reason, err, before, b.refusals(reason))
		}
		ok(t, old.say(waitTime))
	}
	open := func() error {
		s, err := openSession(b.Client, to)
		if err == nil {
			s.Close()
		}
		return err
	}
	b.reload(config(", deny: [172.16.0.0/16], allow: [172.16.10.0/25]"))
	ok(t, open())
	b.reload(config(fmt.Sprintf(", deny: [%s], allow: [172.16.10.0/25]", b.Client4)))
	refused("source_denied", func() error {
		conn, err := b.Client.Dial(shortly(t), "tcp", to.String())
		if err == nil {
			conn.Close()
		}
		return err
	})
	b.reload(config(", source-rate-limit: 5"))
	refused("source_rate", func() error {
		var last error
		for range 20 {
			last = errors.Join(last, open())
		}
		return last
	})
	b.reload(config(""))

	if r := b.sluice(nil, "virtual", "disable", "web", "--socket", b.socket); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	refused("virtual_disabled", open)
	b.reload(config(", connection-limit: 1000"))
	refused("virtual_disabled", open)
	if v := query[[]ctl.VirtualView](b, "virtual"); v[0].State != "disabled" || v[0].Since == "" {
		t.Errorf("%+v", v)
	}
	d.kill()
	d = b.start()
	refused("virtual_disabled", open)
	if r := b.sluice(nil, "virtual", "enable", "web", "--socket", b.socket); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	ok(t, open())
	if v := query[[]ctl.VirtualView](b, "virtual"); v[0].State != "up" {
		t.Errorf("%+v", v)
	}
	if r := b.sluice(nil, "virtual", "disable", "nobody", "--socket", b.socket); r.code != 1 || !strings.Contains(r.stderr, "no such virtual server") {
		t.Errorf("%+v", r)
	}
	d.stop()
}

// An address on the client's own network is gone from it while every member is down, as the client's kernel sees, and is back when
// one is up again; a hook is told each time, and at the start and end.
func TestWithdraw(t *testing.T) {
	s := settings{}
	b := newBed(t, lab.TwoArmOptions{Servers: 1}, s)
	b.echoServer(b.Servers[0], netip.AddrPortFrom(b.ServerAddr4[0], webPort))
	well, told := filepath.Join(b.dir, "well"), filepath.Join(b.dir, "told")
	check, hook := filepath.Join(b.dir, "check"), filepath.Join(b.dir, "hook")
	ok(t, os.WriteFile(well, nil, 0o644))
	ok(t, os.WriteFile(check, []byte("#!/bin/sh\ntest -e "+well+"\n"), 0o755))
	ok(t, os.WriteFile(hook, []byte("#!/bin/sh\necho $1 $SLUICE_EVENT $SLUICE_VIRTUAL $SLUICE_ADDRESS $SLUICE_PORT $SLUICE_INTERFACE >> "+told+"\necho heard\n"), 0o755))
	vip := netip.MustParseAddrPort("172.16.10.100:80")
	text := b.withVirtuals(s, fmt.Sprintf(`{name: web, address: "%s", addresses: ["10.20.0.0/16:80"], protocol: tcp, pool: all, withdraw-when-down: true, hook: [%s, "a b"]}`, vip, hook))
	text = strings.Replace(text, "pools:\n", fmt.Sprintf("monitors:\n  - {name: script, type: exec, exec: {command: [%s]}, interval: 700ms, timeout: 700ms, jitter: 0, rise: 1, fall: 2}\npools:\n", check), 1)
	b.write(strings.Replace(text, "  - name: all\n", "  - name: all\n    monitors: [script]\n", 1))
	d := b.start()
	open := func() error {
		conn, err := b.Client.Dial(shortly(t), "tcp", vip.String())
		if err == nil {
			conn.Close()
		}
		return err
	}
	ok(t, open())
	ok(t, os.Remove(well))
	eventually(t, "the virtual server to be withdrawn", func() bool {
		v := query[[]ctl.VirtualView](b, "virtual")
		return v[0].State == "down" && v[0].Withdrawn
	})
	_ = b.Client.Forget("eth0", vip.Addr()) // it may be forgotten already
	// The client's kernel asks three times, a second apart.
	if _, err := ask(b.Client, vip, waitTime); !errors.Is(err, unix.EHOSTUNREACH) {
		t.Errorf("the client's kernel still finds the address: %v", err)
	}
	ok(t, os.WriteFile(well, nil, 0o644))
	eventually(t, "the address to be back", func() bool { return open() == nil })
	if v := query[[]ctl.VirtualView](b, "virtual"); v[0].State != "up" || v[0].Withdrawn {
		t.Errorf("%+v", v)
	}
	d.stop()
	lines := map[string][]string{}
	for line := range strings.Lines(string(must(os.ReadFile(told))(t))) {
		var event, virtual, address, port, ifname string
		rest, found := strings.CutPrefix(line, "a b ")
		if _, err := fmt.Sscan(rest, &event, &virtual, &address, &port, &ifname); err != nil || !found || virtual != "web" || port != "outside" || ifname != b.Outside {
			t.Errorf("%q: %v", line, err)
		}
		lines[address] = append(lines[address], event)
	}
	for _, address := range []string{"172.16.10.100", "10.20.0.0/16"} {
		if got := strings.Join(lines[address], " "); got != "announce withdraw announce withdraw" {
			t.Errorf("%s: the hook was told %q", address, got)
		}
	}
	if n := strings.Count(d.log.String(), "output=heard"); n != 8 {
		t.Errorf("%d ends of the hook are in the log:\n%s", n, d.log)
	}
}

// A hook that does not end is killed at its time, and the stop does not wait for it for long.
func TestHookTime(t *testing.T) {
	s := settings{}
	b := newBed(t, lab.TwoArmOptions{Servers: 1}, s)
	hook := filepath.Join(b.dir, "hook")
	ok(t, os.WriteFile(hook, []byte("#!/bin/sh\nexit 3\n"), 0o755))
	b.write(b.withVirtuals(s, fmt.Sprintf(`{name: web, address: "%s:80", protocol: tcp, pool: all, hook: [%s]}`, b.VIP4, hook)))
	d := b.start()
	eventually(t, "the failure to be in the log", func() bool {
		return strings.Contains(d.log.String(), "hook failed") && strings.Contains(d.log.String(), "exit code 3")
	})
	d.stop()
	ok(t, os.Remove(hook))
	if r := b.sluice(nil, "check", "-c", b.config); r.code != 1 || !strings.Contains(r.stdout+r.stderr, "hook") {
		t.Errorf("a hook that is not there: %+v", r)
	}
}

// Connections to a prefix and to further addresses go on when their virtual server goes from the file, through a kill as well; what
// is new is refused.
func TestFormsDrain(t *testing.T) {
	s := settings{engine: "workers: 2"}
	b := newBed(t, lab.TwoArmOptions{Servers: 2, Queues: 2}, s)
	for i, h := range b.Servers {
		b.echoServer(h, netip.AddrPortFrom(b.ServerAddr4[i], webPort))
	}
	web := fmt.Sprintf(`{name: web, address: "%s:80", protocol: tcp, pool: all}`, b.VIP4)
	with := b.withVirtuals(s, web, `{name: net, address: "10.20.0.0/16:80", addresses: ["10.10.1.101:79-81", "10.30.0.0/16:any"], protocol: tcp, pool: all}`)
	b.write(with)
	d := b.start()
	var sessions []*session
	for _, to := range []string{"10.20.3.4:80", "10.10.1.101:80", "10.30.9.9:80"} {
		for range 4 {
			s := must(openSession(b.Client, netip.MustParseAddrPort(to)))(t)
			defer s.Close()
			sessions = append(sessions, s)
		}
	}
	say := func(when string) {
		t.Helper()
		for _, s := range sessions {
			if err := s.say(waitTime); err != nil {
				t.Fatalf("%s: %s: %v", when, s.RemoteAddr(), err)
			}
		}
	}
	say("before")
	d.kill()
	d = b.start()
	say("after a kill")
	b.reload(b.withVirtuals(s, web))
	say("without the virtual server")
	if conn, err := b.Client.Dial(shortly(t), "tcp", "10.20.3.4:80"); err == nil {
		conn.Close()
		t.Error("a new connection to a virtual server that is gone")
	}
	for _, s := range sessions {
		s.Close()
	}
	eventually(t, "what has drained to be forgotten", func() bool { return len(query[[]ctl.ConnView](b, "conn", "list")) == 0 })
	b.reload(with)
	if _, err := openSession(b.Client, netip.MustParseAddrPort("10.30.9.9:80")); err != nil {
		t.Error(err)
	}
	d.stop()
}
