package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sluice/ctl"
)

// replayOutput runs the program as main does, apart from its exit.
func replayOutput(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	app := newApp()
	prepare(app.Commands)
	var out, errs bytes.Buffer
	app.Writer, app.ErrWriter = &out, &errs
	err = app.RunContext(context.Background(), flagsFirst(app, append([]string{"sluice"}, args...)))
	return out.String(), errs.String(), err
}

func TestReplayCommand(t *testing.T) {
	data := filepath.Join("..", "..", "ctl", "testdata", "replay")
	conf, in := filepath.Join(data, "a4.yaml"), filepath.Join(data, "figures.pcapng")
	want, err := os.ReadFile(filepath.Join(data, "figures.out.pcapng"))
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out.pcapng")
	for _, args := range [][]string{
		{"replay", "-c", conf, in, "-o", out},
		{"replay", in, "-c", conf, "-o", out},
		{"replay", "-o", out, "--config=" + conf, in},
		{"replay", in, "--out", out, "--config", conf},
	} {
		stdout, _, err := replayOutput(t, args...)
		if err != nil {
			t.Fatalf("%q: %v", args, err)
		}
		got, err := os.ReadFile(out)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q: another output, %v", args, err)
		}
		if err := os.Remove(out); err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{"2 packets in 1ms", "1 to servers, 1 to clients", "10.10.1.100:80/tcp", "syn-received"} {
			if !strings.Contains(stdout, s) {
				t.Errorf("%q: no %q in\n%s", args, s, stdout)
			}
		}
	}

	stdout, _, err := replayOutput(t, "replay", "-c", conf, in, "--json")
	var report ctl.ReplayReport
	if err != nil || json.Unmarshal([]byte(stdout), &report) != nil || report.Packets != 2 || report.Left != 1 {
		t.Errorf("--json: %v\n%s", err, stdout)
	}
	stdout, stderr, err := replayOutput(t, "replay", "-c", conf, in, "-o", "-")
	if err != nil || stdout != string(want) || !strings.Contains(stderr, "2 packets in") {
		t.Errorf("-o -: %v, %d bytes, %q", err, len(stdout), stderr)
	}
}

func TestReplayCommandErrors(t *testing.T) {
	data := filepath.Join("..", "..", "ctl", "testdata", "replay")
	conf, in := filepath.Join(data, "a4.yaml"), filepath.Join(data, "figures.pcapng")
	short := filepath.Join(t.TempDir(), "short.pcapng")
	whole, err := os.ReadFile(in)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(short, whole[:len(whole)-1], 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{"replay", "-c", conf}, "needs a capture", exitUsage},
		{[]string{"replay", "-c", conf, in, in}, "one capture", exitUsage},
		{[]string{"replay", "-c", conf, in, "-o", in}, "both the input and the output", exitUsage},
		{[]string{"replay", "-c", conf, in, "--connections", "-1"}, "negative", exitUsage},
		{[]string{"replay", in}, "needs a configuration", exitUsage},
		{[]string{"replay", "-c", conf, in, "--nonsense"}, "nonsense", exitUsage},
		{[]string{"replay", "-c", conf, "no-such.pcap"}, "no such file", exitFailed},
		{[]string{"replay", "-c", in, in}, "", exitFailed},
		{[]string{"replay", "-c", conf, short}, "packet 2 of the capture", exitFailed},
	} {
		stdout, _, err := replayOutput(t, tt.args...)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v, want %q", tt.args, err, tt.want)
		}
		if tt.args[len(tt.args)-1] == short && !strings.Contains(stdout, "1 packets in 0s") {
			t.Errorf("no report of the packets before the cut:\n%s", stdout)
		}
		if code := run(context.Background(), append([]string{"sluice"}, tt.args...)); code != tt.code {
			t.Errorf("%q: exit %d, want %d", tt.args, code, tt.code)
		}
	}
	if after, err := os.ReadFile(in); err != nil || !bytes.Equal(after, whole) {
		t.Error("the input was written over")
	}
}
