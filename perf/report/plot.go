package report

import (
	"bytes"
	"fmt"
	"html"
	"image/color"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"sluice/perf/result"
)

// Colours that are told apart by people who do not see all of them (Okabe and Ito, 2008).
var palette = []color.RGBA{
	{0, 114, 178, 255}, {230, 159, 0, 255}, {0, 158, 115, 255}, {204, 121, 167, 255}, {86, 180, 233, 255}, {213, 94, 0, 255}, {240, 228, 66, 255}, {90, 90, 90, 255},
}

func colour(i int) color.RGBA { return palette[i%len(palette)] }

// drawings are the pictures of a file: a bar for each case, a curve where a number in the names varies, and the stages.
func drawings(f *result.File) (svgs []string, err error) {
	add := func(svg string, e error) {
		if e != nil {
			err = e
		} else if svg != "" {
			svgs = append(svgs, svg)
		}
	}
	for _, name := range f.Columns(result.Main, result.Detail) {
		m := result.MetricOf(name)
		if !m.Plot {
			continue
		}
		add(bars(f, m))
		for _, c := range curves(f, name) {
			add(c.draw(m))
		}
	}
	add(stages(f))
	return svgs, err
}

// newPlot is a plot with a font that every system has one like.
func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	sans := func(f *font.Font) { f.Typeface, f.Variant = "Liberation", "Sans" }
	for _, f := range []*font.Font{
		&p.Title.TextStyle.Font, &p.X.Label.TextStyle.Font, &p.Y.Label.TextStyle.Font, &p.X.Tick.Label.Font, &p.Y.Tick.Label.Font, &p.Legend.TextStyle.Font,
	} {
		sans(f)
	}
	p.Title.Padding = vg.Points(8)
	p.Legend.Top = true
	return p
}

// svg draws a plot without the XML declaration, which has no place inside a page.
func svg(p *plot.Plot, w, h vg.Length) (string, error) {
	c := vgsvg.New(w, h)
	p.Draw(draw.New(c))
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil {
		return "", fmt.Errorf("draw %s: %w", p.Title.Text, err)
	}
	s := b.String()
	if at := strings.Index(s, "<svg"); at > 0 {
		s = s[at:]
	}
	return strings.ReplaceAll(asWide(s), "font-family:Liberation Sans", "font-family:Liberation Sans,Arial,Helvetica,sans-serif"), nil
}

// text is what the library writes for a text; its size is in pixels.
var text = regexp.MustCompile(`(<text [^>]*font-size:([0-9.]+)px[^>]*)>([^<]*)</text>`)

// asWide has each text take the width that was reckoned with, also in a font that is wider: it would run into the bars.
func asWide(s string) string {
	return text.ReplaceAllStringFunc(s, func(found string) string {
		part := text.FindStringSubmatch(found)
		size, err := strconv.ParseFloat(part[2], 64)
		if err != nil || part[3] == "" {
			return found
		}
		sans := font.DefaultCache.Lookup(font.Font{Typeface: "Liberation", Variant: "Sans"}, vg.Length(size))
		wide := sans.Width(html.UnescapeString(part[3])).Points()
		return fmt.Sprintf(`%s textLength="%.4g" lengthAdjust="spacingAndGlyphs">%s</text>`, part[1], wide, part[3])
	})
}

const (
	width     = 22 * vg.Centimeter
	barHeight = 14 * vg.Inch / 72
)

// spans are error bars from the smallest to the largest sample.
type spans struct {
	plotter.XYs
	plotter.XErrors
	plotter.YErrors
}

// bars has a horizontal bar for each case that has the metric, the first on top.
func bars(f *result.File, m result.Metric) (string, error) {
	var names []string
	var values plotter.Values
	var s spans
	for i := len(f.Results) - 1; i >= 0; i-- {
		r := &f.Results[i]
		v, ok := r.Value(m.Name)
		if !ok {
			continue
		}
		low, high := result.Spread(r.Values(m.Name))
		s.XYs = append(s.XYs, plotter.XY{X: v, Y: float64(len(names))})
		s.XErrors = append(s.XErrors, struct{ Low, High float64 }{v - low, high - v})
		names, values = append(names, r.Case), append(values, v)
	}
	if len(names) == 0 {
		return "", nil
	}
	chart, err := plotter.NewBarChart(values, barHeight*0.7)
	if err != nil {
		return "", fmt.Errorf("draw %s: %w", m.Title, err)
	}
	chart.Horizontal, chart.Color, chart.LineStyle.Width = true, colour(0), 0
	spread, err := plotter.NewXErrorBars(s)
	if err != nil {
		return "", fmt.Errorf("draw %s: %w", m.Title, err)
	}
	p := newPlot(m.Title+better(m), m.Title, "")
	p.Add(chart, spread)
	p.NominalY(names...)
	p.X.Min = 0
	return svg(p, width, 3*vg.Centimeter+barHeight*vg.Length(len(names))*1.5)
}

func better(m result.Metric) string {
	if m.Higher {
		return " (more is better)"
	}
	return " (less is better)"
}

