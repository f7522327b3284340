package ctl

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A hook that writes megabytes, and leaves a process that has left its group and holds its output open, is told of and over as soon as
// it ends itself; what it wrote is in the log up to a bound.
func TestHookLoud(t *testing.T) {
	dir := t.TempDir()
	program, left := filepath.Join(dir, "hook"), filepath.Join(dir, "left")
	script := "#!/bin/sh\nsetsid sh -c 'echo $$ >" + left + ".new; mv " + left + ".new " + left + "; exec sleep 1000' &\n" +
		"while [ ! -e " + left + " ]; do sleep 0.01; done\nhead -c 30000000 /dev/zero | tr '\\0' x\nexit 7\n"
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	r := newHookRunner(slog.New(slog.NewTextHandler(&log, nil)))
	start := time.Now()
	r.tell(hook{virtual: "v", address: "10.0.0.1", command: program}, HookAnnounce)
	done := r.wait(hookTime + 10*time.Second)
	b, err := os.ReadFile(left)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil { // it was alive
		t.Errorf("the process that was left: %v", err)
	}
	if !done {
		t.Fatalf("it is not over after %s", time.Since(start))
	}
	if text := log.String(); !strings.Contains(text, "exit code 7") || !strings.Contains(text, "output=xxxx") || len(text) > 8192 {
		t.Errorf("%d bytes in the log: %.300s", len(text), text)
	}
}
