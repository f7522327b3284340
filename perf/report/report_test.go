package report

import (
	"encoding/xml"
	"errors"
	"fmt"
	"html/template"
	"io"
	"strings"
	"testing"

	"sluice/perf/result"
)

// hostile is a name that would break a page or a table if it were not escaped.
const hostile = `nat/<b>&"|'/flows=7`

func files() []*result.File {
	host := result.Host{CPU: "CPU <one> & |two|", Cores: 2, L2Bytes: 2 << 20, MemoryBytes: 24 << 30, Kernel: "Linux 6.18", Commands: []string{"sluice perf pipeline", "again"}}
	r := result.NewRecorder("pipeline", host)
	for run := range 3 {
		for i, n := range []int{1000, 100_000, 10_000_000} {
			r.Add(fmt.Sprintf("nat/flows=%d/workers=1", n), result.Metrics{"ns_per_packet": float64(20 + 20*i + run), "mpps": 50 / float64(i+1), "raw_to_net": 1.1})
		}
	}
	r.Add("nat/flows=1000/workers=1", result.Metrics{"parse_ns": 5, "lookup_ns": 9})
	r.Add(hostile, result.Metrics{"ns_per_packet": 3})
	r.Skip("nat/flows=100000000/workers=1", "needs 7 TiB of <memory>")
	l := result.NewRecorder("latency", host)
	l.Add("sluice/load=idle", result.Metrics{"p50_us": 43, "p99_us": 102, "something_new": 5})
	none := result.NewRecorder("link", host)
	none.Skip("sluice/flows=1", "not root")
	l.Interrupt("run 2 of 3: sluice/<load>")
	return []*result.File{r.File(), l.File(), none.File()}
}

func TestHTML(t *testing.T) {
	var b strings.Builder
	if err := HTML(&b, files()); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	elements := wellFormed(t, page)
	// Bars of ns/packet and Mpps, a curve of each over flows, the stages; bars of two percentiles.
	if elements["svg"] != 7 || elements["script"] != 0 || elements["b"] != 0 || elements["link"] != 0 || elements["img"] != 0 {
		t.Errorf("elements: %v", elements)
	}
	if strings.Contains(page, "http") && strings.Contains(strings.NewReplacer("http://www.w3.org/1999/xhtml", "", "http://www.w3.org/2000/svg", "", "http://www.w3.org/1999/xlink", "").Replace(page), "http") {
		t.Error("the page needs something from elsewhere")
	}
	for _, want := range []string{"nat/flows=10000000/workers=1", "61 ±2%", "sluice perf pipeline; again", "needs 7 TiB", "something_new", "CPU &lt;one&gt;"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in the page", want)
		}
	}
}

// Whoever opens a report finds there what its headings and words mean, and nothing of others.
func TestReportsExplainTheirWords(t *testing.T) {
	var html, markdown strings.Builder
	if err := errors.Join(HTML(&html, files()), Markdown(&markdown, files())); err != nil {
		t.Fatal(err)
	}
	_, words, _ := strings.Cut(html.String(), `<h2 id="words">`)
	_, rows, _ := strings.Cut(markdown.String(), "## What the words mean")
	for _, name := range []string{"ns_per_packet", "raw_to_net", "mpps", "parse_ns", "lookup_ns", "p50_us", "p99_us", "something_new"} {
		m := result.MetricOf(name)
		if !strings.Contains(words, `<tr id="`+name+`"><td>`+m.Title+`</td>`) || !strings.Contains(rows, "| "+m.Title+" | ") {
			t.Errorf("%s is not explained", name)
		}
		if strings.Count(html.String(), `<a href="#`+name+`">`) != 1 {
			t.Errorf("the heading of %s does not lead to its meaning", name)
		}
	}
	for _, w := range []struct {
		word string
		at   int
	}{{"nat", 0}, {"flows=7", 1}, {"workers=1", 1}} {
		k, ok := result.WordOf("pipeline", w.word, w.at)
		if want := "<td>" + k.Word + "</td><td>" + template.HTMLEscapeString(k.About) + "</td>"; !ok || !strings.Contains(words, want) || !strings.Contains(rows, "| "+k.Word+" | "+k.About+" |") {
			t.Errorf("no %s", want)
		}
	}
	for _, other := range []string{"to_floor", "x floor", "life=whole", "HAProxy", "anchor", "rules=N", "fullnat"} {
		if strings.Contains(words, other) || strings.Contains(rows, other) {
			t.Errorf("%s does not occur, and is explained", other)
		}
	}
	for _, page := range []string{html.String(), markdown.String()} {
		if strings.Count(page, "interrupted at") != 1 {
			t.Error("it is not said that a run was interrupted")
		}
	}
	if !strings.Contains(html.String(), "sluice/&lt;load&gt;") {
		t.Error("a step is not escaped")
	}
}

// wellFormed reads a page as XML, which checks every element of it and of the drawings, and counts them.
func wellFormed(t *testing.T, page string) map[string]int {
	t.Helper()
	elements := map[string]int{}
	d := xml.NewDecoder(strings.NewReader(page))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return elements
		}
		if err != nil {
			t.Fatalf("the page is not well-formed: %v", err)
		}
		if e, ok := token.(xml.StartElement); ok {
			elements[e.Name.Local]++
		}
	}
}

func TestMarkdown(t *testing.T) {
	var b strings.Builder
	if err := Markdown(&b, files()); err != nil {
		t.Fatal(err)
	}
	columns := 0
	for line := range strings.Lines(b.String()) {
		line = strings.TrimSuffix(line, "\n")
		if !strings.HasPrefix(line, "|") {
			columns = 0
			continue
		}
		n := strings.Count(strings.ReplaceAll(line, `\|`, ""), "|")
		if columns == 0 {
			columns = n
		}
		if n != columns {
			t.Errorf("%d columns and not %d: %s", n-1, columns-1, line)
		}
	}
	for _, want := range []string{"## pipeline", "## latency", "| nat/flows=10000000/workers=1 | 61 ±2% |", "- sluice/flows=1: not root", "| Cores | 2 |"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, &b)
		}
	}
}

func TestCurves(t *testing.T) {
	f := files()[0]
	c := curves(f, "ns_per_packet")
	if len(c) != 1 || c[0].key != "flows" || len(c[0].series) != 1 || len(c[0].series[0].XYs) != 3 || c[0].series[0].name != "nat/workers=1" {
		t.Errorf("%+v", c)
	}
	if got := c[0].series[0].XYs[2]; got.X != 10_000_000 || got.Y != 61 {
		t.Errorf("%+v", got)
	}
}
