package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/urfave/cli/v2"

	"sluice/ctl"
)

// engineCommands ask the running engine: what they print with -o json is that of the API's schema.
var engineCommands = []struct{ args, method, path string }{
	{"virtual", "get", "/v1/virtuals"}, {"virtual list", "get", "/v1/virtuals"}, {"pool", "get", "/v1/pools"}, {"pool list", "get", "/v1/pools"},
	{"member", "get", "/v1/members"}, {"member list", "get", "/v1/members"}, {"worker", "get", "/v1/workers"}, {"worker list", "get", "/v1/workers"},
	{"port", "get", "/v1/ports"}, {"port list", "get", "/v1/ports"}, {"drop", "get", "/v1/drops"}, {"drop list --all", "get", "/v1/drops"},
	{"conn", "get", "/v1/connections"}, {"conn list", "get", "/v1/connections"}, {"conn show", "get", "/v1/connections"},
	{"monitor", "get", "/v1/monitors"}, {"monitor list", "get", "/v1/monitors"}, {"reload", "post", "/v1/reload"},
	{"persistence", "get", "/v1/persistences/entries"}, {"persistence list", "get", "/v1/persistences/entries"}, {"persistence status", "get", "/v1/persistences"},
	{"persistence delete 10.0.0.1", "delete", "/v1/persistences/entries"},
	{"explain tcp 172.16.10.55:4003 10.10.1.100:80", "get", "/v1/explain"}, {"capture list", "get", "/v1/captures"},
	{"member drain all server-2 --wait=false", "post", "/v1/members/order"}, {"member enable all server-2", "post", "/v1/members/order"},
	{"member force-off all server-2", "post", "/v1/members/order"}, {"member disable all server-2", "post", "/v1/members/order"}, {"member enable all server-2", "post", "/v1/members/order"},
	{"virtual disable dns", "post", "/v1/virtuals/order"}, {"virtual enable dns", "post", "/v1/virtuals/order"},
	{"member weight all server-2 7", "post", "/v1/members/weight"}, {"conn delete --client 10.0.0.1", "delete", "/v1/connections"},
}

// otherCommands are tried by tests of their own: those that ask no engine, and those whose answer is none of the API's.
var otherCommands = map[string]string{
	"run": "TestSecondEngine", "check": "TestRoles", "demo": "TestDemo", "replay": "TestReplayCommand",
	"config show": "TestCommandsAgainstEngine", "config diff": "TestCommandsAgainstEngine", "conn export": "TestConnCommands",
	"port release": "TestConnectionsSurviveKill", "capture": "TestCaptureFile", "capture stop": "TestCommandsAgainstEngine", "top": "TestCommandsAgainstEngine", "doctor": "TestDoctor",
	"prepare": "TestPlainUser", "completion": "TestCompletionScripts", "man": "TestManPage", "version": "TestCommandsAgainstEngine",
	"perf pipeline": "TestPerfPipelineCommand", "perf link": "TestPerfLink", "perf latency": "TestPerfLatency", "perf connections": "TestPerfConnections",
	"perf scale": "TestPerfReportOfAll", "perf compare": "TestPerfCompareCommand", "perf report": "TestPerfReportOfAll",
}

// commandOf is the command that words begin with.
func commandOf(commands []*cli.Command, words []string) (path string) {
	for _, w := range words {
		found := false
		for _, c := range commands {
			if c.HasName(w) {
				path, commands, found = strings.TrimSpace(path+" "+c.Name), c.Subcommands, true
				break
			}
		}
		if !found {
			break
		}
	}
	return path
}

// Every command of sluice help is tried, and by a test that there is.
func TestEveryCommandIsTried(t *testing.T) {
	app := newApp()
	tried := map[string]bool{}
	for _, c := range engineCommands {
		tried[commandOf(app.Commands, strings.Fields(c.args))] = true
	}
	var source strings.Builder
	for _, path := range must(filepath.Glob("*_test.go"))(t) {
		source.Write(must(os.ReadFile(path))(t))
	}
	known := map[string]bool{}
	eachCommand(app.Commands, "", func(path string, c *cli.Command) {
		known[path] = true
		test := otherCommands[path]
		switch {
		case tried[path] && test == "":
		case test == "" && len(c.Subcommands) > 0 && len(c.Flags) == 0: // it only has others
		case test == "":
			t.Errorf("sluice %s is tried by no test: add it to engineCommands, or a test of its own to otherCommands", path)
		case !strings.Contains(source.String(), "func "+test+"(t *testing.T)"):
			t.Errorf("sluice %s: there is no test %s", path, test)
		}
	})
	for path := range otherCommands {
		if !known[path] {
			t.Errorf("there is no command sluice %s", path)
		}
	}
}

