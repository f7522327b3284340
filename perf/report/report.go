// Package report makes a page and a table of files of results, for people: what was measured, on what, by which
// commands, with drawings. The page needs nothing but itself.
package report

import (
	"fmt"
	"html/template"
	"io"
	"strings"

	"sluice/perf/result"
)

// document is the page: a section for each file, and what the words of all mean.
type document struct {
	Sections []section
	Metrics  []result.Metric
	Words    []result.Word
}

// section is a file as the page shows it.
type section struct {
	*result.File
	Facts    [][2]string
	Drawings []template.HTML
	Tables   []table
}

// table is medians with their spread.
type table struct {
	Columns []result.Metric
	Rows    [][]string // the case, then a cell for each column
}

// facts describe the host.
func facts(h *result.Host) (f [][2]string) {
	for _, x := range [][2]string{
		{"CPU", h.CPU}, {"Cores", fmt.Sprint(h.Cores)}, {"Second-level cache", bytesOf(uint64(h.L2Bytes))}, {"Memory", bytesOf(h.MemoryBytes)},
		{"Kernel", h.Kernel}, {"Go", h.Go}, {"Huge pages", h.HugePages}, {"Governor", h.Governor}, {"Virtualisation", h.Virtualisation},
		{"Driver", h.Driver}, {"Mode", h.Mode}, {"Load when it began", h.Load}, {"Core", takenOf(h)}, {"sluice", h.Sluice}, {"Date", h.Date}, {"Commands", strings.Join(h.Commands, "; ")},
	} {
		switch ways := strings.Split(x[1], " | "); {
		case x[1] == "":
		case x[0] == "Mode" && strings.Contains(x[1], ": "): // of each carrier
			for _, way := range ways {
				who, how, _ := strings.Cut(way, ": ")
				f = append(f, [2]string{"Mode of " + who, how})
			}
		default:
			f = append(f, x)
		}
	}
	return f
}

// takenOf says how often the carriers' core was taken away, where that was measured.
func takenOf(h *result.Host) string {
	if h.Taken == nil {
		return ""
	}
	return h.Taken.String()
}

