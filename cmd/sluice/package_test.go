package main

import (
	"context"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/ctl"
	"sluice/perf/lab"
)

// makePackage builds the Debian package of the program under test.
func makePackage(t *testing.T, dir string) string {
	t.Helper()
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		lacking(t, "dpkg-deb is not installed: no Debian")
	}
	cmd := exec.Command("../../deploy/debian/build", program(t), dir)
	cmd.Env = append(os.Environ(), "DEB_COMPRESSION=none") // quick
	var complaints output
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("build the package: %v\n%s", err, complaints.String())
	}
	return strings.TrimSpace(string(out))
}

// quickTags are what lintian finds only because the program under test is not stripped and its package not compressed.
const quickTags = "unstripped-binary-or-object,uses-no-compression-for-control-tarball,uses-no-compression-for-data-tarball"

// The package has what a package has, as Debian's own tool sees it, and the same again when it is made again.
func TestPackageContents(t *testing.T) {
	dirs := [2]string{t.TempDir(), t.TempDir()}
	deb := makePackage(t, dirs[0])
	if name := filepath.Base(deb); !regexp.MustCompile(`^sluice_` + regexp.QuoteMeta(ctl.Version) + `-\d+_[a-z0-9]+\.deb$`).MatchString(name) {
		t.Errorf("it is called %s", name)
	}
	list := string(must(exec.Command("dpkg-deb", "-c", deb).Output())(t))
	for _, want := range []string{
		"-rwxr-xr-x root/root ./usr/bin/sluice", "-rw-r--r-- root/root ./lib/systemd/system/sluice.service",
		"-rw-r--r-- root/root ./lib/systemd/system/sluice-prepare.service", "-rw-r--r-- root/root ./usr/lib/sysusers.d/sluice.conf",
		"-rw-r--r-- root/root ./usr/lib/tmpfiles.d/sluice.conf", "-rw-r--r-- root/root ./etc/sluice/sluice.yaml",
		"-rw-r--r-- root/root ./usr/share/bash-completion/completions/sluice", "-rw-r--r-- root/root ./usr/share/zsh/vendor-completions/_sluice",
		"-rw-r--r-- root/root ./usr/share/man/man8/sluice.8.gz", "-rw-r--r-- root/root ./usr/share/doc/sluice/copyright",
		"-rw-r--r-- root/root ./usr/share/doc/sluice/changelog.Debian.gz", "-rw-r--r-- root/root ./usr/share/doc/sluice/NOTICES.gz",
		"-rw-r--r-- root/root ./usr/share/doc/sluice/examples/sluice.rules.yaml",
	} {
		words := strings.Fields(want)
		if !regexp.MustCompile(`(?m)^` + words[0] + ` ` + words[1] + ` .* ` + regexp.QuoteMeta(words[2]) + `$`).MatchString(list) {
			t.Errorf("no %s in\n%s", want, list)
		}
	}
	packageLinks(t, deb)
	sum := func(path string) string {
		return strings.Fields(string(must(exec.Command("sha256sum", path).Output())(t)))[0]
	}
	if again := makePackage(t, dirs[1]); sum(again) != sum(deb) {
		t.Error("made again it differs")
	}
	if lintian, err := exec.LookPath("lintian"); err == nil {
		if out, _ := exec.Command(lintian, "--allow-root", "--suppress-tags", quickTags, deb).Output(); strings.Contains(string(out), "E: ") || strings.Contains(string(out), "W: ") {
			t.Errorf("lintian:\n%s", out)
		}
	} else {
		t.Log("lintian is not installed, so it was not asked")
	}
}

// packageLinks asserts that links of the package's documents lead to files that are in it.
func packageLinks(t *testing.T, deb string) {
	t.Helper()
	root := t.TempDir()
	if out, err := exec.Command("dpkg-deb", "-x", deb, root).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	links := 0
	ok(t, filepath.WalkDir(filepath.Join(root, "usr/share/doc/sluice"), func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".md" {
			return err
		}
		for _, m := range regexp.MustCompile(`\]\(([^)#\s]+)[^)]*\)`).FindAllStringSubmatch(string(must(os.ReadFile(path))(t)), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			links++
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s: a link leads nowhere: %s", strings.TrimPrefix(path, root), m[1])
			}
		}
		return nil
	}))
	if links < 10 {
		t.Errorf("only %d links were found", links)
	}
}

