package ctl

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// What is said of capabilities, and what the unit gives, is what a start asks for.
func TestCapabilitiesAsDocumented(t *testing.T) {
	want := []string{lockCapability.name}
	for _, c := range neededCapabilities {
		want = append(want, c.name)
	}
	slices.Sort(want)
	for _, k := range []struct{ file, place string }{
		{"../deploy/systemd/sluice.service", `(?m)^CapabilityBoundingSet=(.*)$`},
		{"../deploy/systemd/sluice.service", `(?m)^AmbientCapabilities=(.*)$`},
		{"../deploy/README.md", `(?s)((?:\| CAP_[^\n]*\n)+)`},
		{"../deploy/debian/README.Debian", `(?s)runs as the user sluice with (.*?)\.`},
		{"../docs/CLI.md", "`sluice run` needs no more than (.*?)\\."},
	} {
		b, err := os.ReadFile(k.file)
		if err != nil {
			t.Fatal(err)
		}
		m := regexp.MustCompile(k.place).FindSubmatch(b)
		if m == nil {
			t.Errorf("%s says nothing like %s", k.file, k.place)
			continue
		}
		got := regexp.MustCompile(`CAP_[A-Z_]+`).FindAllString(string(m[1]), -1)
		slices.Sort(got)
		if !slices.Equal(slices.Compact(got), want) {
			t.Errorf("%s has %v, a start asks for %v", k.file, got, want)
		}
	}
}