// A word that is mistyped at any level, a command or a flag, is answered with the one that was meant.
func TestEveryWordIsSuggested(t *testing.T) {
	wrong := func(args []string, want string) {
		t.Helper()
		app := newApp()
		var said strings.Builder
		app.Writer, app.ErrWriter = &said, &said
		prepare(app.Commands)
		err := app.RunContext(t.Context(), flagsFirst(app, append([]string{"sluice"}, args...)))
		if exitCode(err) != exitUsage || !strings.Contains(err.Error(), "did you mean "+want+"?") {
			t.Errorf("sluice %s: %v, want %s", strings.Join(args, " "), err, want)
		}
	}
	wrong([]string{"--versoin"}, "--version")
	eachCommand(newApp().Commands, "", func(path string, c *cli.Command) {
		words := strings.Fields(path)
		typo := words[len(words)-1] + "z"
		wrong(append(words[:len(words)-1:len(words)-1], typo), fmt.Sprintf("%q", c.Name))
		for _, f := range c.Flags {
			if name := f.Names()[0]; len(name) > 3 {
				wrong(append(strings.Fields(path), "--"+name+"z"), "--"+name)
			}
		}
	})
}

// A flag that is like none is refused in our words, which say where to look, by every command, the program itself and its help; so are
// values that are missing or of another kind.
func TestNoFlagIsLikeIt(t *testing.T) {
	refused := func(want string, args ...string) {
		t.Helper()
		app := newApp()
		app.Setup()
		var said strings.Builder
		app.Writer, app.ErrWriter = &said, &said
		prepare(app.Commands)
		err := app.RunContext(t.Context(), flagsFirst(app, append([]string{"sluice"}, args...)))
		if exitCode(err) != exitUsage || err.Error() != want || said.Len() > 0 {
			t.Errorf("sluice %s: exit code %d, %v, want %s; it said %q", strings.Join(args, " "), exitCode(err), err, want, &said)
		}
	}
	refused("no flag --qqqqq; `sluice help` lists what there is", "--qqqqq")
	refused("no flag -q; `sluice help` lists what there is", "-q")
	paths := []string{"help"}
	eachCommand(newApp().Commands, "", func(path string, c *cli.Command) {
		paths = append(paths, path)
		for _, f := range c.Flags {
			switch f.(type) {
			case *cli.StringFlag, *cli.IntFlag, *cli.Float64Flag, *cli.DurationFlag:
				refused(dashed(f.Names()[0])+" needs a value", append(strings.Fields(path), "--"+f.Names()[0])...)
			case *cli.BoolFlag:
				refused(fmt.Sprintf("%s is given or not, or is true or false; it cannot be %q", dashed(f.Names()[0]), "maybe"),
					append(strings.Fields(path), "--"+f.Names()[0]+"=maybe")...)
			}
		}
	})
	for _, path := range paths {
		refused(path+" has no flag --qqqqq; `sluice "+path+" --help` lists what there is", append(strings.Fields(path), "--qqqqq")...)
	}
	if code := run(t.Context(), []string{"sluice", "help", "perf", "--qqqqq"}); code != exitUsage {
		t.Errorf("sluice help perf --qqqqq: exit code %d", code)
	}
}

// captureStopped begins a capture, sees it listed, and has another command end it.
func (b *bed) captureStopped(t *testing.T, doc *openapi3.T) {
	t.Helper()
	done := make(chan finished, 1)
	go func() {
		done <- b.sluice(nil, "capture", "--end", "172.16.10.55:1", "--drops", "--duration", "25s", "--socket", b.socket)
	}()
	eventually(t, "the capture is listed", func() bool {
		list := query[[]ctl.CaptureView](b, "capture", "list")
		return len(list) == 1 && list[0].Who == "user 0" && list[0].Filter == "--end 172.16.10.55:1 --drops"
	})
	if r := b.sluice(nil, "capture", "list", "--socket", b.socket); !regexp.MustCompile(`(?m)^user 0 +\S+Z +\S+Z +10000 +--end 172.16.10.55:1 --drops$`).MatchString(r.stdout) {
		t.Errorf("%+v", r)
	}
	if r := b.sluice(nil, "capture", "--socket", b.socket); r.code != exitFailed || !strings.Contains(r.stderr, "sluice capture stop") {
		t.Errorf("a second capture: %+v", r)
	}
	r := b.sluice(nil, "capture", "stop", "-o", "json", "--socket", b.socket)
	if r.code != exitOK {
		t.Fatalf("%+v", r)
	}
	validate(t, "sluice capture stop", doc.Paths.Find("/v1/capture").Delete.Responses.Status(200).Value.Content.Get("application/json").Schema, []byte(r.stdout))
	if r := <-done; r.code != exitOK || !strings.HasSuffix(r.stderr, "; it was ended\n") {
		t.Errorf("the capture that was stopped: %+v", r)
	}
}

// completesNames has real shells complete names that only the engine knows.
func (b *bed) completesNames(t *testing.T) {
	t.Helper()
	at := " --socket " + b.socket + " "
	for _, c := range []struct{ line, want string }{
		{"sluice member drain" + at + "a", "all all6"},
		{"sluice member drain" + at + "all ", "server-1 server-2"},
		{"sluice member weight" + at + "all server-1 ", "file"},
		{"sluice virtual disable" + at + "w", "web web6"},
		{"sluice capture" + at + "--virtual d", "dns dns6"},
		{"sluice capture" + at + "--member ", "server-1 server-2"},
		{"sluice explain" + at + "--port out", "outside"},
		{"sluice conn list" + at + "--virtual bulk", "bulk bulk6"},
	} {
		for _, shell := range []string{"bash", "zsh"} {
			if got := shellCompletes(t, shell, c.line); got != c.want {
				t.Errorf("%s, %s: %q, want %q", shell, c.line, got, c.want)
			}
		}
	}
}
