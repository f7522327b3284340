package lab

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain lets the test binary play the creator of a lab in a process of its own, which tests then kill.
func TestMain(m *testing.M) {
	if os.Getenv("LAB_TEST_CREATOR") != "" {
		creator()
	}
	os.Exit(m.Run())
}

// creator makes a lab with a child and a grandchild that left the process group, prints the names and waits.
func creator() {
	l, err := New(context.Background(), "creator")
	check := func(err error) {
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
	}
	check(err)
	a, err := l.Host("a")
	check(err)
	b, err := l.Host("b")
	check(err)
	check(l.Wire(a, "eth0", b, "eth0", WireOptions{}))
	p, err := a.Start(exec.Command("sh", "-c", "setsid sleep 1000 & exec sleep 1000"))
	check(err)
	if os.Getenv("LAB_TEST_CREATOR") == "keep" {
		check(l.Keep())
		check(l.Close())
		fmt.Println(l.ID(), p.PID())
		os.Exit(0)
	}
	for settled := func() bool { // the shell has become the child, and the grandchild has left its group
		n := 0
		for _, line := range Leftovers(l.ID()) {
			if strings.HasPrefix(line, "process ") && strings.HasSuffix(line, " sleep") {
				n++
			}
		}
		return n == 2
	}; !settled(); {
		time.Sleep(5 * time.Millisecond)
	}
	fmt.Println(l.ID(), p.PID())
	select {}
}

// needRoot skips without root; where SLUICE_LAB=require is set, as in CI, it fails instead.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	const reason = "needs root to create network namespaces"
	if os.Getenv("SLUICE_LAB") == "require" {
		t.Fatalf("%s, and SLUICE_LAB=require", reason)
	}
	t.Skipf("%s", reason)
}

// open makes a lab that the test closes, and fails if anything of it stays.
func open(t testing.TB) *Lab {
	t.Helper()
	needRoot(t)
	l, err := New(context.Background(), t.Name())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeClean(t, l) })
	return l
}

func twoArm(t testing.TB, o TwoArmOptions) *TwoArm {
	t.Helper()
	needRoot(t)
	ta, err := NewTwoArm(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeClean(t, ta.Lab) })
	return ta
}

func closeClean(t testing.TB, l *Lab) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if left := Leftovers(l.ID()); len(left) > 0 {
		t.Errorf("left after close:\n%s", strings.Join(left, "\n"))
	}
}

// pair is two hosts on one wire, 10.0.0.1/24 and 10.0.0.2/24, fd00::1/64 and fd00::2/64.
func pair(t testing.TB, l *Lab) (a, b *Host) {
	t.Helper()
	a, b = must(l.Host("a"))(t), must(l.Host("b"))(t)
	ok(t, l.Wire(a, "eth0", b, "eth0", WireOptions{}))
	for i, h := range []*Host{a, b} {
		ok(t, h.Addr("eth0", fmt.Sprintf("10.0.0.%d/24", i+1)))
		ok(t, h.Addr("eth0", fmt.Sprintf("fd00::%d/64", i+1)))
	}
	return a, b
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

func get(c *http.Client, url string) (string, error) {
	resp, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// threadNamespaces counts the threads of this process by network namespace.
func threadNamespaces(t testing.TB) map[string]int {
	t.Helper()
	links, err := filepath.Glob("/proc/self/task/*/ns/net")
	ok(t, err)
	count := map[string]int{}
	for _, link := range links {
		if ns, err := os.Readlink(link); err == nil { // a thread may have ended meanwhile
			count[ns]++
		}
	}
	return count
}

// openSockets counts the descriptors of this process that are sockets, namespaces or processes.
func openSockets(t testing.TB) (n int) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	ok(t, err)
	for _, link := range links {
		to, _ := os.Readlink(link) // the descriptor of the listing itself is closed by now
		if strings.HasPrefix(to, "socket:") || strings.HasPrefix(to, "net:") || strings.Contains(to, "pidfd") || strings.Contains(to, "/ns/net") {
			n++
		}
	}
	return n
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	const limit = 20 * time.Second
	for deadline := time.Now().Add(limit); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not after %s: %s", limit, what)
		}
	}
}