// The configuration of the package is comments, and a good one without the marks.
func TestPackageConfiguration(t *testing.T) {
	text := string(must(os.ReadFile(filepath.Join(deployDir, "debian", "sluice.yaml")))(t))
	if regexp.MustCompile(`(?m)^[^#\n]`).MatchString(text) {
		t.Errorf("it is not all comments:\n%s", text)
	}
	path := filepath.Join(t.TempDir(), "sluice.yaml")
	ok(t, os.WriteFile(path, []byte(regexp.MustCompile(`(?m)^#((?:  ){0,3}(?:- |[a-z-]+:))`).ReplaceAllString(text, "$1")), 0o644))
	out, err := exec.Command(program(t), "check", "--offline", "-c", path).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "2 ports, 1 virtual server, 1 pool with 2 members") {
		t.Errorf("%v: %s\n%s", err, out, must(os.ReadFile(path))(t))
	}
}

// machine is a copy of this system with a systemd of its own, in the network namespace of the bed's balancer.
type machine struct {
	*lab.Process
	t   *testing.T
	pid int // of its systemd
}

func (b *bed) boot() *machine {
	b.t.Helper()
	for _, needed := range []string{"systemctl", "unshare", "nsenter", "dpkg"} {
		if _, err := exec.LookPath(needed); err != nil {
			lacking(b.t, err.Error())
		}
	}
	m := &machine{t: b.t}
	script := must(filepath.Abs("testdata/systemd"))(b.t)
	said := &output{}
	cmd := exec.Command(script, b.dir)
	cmd.Stdout, cmd.Stderr = said, said
	m.Process = must(b.Balancer.Start(cmd))(b.t)
	b.t.Cleanup(func() {
		_ = m.Stop(time.Second)
		for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
			eventually(b.t, "the cgroups are empty", func() bool { return removeCgroups(filepath.Join(root, filepath.Base(b.dir))) })
		}
	})
	for deadline := time.Now().Add(startTime); ; time.Sleep(50 * time.Millisecond) {
		select {
		case <-m.Done():
			b.t.Fatalf("systemd does not boot: %v\n%s", m.Wait(), said)
		default:
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("systemd does not boot within %s:\n%s", startTime, said)
		}
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", m.PID(), m.PID()))
		if m.pid, _ = strconv.Atoi(strings.TrimSpace(string(children))); m.pid == 0 || filepath.Base(must(os.Readlink(fmt.Sprintf("/proc/%d/exe", m.pid)))(b.t)) != "systemd" {
			continue
		}
		if state, _ := m.run("systemctl", "is-active", "basic.target"); strings.TrimSpace(state) == "active" {
			return m
		}
	}
}

// removeCgroups removes a cgroup with those in it, and reports whether it is gone.
func removeCgroups(path string) bool {
	_ = filepath.WalkDir(path, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && p != path {
			removeCgroups(p)
			return filepath.SkipDir
		}
		return nil
	})
	err := syscall.Rmdir(path)
	return err == nil || err == syscall.ENOENT
}

