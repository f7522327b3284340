package report

import (
	"flag"
	"os"
	"strings"
	"testing"

	"sluice/perf/result"
)

var update = flag.Bool("update", false, "write generated documents anew")

const (
	performanceDoc = "../../docs/PERFORMANCE.md"
	docStart       = "<!-- generated: go test ./perf/report -run TestPerformanceDoc -update -->\n"
	docEnd         = "<!-- end of generated part -->\n"
)

// TestPerformanceDoc holds the tables of words in docs/PERFORMANCE.md to the lists of perf/result.
func TestPerformanceDoc(t *testing.T) {
	data, err := os.ReadFile(performanceDoc)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, found := strings.Cut(string(data), docStart)
	_, tail, found2 := strings.Cut(rest, docEnd)
	if !found || !found2 {
		t.Fatalf("%s has no generated part", performanceDoc)
	}
	var b strings.Builder
	b.WriteString("\n### Headings\n\nx is a ratio to what is named behind it, taken within one repetition.\n\n")
	Metrics(&b, result.Known())
	for _, k := range []struct {
		title string
		kind  result.WordKind
	}{
		{"### Who carries\n\nThe first word of a case of link, latency and connections:", result.CarrierWord},
		{"### Modes\n\nThe first word of a case of pipeline and scale:", result.ModeWord},
		{"### How\n\nThe other words of a case, with any number for N. What is usual is left out of the name.", result.CaseWord},
	} {
		var list []result.Word
		for _, w := range result.Words() {
			if w.Kind == k.kind {
				list = append(list, w)
			}
		}
		b.WriteString("\n" + k.title + "\n\n")
		Words(&b, list)
	}
	want := head + docStart + b.String() + "\n" + docEnd + tail
	if string(data) == want {
		return
	}
	if !*update {
		t.Fatalf("%s is out of date: go test ./perf/report -run TestPerformanceDoc -update", performanceDoc)
	}
	if err := os.WriteFile(performanceDoc, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}
