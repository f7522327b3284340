package ctl

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// large is a file with that many virtual servers, all on pools of that many members.
func large(virtual, members int) []byte {
	var b strings.Builder
	b.WriteString("ports:\n  - interface: eth1\n  - interface: eth2\npools:\n")
	for p := range 2 {
		fmt.Fprintf(&b, "  - name: pool%d\n    scheduler: weighted-round-robin\n    members:\n", p)
		for m := range members {
			fmt.Fprintf(&b, "      - address: 192.%d.%d.%d:8080\n        weight: 2\n", 168+p, m>>8, m&255)
		}
	}
	b.WriteString("virtual-servers:\n")
	for v := range virtual {
		fmt.Fprintf(&b, "  - name: v%d\n    address: 10.%d.%d.%d:%d\n    protocol: tcp\n    pool: pool%d\n    timeouts: {tcp-closing: 10s}\n",
			v, v>>18, v>>10&255, v>>2&255, 80+v&3, v&1)
	}
	return []byte(b.String())
}

func TestLarge(t *testing.T) {
	data := large(10000, 4000)
	start := time.Now()
	f, err := Parse("large.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	t.Logf("%d bytes in %v", len(data), took)
	if len(f.VirtualServers) != 10000 || len(f.Pools[1].Members) != 4000 || len(f.Warnings()) != 0 {
		t.Errorf("%d virtual servers, %d members, %d warnings", len(f.VirtualServers), len(f.Pools[1].Members), len(f.Warnings()))
	}
	// A check of every virtual server against every member would be 80 million steps and not stay below this.
	if took > time.Minute {
		t.Errorf("took %v", took)
	}
}

// Time must grow with the size of the file, not with its square: eight times the size, eight times the time.
func TestLargeIsLinear(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds, and a minute with the race detector")
	}
	best := func(virtual, members int) time.Duration {
		data, least := large(virtual, members), time.Hour
		for range 3 {
			start := time.Now()
			if _, err := Parse("large.yaml", data); err != nil {
				t.Fatal(err)
			}
			least = min(least, time.Since(start))
		}
		return least
	}
	small, big := best(2500, 1000), best(20000, 8000)
	t.Logf("%v, %v: %.1f times", small, big, float64(big)/float64(small))
	if big > 32*small {
		t.Errorf("eight times the size took %.1f times as long", float64(big)/float64(small))
	}
}

func BenchmarkParse(b *testing.B) {
	for _, n := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprintf("virtual-servers=%d", n), func(b *testing.B) {
			data := large(n, n*4/10)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse("large.yaml", data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Texts that ask for far more work than they have bytes, or that are wrong from end to end.
func TestHostile(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds, and a minute with the race detector")
	}
	var bomb, merges strings.Builder
	bomb.WriteString("ports: [{interface: eth1}]\npools:\n  - name: p0\n    members: &m\n")
	for i := range 4000 {
		fmt.Fprintf(&bomb, "      - address: 10.0.%d.%d\n", i>>8, i&255)
	}
	for i := range 4000 {
		fmt.Fprintf(&bomb, "  - {name: p%d, members: *m}\n", i+1)
	}
	merges.WriteString("ports: [{interface: eth1}]\npools:\n  - &a0 {name: p}\n")
	for i := range 40 {
		fmt.Fprintf(&merges, "  - &a%d {<<: [*a%d, *a%d]}\n", i+1, i, i)
	}
	for _, c := range []struct{ name, text, want string }{
		{"aliases", bomb.String(), "more than 2097152 values"},
		{"merges", merges.String(), "more than 2097152 values"},
		{"too large", strings.Repeat("# nothing\n", maxFileSize/10+1), "larger than 16 MiB"},
		{"comments", strings.Repeat("# nothing\n", maxFileSize/10-1), "the configuration is empty"},
		{"no mapping", strings.Repeat("- a: 1\n", 1<<16), "found a list"},
		{"keys", strings.Repeat("a: 1\n", 1<<20), "more than 1000 keys in one mapping"},
		{"flow keys", "log: {" + strings.Repeat("a: 1,", 1<<20) + "}", "more than 1000 keys in one mapping"},
		{"problems", "ports:\n" + strings.Repeat("- {interface: e, x: 1}\n", 1<<16), "130071 more problems are not listed"},
		{"long list", "ports:\n" + strings.Repeat("- 1\n", 1<<17), "more problems are not listed"},
		{"long flow list", "ports: [" + strings.Repeat("1,", 1<<17) + "]", "more problems are not listed"},
		{"brackets", "log: " + strings.Repeat("[", 1<<20), "nested deeper"},
		{"keys in keys", strings.Repeat("? ", 1<<18) + "a", "nested deeper"},
		{"one line", "log: {level: " + strings.Repeat("x", 1<<20) + "}", "unknown level"},
		{"quoted", "log: {level: \"" + strings.Repeat("\\n", 1<<20) + "\"}", "unknown level"},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := time.Now()
			_, err := Parse("f", []byte(c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("want %s, got %s", c.want, shorten(fmt.Sprint(err)))
			}
			if took := time.Since(start); took > 2*time.Minute {
				t.Errorf("took %v", took)
			}
		})
	}
}

// Whatever the text: no panic, every problem has its place, and a second reading says the same.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		"ports: [{interface: eth1}]\n", "a: [2001:db8::1]:80\n", "? a\n: b\n", "- &a\n- *a\n", "a: |\n  b\n", "--- \n...\n", "\t", "a: !!b c",
		"<<: {a: b}\n", "ports: &p\n  - <<: *p\n", "%YAML 1.2\n---\n", "\"a\": 'b'\n", "{", "}", "a: >-\n", "&a a: *a", "ports:\n- interface: e\n  queues: 2 # c\n",
		string(large(3, 2)),
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("f", data)
		if err == nil {
			if len(file.Ports) == 0 {
				t.Error("a file without ports is valid")
			}
			return
		}
		var all Errors
		if !errors.As(err, &all) || len(all) == 0 || file != nil {
			t.Fatalf("got %v and %T", file, err)
		}
		for _, e := range all {
			if len(data) <= maxFileSize && len(all) <= maxProblems && (e.Line < 1 || e.Column < 1) {
				t.Errorf("no place: %v", e)
			}
			e.Excerpt()
		}
		if _, again := Parse("f", data); again == nil || again.Error() != err.Error() {
			t.Errorf("first %v, then %v", err, again)
		}
	})
}
