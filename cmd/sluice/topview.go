package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gdamore/tcell/v2"

	"sluice/ctl"
)

// top is what the screen shows. It draws into whatever screen it is given, and asks for nothing.
//
//	head, totals, sparkline
//	VIRTUAL SERVER  rows   ┐
//	MEMBER          rows   ├ share what lines there are
//	PERSISTENCE     rows   │ if there are any: CONNS are clients, NEW/S the connections that were placed by it or asked it in vain
//	WORKER          rows   ┘
//	keys
type top struct {
	last, now *ctl.StatsView
	history   []float64 // packets a second, the youngest last
	err       error
	sort      rune
	reverse   bool
	still     bool
}

// historyLength is more than the sparkline has columns on any screen that is looked at.
const historyLength = 400

func newTop() *top { return &top{sort: 'p'} }

// add takes in a look. One of another engine begins anew: its counters are no continuation.
func (t *top) add(v *ctl.StatsView) {
	if t.now != nil && (v.Status.PID != t.now.Status.PID || v.AtMS <= t.now.AtMS) {
		t.now, t.history = nil, nil
	}
	t.last, t.now = t.now, v
	if t.last == nil {
		return
	}
	t.history = append(t.history, t.rate(t.last.Status.Totals.Received, v.Status.Totals.Received))
	if len(t.history) > historyLength {
		t.history = t.history[len(t.history)-historyLength:]
	}
}

// rate is a counter's growth a second, 0 for one that began anew.
func (t *top) rate(before, now uint64) float64 {
	if t.last == nil || now < before {
		return 0
	}
	return float64(now-before) / (t.now.AtMS - t.last.AtMS) * 1000
}

// key does what a key says and reports whether it is the end.
func (t *top) key(e *tcell.EventKey) (quit bool) {
	switch e.Key() {
	case tcell.KeyCtrlC, tcell.KeyEscape:
		return true
	case tcell.KeyRune:
	default:
		return false
	}
	switch r := e.Rune(); r {
	case 'q':
		return true
	case 'r':
		t.reverse = !t.reverse
	case ' ':
		t.still = !t.still
	case 'p', 'b', 'o', 'c', 'n':
		t.sort = r
	}
	return false
}

// topRow is a line of a table.
type topRow struct {
	name, what, state      string
	conns                  int64
	opened, packets, bytes float64 // a second
}

func (t *top) row(name, what, state string, now ctl.CounterView, before *ctl.CounterView) topRow {
	r := topRow{name: name, what: what, state: state, conns: now.Connections}
	if before != nil {
		r.opened = t.rate(before.Opened, now.Opened)
		r.packets = t.rate(before.ClientPackets+before.ServerPackets, now.ClientPackets+now.ServerPackets)
		r.bytes = t.rate(before.ClientBytes+before.ServerBytes, now.ClientBytes+now.ServerBytes)
	}
	return r
}

func (t *top) virtuals() (rows []topRow) {
	before := map[string]*ctl.CounterView{}
	if t.last != nil {
		for i := range t.last.Virtuals {
			before[t.last.Virtuals[i].Name] = &t.last.Virtuals[i].CounterView
		}
	}
	for _, v := range t.now.Virtuals {
		rows = append(rows, t.row(v.Name, v.Protocol+" "+v.Address, v.Pool, v.CounterView, before[v.Name]))
	}
	return rows
}

func (t *top) members() (rows []topRow) {
	before := map[string]*ctl.CounterView{}
	if t.last != nil {
		for i := range t.last.Members {
			m := &t.last.Members[i]
			before[m.Pool+"/"+m.Name] = &m.CounterView
		}
	}
	for _, m := range t.now.Members {
		rows = append(rows, t.row(m.Pool+"/"+m.Name, m.Address, m.State, m.CounterView, before[m.Pool+"/"+m.Name]))
	}
	return rows
}

