package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Close leaves nothing behind: seen by name (Leftovers), and from inside a namespace that the test keeps open.
func TestCloseLeavesNothing(t *testing.T) {
	needRoot(t)
	before, sockets := threadNamespaces(t), openSockets(t)
	ta := must(NewTwoArm(context.Background(), TwoArmOptions{Queues: 2}))(t)
	ns := must(os.Open(filepath.Join(netnsDir, ta.Switch.Namespace())))(t)
	defer ns.Close()
	quick := must(ta.Client.Start(exec.Command("sleep", "1000")))(t)
	stubborn := must(ta.Client.Start(exec.Command("sh", "-c", "trap '' TERM; while :; do sleep 1; done")))(t)
	stopped := must(ta.Client.Start(exec.Command("sleep", "1000")))(t)
	ok(t, stopped.Signal(unix.SIGSTOP))
	must(ta.Client.Start(exec.Command("sh", "-c", "setsid sleep 1000 & exec sleep 1000")))(t)
	must(HTTPServer(ta.Servers[0], ":80", "server 1"))(t)
	must(ta.Client.Capture("eth0", 10))(t)

	inodeLinks := func() int {
		n := -1
		ok(t, inNamespace(ns, func() error {
			links, err := netlink.LinkList()
			n = len(links)
			return err
		}))
		return n
	}
	if n := inodeLinks(); n != 7 { // lo, br0, lb, srv1 to srv4
		t.Errorf("switch has %d links, want 7", n)
	}
	var left []string
	count := func(kind string) (n int) {
		for _, line := range left {
			if strings.HasPrefix(line, kind) {
				n++
			}
		}
		return n
	}
	eventually(t, "shells have started their processes", func() bool {
		left = Leftovers(ta.Lab.ID())
		return count("process") >= 6
	})
	if count("record") != 1 || count("namespace") != 7 || count("link") != 1+2+6+4 {
		t.Errorf("a lab in use lists\n%s", strings.Join(left, "\n"))
	}

	start := time.Now()
	closeClean(t, ta.Lab)
	if d := time.Since(start); d > stopGrace+10*time.Second {
		t.Errorf("close took %s", d)
	}
	if n := inodeLinks(); n != 1 {
		t.Errorf("switch has %d links after close, want lo alone", n)
	}
	for _, p := range []*Process{quick, stubborn, stopped} {
		select {
		case <-p.Done():
		default:
			t.Errorf("process %d was not reaped", p.PID())
		}
	}
	if after := threadNamespaces(t); len(after) != len(before) {
		t.Errorf("threads in namespaces %v, before %v", after, before)
	}
	ns.Close()
	if n := openSockets(t); n != sockets {
		t.Errorf("%d sockets and namespaces open, before %d", n, sockets)
	}
	ok(t, ta.Lab.Close()) // again

	if err := ta.Client.Do(func() error { return nil }); !errors.Is(err, ErrClosed) {
		t.Errorf("Do after close: %v", err)
	}
	if _, err := ta.Client.Listen("tcp", ":1"); !errors.Is(err, ErrClosed) {
		t.Errorf("Listen after close: %v", err)
	}
	if _, err := ta.Client.Start(exec.Command("true")); !errors.Is(err, ErrClosed) {
		t.Errorf("Start after close: %v", err)
	}
	if _, err := ta.Lab.Host("late"); !errors.Is(err, ErrClosed) {
		t.Errorf("Host after close: %v", err)
	}
}

func TestContextCloses(t *testing.T) {
	needRoot(t)
	ctx, cancel := context.WithCancel(context.Background())
	l := must(New(ctx, "cancelled"))(t)
	must(l.Host("a"))(t)
	cancel()
	eventually(t, "lab gone", func() bool { return len(Leftovers(l.ID())) == 0 })
	closeClean(t, l)
	if _, err := New(ctx, "late"); !errors.Is(err, context.Canceled) {
		t.Errorf("New with an ended context: %v", err)
	}
}

