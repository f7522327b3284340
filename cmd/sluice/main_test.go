package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// The end-to-end tests run the real program in a lab of network namespaces (perf/lab, two-arm), each test in one of
// its own. They need root; without it they skip with the reason, or fail where SLUICE_LAB=require is set, as in CI.
//
//	main_test.go      the program under test, built once
//	bed_test.go       a lab with a configuration; start, stop, kill; what must not stay behind
//	bedstate_test.go  the host's state, to compare before and after
//	dial_test.go      clients and servers: HTTP, datagrams, echo sessions, ping

// buildDir holds the program under test while the tests run.
var buildDir string

func TestMain(m *testing.M) {
	var err error
	if buildDir, err = os.MkdirTemp("", "sluice-e2e-"); err == nil {
		err = os.Chmod(buildDir, 0o755) // a test runs the program as another user
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(buildDir)
	os.Exit(code)
}

// build makes the program as a release is made: without cgo.
var build = sync.OnceValues(func() (string, error) {
	path := filepath.Join(buildDir, "sluice")
	cmd := exec.Command("go", "build", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// program is the path of the program under test.
func program(t testing.TB) string {
	t.Helper()
	return must(build())(t)
}

func needRoot(t testing.TB) {
	t.Helper()
	if why := cannotRunLive(); why != "" {
		if os.Getenv("SLUICE_LAB") == "require" {
			t.Fatalf("%s, and SLUICE_LAB=require", why)
		}
		t.Skip(why)
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

// lacking ends a test that needs a program which is not here: it skips, or fails where SLUICE_LAB=require is set.
func lacking(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("SLUICE_LAB") == "require" {
		t.Fatalf("%s, and SLUICE_LAB=require", why)
	}
	t.Skip(why)
}
