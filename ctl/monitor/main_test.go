package monitor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// Probes use the network namespace of their process. So, with root, the whole test binary runs once more in a namespace
// of its own, where tests may add addresses, routes and rules. Without root the tests that need none of this run on
// loopback, and the others skip with the reason, or fail where SLUICE_LAB=require is set, as in CI.
const insideVar = "SLUICE_MONITOR_TEST_INSIDE"

func TestMain(m *testing.M) {
	if os.Geteuid() == 0 && os.Getenv(insideVar) == "" {
		os.Exit(again())
	}
	if os.Getenv(insideVar) != "" {
		if err := loopbackUp(); err != nil {
			fmt.Fprintln(os.Stderr, "loopback:", err)
			os.Exit(1)
		}
	}
	code := m.Run()
	if left := leftovers(3 * time.Second); left != "" && code == 0 {
		fmt.Fprintf(os.Stderr, "goroutines left after all tests:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// again runs this binary in a new network namespace.
func again() int {
	// The child dies with the thread that made it, so this one is kept.
	runtime.LockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideVar+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return max(exit.ExitCode(), 1)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "run in a namespace:", err)
		return 1
	}
	return 0
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// leftovers are the stacks of goroutines of the package, less those of the tests, that have not ended after a while.
func leftovers(wait time.Duration) string {
	for end := time.Now().Add(wait); ; time.Sleep(10 * time.Millisecond) {
		buf := make([]byte, 1<<20)
		buf = buf[:runtime.Stack(buf, true)]
		var left []string
		for _, stack := range strings.Split(string(buf), "\n\n") {
			if (strings.Contains(stack, "sluice/ctl/monitor.") || strings.Contains(stack, "http2")) &&
				!strings.Contains(stack, "_test.go:") {
				left = append(left, stack)
			}
		}
		if len(left) == 0 || time.Now().After(end) {
			return strings.Join(left, "\n\n")
		}
	}
}

// without skips, or fails where the lab is required.
func without(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("SLUICE_LAB") == "require" {
		t.Fatalf("%s, and SLUICE_LAB=require", reason)
	}
	t.Skip(reason)
}

func needNamespace(t testing.TB) {
	t.Helper()
	if os.Getenv(insideVar) == "" {
		without(t, "needs root, for a network namespace of its own")
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		ok(t, err)
		return v
	}
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for range 1000 {
		if cond() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("not after 10 s: %s", what)
}

// testMonitor is a monitor with defaults, changed by edit.
func testMonitor(t Type, edit func(*Monitor)) Monitor {
	m := Default(t)
	m.Name = string(t)
	if edit != nil {
		edit(&m)
	}
	return m
}

// probeOnce makes one probe.
func probeOnce(t testing.TB, m Monitor, to netip.AddrPort) Result {
	t.Helper()
	p := must(NewProber(m))(t)
	r := p.Probe(context.Background(), Target{Member: "test", Address: to})
	if r.At.IsZero() || r.Latency <= 0 || r.Latency > m.Timeout+5*time.Second || r.Cause == "" {
		t.Errorf("result without time, latency or cause: %+v", r)
	}
	return r
}

// probeCase is a probe with its outcome and the beginning of its cause.
type probeCase struct {
	name    string
	monitor Monitor
	to      netip.AddrPort
	outcome Outcome
	cause   string
}

// answerTime is the timeout of probes that get an answer: on a busy machine a TLS handshake has taken seven seconds, and where
// nothing is wrong nobody waits for it.
const answerTime = time.Minute

// run probes once. A case whose cause is a timeout in a later step is tried again with more time where a busy machine has used it up
// in one before.
func (c probeCase) run(t *testing.T) {
	t.Helper()
	t.Run(c.name, func(t *testing.T) {
		t.Helper()
		r := probeOnce(t, c.monitor, c.to)
		step := func(cause string) string { _, step, _ := strings.Cut(cause, "("); return step }
		for step(c.cause) != "" && strings.HasPrefix(c.cause, "timeout after ") && strings.HasPrefix(r.Cause, "timeout after ") && step(r.Cause) != step(c.cause) && c.monitor.Timeout < 10*time.Second {
			t.Logf("%s: again, with more time", r.Cause)
			was := c.monitor.Timeout
			c.monitor.Timeout *= 3
			c.monitor.Interval = max(c.monitor.Interval, c.monitor.Timeout)
			c.cause = strings.Replace(c.cause, was.String(), c.monitor.Timeout.String(), 1)
			r = probeOnce(t, c.monitor, c.to)
		}
		if r.Outcome != c.outcome || !strings.HasPrefix(r.Cause, c.cause) {
			t.Errorf("%v: %q, want %v: %q...", r.Outcome, r.Cause, c.outcome, c.cause)
		}
		t.Logf("%v after %v: %s", r.Outcome, r.Latency.Round(time.Microsecond), r.Cause)
	})
}
