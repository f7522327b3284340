package main

import (
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

var update = flag.Bool("update", false, "write generated documents anew")

const (
	cliDoc      = "../../docs/CLI.md"
	cliDocStart = "<!-- generated: go test ./cmd/sluice -run TestCLIDoc -update -->\n"
	cliDocEnd   = "<!-- end of generated part -->\n"
)

// TestCLIDoc holds the generated part of docs/CLI.md to the commands.
func TestCLIDoc(t *testing.T) {
	data := string(must(os.ReadFile(cliDoc))(t))
	head, rest, found := strings.Cut(data, cliDocStart)
	_, tail, found2 := strings.Cut(rest, cliDocEnd)
	if !found || !found2 {
		t.Fatalf("%s has no generated part", cliDoc)
	}
	want := head + cliDocStart + cliReference(newApp()) + cliDocEnd + tail
	if data == want {
		return
	}
	if !*update {
		t.Fatalf("%s is out of date: go test ./cmd/sluice -run TestCLIDoc -update", cliDoc)
	}
	ok(t, os.WriteFile(cliDoc, []byte(want), 0o644))
}

// Every command that does something has an example, every example is one that its command takes, and every flag says what
// it is for.
func TestExamples(t *testing.T) {
	app := newApp()
	known := map[string]*cli.Command{}
	eachCommand(app.Commands, "", func(path string, c *cli.Command) {
		known[path] = c
		if c.Usage == "" {
			t.Errorf("sluice %s: no usage", path)
		}
		for _, f := range c.Flags {
			if words, _, text := flagDoc(f); text == "" {
				t.Errorf("sluice %s %s: no usage", path, words)
			}
		}
		if path != "perf" && path != "config" && path != "perf forwarder" && len(examplesOf(path)) == 0 {
			t.Errorf("sluice %s: no example", path)
		}
	})
	for path, list := range examples {
		c := known[path]
		if c == nil {
			t.Errorf("an example of %q, which is no command", path)
			continue
		}
		for _, e := range list {
			_, line, found := strings.Cut(e.line, "sluice ")
			line, _, _ = strings.Cut(strings.Split(strings.Split(line, " > ")[0], " | ")[0], ")")
			if !found || !strings.HasPrefix(line+" ", path+" ") {
				t.Errorf("%s: not an example of sluice %s", e.line, path)
				continue
			}
			args := flagsFirst(app, append([]string{"sluice"}, strings.Fields(line)...))
			set := flag.NewFlagSet(path, flag.ContinueOnError)
			set.SetOutput(io.Discard)
			for _, f := range c.Flags {
				ok(t, f.Apply(set))
			}
			if err := set.Parse(args[1+len(strings.Fields(path)):]); err != nil {
				t.Errorf("%s: %v", e.line, err)
			}
		}
	}
}

func TestComplete(t *testing.T) {
	app := newApp()
	for _, c := range []struct {
		words []string
		has   []string
		not   string
	}{
		{[]string{""}, []string{"run", "member", "doctor", "completion"}, "complete"},
		{[]string{"--", "me"}, []string{"member"}, "run"},
		{[]string{"conn", ""}, []string{"list", "show", "delete", "export"}, "run"},
		{[]string{"conn", "list", "--"}, []string{"--member", "--watch", "--output", "--help"}, "--all"},
		{[]string{"conn", "-o", ""}, []string{"table", "wide", "json"}, "list"},
		{[]string{"conn", "--watch", "sh"}, []string{"show"}, "list"},
		{[]string{"conn", "--protocol", "u"}, []string{"udp"}, "tcp"},
		{[]string{"run", "--config", "x"}, nil, "run"},
		{[]string{"completion", ""}, []string{"bash", "zsh"}, "run"},
	} {
		got := complete(app, c.words)
		for _, want := range c.has {
			if !slices.Contains(got, want) {
				t.Errorf("%q: %q has no %q", c.words, got, want)
			}
		}
		if slices.Contains(got, c.not) || c.has == nil && len(got) > 0 {
			t.Errorf("%q: %q", c.words, got)
		}
	}
}

// The shells themselves take the scripts and get the program's answers.
func TestCompletionScripts(t *testing.T) {
	dir := filepath.Dir(program(t))
	run := func(shell, script string) string {
		t.Helper()
		path, err := exec.LookPath(shell)
		if err != nil {
			t.Skipf("%s is not installed (apt-get install %s)", shell, shell)
		}
		cmd := exec.Command(path, "-c", script)
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", shell, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	t.Run("bash", func(t *testing.T) {
		out := run("bash", `source <(sluice completion bash); COMP_WORDS=(sluice conn e); COMP_CWORD=2; _sluice; echo "${COMPREPLY[@]}"; complete -p sluice`)
		if out != "export\ncomplete -o default -F _sluice sluice" {
			t.Errorf("%q", out)
		}
	})
	t.Run("zsh", func(t *testing.T) {
		out := run("zsh", `compdef() { print -r compdef $*; }; compadd() { shift; print -r -- $*; }; source <(sluice completion zsh); words=(sluice conn e); CURRENT=3; _sluice`)
		if out != "compdef _sluice sluice\nexport" {
			t.Errorf("%q", out)
		}
	})
}

// The manual page has every command, and man's own formatter has nothing to say against it.
func TestManPage(t *testing.T) {
	page := string(manPage(newApp()))
	eachCommand(newApp().Commands, "", func(path string, _ *cli.Command) {
		if !strings.Contains(page, "sluice "+path) {
			t.Errorf("sluice %s is missing", path)
		}
	})
	if !strings.HasPrefix(page, ".") && !strings.Contains(page, ".TH") || !strings.Contains(page, "EXIT STATUS") {
		t.Errorf("not a manual page: %.200s", page)
	}
	groff, err := exec.LookPath("groff")
	if err != nil {
		lacking(t, "groff is not installed (apt-get install groff-base)")
	}
	cmd := exec.Command(groff, "-man", "-Tutf8", "-ww", "-z")
	cmd.Stdin = strings.NewReader(page)
	if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "error") {
		t.Errorf("groff: %v\n%s", err, out)
	}
}