// persistences are rows with the clients that are remembered, the share of new connections since the last look that went to their
// client's member, and how many asked.
func (t *top) persistences() (rows []topRow) {
	before := map[string]*ctl.PersistenceView{}
	if t.last != nil {
		for i := range t.last.Persistences {
			before[t.last.Persistences[i].Name] = &t.last.Persistences[i]
		}
	}
	for i := range t.now.Persistences {
		p := &t.now.Persistences[i]
		r := topRow{name: p.Name, what: fmt.Sprintf("%.0f%% of %d entries", 100*float64(p.Entries)/float64(max(1, p.Limit)), p.Limit), conns: int64(p.Entries)}
		if b := before[p.Name]; b != nil {
			asked := func(p *ctl.PersistenceView) uint64 { return p.Hits + p.Misses + p.Moved + p.Elsewhere + p.Refused }
			r.opened = t.rate(asked(b), asked(p))
			if r.opened > 0 {
				r.state = fmt.Sprintf("%.0f%% hits", 100*t.rate(b.Hits, p.Hits)/r.opened)
			}
		}
		rows = append(rows, r)
	}
	return rows
}

func (t *top) workers() (rows []topRow) {
	received := map[int]uint64{}
	if t.last != nil {
		for _, w := range t.last.Workers {
			received[w.Worker] = w.Received
		}
	}
	for _, w := range t.now.Workers {
		r := topRow{name: fmt.Sprintf("worker %d", w.Worker), what: "core " + coreText(w.Core) + " " + strings.Join(w.Queues, ","),
			state: fmt.Sprintf("%.0f%% busy", 100*w.BusyShare), conns: int64(w.Connections)}
		if before, ok := received[w.Worker]; ok {
			r.packets = t.rate(before, w.Received)
		}
		rows = append(rows, r)
	}
	return rows
}

func coreText(n int) string {
	if n < 0 {
		return "any"
	}
	return fmt.Sprint(n)
}

// order sorts rows by the key, the largest or the first of the alphabet first.
func (t *top) order(rows []topRow) {
	slices.SortStableFunc(rows, func(a, b topRow) int {
		c := 0
		switch t.sort {
		case 'p':
			c = cmp.Compare(b.packets, a.packets)
		case 'b':
			c = cmp.Compare(b.bytes, a.bytes)
		case 'o':
			c = cmp.Compare(b.opened, a.opened)
		case 'c':
			c = cmp.Compare(b.conns, a.conns)
		}
		if c == 0 {
			c = strings.Compare(a.name, b.name)
		}
		if t.reverse {
			return -c
		}
		return c
	})
}

var (
	plain  = tcell.StyleDefault
	bold   = tcell.StyleDefault.Bold(true)
	turned = tcell.StyleDefault.Reverse(true)
)

