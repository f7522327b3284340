package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"
)

// From its first output on, the demo is ended by every signal that asks it to, even where whoever has started it ignores SIGINT, and
// where nobody reads its output any more; nothing is left.
func TestDemoHeedsSignals(t *testing.T) {
	needRoot(t)
	// Where these tests run under nohup, SIGHUP is ignored, and the demo would leave it so: what is caught here is not ignored there.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	for _, c := range []struct {
		what    string
		until   string // is in the output before the signals are sent
		signals []syscall.Signal
		ignore  bool // SIGINT is ignored by whoever starts it
		deaf    bool // nobody reads after until
	}{
		{what: "at the first word", until: "client", signals: []syscall.Signal{syscall.SIGINT}, ignore: true},
		{what: "while it is kept", until: "Everything stays up", signals: []syscall.Signal{syscall.SIGINT}, ignore: true},
		{what: "by a closed terminal", until: "Everything stays up", signals: []syscall.Signal{syscall.SIGHUP}},
		{what: "twice", until: "Everything stays up", signals: []syscall.Signal{syscall.SIGINT, syscall.SIGINT}},
		{what: "with a reader that has gone", until: "client", signals: []syscall.Signal{0, syscall.SIGTERM}, deaf: true},
	} {
		script := `exec "$0" demo --requests 8 --keep`
		if c.ignore {
			script = `trap "" INT; ` + script
		}
		r := &demoRun{cmd: exec.Command("sh", "-c", script, program(t)), out: &output{}, ended: make(chan error, 1)}
		in, out, err := os.Pipe()
		ok(t, err)
		r.cmd.Stdout, r.cmd.Stderr = out, r.out
		ok(t, r.cmd.Start())
		out.Close()
		go func() { r.ended <- r.cmd.Wait() }()
		text := must(readUntil(in, c.until))(t)
		if c.deaf {
			in.Close()
		} else {
			go func() { _, _ = io.Copy(r.out, in) }()
		}
		for _, s := range c.signals {
			if s == 0 { // it is to write more
				time.Sleep(1500 * time.Millisecond)
				continue
			}
			r.look()
			ok(t, r.cmd.Process.Signal(s))
		}
		err = r.wait(t)
		in.Close()
		if err == nil || r.cmd.ProcessState.ExitCode() != exitFailed || !strings.Contains(r.out.String(), "sluice: interrupted; everything was taken down") {
			t.Errorf("%s: %v\n%s%s", c.what, err, text, r.out)
		}
		r.nothingLeft(t)
	}
}

// readUntil reads up to a word.
func readUntil(r io.Reader, word string) (string, error) {
	var text strings.Builder
	b := make([]byte, 4096)
	for !strings.Contains(text.String(), word) {
		n, err := r.Read(b)
		text.Write(b[:n])
		if err != nil {
			return "", fmt.Errorf("it ends without %q: %w: %s", word, err, text.String())
		}
	}
	return text.String(), nil
}