// run runs a command in the machine and returns what it says.
func (m *machine) run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(m.t.Context(), startTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", strconv.Itoa(m.pid), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--"}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (m *machine) must(args ...string) string {
	m.t.Helper()
	out, err := m.run(args...)
	if err != nil {
		m.t.Fatalf("%s: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(out)
}

// put writes a file in the machine.
func (m *machine) put(path, text string) {
	m.t.Helper()
	ok(m.t, os.WriteFile(filepath.Join(fmt.Sprintf("/proc/%d/root", m.pid), path), []byte(text), 0o644))
}

// The package is installed into a machine with a systemd of its own, where nothing is started until it is configured and as long as
// policy-rc.d forbids it; then the service serves the lab as its own user in its sandbox, keeps connections over a kill, reloads,
// and a removal leaves nothing.
func TestPackageService(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1}, settings{})
	b.serve(webPort, lab.HTTPServer)
	b.echoServer(b.Servers[0], netip.AddrPortFrom(b.ServerAddr4[0], bulkPort))
	deb := makePackage(t, b.dir)
	m := b.boot()
	ok(t, exec.Command("cp", deb, fmt.Sprintf("/proc/%d/root/root/sluice.deb", m.pid)).Run())
	state := func(unit string) string { s, _ := m.run("systemctl", "is-active", unit); return strings.TrimSpace(s) }

	m.must("dpkg", "-i", "/root/sluice.deb")
	if s := state("sluice"); s != "inactive" || m.must("systemctl", "is-enabled", "sluice") != "enabled" {
		t.Errorf("after the installation it is %s", s)
	}
	if s := m.must("systemctl", "show", "-P", "Result", "sluice"); s != "exec-condition" {
		t.Errorf("it was not skipped for want of a configuration: %s", s)
	}
	b.socket = "" // that of the machine is none of ours
	m.put("/etc/sluice/sluice.yaml", regexp.MustCompile(`(?m)^control:\n.*\n`).ReplaceAllString(b.configText(settings{}), ""))
	m.put("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n")
	m.must("chmod", "755", "/usr/sbin/policy-rc.d")
	m.must("dpkg", "-i", "--force-confold", "/root/sluice.deb")
	if s := state("sluice"); s != "inactive" {
		t.Errorf("policy-rc.d forbids it, and it is %s", s)
	}
	m.must("rm", "/usr/sbin/policy-rc.d")
	m.must("dpkg", "-i", "--force-confold", "/root/sluice.deb")
	if s := state("sluice"); s != "active" {
		t.Fatalf("it is %s:\n%s", s, m.must("journalctl", "--no-pager", "-u", "sluice"))
	}
	if _, err := ask(b.Client, b.vips(webPort)[0], waitTime); err != nil {
		t.Error(err)
	}
	pid := func() string { return m.must("systemctl", "show", "-P", "MainPID", "sluice") }
	first := pid()
	status := m.must("cat", "/proc/"+first+"/status")
	uid := m.must("id", "-u", "sluice")
	for _, want := range []string{`Uid:\s+` + uid + `\s`, `CapEff:\s+000000c000007000\b`, `CapBnd:\s+000000c000007000\b`, `NoNewPrivs:\s+1\b`, `Seccomp:\s+2\b`} {
		if !regexp.MustCompile(want).MatchString(status) {
			t.Errorf("no %s in\n%s", want, status)
		}
	}
	journal := m.must("journalctl", "--no-pager", "-u", "sluice", "-u", "sluice-prepare")
	if strings.Contains(journal, "level=WARN") || strings.Contains(journal, "level=ERROR") || strings.Contains(journal, "not pinned") || !strings.Contains(journal, "huge pages") {
		t.Errorf("it lacks something:\n%s", journal)
	}
	if v := m.must("cat", "/proc/sys/net/ipv6/conf/sluice-host/accept_ra"); v != "0" {
		t.Errorf("it could not write the settings of the host port: accept_ra is %s", v)
	}

	c := must(openSession(b.Client, b.vips(bulkPort)[0]))(t)
	defer c.Close()
	ok(t, c.say(waitTime))
	m.must("dpkg", "-i", "--force-confold", "/root/sluice.deb") // an upgrade
	if now := pid(); now != first {
		t.Errorf("an upgrade has restarted it: %s was %s", now, first)
	}
	m.must("systemctl", "kill", "--kill-whom=main", "-s", "KILL", "sluice")
	eventually(t, "systemd restarts it", func() bool { p := pid(); return p != "0" && p != first && state("sluice") == "active" })
	if err := c.say(waitTime); err != nil {
		t.Errorf("the connection has not outlived the kill: %v\n%s", err, m.must("journalctl", "--no-pager", "-u", "sluice"))
	}
	m.must("systemctl", "reload", "sluice")
	if out := m.must("sluice", "virtual"); !strings.Contains(out, "web") {
		t.Errorf("sluice virtual: %s", out)
	}
	// Another group may have the control socket, if it is one of the user's.
	m.must("groupadd", "operators")
	m.must("mkdir", "/etc/systemd/system/sluice.service.d")
	m.put("/etc/systemd/system/sluice.service.d/group.conf", "[Service]\nSupplementaryGroups=operators\n")
	m.put("/etc/sluice/sluice.yaml", "control: {group: operators}\n"+m.must("cat", "/etc/sluice/sluice.yaml")+"\n")
	m.must("systemctl", "daemon-reload")
	if out, err := m.run("systemctl", "restart", "sluice"); err != nil {
		t.Errorf("%v: %s\n%s", err, out, m.must("journalctl", "--no-pager", "-n", "30", "-u", "sluice"))
	} else if group := m.must("stat", "-c", "%G %a", "/run/sluice/sluice.sock"); group != "operators 660" {
		t.Errorf("the control socket is %s", group)
	} else if out := m.must("setpriv", "--reuid", "65534", "--regid", "operators", "--clear-groups", "sluice", "virtual"); !strings.Contains(out, "web") {
		t.Errorf("an operator sees %s", out)
	}
	m.must("dpkg", "--purge", "sluice")
	m.must("rm", "-r", "/etc/systemd/system/sluice.service.d")
	m.must("systemctl", "daemon-reload")
	if out, err := m.run("sh", "-c", "id sluice || ls -d /etc/sluice /run/sluice /usr/bin/sluice /usr/share/doc/sluice || ip link show sluice-host || grep /run/sluice /proc/mounts"); err == nil {
		t.Errorf("a purge leaves: %s", out)
	}
	if out := m.must("systemctl", "list-unit-files", "--no-pager"); strings.Contains(out, "sluice") {
		t.Errorf("a purge leaves units: %s", out)
	}
}