// A creator that is killed cannot clean up. Its child dies with it, and the next lab sweeps all the rest, including a
// grandchild that left the process group.
func TestKilledCreatorIsSwept(t *testing.T) {
	needRoot(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "LAB_TEST_CREATOR=run")
	out := must(cmd.StdoutPipe())(t)
	ok(t, cmd.Start())
	var id string
	var child int
	if _, err := fmt.Fscan(out, &id, &child); err != nil {
		t.Fatal(err)
	}
	if swept := must(Sweep(false))(t); slices.Contains(swept, id) {
		t.Error("a living lab was swept")
	}
	cmd.Process.Kill()
	cmd.Wait()
	eventually(t, "child dead", func() bool { return !marked(child, id) })
	if left := Leftovers(id); len(left) != 1+2+2+1 {
		t.Errorf("a killed creator leaves\n%s\nwant its record, 2 namespaces, 2 links and the grandchild", strings.Join(left, "\n"))
	}
	open(t)
	if left := Leftovers(id); len(left) != 0 {
		t.Errorf("after the sweep:\n%s", strings.Join(left, "\n"))
	}
}

func TestKeep(t *testing.T) {
	needRoot(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "LAB_TEST_CREATOR=keep")
	var id string
	var child int
	if _, err := fmt.Sscan(string(must(cmd.Output())(t)), &id, &child); err != nil {
		t.Fatal(err)
	}
	open(t)
	if left := Leftovers(id); len(left) != 1+2+2 {
		t.Errorf("a kept lab leaves\n%s\nwant its record, 2 namespaces and 2 links", strings.Join(left, "\n"))
	}
	if swept := must(Sweep(true))(t); !slices.Contains(swept, id) || len(Leftovers(id)) != 0 {
		t.Errorf("swept %v, left %v", swept, Leftovers(id))
	}
}

// The ways in which a record can say that nobody owns a lab, and those in which it does not.
func TestStale(t *testing.T) {
	needRoot(t)
	gone := exec.Command("true")
	ok(t, gone.Run())
	dead, self := gone.Process.Pid, os.Getpid()
	start := must(processStart(self))(t)
	for i, c := range []struct {
		what  string
		pid   int // in the name
		state *state
		want  bool
	}{
		{"no such process", dead, &state{PID: dead, Start: 1}, true},
		{"process id reused", self, &state{PID: self, Start: start + 1}, true},
		{"creator lives", self, &state{PID: self, Start: start}, false},
		{"creator gone, lab kept", dead, &state{PID: dead, Start: 1, Kept: true}, false},
		{"no record, no such process", dead, nil, true},
		{"no record, process id in use", self, nil, false},
	} {
		id := fmt.Sprintf("%s%d-%08x", idPrefix, c.pid, i)
		th := must(startThread(func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			return nameNamespace(id + "-x")
		}))(t)
		ok(t, th.end())
		if c.state != nil {
			ok(t, writeState(id, *c.state))
		}
		swept := must(Sweep(false))(t)
		if got := slices.Contains(swept, id); got != c.want {
			t.Errorf("%s: swept %v, want %v", c.what, got, c.want)
		}
		if left := len(Leftovers(id)) != 0; left == c.want {
			t.Errorf("%s: left %v", c.what, Leftovers(id))
		}
		ok(t, sweep(id))
	}
}

// After a restart with a /run on disk the names are there and nothing is mounted on them.
func TestSweepNamesWithoutNamespace(t *testing.T) {
	l := open(t) // so that netnsDir exists
	must(l.Host("a"))(t)
	const id = idPrefix + "1-00000000"
	ok(t, writeState(id, state{PID: 1, Start: 1 << 60}))
	ok(t, os.WriteFile(filepath.Join(netnsDir, id+"-x"), nil, 0o444))
	if swept := must(Sweep(false))(t); !slices.Contains(swept, id) || len(Leftovers(id)) != 0 {
		t.Errorf("swept %v, left %v", swept, Leftovers(id))
	}
}

