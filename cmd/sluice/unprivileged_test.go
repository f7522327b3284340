package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"sluice/ctl"
	"sluice/perf/lab"
)

// plainUser is nobody on this machine.
const plainUser = 61734

// unitCapabilities are those that the unit gives, in setpriv's spelling.
func unitCapabilities(t *testing.T) []string {
	t.Helper()
	ambient, bounding := unitSettings(t, "sluice.service", "AmbientCapabilities"), unitSettings(t, "sluice.service", "CapabilityBoundingSet")
	if len(ambient) != 1 || len(bounding) != 1 || ambient[0] != bounding[0] {
		t.Fatalf("ambient %q, bounding %q", ambient, bounding)
	}
	return strings.Fields(strings.ToLower(strings.ReplaceAll(ambient[0], "CAP_", "")))
}

// unprivileged is a command that a plain user runs with some capabilities and with little locked memory, as a unit would run it.
func unprivileged(t *testing.T, caps []string, args ...string) *exec.Cmd {
	t.Helper()
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		lacking(t, "setpriv is not installed (apt-get install util-linux)")
	}
	set := "-all"
	for _, c := range caps {
		set += ",+" + c
	}
	user := strconv.Itoa(plainUser)
	return exec.Command("prlimit", append([]string{"--memlock=65536", setpriv, "--reuid", user, "--regid", user, "--clear-groups",
		"--inh-caps", set, "--ambient-caps", set, "--bounding-set", set, "--no-new-privs"}, args...)...)
}

// prepared gives the bed to the plain user, and root does for it what it does before a start.
func (b *bed) prepared() {
	b.t.Helper()
	ok(b.t, os.Chown(b.dir, plainUser, plainUser))
	if r := b.sluice(nil, "prepare", "--user", strconv.Itoa(plainUser)); r.code != exitOK {
		b.t.Fatalf("prepare: %+v", r)
	}
}

// launchPlain starts the program as the plain user.
func (b *bed) launchPlain(flags ...string) *daemon {
	b.t.Helper()
	d := &daemon{bed: b, log: &output{}}
	cmd := unprivileged(b.t, unitCapabilities(b.t), append([]string{program(b.t), "run", "-c", b.config}, flags...)...)
	cmd.Stdout, cmd.Stderr = d.log, d.log
	d.Process = must(b.Balancer.Start(cmd))(b.t)
	b.daemons = append(b.daemons, d)
	return d
}

// startPlain awaits that it serves.
func (b *bed) startPlain() *daemon {
	b.t.Helper()
	d := b.launchPlain()
	d.await()
	return d
}