func bytesOf(n uint64) string {
	switch {
	case n == 0:
		return ""
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}

// tables are the main figures, the details and the stages.
func tables(f *result.File) (all []table) {
	for _, g := range []result.Group{result.Main, result.Detail, result.Stage} {
		names := f.Columns(g)
		if len(names) == 0 {
			continue
		}
		var t table
		for _, n := range names {
			t.Columns = append(t.Columns, result.MetricOf(n))
		}
		for i := range f.Results {
			row, some := []string{f.Results[i].Case}, false
			for _, n := range names {
				cell := f.Results[i].Cell(n)
				row, some = append(row, cell), some || cell != ""
			}
			if some {
				t.Rows = append(t.Rows, row)
			}
		}
		all = append(all, t)
	}
	return all
}

// HTML writes the page.
func HTML(w io.Writer, files []*result.File) error {
	d := document{Metrics: result.MetricsOf(files), Words: result.WordsOf(files)}
	for _, f := range files {
		s := section{File: f, Facts: facts(&f.Host), Tables: tables(f)}
		svgs, err := drawings(f)
		if err != nil {
			return fmt.Errorf("report on %s: %w", f.Scenario, err)
		}
		for _, d := range svgs {
			s.Drawings = append(s.Drawings, template.HTML(d)) // ours, and the library escapes text
		}
		d.Sections = append(d.Sections, s)
	}
	return page.Execute(w, d)
}

// The page is well-formed XML too, so that it can be checked.
var page = template.Must(template.New("report").Funcs(template.FuncMap{"quick": func() string { return result.QuickNote }}).Parse(`<!DOCTYPE html>
<html lang="en" xmlns="http://www.w3.org/1999/xhtml">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>sluice perf</title>
<style>
body { font: 15px/1.5 sans-serif; color: #222; max-width: 72em; margin: 2em auto; padding: 0 1em }
h1, h2 { font-weight: 600 } h2 { border-top: 1px solid #ccc; padding-top: 1em; margin-top: 2em }
table { border-collapse: collapse; margin: 1em 0; font-size: 13px } .wide { overflow-x: auto }
th, td { padding: .2em .7em; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th:first-child, td:first-child, .facts td, .facts th { text-align: left } .facts td { white-space: normal } .facts td:first-child { white-space: nowrap }
th a { color: inherit; text-decoration: underline dotted }
svg { max-width: 100%; height: auto; margin: 1em 0; display: block } .note { color: #555 }
</style>
</head>
<body>
<h1>sluice perf</h1>
<p class="note">Medians; ± is the distance of the farthest repetition. Repetitions of the cases of a scenario were interleaved.
Each heading leads to its meaning, at the <a href="#words">end of the page</a>, where the words of the cases are as well.</p>
{{range .Sections}}<h2>{{.Scenario}}</h2>
<table class="facts">{{range .Facts}}
<tr><td>{{index . 0}}</td><td>{{index . 1}}</td></tr>{{end}}
</table>
{{if .Host.Quick}}<p class="note">{{quick}}</p>
{{end}}{{range .Notes}}<p><strong>{{.}}.</strong></p>
{{end}}{{range .Tables}}<div class="wide"><table>
<tr><th><a href="#cases">case</a></th>{{range .Columns}}<th title="{{.About}}"><a href="#{{.Name}}">{{.Title}}</a></th>{{end}}</tr>{{range .Rows}}
<tr>{{range .}}<td>{{.}}</td>{{end}}</tr>{{end}}
</table></div>
{{end}}{{if .Skipped}}<p>Not measured:</p>
<ul>{{range .Skipped}}<li>{{.Case}}: {{.Reason}}</li>{{end}}</ul>
{{end}}{{range .Drawings}}{{.}}
{{end}}{{end}}<h2 id="words">What the words mean</h2>
<p class="note">x is a ratio to what is named behind it, taken within one repetition.</p>
<table class="facts">
<tr><th>heading</th><th>unit</th><th>better</th><th>meaning</th><th>in files</th></tr>{{range .Metrics}}
<tr id="{{.Name}}"><td>{{.Title}}</td><td>{{.Unit}}</td><td>{{.Better}}</td><td>{{.About}}</td><td>{{.Stored}}</td></tr>{{end}}
</table>
<p class="note" id="cases">A case is named by what was measured, and then by how, with slashes between. What is usual is left out of the name.
Over interfaces the first word is the carrier: sluice, or what it is compared with.</p>
<table class="facts">
<tr><th>in the name of a case</th><th>meaning</th></tr>{{range .Words}}
<tr><td>{{.Word}}</td><td>{{.About}}</td></tr>{{end}}
</table>
</body>
</html>
`))

// Markdown writes the same without drawings.
func Markdown(w io.Writer, files []*result.File) error {
	var b strings.Builder
	b.WriteString("# sluice perf\n\nMedians; ± is the distance of the farthest repetition. Headings and the words of cases are explained at the end.\n\n")
	for i, f := range files {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "## %s\n\n| | |\n|---|---|\n", f.Scenario)
		for _, x := range facts(&f.Host) {
			fmt.Fprintf(&b, "| %s | %s |\n", x[0], cell(x[1]))
		}
		if f.Host.Quick() {
			b.WriteString("\n" + result.QuickNote + "\n")
		}
		for _, t := range tables(f) {
			b.WriteString("\n| case")
			for _, m := range t.Columns {
				b.WriteString(" | " + cell(m.Title))
			}
			fmt.Fprintf(&b, " |\n|---%s|\n", strings.Repeat("|---:", len(t.Columns)))
			for _, row := range t.Rows {
				for j := range row {
					row[j] = cell(row[j])
				}
				fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
			}
		}
		if len(f.Skipped) > 0 {
			b.WriteString("\nNot measured:\n\n")
			for _, s := range f.Skipped {
				fmt.Fprintf(&b, "- %s: %s\n", s.Case, s.Reason)
			}
		}
		for _, note := range f.Notes() {
			b.WriteString("\n**" + cell(note) + ".**\n")
		}
	}
	b.WriteString("\n## What the words mean\n\nx is a ratio to what is named behind it, taken within one repetition.\n\n")
	Metrics(&b, result.MetricsOf(files))
	if words := result.WordsOf(files); len(words) > 0 {
		b.WriteString("\n")
		Words(&b, words)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Metrics writes a Markdown table of what headings mean.
func Metrics(b *strings.Builder, list []result.Metric) {
	b.WriteString("| heading | unit | better | meaning | in files |\n|---|---|---|---|---|\n")
	for _, m := range list {
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s |\n", cell(m.Title), m.Unit, m.Better(), cell(m.About), cell(m.Stored()))
	}
}

// Words writes a Markdown table of what the words in names of cases mean.
func Words(b *strings.Builder, list []result.Word) {
	b.WriteString("| in the name of a case | meaning |\n|---|---|\n")
	for _, w := range list {
		fmt.Fprintf(b, "| %s | %s |\n", cell(w.Word), cell(w.About))
	}
}

// cell is text that ends no cell of a table.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ").Replace(s)
}
