package main

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"

	"sluice/ctl"
	"sluice/perf/lab"
)

// doctor runs the doctor in the balancer's namespace and decodes its report.
func (b *bed) doctor(cred *syscall.Credential, args ...string) (r ctl.DoctorReport, code int) {
	b.t.Helper()
	out := b.sluice(cred, append([]string{"doctor", "-o", "json"}, args...)...)
	ok(b.t, json.Unmarshal([]byte(out.stdout), &r))
	if (out.code == exitFailed) != (r.Failures > 0) {
		b.t.Errorf("exit code %d with %d failures", out.code, r.Failures)
	}
	return r, out.code
}

func named(r ctl.DoctorReport, check, subject string) *ctl.Finding {
	i := slices.IndexFunc(r.Findings, func(f ctl.Finding) bool { return f.Check == check && strings.HasPrefix(f.Subject, subject) })
	if i < 0 {
		return nil
	}
	return &r.Findings[i]
}

func offload(t *testing.T, h *lab.Host, ifname, feature string, on bool) {
	t.Helper()
	ok(t, h.Do(func() error {
		tool, err := ethtool.NewEthtool()
		if err != nil {
			return err
		}
		defer tool.Close()
		return tool.Change(ifname, map[string]bool{feature: on})
	}))
}

// What is broken in a lab is named by the doctor, and no longer once it is mended.
func TestDoctor(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 2}, settings{})
	r, code := b.doctor(nil, "-c", b.config)
	if code != exitOK || r.Failures != 0 {
		t.Errorf("a lab that works: %+v", r)
	}
	for _, check := range []string{"kernel", "af-xdp", "capabilities", "memlock", "cores"} {
		if f := named(r, check, "host"); f == nil || f.Level == ctl.LevelFail {
			t.Errorf("%s: %+v", check, f)
		}
	}
	if f := named(r, "xdp-mode", "outside"); f == nil || f.Level != ctl.LevelNote || !strings.Contains(f.Text, "veth: native XDP, no zero-copy") {
		t.Errorf("a veth has native XDP and no zero-copy: %+v", f)
	}
	if f := named(r, "queues", "inside"); f == nil || !strings.Contains(f.Text, "2") {
		t.Errorf("queues: %+v", f)
	}
	link := func(change func(netlink.Link) error) {
		t.Helper()
		ok(t, b.Balancer.Do(func() error {
			l, err := netlink.LinkByName(b.Outside)
			if err != nil {
				return err
			}
			return change(l)
		}))
	}
	mtu := func(n int) func() {
		return func() { link(func(l netlink.Link) error { return netlink.LinkSetMTU(l, n) }) }
	}
	sysctl := func(key, value string) func() { return func() { ok(t, b.Balancer.Sysctl(key, value)) } }
	feature := func(h *lab.Host, ifname, name string, on bool) func() {
		return func() { offload(t, h, ifname, name, on) }
	}
	for _, c := range []struct {
		name, check, subject string
		level                ctl.Level
		file                 bool
		breakIt, mendIt      func()
	}{
		{"transmit checksum offload", "tx-checksum", "outside", ctl.LevelWarn, true,
			feature(b.Balancer, b.Outside, "tx-checksum-ip-generic", true), feature(b.Balancer, b.Outside, "tx-checksum-ip-generic", false)},
		{"the same at the client, in another namespace", "peer-tx-checksum", "outside", ctl.LevelWarn, true,
			feature(b.Client, "eth0", "tx-checksum-ip-generic", true), feature(b.Client, "eth0", "tx-checksum-ip-generic", false)},
		{"the same without a configuration", "peer-tx-checksum", "outside", ctl.LevelWarn, false,
			feature(b.Client, "eth0", "tx-checksum-ip-generic", true), feature(b.Client, "eth0", "tx-checksum-ip-generic", false)},
		{"strict reverse path filter of a port", "rp-filter", "inside", ctl.LevelWarn, true,
			sysctl("net.ipv4.conf.inside.rp_filter", "1"), sysctl("net.ipv4.conf.inside.rp_filter", "0")},
		{"strict reverse path filter of all", "rp-filter", "host", ctl.LevelWarn, true,
			sysctl("net.ipv4.conf.all.rp_filter", "1"), sysctl("net.ipv4.conf.all.rp_filter", "0")},
		{"forwarding", "ip-forward", "host", ctl.LevelNote, true, sysctl("net.ipv4.ip_forward", "1"), sysctl("net.ipv4.ip_forward", "0")},
		{"MTU above a frame", "mtu", "outside", ctl.LevelFail, true, func() {
			b.write(strings.Replace(b.configText(settings{}), "interface: outside", "interface: outside, jumbo: off", 1))
			mtu(4000)()
		}, func() {
			b.write(b.configText(settings{}))
			mtu(1500)()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var args []string
			if c.file {
				args = []string{"-c", b.config}
			}
			before, _ := b.doctor(nil, args...)
			c.breakIt()
			broken, _ := b.doctor(nil, args...)
			c.mendIt()
			after, _ := b.doctor(nil, args...)
			if f := named(broken, c.check, c.subject); f == nil || f.Level != c.level || f.Mend == "" {
				t.Errorf("not named: %+v", broken.Findings)
			}
			for _, r := range []ctl.DoctorReport{before, after} {
				if f := named(r, c.check, c.subject); f != nil && f.Level != ctl.LevelOK {
					t.Errorf("named without cause: %+v", f)
				}
			}
		})
	}
	t.Run("no such interface", func(t *testing.T) {
		good := b.configText(settings{})
		b.write(strings.Replace(good, "interface: outside", "interface: outsied", 1))
		if r, code := b.doctor(nil, "-c", b.config); code != exitFailed || named(r, "interface", "outside (outsied)") == nil {
			t.Errorf("exit code %d: %+v", code, r)
		}
		b.write(good)
	})
	t.Run("no privilege", func(t *testing.T) {
		r, code := b.doctor(&syscall.Credential{Uid: 65534, Gid: 65534}, "-c", b.config)
		if f := named(r, "capabilities", "host"); code != exitFailed || f == nil || f.Level != ctl.LevelFail || !strings.Contains(f.Text, "CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF") {
			t.Errorf("exit code %d: %+v", code, r)
		}
	})
	t.Run("a virtual server on the host's own address", func(t *testing.T) {
		// It is the one by which the host is reached: on the loopback interface, as any that sluice has not placed.
		address := func(verb string) {
			t.Helper()
			_ = must(b.Balancer.Run(t.Context(), "ip", "addr", verb, b.VIP4.String()+"/32", "dev", "lo"))(t)
		}
		address("add")
		defer address("del")
		found, _ := b.doctor(nil, "-c", b.config)
		if f := named(found, "host-address", "host"); f == nil || f.Level != ctl.LevelWarn || !strings.Contains(f.Text, "not even by ssh") {
			t.Errorf("%+v", f)
		}
		r := b.sluice(nil, "check", "-c", b.config)
		if r.code != exitOK || !regexp.MustCompile(`warning: \S+:\d+:\d+: virtual-servers\[0\]\.address: `+b.VIP4.String()+` is this host's own address \(on lo\).*unmatched: host`).MatchString(r.stdout) {
			t.Errorf("%+v", r)
		}
		good := b.configText(settings{})
		b.write(strings.ReplaceAll(good, "pool: all}", "pool: all, unmatched: host}"))
		if r := b.sluice(nil, "check", "-c", b.config); r.code != exitOK || strings.Contains(r.stdout, "own address") {
			t.Errorf("%+v", r)
		}
		b.write(good)
	})
	t.Run("while it runs", func(t *testing.T) {
		d := b.start()
		r, code := b.doctor(nil, "-c", b.config)
		if f := named(r, "xdp-program", "outside"); code != exitOK || f == nil || f.Level != ctl.LevelOK {
			t.Errorf("sluice's own program is taken for another's: %+v", r)
		}
		// Who may not look at pins is not told that it is another's.
		r, _ = b.doctor(&syscall.Credential{Uid: 65534, Gid: 65534}, "-c", b.config)
		if f := named(r, "xdp-program", "outside"); f == nil || f.Level != ctl.LevelNote || !strings.Contains(f.Mend, "as root") {
			t.Errorf("by a plain user: %+v", f)
		}
		if f := named(r, "host-address", "host"); f == nil || f.Level != ctl.LevelOK {
			t.Errorf("the virtual addresses that sluice has placed are taken for the host's: %+v", f)
		}
		d.stop()
	})
	t.Run("table", func(t *testing.T) {
		out := b.sluice(nil, "doctor", "-c", b.config)
		if out.code != exitOK || !strings.Contains(out.stdout, "mend: ") || !strings.Contains(out.stdout, " 0 failures\n") || out.stderr != "" {
			t.Errorf("%+v", out)
		}
	})
}