// A plain user with the unit's capabilities serves, keeps connections over a kill, hands over to a successor, runs programs of monitors and
// hooks that have no capability, and leaves nothing but what root has prepared.
func TestPlainUser(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 2, Queues: 2}, settings{engine: "workers: 2"})
	for i, h := range b.Servers {
		b.echoServer(h, netip.AddrPortFrom(b.ServerAddr4[i], bulkPort))
		b.echoServer(h, netip.AddrPortFrom(b.ServerAddr6[i], bulkPort))
	}
	b.serve(webPort, lab.HTTPServer)
	status := filepath.Join(b.dir, "monitor-status")
	hookStatus := filepath.Join(b.dir, "hook-status")
	script := filepath.Join(b.dir, "look")
	ok(t, os.WriteFile(script, []byte("#!/bin/sh\ncat /proc/self/status > ${1:-"+status+"}\n"), 0o755))
	config := strings.Replace(b.configText(settings{engine: "workers: 2"}), "pools:\n",
		fmt.Sprintf("monitors:\n  - {name: look, type: exec, exec: {command: [%s]}}\npools:\n", script), 1)
	config = strings.Replace(config, "{name: web,", fmt.Sprintf("{name: web, hook: [%s, %s],", script, hookStatus), 1)
	b.write(strings.Replace(config, "- name: all\n", "- name: all\n    monitors: [look]\n", 1))
	b.prepared()
	d := b.startPlain()
	if s := processStatus(t, d.PID()); s["Uid"] != fmt.Sprintf("%d\t%[1]d\t%[1]d\t%[1]d", plainUser) || s["CapEff"] != s["CapBnd"] || s["CapAmb"] != s["CapBnd"] {
		t.Errorf("it runs with %v", s)
	}
	if strings.Contains(d.log.String(), "level=WARN") || strings.Contains(d.log.String(), "level=ERROR") || strings.Contains(d.log.String(), "not pinned") {
		t.Errorf("it lacks something:\n%s", d.log)
	}
	if !strings.Contains(d.log.String(), "transparent huge pages") && !strings.Contains(d.log.String(), "hugetlbfs") {
		t.Errorf("frames have no huge pages:\n%s", d.log)
	}
	for _, vip := range b.vips(webPort) {
		if _, err := ask(b.Client, vip, waitTime); err != nil {
			t.Error(err)
		}
	}
	for _, file := range []string{status, hookStatus} {
		eventually(t, file+" is written", func() bool { return statusFile(file)["NoNewPrivs"] != "" })
		if s := statusFile(file); s["CapEff"]+s["CapPrm"]+s["CapInh"]+s["CapAmb"] != strings.Repeat("0000000000000000", 4) || s["NoNewPrivs"] != "1" {
			t.Errorf("%s: a program runs with %v", file, s)
		}
	}
	var sessions []*session
	say := func(when string) {
		t.Helper()
		for i, c := range sessions {
			if err := c.say(waitTime); err != nil {
				t.Errorf("session %d %s: %v", i, when, err)
			}
		}
	}
	for i := range 6 {
		c := must(openSession(b.Client, b.vips(bulkPort)[i%2]))(t)
		defer c.Close()
		sessions = append(sessions, c)
	}
	say("at first")
	d.kill()
	d = b.startPlain()
	if !strings.Contains(d.log.String(), "adopted the connections") {
		t.Errorf("no connections were adopted:\n%s", d.log)
	}
	say("after a kill")
	next := b.launchPlain("--takeover")
	for range 3 { // a busy machine may have the running one carry on
		if next.awaitTakeover() {
			break
		}
		next = b.launchPlain("--takeover")
	}
	d.ended()
	say("after a takeover")
	next.stop()
	if left := must(os.ReadDir(filepath.Join(ctl.StateDir, fmt.Sprintf("net-%d.tables", b.netns()))))(t); len(left) > 0 {
		t.Errorf("left of the tables: %v", left)
	}
	if r := b.sluice(nil, "port", "release", "--all"); r.code != exitOK {
		t.Errorf("release: %+v", r)
	}
	if text := string(must(os.ReadFile("/proc/self/mountinfo"))(t)); strings.Contains(text, fmt.Sprintf("net-%d.tables ", b.netns())) {
		t.Errorf("a mount is left:\n%s", text)
	}
}

