package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sluice/ctl"
	"sluice/perf/lab"
)

// Bounds of everything that a test waits for: only what is wrong takes as long.
const (
	startTime = 30 * time.Second
	stopTime  = 8 * time.Second
	waitTime  = 10 * time.Second
	// listenTime is how long a test listens where it expects no answer.
	listenTime = 500 * time.Millisecond
)

// bed is a two-arm lab with a configuration for its balancer. When the test ends it asserts that nothing stays.
type bed struct {
	*lab.TwoArm
	t      *testing.T
	dir    string
	config string // path of the file
	socket string

	before  string // state of the balancer's namespace, which the program shall leave so; a test that adds to it notes it again
	daemons []*daemon
	// replugged says that the test has made interfaces anew: they have other indices than before.
	replugged bool
	urgent    bool // the program runs before everything else on the machine, as on cores of its own
	// realtime says that it does so whatever else there is, in other sessions and groups too (sched(7), SCHED_FIFO).
	realtime bool
}

// settings are what tests vary in the configuration; the zero value is all defaults.
type settings struct {
	engine    string // keys of engine, in one line
	metrics   string
	scheduler string
	weights   []int // of the members, 1 if there are fewer
}

func newBed(t *testing.T, o lab.TwoArmOptions, s settings) *bed {
	t.Helper()
	b := newBedOn(t, func() (*lab.TwoArm, error) { return lab.NewTwoArm(context.Background(), o) })
	b.write(b.configText(s))
	return b
}

// newBedOn has no configuration yet.
func newBedOn(t *testing.T, network func() (*lab.TwoArm, error)) *bed {
	t.Helper()
	needRoot(t)
	program(t)
	b := &bed{t: t, dir: must(os.MkdirTemp(buildDir, "bed-"))(t)} // t.TempDir is closed to other users
	ok(t, os.Chmod(b.dir, 0o755))
	b.config, b.socket = filepath.Join(b.dir, "sluice.yaml"), filepath.Join(b.dir, "sluice.sock")
	b.TwoArm = must(network())(t)
	b.release() // of a test run that was killed, under an inode that this namespace has got now
	b.before = b.hostState(false)
	t.Cleanup(func() { b.close(b.before) })
	return b
}

// write replaces the configuration file at once, as editors do: a reload that goes on meanwhile reads the one or the other.
func (b *bed) write(config string) {
	b.t.Helper()
	ok(b.t, os.WriteFile(b.config+".new", []byte(config), 0o644))
	ok(b.t, os.Rename(b.config+".new", b.config))
}

// Ports of the virtual servers. Members have none of their own: it is that of the virtual server.
const (
	webPort  = 80
	bulkPort = 9000
	dnsPort  = 53
)

func (b *bed) configText(s settings) string {
	var w strings.Builder
	if s.scheduler == "" {
		s.scheduler = "round-robin"
	}
	fmt.Fprintf(&w, "engine: {%s}\n", s.engine)
	fmt.Fprintf(&w, "control:\n  socket: %s\n", b.socket)
	if s.metrics != "" {
		fmt.Fprintf(&w, "  metrics: %s\n", s.metrics)
	}
	fmt.Fprintf(&w, "ports:\n  - {name: outside, interface: %s}\n  - {name: inside, interface: %s}\npools:\n", b.Outside, b.Inside)
	for _, family := range []string{"", "6"} {
		fmt.Fprintf(&w, "  - name: all%s\n    scheduler: %s\n    members:\n", family, s.scheduler)
		for i := range b.Servers {
			addr, weight := b.ServerAddr4[i], 1
			if family == "6" {
				addr = b.ServerAddr6[i]
			}
			if i < len(s.weights) {
				weight = s.weights[i]
			}
			fmt.Fprintf(&w, "      - {name: server %d, address: \"%s\", weight: %d}\n", i+1, addr, weight)
		}
	}
	w.WriteString("virtual-servers:\n")
	for _, v := range []struct {
		name, protocol string
		port           int
	}{{"web", "tcp", webPort}, {"bulk", "tcp", bulkPort}, {"dns", "udp", dnsPort}} {
		fmt.Fprintf(&w, "  - {name: %s, address: \"%s:%d\", protocol: %s, pool: all}\n", v.name, b.VIP4, v.port, v.protocol)
		fmt.Fprintf(&w, "  - {name: %s6, address: \"[%s]:%d\", protocol: %s, pool: all6}\n", v.name, b.VIP6, v.port, v.protocol)
	}
	return strings.ReplaceAll(w.String(), "name: server ", "name: server-")
}

// close asserts that the program has left the balancer's namespace as it was, and takes the lab down.
func (b *bed) close(before string) {
	if left := b.leftBehind(); left != "" {
		b.t.Errorf("left behind:\n%s", left)
	}
	after := b.hostState(false)
	if b.replugged {
		before, after = withoutIndices(before), withoutIndices(after)
	}
	if after != before {
		b.t.Errorf("the host is not as it was; before:\n%safter:\n%s", before, after)
	}
	for _, d := range b.daemons { // one that still runs was reported above
		_ = d.Signal(syscall.SIGKILL)
		<-d.Done()
	}
	b.release()
	id := b.Lab.ID()
	if err := b.Lab.Close(); err != nil {
		b.t.Errorf("close the lab: %v", err)
	}
	if left := lab.Leftovers(id); len(left) > 0 {
		b.t.Errorf("left of the lab:\n%s", strings.Join(left, "\n"))
	}
}

