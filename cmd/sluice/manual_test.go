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
		{[]string{"conn", "list", "--state", "est"}, []string{"established"}, "closing"},
		{[]string{"conn", "list", "--state=est"}, []string{"--state=established"}, "established"},
		{[]string{"conn", "show", "-o", ""}, []string{"table", "json"}, "wide"},
		{[]string{"config", "diff", "-o", ""}, []string{"table", "json"}, "wide"},
		{[]string{"capture", "--protocol", ""}, []string{"tcp", "udp", "sctp", "icmp"}, "any"},
		{[]string{"capture", "--reason", "no_"}, []string{"no_member", "no_virtual_server"}, "table_full"},
		{[]string{"capture", "s"}, []string{"stop"}, "list"},
		{[]string{"explain", ""}, []string{"tcp", "udp", "sctp", "icmp"}, "run"},
		{[]string{"explain", "-c", "x", "u"}, []string{"udp"}, "tcp"},
		{[]string{"member", "drain", "web", "s1", "--then", ""}, []string{"leave", "reset"}, "drop"},
		{[]string{"port", "release", "l"}, []string{"lo"}, "list"},
		// Nothing answers there, which is said to nobody; files are up to the shell.
		{[]string{"member", "drain", "--socket", "/nowhere", ""}, nil, "web"},
		{[]string{"explain", "-c", ""}, nil, "tcp"},
		{[]string{"capture", "-w", ""}, nil, "stop"},
	} {
		got := complete(t.Context(), app, c.words)
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

// shellCompletes has a real shell take the script and complete a line at its end: what it offers, in a line.
func shellCompletes(t *testing.T, shell, line string) string {
	t.Helper()
	path, err := exec.LookPath(shell)
	if err != nil {
		lacking(t, shell+" is not installed (apt-get install "+shell+")")
	}
	script := map[string]string{
		"bash": `source <(sluice completion bash); COMP_LINE=$LINE; COMP_POINT=${#COMP_LINE}; _sluice; echo "${COMPREPLY[@]}"`,
		"zsh": `compdef() {}; compadd() { shift; print -r -- $*; }; _files() { print files; }; source <(sluice completion zsh)
			words=(${(z)LINE}); [[ $LINE == *" " ]] && words+=(""); CURRENT=${#words}; _sluice`,
	}[shell]
	cmd := exec.Command(path, "-c", script)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(program(t))+":"+os.Getenv("PATH"), "LINE="+line)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", shell, err, out)
	}
	return strings.TrimSpace(string(out))
}

// The shells themselves take the scripts and get the program's answers. Where there are none they offer files.
func TestCompletionScripts(t *testing.T) {
	for _, c := range []struct{ line, bash, zsh string }{
		{"sluice conn e", "export", "export"},
		{"sluice conn list --state sy", "syn-sent syn-received", "syn-sent syn-received"},
		{"sluice conn list --state=est", "established", "--state=established"}, // bash takes what is behind the =
		{"sluice capture --reason ttl", "ttl_expired", "ttl_expired"},
		{"sluice explain ", "tcp udp sctp icmp", "tcp udp sctp icmp"},
		{"sluice check -c ", "", "files"},
		{"sluice member drain --socket /nowhere ", "", "files"},
	} {
		if got := shellCompletes(t, "bash", c.line); got != c.bash {
			t.Errorf("bash, %s: %q, want %q", c.line, got, c.bash)
		}
		if got := shellCompletes(t, "zsh", c.line); got != c.zsh {
			t.Errorf("zsh, %s: %q, want %q", c.line, got, c.zsh)
		}
	}
	script := must(exec.Command(program(t), "completion", "bash").Output())(t)
	if !strings.HasSuffix(string(script), "\ncomplete -o default -F _sluice sluice\n") { // default: files
		t.Errorf("%s", script)
	}
	if script = must(exec.Command(program(t), "completion", "zsh").Output())(t); !strings.HasPrefix(string(script), "#compdef sluice\n") {
		t.Errorf("%s", script)
	}
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
