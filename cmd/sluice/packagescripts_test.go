package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"sluice/perf/lab"
)

// The package's scripts end well whatever there is: a configuration that is wrong, a service that is disabled or cannot start, a removal
// and another installation, mounts that a killed sluice or anybody has left, and being called twice.
func TestPackageScripts(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1}, settings{})
	deb := makePackage(t, b.dir)
	m := b.boot()
	ok(t, exec.Command("cp", deb, fmt.Sprintf("/proc/%d/root/root/sluice.deb", m.pid)).Run())
	b.socket = "" // that of the machine is none of ours
	state := func(unit string) string { s, _ := m.run("systemctl", "is-active", unit); return strings.TrimSpace(s) }
	install := func(want string) {
		t.Helper()
		if out, err := m.run("dpkg", "-i", "--force-confold", "/root/sluice.deb"); err != nil {
			t.Fatalf("dpkg -i: %v\n%s", err, out)
		}
		if s := state("sluice"); s != want {
			t.Errorf("after an installation it is %s, not %s:\n%s", s, want, m.must("journalctl", "--no-pager", "-n", "20", "-u", "sluice"))
		}
		if out := m.must("dpkg", "--audit"); out != "" {
			t.Errorf("dpkg finds: %s", out)
		}
	}
	mounts := func() string { out, _ := m.run("grep", " /run/sluice", "/proc/mounts"); return out }

	install("inactive")
	m.put("/etc/sluice/sluice.yaml", "engine: {wrokers: 1}\n")
	if out, _ := m.run("systemctl", "start", "sluice"); state("sluice") == "active" {
		t.Errorf("it starts with a wrong configuration: %s", out)
	}
	m.must("systemctl", "stop", "sluice")
	if out, err := m.run("dpkg", "-i", "--force-confold", "/root/sluice.deb"); err != nil { // a failed start is none of the package
		t.Errorf("%v\n%s", err, out)
	}
	m.must("systemctl", "stop", "sluice")
	m.must("systemctl", "reset-failed", "sluice")
	m.put("/etc/sluice/sluice.yaml", regexp.MustCompile(`(?m)^control:\n.*\n`).ReplaceAllString(b.configText(settings{}), ""))
	install("active")

	// Removed while it serves; the configuration stays for another installation.
	m.must("dpkg", "-r", "sluice")
	if s := mounts(); s != "" || state("sluice") == "active" {
		t.Errorf("after a removal it is %s, with mounts:\n%s", state("sluice"), s)
	}
	m.must("ls", "/etc/sluice/sluice.yaml")
	install("active")
	// What an administrator has disabled stays so.
	m.must("systemctl", "disable", "--now", "sluice")
	if out, err := m.run("dpkg", "-i", "--force-confold", "/root/sluice.deb"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if s, _ := m.run("systemctl", "is-enabled", "sluice"); strings.TrimSpace(s) != "disabled" {
		t.Errorf("an upgrade has made it %s", s)
	}
	m.must("systemctl", "enable", "sluice")
	m.must("systemctl", "restart", "sluice")

	// A killed one, whose mounts are left, and one that somebody uses.
	m.must("systemctl", "mask", "--runtime", "sluice-prepare.service") // it takes nothing away then
	m.must("dpkg", "-r", "sluice")
	m.must("systemctl", "unmask", "--runtime", "sluice-prepare.service")
	m.must("sh", "-c", "mkdir -p /run/sluice/net-1.tables /run/sluice/busy && mount -t tmpfs tmpfs /run/sluice/net-1.tables && mkdir /run/sluice/net-1.tables/in && mount -t tmpfs tmpfs /run/sluice/net-1.tables/in && touch /run/sluice/net-1.tables/in/file && mount -t tmpfs tmpfs /run/sluice/busy && touch /run/sluice/busy/kept")
	m.must("sh", "-c", "cd /run/sluice/busy && setsid sleep 600 >/dev/null 2>&1 & echo $! >/root/user")
	m.must("dpkg-deb", "-e", "/root/sluice.deb", "/root/scripts")
	out, err := m.run("dpkg", "--purge", "sluice")
	if err != nil || !strings.Contains(out, "something uses /run/sluice/busy, which stays") {
		t.Errorf("a purge with mounts that are left: %v\n%s", err, out)
	}
	if s := mounts(); strings.Count(s, "\n") != 1 || !strings.Contains(s, "/run/sluice/busy ") {
		t.Errorf("these mounts are left:\n%s", s)
	}
	m.must("ls", "/run/sluice/busy/kept")
	m.must("sh", "-c", "kill $(cat /root/user); while kill -0 $(cat /root/user) 2>/dev/null; do sleep 0.1; done")

	// Each script twice, in every way that dpkg may call it.
	for _, call := range []string{
		"postrm purge", "postrm remove", "postrm upgrade 0.2.0-1", "postrm failed-upgrade 0.0.1-1", "postrm abort-install", "postrm abort-upgrade 0.0.1-1", "postrm disappear other 1",
		"prerm remove", "prerm upgrade 0.2.0-1", "prerm failed-upgrade 0.0.1-1", "prerm deconfigure in-favour other 1", "postrm purge",
	} {
		for range 2 {
			if out, err := m.run(append([]string{"sh"}, strings.Fields("/root/scripts/"+call)...)...); err != nil {
				t.Errorf("%s: %v\n%s", call, err, out)
			}
		}
	}
	if out, err := m.run("sh", "-c", "id sluice || ls -d /etc/sluice /run/sluice /usr/bin/sluice /etc/systemd/system/sluice* || ip link show sluice-host || grep /run/sluice /proc/mounts"); err == nil {
		t.Errorf("a purge leaves: %s", out)
	}
	m.must("dpkg", "-i", "/root/sluice.deb")
	for _, call := range []string{"postinst configure", "postinst configure 0.1.0-1", "postinst abort-upgrade 0.1.0-1", "postinst abort-remove", "postinst abort-deconfigure in-favour other 1"} {
		for range 2 {
			if out, err := m.run(append([]string{"sh"}, strings.Fields("/root/scripts/"+call)...)...); err != nil {
				t.Errorf("%s: %v\n%s", call, err, out)
			}
		}
	}
	m.must("dpkg", "--purge", "sluice")
}