// release takes away what was left, so that no later test finds it.
func (b *bed) release() {
	err := b.Balancer.Do(func() error {
		_, err := ctl.ReleasePorts("")
		return err
	})
	if err != nil {
		b.t.Errorf("release: %v", err)
	}
}

// output collects what a process writes while a test may read it.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// daemon is a running `sluice run`.
type daemon struct {
	*lab.Process
	bed *bed
	log *output
}

// launch starts the program, with more flags if given, and does not wait.
func (b *bed) launch(flags ...string) *daemon {
	b.t.Helper()
	d := &daemon{bed: b, log: &output{}}
	args := append([]string{program(b.t), "run", "-c", b.config}, flags...)
	if b.urgent {
		args = append([]string{"nice", "-n", "-15"}, args...)
	}
	if b.realtime {
		args = append([]string{"chrt", "--fifo", "1"}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = d.log, d.log
	d.Process = must(b.Balancer.Start(cmd))(b.t)
	b.daemons = append(b.daemons, d)
	return d
}

// start launches the program and waits until it serves.
func (b *bed) start() *daemon {
	b.t.Helper()
	d := b.launch()
	d.await()
	return d
}

func (d *daemon) await() {
	t := d.bed.t
	t.Helper()
	for deadline := time.Now().Add(startTime); ; time.Sleep(2 * time.Millisecond) {
		var s ctl.StatusView
		if ctl.Get(t.Context(), d.bed.socket, "/v1/status", &s) == nil {
			if s.PID == d.PID() {
				return
			}
			t.Fatalf("process %d answers, not %d", s.PID, d.PID())
		}
		select {
		case <-d.Done():
			t.Fatalf("sluice run ended: %v\n%s", d.Wait(), d.log)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("sluice run does not serve after %s:\n%s", startTime, d.log)
		}
	}
}

// stop ends the program in order. Its exit code proves that every frame was accounted for: the engine audits them.
func (d *daemon) stop() {
	d.bed.t.Helper()
	d.noInvalid()
	d.end(syscall.SIGTERM)
}

// end sends sig and asserts an end with exit code 0 in time.
func (d *daemon) end(sig syscall.Signal) {
	t := d.bed.t
	t.Helper()
	ok(t, d.Signal(sig))
	d.ended()
}

func (d *daemon) ended() {
	t := d.bed.t
	t.Helper()
	select {
	case <-d.Done():
	case <-time.After(stopTime):
		_ = d.Signal(syscall.SIGQUIT) // where it hangs is in its last words
		time.Sleep(200 * time.Millisecond)
		t.Fatalf("sluice run does not end within %s:\n%s", stopTime, d.log)
	}
	if err := d.Wait(); err != nil {
		t.Fatalf("sluice run: %v\n%s", err, d.log)
	}
}

// noInvalid asserts that the kernel and the driver have found no descriptor invalid.
func (d *daemon) noInvalid() {
	t := d.bed.t
	t.Helper()
	for _, p := range query[[]ctl.PortView](d.bed, "port") {
		if p.Invalid != 0 {
			t.Errorf("port %s: %d invalid descriptors", p.Name, p.Invalid)
		}
	}
}

// kill ends the program without a chance to clean up.
func (d *daemon) kill() {
	d.bed.t.Helper()
	ok(d.bed.t, d.Signal(syscall.SIGKILL))
	<-d.Done()
}

// finished is a command that has ended.
type finished struct {
	stdout, stderr string
	code           int
}

// sluice runs the program in the balancer's namespace to its end. cred is nil for root.
func (b *bed) sluice(cred *syscall.Credential, args ...string) finished {
	b.t.Helper()
	var stdout, stderr output
	ctx, cancel := context.WithTimeout(b.t.Context(), startTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(b.t), args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	p := must(b.Balancer.Start(cmd))(b.t)
	err := p.Wait()
	if ctx.Err() != nil {
		b.t.Fatalf("sluice %s does not end within %s:\n%s", args, startTime, stderr.String())
	}
	r := finished{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
	if r.code < 0 {
		b.t.Fatalf("sluice %s: %v\n%s", args, err, r.stderr)
	}
	return r
}

// query runs a listing command with -o json and decodes what it prints.
func query[T any](b *bed, args ...string) (v T) {
	b.t.Helper()
	r := b.sluice(nil, append(args, "--socket", b.socket, "-o", "json")...)
	if r.code != 0 {
		b.t.Fatalf("sluice %s: exit code %d: %s", args, r.code, r.stderr)
	}
	ok(b.t, json.Unmarshal([]byte(r.stdout), &v))
	return v
}

func (b *bed) totals() ctl.TotalsView {
	b.t.Helper()
	var s ctl.StatusView
	ok(b.t, ctl.Get(b.t.Context(), b.socket, "/v1/status", &s))
	return s.Totals
}

// drops are the counters of drop reasons that are not 0.
func (b *bed) drops() map[string]uint64 {
	b.t.Helper()
	m := map[string]uint64{}
	for _, d := range query[[]ctl.DropView](b, "drop") {
		if d.Count > 0 {
			m[d.Reason] = d.Count
		}
	}
	return m
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(waitTime); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", waitTime, what)
		}
	}
}
