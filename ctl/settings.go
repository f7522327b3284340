package ctl

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Setting is one value of a configuration, defaults included.
type Setting struct {
	Path  string `json:"path"` // such as pools[web].members[s1].weight: entries of lists by their name
	Value string `json:"value"`
}

// Settings lists every value of the file in the order of the keys.
func (f *File) Settings() (out []Setting) {
	fileKeys.show(f, "", func(s Setting) { out = append(out, s) })
	return out
}

func (m *mapping[T]) show(from *T, at string, emit func(Setting)) {
	for i := range m.keys {
		m.keys[i].show(from, joinKey(at, m.keys[i].doc.name), emit)
	}
}

// identity is what tells an entry of a list from the others: its name, else its address, else its prefix.
func (m *mapping[T]) identity(from *T) (id string) {
	for _, key := range []string{"name", "address", "prefix"} {
		if i := m.find(key); i >= 0 {
			m.keys[i].show(from, "", func(s Setting) { id = s.Value })
			return id
		}
	}
	panic("entries of " + m.what + " have nothing to be told apart by")
}

// valueText is a value as the file would have it.
func valueText(v any) string {
	switch v := v.(type) {
	case time.Duration:
		return plainDuration(v)
	case netip.AddrPort:
		switch {
		case !v.IsValid():
			return "off"
		case v.Port() == 0:
			return v.Addr().String()
		}
	case netip.Addr:
		if !v.IsValid() {
			return "auto"
		}
	case net.HardwareAddr:
		if v == nil {
			return "auto"
		}
	}
	return fmt.Sprint(v)
}

// Change is a difference between two configurations.
type Change struct {
	Kind string `json:"kind"` // added | removed | changed
	Path string `json:"path"` // of a value, or of an entry of a list as a whole
	Old  string `json:"old,omitempty"`
	New  string `json:"new,omitempty"`
}

func (c Change) String() string {
	switch c.Kind {
	case "added":
		return "+ " + c.Path
	case "removed":
		return "- " + c.Path
	}
	return fmt.Sprintf("~ %s: %s > %s", c.Path, c.Old, c.New)
}

// diff lists what changes from the one file to the other.
func diff(from, to *File) []Change { return Diff(from.Settings(), to.Settings()) }

// Diff lists what changes from the one configuration to the other. An entry of a list that only one of them has is one change.
func Diff(old, now []Setting) []Change {
	before, after := map[string]string{}, map[string]string{}
	for _, s := range old {
		before[s.Path] = s.Value
	}
	for _, s := range now {
		after[s.Path] = s.Value
	}
	var out []Change
	seen := map[string]bool{}
	whole := func(kind, path string, entries map[string]bool) {
		p := outermost(path, entries)
		if !seen[p] {
			seen[p] = true
			out = append(out, Change{Kind: kind, Path: p})
		}
	}
	oldEntries, newEntries := entriesOf(old), entriesOf(now)
	for _, s := range now {
		switch v, ok := before[s.Path]; {
		case !ok:
			whole("added", s.Path, oldEntries)
		case v != s.Value:
			out = append(out, Change{Kind: "changed", Path: s.Path, Old: v, New: s.Value})
		}
	}
	for _, s := range old {
		if _, ok := after[s.Path]; !ok {
			whole("removed", s.Path, newEntries)
		}
	}
	return out
}

// entriesOf are the entries of lists that settings lie in.
func entriesOf(settings []Setting) map[string]bool {
	out := map[string]bool{}
	for _, s := range settings {
		for _, e := range entryPaths(s.Path) {
			out[e] = true
		}
	}
	return out
}

// entryPaths are the paths of the entries around a setting, the outermost first. Names may hold brackets; an entry ends
// at a bracket that a point follows.
func entryPaths(path string) (out []string) {
	for at := 0; ; {
		i := strings.Index(path[at:], "].")
		if i < 0 {
			return out
		}
		at += i + 1
		out = append(out, path[:at])
	}
}

// outermost is the outermost entry around path that others do not have, or path itself.
func outermost(path string, others map[string]bool) string {
	paths := entryPaths(path)
	if i := slices.IndexFunc(paths, func(p string) bool { return !others[p] }); i >= 0 {
		return paths[i]
	}
	return path
}