// Who answers for a package is who makes it, or who has signed the newest entry of the changelog; what is no name and address is refused.
func TestPackageMaintainer(t *testing.T) {
	for _, c := range []struct{ maintainer, want string }{
		{"", "sluice maintainers <maintainers@sluice.example.org>"},
		{"Ada O'Lovelace (net/ops) <ada+deb@example.org>", "Ada O'Lovelace (net/ops) <ada+deb@example.org>"},
		{"nobody", ""}, {"a|b <c@d>", ""}, {"a <b@c>\nDepends: evil", ""}, {"a & b <c@d>", ""}, {"Depends: evil\na <b@c>", ""},
	} {
		dir := t.TempDir()
		cmd := exec.Command("../../deploy/debian/build", program(t), dir)
		cmd.Env = append(os.Environ(), "DEB_COMPRESSION=none", "MAINTAINER="+c.maintainer)
		var complaints output
		cmd.Stderr = &complaints
		out, err := cmd.Output()
		if c.want == "" {
			if err == nil || !strings.Contains(complaints.String(), "not \"Name <address@host>\"") {
				t.Errorf("%q: %v %s", c.maintainer, err, complaints.String())
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v %s", c.maintainer, err, complaints.String())
			continue
		}
		if got := strings.TrimSpace(string(must(exec.Command("dpkg-deb", "-f", strings.TrimSpace(string(out)), "Maintainer").Output())(t))); got != c.want {
			t.Errorf("%q: %q", c.maintainer, got)
		}
	}
}
