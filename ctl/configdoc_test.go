package ctl

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml/parser"
)

const (
	docPath  = "../docs/CONFIG.md"
	docStart = "<!-- generated: go test ./ctl -run TestConfigDoc -update -->\n"
	docEnd   = "<!-- end of generated part -->\n"
)

// TestConfigDoc holds the generated part of docs/CONFIG.md to the list of keys that the decoder reads by.
func TestConfigDoc(t *testing.T) {
	data, err := os.ReadFile(docPath)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(data), docStart)
	_, tail, ok2 := strings.Cut(rest, docEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no generated part", docPath)
	}
	want := head + docStart + keysDoc(t) + docEnd + tail
	if string(data) == want {
		return
	}
	if !updating() {
		t.Fatalf("%s is out of date: run go test ./ctl -run TestConfigDoc -update", docPath)
	}
	if err := os.WriteFile(docPath, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

func keysDoc(t *testing.T) string {
	example, err := os.ReadFile("testdata/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n## Example\n\n```yaml\n%s```\n", example)
	var later []string
	fileKeys.walk(func(path string, section describer) {
		what, keys := section.describe()
		title := "`" + path + "`"
		if path == "" {
			title = "The file"
		}
		fmt.Fprintf(&b, "\n## %s\n\nThe keys of %s.\n\n| key | type | default | range | example | reload | meaning |\n|---|---|---|---|---|---|---|\n", title, what)
		for _, k := range keys {
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s | `%s` | %s | %s |\n", k.name, k.kind, k.defaultDoc(), k.limits, k.example, reloadDoc(joinKey(path, k.name), &k), k.text)
			if k.later != "" {
				later = append(later, fmt.Sprintf("- `%s`: %s\n", joinKey(path, k.name), k.later))
			}
		}
	}, "")
	fmt.Fprintf(&b, "\n## Not in this release\n\nThese words are known, and refused as such:\n\n%s", strings.Join(later, ""))
	return b.String() + "\n"
}

// reloadDoc says what a reload does with a change of the key, by the code that decides it.
func reloadDoc(path string, k *keyDoc) string {
	switch {
	case k.kind == "mapping":
		return ""
	case KeyNeedsRestart(path):
		return "restart"
	}
	return "applied"
}

// What docs/CONFIG.md says of a reload is what a reload does: for every setting of the example, which has every key, a change is
// refused as one that needs a restart, or is not.
func TestReloadDoc(t *testing.T) {
	f, err := Load("testdata/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	inList := regexp.MustCompile(`\[.*?\](\.|$)`)
	restarts := 0
	for _, s := range f.Settings() {
		change := Change{Kind: "changed", Path: s.Path, Old: s.Value, New: "other"}
		err := fixed(f, []Change{change})
		documented := KeyNeedsRestart(inList.ReplaceAllString(s.Path, "[]$1"))
		if errors.Is(err, ErrNeedsRestart) != documented {
			t.Errorf("%s: documented as %v, a reload says %v", s.Path, documented, err)
		}
		if documented {
			restarts++
		}
	}
	if restarts < 20 {
		t.Errorf("only %d keys need a restart", restarts)
	}
}

func (k *keyDoc) defaultDoc() string {
	switch {
	case k.required:
		return "required"
	case k.def != "":
		return "`" + k.def + "`"
	case k.otherwise != "":
		return k.otherwise
	case k.kind == "mapping":
		return "that of each key"
	}
	return "none"
}

// Every key is documented in full, and its example is one that the key accepts.
func TestKeyExamples(t *testing.T) {
	checkKeys(t, &engineKeys)
	checkKeys(t, &busyPollKeys)
	checkKeys(t, timeoutKeys(true))
	checkKeys(t, timeoutKeys(false))
	checkKeys(t, &controlKeys)
	checkKeys(t, &logKeys)
	checkKeys(t, &portKeys)
	checkKeys(t, &neighbourKeys)
	checkKeys(t, &routeKeys)
	checkKeys(t, &poolKeys)
	checkKeys(t, &monitorKeys)
	checkKeys(t, &icmpKeys)
	checkKeys(t, exchangeKeys("tcp"))
	checkKeys(t, exchangeKeys("udp"))
	checkKeys(t, &httpKeys)
	checkKeys(t, &headerKeys)
	checkKeys(t, &tlsKeys)
	checkKeys(t, &dnsKeys)
	checkKeys(t, &execKeys)
	checkKeys(t, &passiveKeys)
	checkKeys(t, &memberKeys)
	checkKeys(t, &virtualServerKeys)
	checkKeys(t, &fileKeys)
}

func checkKeys[T any](t *testing.T, m *mapping[T]) {
	for _, k := range m.keys {
		if k.doc.kind == "" || k.doc.text == "" || k.doc.example == "" || strings.Contains(k.doc.text+k.doc.limits, "|") {
			t.Errorf("%s, key %s: incomplete documentation", m.what, k.doc.name)
		}
		if k.doc.def != "" && k.doc.required {
			t.Errorf("%s, key %s: required, with a default", m.what, k.doc.name)
		}
		file, err := parser.ParseBytes([]byte(k.doc.example), 0)
		if err != nil {
			t.Errorf("%s, key %s: %v", m.what, k.doc.name, err)
			continue
		}
		d := &decoder{collector: collector{name: k.doc.example, where: map[string]position{}}, root: &fileKeys}
		var into T
		if n := file.Docs[0].Body; k.tree != nil {
			k.tree(d, n, k.doc.name, &into)
		} else {
			decodeScalar(d, &k, n, k.doc.name, &into)
		}
		if len(d.errs) > 0 {
			t.Errorf("%s, key %s: %v", m.what, k.doc.name, d.errs)
		}
	}
}

// The example file shows every key there is.
func TestExampleIsComplete(t *testing.T) {
	f, err := Load("testdata/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	written := map[string]bool{}
	for path := range f.where {
		for i := strings.IndexByte(path, '['); i >= 0; i = strings.IndexByte(path, '[') {
			path = path[:i] + "\x00" + path[i+strings.IndexByte(path[i:], ']')+1:]
		}
		written[strings.ReplaceAll(path, "\x00", "[]")] = true
	}
	fileKeys.walk(func(path string, section describer) {
		_, keys := section.describe()
		for _, k := range keys {
			// A virtual server's timeouts are the global ones again.
			if at := joinKey(path, k.name); !written[at] && path != "virtual-servers[].timeouts" {
				t.Errorf("%s is not in the example", at)
			}
		}
	}, "")
}