// curve is a metric over a number in the names of cases that are otherwise the same.
type curve struct {
	key    string
	series []series
}

type series struct {
	name string
	spans
}

// curves finds the numbers that vary: at least three values with all else the same.
func curves(f *result.File, metric string) (all []curve) {
	at := map[string]int{}
	for i := range f.Results {
		r := &f.Results[i]
		v, ok := r.Value(metric)
		if !ok {
			continue
		}
		parts := strings.Split(r.Case, "/")
		for j, part := range parts {
			key, word, _ := strings.Cut(part, "=")
			x, err := strconv.ParseFloat(word, 64)
			if err != nil || x <= 0 {
				continue
			}
			c, ok := at[key]
			if !ok {
				c = len(all)
				at[key], all = c, append(all, curve{key: key})
			}
			all[c].add(strings.Join(slices.Delete(slices.Clone(parts), j, j+1), "/"), x, v, r.Values(metric))
		}
	}
	all = slices.DeleteFunc(all, func(c curve) bool {
		return !slices.ContainsFunc(c.series, func(s series) bool { return len(s.XYs) >= 3 })
	})
	for i := range all {
		all[i].series = slices.DeleteFunc(all[i].series, func(s series) bool { return len(s.XYs) < 3 })
	}
	return all
}

func (c *curve) add(name string, x, y float64, samples []float64) {
	i := slices.IndexFunc(c.series, func(s series) bool { return s.name == name })
	if i < 0 {
		i = len(c.series)
		c.series = append(c.series, series{name: name})
	}
	s := &c.series[i]
	low, high := result.Spread(samples)
	// A line goes from point to point in their order, which that of the cases need not be.
	j := 0
	for j < len(s.XYs) && s.XYs[j].X <= x {
		j++
	}
	s.XYs = slices.Insert(s.XYs, j, plotter.XY{X: x, Y: y})
	s.YErrors = slices.Insert(s.YErrors, j, struct{ Low, High float64 }{y - low, high - y})
}

func (c *curve) draw(m result.Metric) (string, error) {
	p := newPlot(m.Title+" over "+c.key+better(m), c.key, m.Title)
	low, high := math.Inf(1), 0.0
	for i, s := range c.series {
		line, points, err := plotter.NewLinePoints(s.XYs)
		if err != nil {
			return "", fmt.Errorf("draw %s over %s: %w", m.Title, c.key, err)
		}
		line.Color, points.Color, points.Shape = colour(i), colour(i), draw.CircleGlyph{}
		spread, err := plotter.NewYErrorBars(s.spans)
		if err != nil {
			return "", fmt.Errorf("draw %s over %s: %w", m.Title, c.key, err)
		}
		spread.Color = colour(i)
		p.Add(line, points, spread)
		p.Legend.Add(s.name, line, points)
		for _, xy := range s.XYs {
			low, high = min(low, xy.X), max(high, xy.X)
		}
	}
	if high/low > 20 { // powers
		p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, powers{}
	}
	p.Y.Min = 0
	p.Y.Max *= 1.25 // room for the legend
	return svg(p, width, 9*vg.Centimeter)
}

// powers are ticks whose labels are numbers as options take them: 1k, 10M.
type powers struct{}

func (powers) Ticks(low, high float64) []plot.Tick {
	ticks := plot.LogTicks{Prec: -1}.Ticks(low, high)
	for i := range ticks {
		switch v := ticks[i].Value; {
		case ticks[i].Label == "":
		case v >= 1e6:
			ticks[i].Label = fmt.Sprintf("%gM", v/1e6)
		case v >= 1e3:
			ticks[i].Label = fmt.Sprintf("%gk", v/1e3)
		}
	}
	return ticks
}

// stages stacks the stages of each case.
func stages(f *result.File) (string, error) {
	columns := f.Columns(result.Stage)
	var rows []*result.Result
	for i := len(f.Results) - 1; i >= 0; i-- {
		for _, c := range columns {
			if _, ok := f.Results[i].Metrics[c]; ok {
				rows = append(rows, &f.Results[i])
				break
			}
		}
	}
	if len(rows) == 0 {
		return "", nil
	}
	p := newPlot("Where the time goes, ns/packet", "ns/packet", "")
	var below *plotter.BarChart
	for i, c := range columns {
		values := plotter.Values{}
		for _, r := range rows {
			values = append(values, r.Metrics[c])
		}
		chart, err := plotter.NewBarChart(values, barHeight*0.8)
		if err != nil {
			return "", fmt.Errorf("draw the stages: %w", err)
		}
		chart.Horizontal, chart.Color, chart.LineStyle.Width = true, colour(i), 0
		if below != nil {
			chart.StackOn(below)
		}
		below = chart
		p.Add(chart)
		p.Legend.Add(strings.TrimSuffix(result.MetricOf(c).Title, " ns"), chart)
	}
	var names []string
	for _, r := range rows {
		names = append(names, r.Case)
	}
	p.NominalY(names...)
	p.X.Min = 0
	p.X.Max *= 1.2
	return svg(p, width, 5*vg.Centimeter+barHeight*vg.Length(len(rows))*1.5)
}
