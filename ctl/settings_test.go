package ctl

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

// Every key that the decoder knows has a value in Settings, and what Settings writes for a scalar reads back as the same.
func TestSettingsAreComplete(t *testing.T) {
	f, err := Load("testdata/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, s := range f.Settings() {
		plain := s.Path
		for i := strings.Index(plain, "["); i >= 0 && strings.Contains(plain, "]."); i = strings.Index(plain, "[") {
			plain = plain[:i] + "." + plain[strings.Index(plain, "].")+2:]
		}
		have[plain] = true
	}
	fileKeys.walk(func(path string, section describer) {
		_, docs := section.describe()
		for _, d := range docs {
			key := strings.ReplaceAll(joinKey(path, d.name), "[]", "")
			if d.kind != "mapping" && d.kind != "list" && !have[key] {
				t.Errorf("%s is missing from Settings", key)
			}
		}
	}, "")
}

func TestDiff(t *testing.T) {
	text, err := os.ReadFile("testdata/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	parse := func(text string) *File {
		t.Helper()
		f, err := Parse("example.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	base := parse(string(text))
	if d := diff(base, parse(string(text))); len(d) != 0 {
		t.Errorf("a file differs from itself: %v", d)
	}
	for _, c := range []struct{ old, new, want string }{
		{"udp: 10s", "udp: 11s", "~ virtual-servers[dns].timeouts.udp: 10s > 11s"},
		{"workers: 2", "workers: auto", "~ engine.workers: 2 > auto"},
		{"metrics: 127.0.0.1:9090", "metrics: off", "~ control.metrics: 127.0.0.1:9090 > off"},
	} {
		if !strings.Contains(string(text), c.old) {
			t.Fatalf("the example has no %q", c.old)
		}
		if got := fmt.Sprint(diff(base, parse(strings.Replace(string(text), c.old, c.new, 1)))); got != "["+c.want+"]" {
			t.Errorf("%s: %s, want %s", c.new, got, c.want)
		}
	}
	small := func(pools string) *File {
		return parse("ports: [{interface: eth1}]\npools: [" + pools + "]\nvirtual-servers: [{name: v, address: 10.0.0.1:80, protocol: tcp, pool: a}]\n")
	}
	one, two := small("{name: a, members: [{address: 10.1.0.1}]}"), small("{name: a, members: [{address: 10.1.0.1:80}, {name: x, address: 10.1.0.2}]}, {name: b, members: [{address: 10.1.0.3}]}")
	want := []Change{
		{Kind: "added", Path: "pools[a].members[10.1.0.1:80]"}, {Kind: "added", Path: "pools[a].members[x]"}, {Kind: "added", Path: "pools[b]"},
		{Kind: "removed", Path: "pools[a].members[10.1.0.1]"},
	}
	if got := diff(one, two); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := diff(two, one); len(got) != 4 || got[0].Kind != "added" || got[3] != (Change{Kind: "removed", Path: "pools[b]"}) {
		t.Errorf("%v", got)
	}
}