func (t *top) draw(s tcell.Screen) {
	width, height := s.Size()
	s.Clear()
	y := 0
	line := func(style tcell.Style, format string, args ...any) {
		put(s, y, width, style, fmt.Sprintf(format, args...))
		y++
	}
	st, tot := &t.now.Status, &t.now.Status.Totals
	up := (time.Duration(st.UptimeMS) * time.Millisecond).Round(time.Second)
	line(bold, "sluice %s  %s  generation %d  up %s", st.Version, st.File, st.Generation, up)
	var before ctl.TotalsView
	if t.last != nil {
		before = t.last.Status.Totals
	}
	line(plain, "packets/s in %s  out %s  dropped %s   connections %d  new/s %s", short(t.rate(before.Received, tot.Received)),
		short(t.rate(before.Sent, tot.Sent)), short(t.rate(before.Dropped, tot.Dropped)), tot.Connections, short(t.rate(before.Opened, tot.Opened)))
	switch {
	case t.err != nil:
		line(turned, "%s", t.err)
	case t.still:
		line(turned, "standing still; space goes on")
	default:
		most := 0.0
		if len(t.history) > 0 {
			most = slices.Max(t.history)
		}
		line(plain, "%s max %s/s", sparkline(t.history, max(0, width-16), most), short(most))
	}
	type table struct {
		title, what, state string
		rows               []topRow
	}
	tables := []table{{"VIRTUAL SERVER", "ADDRESS", "POOL", t.virtuals()}, {"MEMBER", "ADDRESS", "STATE", t.members()}}
	if rows := t.persistences(); len(rows) > 0 {
		tables = append(tables, table{"PERSISTENCE", "TABLE", "PLACED", rows})
	}
	tables = append(tables, table{"WORKER", "QUEUES", "LOAD", t.workers()})
	need := make([]int, len(tables))
	for i := range tables {
		need[i] = len(tables[i].rows)
	}
	room := share(need, height-y-1-len(tables))
	name, what := max(10, width-60), 0
	if width >= 72 {
		name, what = (width-44)/2, width-44-(width-44)/2
	}
	cells := func(r [7]string) string {
		out := fit(r[0], name) + " "
		if what > 0 {
			out += fit(r[1], what-1) + " "
		}
		return out + fmt.Sprintf("%-11.11s%7.7s %7.7s %7.7s %7.7s", r[2], r[3], r[4], r[5], r[6])
	}
	for i, tab := range tables {
		if y >= height-1 {
			break
		}
		t.order(tab.rows)
		line(turned, "%s", cells([7]string{tab.title, tab.what, tab.state, "CONNS", "NEW/S", "PKTS/S", "BITS/S"}))
		for j, r := range tab.rows {
			if j == room[i]-1 && len(tab.rows) > room[i] {
				line(plain, "  (%d more)", len(tab.rows)-j)
				break
			}
			if j >= room[i] {
				break
			}
			line(plain, "%s", cells([7]string{r.name, r.what, r.state, fmt.Sprint(r.conns), short(r.opened), short(r.packets), short(8 * r.bytes)}))
		}
	}
	keys := map[rune]string{'p': "packets", 'b': "bits", 'o': "opened", 'c': "connections", 'n': "name"}
	order := keys[t.sort]
	if t.reverse {
		order += " (turned)"
	}
	put(s, height-1, width, turned, fmt.Sprintf("by %s  p packets b bits o opened c conns n name r turn space stop q quit", order))
	s.Show()
}

// put writes a line, cut at the edge; one that is turned reaches it.
func put(s tcell.Screen, y, width int, style tcell.Style, text string) {
	x := 0
	for _, r := range text {
		if x >= width {
			return
		}
		if r < ' ' {
			r = '?'
		}
		s.SetContent(x, y, r, nil, style)
		x++
	}
	for ; style == turned && x < width; x++ {
		s.SetContent(x, y, ' ', nil, style)
	}
}

// fit is text in exactly n columns.
func fit(text string, n int) string {
	r := []rune(text)
	if len(r) > n {
		return string(r[:max(0, n-1)]) + "~"
	}
	return text + strings.Repeat(" ", n-len(r))
}

// share gives out lines: each table what it needs, or as much as the others while there are any left.
func share(need []int, lines int) []int {
	out := make([]int, len(need))
	for given := true; given && lines > 0; {
		given = false
		for i := range need {
			if out[i] < need[i] && lines > 0 {
				out[i]++
				lines--
				given = true
			}
		}
	}
	return out
}

// sparkline is the last n values as bars of an eighth of a line each.
func sparkline(values []float64, n int, most float64) string {
	if len(values) > n {
		values = values[len(values)-n:]
	}
	var b strings.Builder
	for range n - len(values) {
		b.WriteRune(' ')
	}
	for _, v := range values {
		level := 0
		if most > 0 {
			level = min(7, int(v/most*8))
		}
		b.WriteRune([]rune("▁▂▃▄▅▆▇█")[level])
	}
	return b.String()
}

// short is a number in at most six columns.
func short(v float64) string {
	for _, u := range []struct {
		size float64
		unit string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if v >= u.size {
			return fmt.Sprintf("%.*f%s", decimals(v/u.size), v/u.size, u.unit)
		}
	}
	return fmt.Sprintf("%.0f", v)
}

func decimals(v float64) int {
	switch {
	case v >= 99.95:
		return 0
	case v >= 9.995:
		return 1
	}
	return 2
}