// A machine that never ran ip(8) has no /run/netns. The test binary runs again in a mount namespace with an empty /run.
func TestWithoutNetnsDir(t *testing.T) {
	needRoot(t)
	if os.Getenv("LAB_TEST_EMPTY_RUN") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestWithoutNetnsDir$", "-test.v")
		cmd.Env = append(os.Environ(), "LAB_TEST_EMPTY_RUN=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // private mounts
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	ok(t, unix.Mount("none", "/run", "tmpfs", 0, ""))
	for range 2 { // the second finds the directory
		l := must(New(context.Background(), "empty"))(t)
		pair(t, l)
		closeClean(t, l)
	}
}

// Do runs inside, many at once, and no thread ever comes back to other goroutines from the wrong namespace, whatever
// fn does.
func TestDoNeverLeaksThreads(t *testing.T) {
	l := open(t)
	a, b := pair(t, l)
	self := func() string { return must(os.Readlink("/proc/thread-self/ns/net"))(t) }
	home := self()
	inside := map[*Host]string{}
	for _, h := range []*Host{a, b} {
		ok(t, h.Do(func() (err error) {
			inside[h], err = os.Readlink("/proc/thread-self/ns/net")
			return err
		}))
	}
	if inside[a] == inside[b] || inside[a] == home || inside[b] == home {
		t.Fatalf("namespaces %v, home %s", inside, home)
	}
	errTest := errors.New("test")
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			h := []*Host{a, b}[i%2]
			err := h.Do(func() error {
				if got, _ := os.Readlink("/proc/thread-self/ns/net"); got != inside[h] {
					t.Errorf("in %s: namespace %s, want %s", h.Name(), got, inside[h])
				}
				time.Sleep(time.Millisecond)
				switch i % 5 {
				case 0:
					return errTest
				case 1:
					runtime.Goexit()
				}
				return nil
			})
			want := []error{errTest, errGoexit, nil, nil, nil}[i%5]
			if !errors.Is(err, want) {
				t.Errorf("Do %d: %v, want %v", i, err, want)
			}
		})
		wg.Go(func() {
			if got, _ := os.Readlink("/proc/thread-self/ns/net"); got != home {
				t.Errorf("an ordinary goroutine runs in %s", got)
			}
		})
	}
	wg.Wait()
	want := map[string]int{inside[a]: 1, inside[b]: 1} // the threads of the hosts
	eventually(t, "only the threads of the hosts are inside", func() bool {
		n := threadNamespaces(t)
		return n[inside[a]] == want[inside[a]] && n[inside[b]] == want[inside[b]] && len(n) == 3
	})
	if got := must(os.Readlink(fmt.Sprintf("/proc/%d/ns/net", os.Getpid())))(t); got != home {
		t.Errorf("the main thread is in %s", got)
	}
}

func TestHostErrors(t *testing.T) {
	l := open(t)
	a, _ := pair(t, l)
	for what, err := range map[string]error{
		"bad name":          second(l.Host("No Such")),
		"same name":         second(l.Host("a")),
		"sysctl unknown":    a.Sysctl("net.ipv4.no_such_key", "1"),
		"sysctl not net":    a.Sysctl("kernel.hostname", "x"),
		"sysctl value":      a.Sysctl("net.ipv4.ip_forward", "x"),
		"address":           a.Addr("eth0", "10.0.0.1"),
		"no such interface": a.Addr("eth9", "10.0.0.1/24"),
		"bad route":         a.Route("10.0.0.0", "10.0.0.2"),
		"bad gateway":       a.DefaultRoute("gateway"),
		"capture":           second(a.Capture("eth9", 1)),
		"start":             second(a.Start(exec.Command("/no/such/program"))),
		"wire again":        l.Wire(a, "eth0", a, "eth1", WireOptions{}),
	} {
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

func second[T any](_ T, err error) error { return err }