// Each capability that is taken away is named, with what it is for and what to do, by run and by the doctor; nothing is left.
func TestMissingCapabilities(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1}, settings{})
	b.prepared()
	all := unitCapabilities(t)
	if want := []string{"net_admin", "net_raw", "bpf", "perfmon", "ipc_lock"}; !slices.Equal(all, want) {
		t.Errorf("the unit gives %v, not %v", all, want)
	}
	run := func(cmd *exec.Cmd) (string, int) {
		t.Helper()
		out := &output{}
		cmd.Stdout, cmd.Stderr = out, out
		p := must(b.Balancer.Start(cmd))(t)
		_ = p.Wait()
		return out.String(), cmd.ProcessState.ExitCode()
	}
	doctorSays := map[string]string{"ipc_lock": "or give CAP_IPC_LOCK"}
	for _, missing := range all {
		if doctorSays[missing] == "" {
			doctorSays[missing] = "without CAP_" + strings.ToUpper(missing) + " sluice run does not start"
		}
		with := slices.DeleteFunc(slices.Clone(all), func(c string) bool { return c == missing })
		name := "CAP_" + strings.ToUpper(missing)
		out, code := run(unprivileged(t, with, program(t), "run", "-c", b.config))
		if code != exitFailed || !strings.Contains(out, "lacks "+name+": "+name+" is needed to ") || !strings.Contains(out, "; run as root, or by the unit") {
			t.Errorf("run without %s: exit code %d, %s", name, code, out)
		}
		out, code = run(unprivileged(t, with, program(t), "doctor", "-c", b.config))
		if code != exitFailed || !strings.Contains(out, doctorSays[missing]) {
			t.Errorf("doctor without %s: exit code %d, %s", name, code, out)
		}
		out, code = run(unprivileged(t, with, program(t), "check", "-c", b.config))
		if code != exitOK || !strings.Contains(out, "warning: this process lacks "+name) {
			t.Errorf("check without %s: exit code %d, %s", name, code, out)
		}
	}
	if r := b.sluice(nil, "port", "release", "--all"); r.code != exitOK {
		t.Errorf("release: %+v", r)
	}
	// What root has not prepared is asked for.
	if out, code := run(unprivileged(t, all, program(t), "doctor", "-c", b.config)); code != exitOK || !strings.Contains(out, "sluice prepare --user") {
		t.Errorf("doctor of a user for whom nothing was prepared: exit code %d, %s", code, out)
	}
	if _, err := os.Stat(ctl.StateDir); err != nil { // else another engine of this machine has it
		ok(t, os.Mkdir(ctl.StateDir, 0o755))
		defer os.Remove(ctl.StateDir)
	}
	if r := b.sluice(&syscall.Credential{Uid: plainUser, Gid: plainUser}, "prepare", "--user", "1"); r.code != exitFailed || !strings.Contains(r.stderr, "run sluice prepare as root") {
		t.Errorf("prepare by a plain user: %+v", r)
	}
}

// Root does not follow what a hostile user has put into its folder.
func TestPrepareFollowsNoLink(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1}, settings{})
	b.prepared()
	tables := filepath.Join(ctl.StateDir, fmt.Sprintf("net-%d.tables", b.netns()))
	ok(t, syscall.Unmount(tables, 0))
	ok(t, os.Remove(tables))
	victim := filepath.Join(b.dir, "victim")
	ok(t, os.Mkdir(victim, 0o755))
	ok(t, os.Symlink(victim, tables))
	if r := b.sluice(nil, "prepare", "--user", strconv.Itoa(plainUser)); r.code != exitFailed || !strings.Contains(r.stderr, "must be a folder") {
		t.Errorf("a link was followed: %+v", r)
	}
	if fi := must(os.Stat(victim))(t); fi.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Error("the victim was given away")
	}
	ok(t, os.Remove(tables))
	note := filepath.Join(ctl.StateDir, fmt.Sprintf("net-%d.json", b.netns()))
	secret := filepath.Join(b.dir, "secret")
	ok(t, os.WriteFile(secret, nil, 0o600))
	ok(t, os.Link(secret, filepath.Join(b.dir, "other name")))
	ok(t, os.Symlink(secret, note))
	if r := b.sluice(nil, "prepare", "--user", strconv.Itoa(plainUser)); r.code != exitOK {
		t.Errorf("%+v", r)
	}
	if fi := must(os.Stat(secret))(t); fi.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Error("the secret was given away")
	}
	ok(t, os.Remove(note))
	if r := b.sluice(nil, "port", "release", "--all"); r.code != exitOK {
		t.Errorf("release: %+v", r)
	}
}

// processStatus reads /proc/PID/status, values by name.
func processStatus(t *testing.T, pid int) map[string]string {
	t.Helper()
	return statusFile(fmt.Sprintf("/proc/%d/status", pid))
}

func statusFile(path string) map[string]string {
	text, _ := os.ReadFile(path)
	out := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if key, value, found := strings.Cut(line, ":"); found {
			out[key] = strings.TrimSpace(value)
		}
	}
	return out
}
