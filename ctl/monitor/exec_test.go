package monitor

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func shell(script string, edit func(*Monitor)) Monitor {
	return testMonitor(Exec, func(m *Monitor) {
		m.Timeout = 5 * time.Second
		m.Exec.Argv = []string{"/bin/sh", "-c", script}
		if edit != nil {
			edit(m)
		}
	})
}

func TestExec(t *testing.T) {
	to := netip.MustParseAddrPort("192.0.2.7:8080")
	short := func(m *Monitor) { m.Timeout = 300 * time.Millisecond }
	missing := filepath.Join(t.TempDir(), "check")
	ok(t, os.WriteFile(missing, []byte("#!/bin/sh\n"), 0o755))
	gone := must(NewProber(testMonitor(Exec, func(m *Monitor) { m.Exec.Argv = []string{missing} })))(t)
	ok(t, os.Remove(missing))
	for _, c := range []probeCase{
		{"up", shell("exit 0", nil), to, Success, "exit code 0"},
		{"up with line", shell("echo; echo replication lag 3 s; echo more", nil), to, Success, "exit code 0: replication lag 3 s"},
		{"down", shell("echo disk full >&2; exit 3", nil), to, Failure, "exit code 3: disk full"},
		{"no shell between", testMonitor(Exec, func(m *Monitor) { m.Exec.Argv = []string{"/bin/echo", "$HOME; exit 1", "*"} }), to, Success, "exit code 0: $HOME; exit 1 *"},
		{"signal", shell("kill -SEGV $$", nil), to, Failure, "killed by signal: segmentation fault"},
		{"slow", shell("echo asking; sleep 60", short), to, Failure, "timeout after 300ms (asking)"},
		{"slow and silent", shell("sleep 60", short), to, Failure, "timeout after 300ms (killed /bin/sh)"},
		{"deaf", shell("trap '' TERM INT HUP; while :; do sleep 1; done", short), to, Failure, "timeout after 300ms"},
		{"not printable", shell(`printf '\033[31mred\007 \377 end\n'`, nil), to, Success, "exit code 0: .[31mred. \uFFFD end"},
		{"address", shell(`echo "$SLUICE_MEMBER $SLUICE_MONITOR $SLUICE_ADDRESS $SLUICE_PORT $SLUICE_TIMEOUT"`, nil), to, Success,
			"exit code 0: test exec 192.0.2.7 8080 5"},
		{"way", shell(`echo "$SLUICE_PORT $SLUICE_SOURCE $SLUICE_INTERFACE $SLUICE_MARK"`, func(m *Monitor) {
			m.Port, m.Path = 9, Path{Source4: netip.MustParseAddr("192.0.2.1"), Interface: "eth9", Mark: 5}
		}), to, Success, "exit code 0: 9 192.0.2.1 eth9 5"},
		{"environment", shell(`env | cut -d= -f1 | sort | grep -v -e PWD -e SHLVL -e '^_$' | tr '\n' ' '`, func(m *Monitor) { m.Exec.Env = []string{"ROLE=db"} }), to, Success,
			"exit code 0: PATH ROLE SLUICE_ADDRESS SLUICE_MEMBER SLUICE_MONITOR SLUICE_PORT SLUICE_TIMEOUT"},
		{"place", shell(`echo "$(pwd) $(readlink /proc/self/fd/0)"`, nil), to, Success, "exit code 0: / /dev/null"},
	} {
		c.run(t)
	}
	if r := gone.Probe(context.Background(), Target{Address: to}); r.Outcome != Inconclusive || !strings.Contains(r.Cause, "no such file") {
		t.Errorf("a program that is gone: %v %s", r.Outcome, r.Cause)
	}
	long := probeOnce(t, shell("head -c 1000000 /dev/zero | tr '\\0' 'x'; exit 1", nil), to)
	if long.Outcome != Failure || len(long.Cause) > maxCause || !strings.HasPrefix(long.Cause, "exit code 1: xxxx") {
		t.Errorf("a long line: %v, %d bytes: %s", long.Outcome, len(long.Cause), long.Cause)
	}
}

// TestExecConfined: the program has no capabilities and no way to get any, and this process keeps its own.
func TestExecConfined(t *testing.T) {
	before := must(os.ReadFile("/proc/self/status"))(t)
	want := map[string]string{"CapInh": "0", "CapPrm": "0", "CapEff": "0", "CapAmb": "0", "NoNewPrivs": "1"}
	if os.Geteuid() == 0 {
		want["CapBnd"] = "0" // dropping it needs CAP_SETPCAP
	}
	checkStatus(t, probeOnce(t, shell(`grep -E '^(Cap|NoNewPrivs)' /proc/self/status | tr -s '\n\t' '  '`, nil), netip.MustParseAddrPort("192.0.2.7:1")), want)
	after := must(os.ReadFile("/proc/self/status"))(t)
	if statusLine(string(before), "CapEff") != statusLine(string(after), "CapEff") || statusLine(string(after), "NoNewPrivs") != "0" {
		t.Errorf("this process was confined too:\n%s", after)
	}
	tasks := must(filepath.Glob("/proc/self/task/*/status"))(t)
	for _, task := range tasks {
		if b, err := os.ReadFile(task); err == nil && statusLine(string(b), "NoNewPrivs") == "1" && !strings.Contains(string(b), "(zombie)") && !strings.Contains(string(b), "(dead)") {
			// The thread ends soon after its goroutine.
			eventually(t, task+" is gone", func() bool { _, err := os.Stat(task); return err != nil })
		}
	}
}

