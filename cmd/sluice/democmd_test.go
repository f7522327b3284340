package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sluice/perf/lab"
)

const demoTime = time.Minute

// The demo runs to its end, shows every server's share, and leaves nothing.
func TestDemo(t *testing.T) {
	needRoot(t)
	r := startDemo(t, "--requests", "100")
	err := r.wait(t)
	text := r.out.String()
	if err != nil || r.ns == nil {
		t.Fatalf("%v, balancer's namespace seen: %v\n%s", err, r.ns != nil, text)
	}
	for _, want := range []string{
		"HTTP over IPv4          25        25        25        25", "UDP over IPv6           25        25        25        25",
		"0 dropped", "client-side client address        172.16.10.55:4003", "done in",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	r.nothingLeft(t)
}

// An interruption at any moment takes everything down.
func TestDemoInterrupted(t *testing.T) {
	needRoot(t)
	last := 1500
	if testing.Short() {
		last = 600
	}
	orderly := 0
	for after := 0; after <= last; after += 100 {
		r := startDemo(t, "--requests", "20000")
		for moment := time.Now().Add(time.Duration(after) * time.Millisecond); time.Now().Before(moment); {
			r.look()
			time.Sleep(2 * time.Millisecond) // the moment is what varies here
		}
		ok(t, r.cmd.Process.Signal(syscall.SIGINT))
		err := r.wait(t)
		// Before the program listens for it, the signal ends it at once: then it has neither said nor made anything.
		early := err != nil && err.Error() == "signal: interrupt" && r.out.String() == "" && r.ns == nil
		if !early {
			orderly++
		}
		if !early && (r.cmd.ProcessState.ExitCode() != exitFailed || !strings.Contains(r.out.String(), "sluice: interrupted; everything was taken down")) {
			t.Errorf("after %d ms: %v\n%s", after, err, r.out)
		}
		r.nothingLeft(t)
	}
	if orderly < last/100/2 {
		t.Errorf("only %d demos had begun when they were interrupted", orderly)
	}
}

// Without root the demo says what it cannot show, and shows the rest on a capture.
func TestDemoWithoutRoot(t *testing.T) {
	needRoot(t)
	ctx, cancel := context.WithTimeout(t.Context(), demoTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(t), "demo")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Not shown: real traffic through AF_XDP, because") || !strings.Contains(string(out), "needs root") {
		t.Errorf("%v\n%s", err, out)
	}
}

// demoRun is a running demo, watched for the network namespace of its balancer: what an engine leaves bears its inode.
type demoRun struct {
	cmd   *exec.Cmd
	out   *output
	ended chan error
	ns    *os.File // held open, so that no other gets the inode; nil as long as there is no such namespace
}

func startDemo(t *testing.T, args ...string) *demoRun {
	t.Helper()
	r := &demoRun{cmd: exec.Command(program(t), append([]string{"demo"}, args...)...), out: &output{}, ended: make(chan error, 1)}
	r.cmd.Stdout, r.cmd.Stderr = r.out, r.out
	ok(t, r.cmd.Start())
	go func() { r.ended <- r.cmd.Wait() }()
	return r
}

// wait waits for the end, while it looks for the namespace.
func (r *demoRun) wait(t *testing.T) error {
	t.Helper()
	deadline := time.After(demoTime)
	for {
		r.look()
		select {
		case err := <-r.ended:
			return err
		case <-time.After(2 * time.Millisecond):
		case <-deadline:
			_ = r.cmd.Process.Signal(syscall.SIGQUIT) // it says where it is
			time.Sleep(time.Second)
			_ = r.cmd.Process.Kill()
			t.Fatalf("no end within %s\n%s", demoTime, r.out)
		}
	}
}

func (r *demoRun) traces(dir string) []string {
	list, _ := filepath.Glob(filepath.Join(dir, fmt.Sprintf("sluice-%d-*", r.cmd.Process.Pid))) // the pattern is a good one
	return list
}

func (r *demoRun) look() {
	if r.ns != nil {
		return
	}
	for _, path := range r.traces("/run/netns") {
		if !strings.HasSuffix(path, "-lb") {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		// Before the namespace is mounted on it, the name is a file like any other.
		var fs unix.Statfs_t
		if unix.Fstatfs(int(f.Fd()), &fs) == nil && fs.Type == unix.NSFS_MAGIC {
			r.ns = f
			return
		}
		f.Close()
	}
}

// nothingLeft asserts that nothing stays of the demo: network, processes, and what the engine has put anywhere.
func (r *demoRun) nothingLeft(t *testing.T) {
	t.Helper()
	for _, path := range append(r.traces("/run/netns"), r.traces("/run/sluice-lab")...) {
		t.Errorf("left behind: %s", path)
		for _, line := range lab.Leftovers(strings.TrimSuffix(filepath.Base(path), ".json")) {
			t.Errorf("left behind: %s", line)
		}
	}
	if r.ns != nil {
		defer r.ns.Close()
		var st unix.Stat_t
		ok(t, unix.Fstat(int(r.ns.Fd()), &st))
		if left := leftOf(t, st.Ino); left != "" {
			t.Errorf("left behind:\n%s", left)
		}
	}
}
