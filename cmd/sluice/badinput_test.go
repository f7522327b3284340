package main

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"sluice/perf/lab"
)

// Bad input ends with a clear line per problem and exit code 1, of run and of check, and changes nothing.
func TestBadInput(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 2}, settings{})
	good := b.configText(settings{})
	change := func(old, new string) string {
		t.Helper()
		if !strings.Contains(good, old) {
			t.Fatalf("the configuration has no %q:\n%s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	server4 := b.ServerAddr4[0].String()
	for _, c := range []struct {
		name    string
		config  string
		lines   []string // what each line of standard error matches
		runOnly bool     // check has nothing against it
	}{
		{"unknown key", change("engine: {", "engine: {wrokers: 2, "), []string{`sluice\.yaml:1:\d+: .*wrokers.*workers`}, false},
		{"unknown section", good + "virtual-server: []\n", []string{`virtual-server.*did you mean "virtual-servers"`}, false},
		{"not YAML", "ports: [", []string{`sluice\.yaml:1:\d+: `}, false},
		{"duplicate virtual server", good + `  - {name: web, address: "10.10.1.100:80", protocol: tcp, pool: all}` + "\n",
			[]string{`:\d+:\d+: virtual-servers\[6\]\.name: .* already in line \d+`, `:\d+:\d+: virtual-servers\[6\]\.address: .* in line \d+`}, false},
		{"member of the wrong family", change(`pool: all}`, `pool: all6}`), []string{`:\d+:\d+: .*IPv[46]`}, false},
		{"no such pool", change(`pool: all}`, `pool: al}`), []string{`no pool named "al"`}, false},
		{"missing interface", change("interface: outside", "interface: outsied"), []string{`:\d+:\d+: ports\[0\]\.interface: no interface outsied`}, false},
		{"both interfaces missing", strings.NewReplacer("interface: outside", "interface: a1", "interface: inside", "interface: a2").Replace(good),
			[]string{`ports\[0\]\.interface: no interface a1`, `ports\[1\]\.interface: no interface a2`}, false},
		{"not an Ethernet interface", change("interface: outside", "interface: lo"), []string{`ports\[0\]\.interface: lo is not an Ethernet interface`}, false},
		{"too many queues", change("interface: outside", "interface: outside, queues: 3"), []string{`queues.*outside has 2 queues, not 3`}, false},
		{"too few queues", change("interface: outside", "interface: outside, queues: 1"), []string{`queues.*ethtool -L outside`}, false},
		{"too many workers", change("engine: {", "engine: {workers: 3"), []string{`engine\.workers: 3 workers`}, false},
		{"no such core", change("engine: {", "engine: {cores: [4000]"), []string{`engine\.cores: core 4000`}, false},
		{"hold time too short", change("engine: {", "engine: {hold-time: 50ms"), []string{`sluice\.yaml:1:\d+: engine\.hold-time: .*50ms`}, false},
		{"the same with the other driver", change("engine: {", "engine: {driver: asavie, mode: zero-copy"), []string{`outside.*no zero-copy; use mode copy or auto`}, true},
		{"zero-copy that a veth has not", change("engine: {", "engine: {mode: zero-copy"), []string{`outside.*no zero-copy; use mode copy or auto`}, true},
		{"two members without a route", change(server4, `10.99.0.1", weight: 1}`+"\n"+`      - {name: other, address: "10.99.0.2`),
			[]string{`:\d+:\d+: pools\[0\].members\[0\]\.address: no route to member 10\.99\.0\.1`, `:\d+:\d+: pools\[0\].members\[1\]\.address: no route to member 10\.99\.0\.2`}, false},
		{"member is this host", change(server4, b.Inside4.String()), []string{`member 192\.168\.20\.254 is an address of this host`}, false},
		{"socket path is a folder", change(b.socket, b.dir), []string{`control socket: .*is not a socket`}, true},
		{"socket path is a file", change(b.socket, b.config), []string{`control socket: .*is not a socket`}, true},
		{"metrics port taken", change("control:\n", "control:\n  metrics: 127.0.0.1:9999\n"), []string{`metrics.*127\.0\.0\.1:9999.*in use`}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if strings.Contains(c.config, ":9999") {
				ln := must(b.Balancer.Listen("tcp", "127.0.0.1:9999"))(t)
				defer ln.Close()
			}
			b.write(c.config)
			b.refused(t, nil, c.lines, "run", "-c", b.config)
			if !c.runOnly {
				b.refused(t, nil, c.lines, "check", "-c", b.config)
			} else if r := b.sluice(nil, "check", "-c", b.config); r.code != 0 {
				t.Errorf("check: %+v", r)
			}
			if text := string(must(os.ReadFile(b.config))(t)); text != c.config {
				t.Errorf("the configuration file is now %q", text)
			}
		})
	}

	t.Run("no such file", func(t *testing.T) {
		for _, command := range []string{"run", "check"} {
			b.refused(t, nil, []string{`nowhere\.yaml.*no such file`}, command, "-c", filepath.Join(b.dir, "nowhere.yaml"))
		}
	})
	b.write(good)
	t.Run("no permission", func(t *testing.T) {
		b.refused(t, &syscall.Credential{Uid: 65534, Gid: 65534}, []string{`lacks CAP_NET_ADMIN.*run as root`}, "run", "-c", b.config)
		if r := b.sluice(&syscall.Credential{Uid: 65534, Gid: 65534}, "check", "-c", b.config); r.code != 0 {
			t.Errorf("check needs no privilege: %+v", r)
		}
	})
	t.Run("interface down", func(t *testing.T) {
		ok(t, b.Balancer.SetLink(b.Inside, false))
		for _, command := range []string{"run", "check"} {
			b.refused(t, nil, []string{`:\d+:\d+: ports\[1\]\.interface: inside is down; set it up \(ip link set inside up\)`}, command, "-c", b.config)
		}
		ok(t, b.Balancer.SetLink(b.Inside, true))
		// What went with the link is put back for the comparison at the end.
		ok(t, b.Balancer.Addr(b.Inside, b.Inside6.String()+"/64"))
	})
	t.Run("good after all", func(t *testing.T) {
		r := b.sluice(nil, "check", "-c", b.config)
		if r.code != 0 || !strings.Contains(r.stdout, "is good: 2 ports, 6 virtual servers, 2 pools with 2 members") || r.stderr != "" {
			t.Errorf("check: %+v", r)
		}
		b.start().stop()
	})
}

// refused asserts exit code 1 with exactly these lines on standard error, nothing on standard output, and a host that
// is as it was.
func (b *bed) refused(t *testing.T, cred *syscall.Credential, lines []string, args ...string) {
	t.Helper()
	before := b.hostState(true)
	r := b.sluice(cred, args...)
	if after := b.hostState(true); after != before {
		t.Errorf("sluice %s: the host is\n%snot\n%s", args, after, before)
	}
	if left := b.leftBehind(); left != "" {
		t.Errorf("sluice %s: left behind: %s", args, left)
	}
	var got []string
	for line := range strings.Lines(r.stderr) {
		if strings.HasPrefix(line, "time=") { // the log of what went well until then
			continue
		}
		got = append(got, strings.TrimSuffix(line, "\n"))
	}
	good := r.code == exitFailed && r.stdout == "" && len(got) == len(lines)
	for i := range lines {
		good = good && strings.HasPrefix(got[i], "sluice: ") && regexp.MustCompile(lines[i]).MatchString(got[i])
	}
	if !good {
		t.Errorf("sluice %s: exit code %d, want 1 and lines like %q; standard output %q, error:\n%s", args, r.code, lines, r.stdout, r.stderr)
	}
}

// Wrong command lines end with exit code 2 and one line.
func TestUsage(t *testing.T) {
	needRoot(t)
	b := newBed(t, lab.TwoArmOptions{Servers: 1}, settings{})
	for _, c := range []struct{ args, want string }{
		{"runn -c x", `no command "runn"`},
		{"run", `run needs a configuration: -c FILE`},
		{"check", `check needs a configuration: -c FILE`},
		{"explain", `explain takes`},
		{"run -c x more", `run takes no arguments, not "more"`},
		{"check -c x more", `check takes no arguments, not "more"`},
		{"run -c x --fast", `-fast`},
		{"conn lst", `conn has no command "lst"`},
		{"conn -o yaml", `no output format "yaml"`},
		{"port release", `name one interface, or --all`},
		{"port release --all outside", `name one interface, or --all`},
		{"demo --requests 1", `--requests takes`},
		{"replay -c x", `replay needs a capture file`},
		{"explain -c x tcp", `explain takes a protocol`},
	} {
		r := b.sluice(nil, append(strings.Fields(c.args), "--socket="+b.socket)[:len(strings.Fields(c.args))]...)
		if r.code != exitUsage || !strings.Contains(r.stderr, c.want) || strings.Count(r.stderr, "\n") != 1 || r.stdout != "" {
			t.Errorf("sluice %s: %+v, want exit code 2 and one line with %q", c.args, r, c.want)
		}
	}
	// Commands that ask a running sluice say that there is none.
	for _, noun := range []string{"virtual", "pool", "member", "conn", "worker", "port", "drop"} {
		r := b.sluice(nil, noun, "--socket", b.socket)
		if r.code != exitFailed || !strings.Contains(r.stderr, "no sluice answers at "+b.socket) || strings.Count(r.stderr, "\n") != 1 {
			t.Errorf("sluice %s: %+v", noun, r)
		}
	}
}

// A second engine in the namespace, or one in another with the same control socket, is refused, and the first one
// serves on.
func TestSecondEngine(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1}, settings{})
	b.serve(webPort, lab.HTTPServer)
	d := b.start()
	before := b.hostState(false)
	r := b.sluice(nil, "run", "-c", b.config)
	if r.code != exitFailed || r.stderr != "sluice: another sluice runs in this network namespace; stop it first\n" {
		t.Errorf("a second engine: %+v", r)
	}
	if r := b.sluice(nil, "port", "release", "--all"); r.code != exitFailed || !strings.Contains(r.stderr, "another sluice runs") {
		t.Errorf("a release under a running engine: %+v", r)
	}
	if after := b.hostState(false); after != before {
		t.Errorf("the host is\n%snot\n%s", after, before)
	}

	other := newBed(t, lab.TwoArmOptions{Servers: 1}, settings{})
	other.write(strings.Replace(other.configText(settings{}), other.socket, b.socket, 1))
	other.refused(t, nil, []string{`control socket ` + regexp.QuoteMeta(b.socket) + ` belongs to a running sluice`}, "run", "-c", other.config)

	for _, vip := range b.vips(webPort) {
		if _, err := ask(b.Client, vip, waitTime); err != nil {
			t.Errorf("%s: %v", vip, err)
		}
	}
	d.stop()
}

// Another XDP program on an interface is not disturbed; a dead control socket and an address that the host has
// already are no obstacle, and the address stays.
func TestNotOurs(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1}, settings{})
	b.serve(webPort, lab.HTTPServer)
	ln := must(net.Listen("unix", b.socket))(t)
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close()
	ok(t, b.Balancer.Addr(b.Outside, b.VIP4.String()+"/32"))
	d := b.start()
	if _, err := ask(b.Client, netip.AddrPortFrom(b.VIP4, webPort), waitTime); err != nil {
		t.Error(err)
	}
	d.stop()
	ok(t, b.Balancer.Do(func() error {
		l, err := netlink.LinkByName(b.Outside)
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(b.VIP4.String() + "/32")
		if err != nil {
			return err
		}
		return netlink.AddrDel(l, a) // fails if the program took it away
	}))
}