func statusLine(status, name string) string {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			rest = strings.TrimLeft(strings.TrimSpace(rest), "0")
			if rest == "" {
				rest = "0"
			}
			return rest
		}
	}
	return "none"
}

func checkStatus(t *testing.T, r Result, want map[string]string) {
	t.Helper()
	if r.Outcome != Success {
		t.Fatalf("%v %s", r.Outcome, r.Cause)
	}
	fields := strings.Fields(strings.TrimPrefix(r.Cause, "exit code 0: "))
	got := map[string]string{}
	for i := 0; i+1 < len(fields); i += 2 {
		got[strings.TrimSuffix(fields[i], ":")] = statusLine("x: "+fields[i+1], "x")
	}
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s is %q, not %s, in %q", name, got[name], value, r.Cause)
		}
	}
}

// TestExecConfinedWithoutSetpcap: where the bounding set cannot be dropped, as in our own service's set, a program still
// gets nothing: not as root and not by file capabilities.
func TestExecConfinedWithoutSetpcap(t *testing.T) {
	const inner = "SLUICE_MONITOR_TEST_NO_SETPCAP"
	if os.Getenv(inner) == "" {
		needNamespace(t)
		setpriv, err := exec.LookPath("setpriv")
		if err != nil {
			without(t, "needs setpriv (Debian: util-linux)")
		}
		cmd := exec.Command(setpriv, "--bounding-set", "-setpcap", "--inh-caps", "-setpcap", os.Args[0], "-test.run", "^TestExecConfinedWithoutSetpcap$", "-test.v")
		cmd.Env = append(os.Environ(), inner+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestExecConfinedWithoutSetpcap") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	r := probeOnce(t, shell(`grep -E '^(Cap|NoNewPrivs)' /proc/self/status | tr -s '\n\t' '  '`, nil), netip.MustParseAddrPort("192.0.2.7:1"))
	checkStatus(t, r, map[string]string{"CapInh": "0", "CapPrm": "0", "CapEff": "0", "CapAmb": "0", "NoNewPrivs": "1"})
	if strings.Contains(r.Cause, "CapBnd: 0000000000000000") {
		t.Errorf("the bounding set was dropped, so the test has shown nothing: %s", r.Cause)
	}
}

// TestExecGroup: what the program leaves behind in its group ends with it, at its end and at the end of the time.
func TestExecGroup(t *testing.T) {
	for _, c := range []struct {
		script  string
		outcome Outcome
	}{
		{`sleep 1000 & sleep 1001 & echo $!; exit 0`, Success},
		{`sleep 1000 & echo $!; wait`, Failure},
	} {
		r := probeOnce(t, shell(c.script, func(m *Monitor) { m.Timeout = 500 * time.Millisecond }), netip.MustParseAddrPort("192.0.2.7:1"))
		if r.Outcome != c.outcome || r.Latency > 3*time.Second {
			t.Errorf("%v after %v: %s", r.Outcome, r.Latency, r.Cause)
		}
		digits := strings.FieldsFunc(r.Cause, func(c rune) bool { return c < '0' || c > '9' })
		pid := must(strconv.Atoi(digits[len(digits)-1]))(t)
		eventually(t, fmt.Sprintf("process %d of %q is gone", pid, c.script), func() bool {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return err != nil || !strings.Contains(string(b), "(sleep)") || strings.Contains(string(b), ") Z ")
		})
	}
	// A process outside the group may hold our pipe; that does not hold us up.
	r := probeOnce(t, shell(`setsid sh -c 'echo $$; exec sleep 1000' & sleep 0.2; exit 0`, nil), netip.MustParseAddrPort("192.0.2.7:1"))
	pid, err := strconv.Atoi(strings.TrimPrefix(r.Cause, "exit code 0: "))
	ok(t, err)
	defer syscall.Kill(pid, syscall.SIGKILL)
	if r.Outcome != Success || r.Latency > 3*time.Second {
		t.Errorf("%v after %v: %s", r.Outcome, r.Latency, r.Cause)
	}
}

func TestExecCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(100*time.Millisecond, cancel)
	start := time.Now()
	r := must(NewProber(shell("sleep 1000", nil)))(t).Probe(ctx, Target{Address: netip.MustParseAddrPort("192.0.2.7:1")})
	if r.Outcome != Inconclusive || time.Since(start) > 3*time.Second {
		t.Errorf("%v after %v: %s", r.Outcome, time.Since(start), r.Cause)
	}
}
