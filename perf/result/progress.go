package result

import (
	"fmt"
	"io"
	"math"
	"time"
)

// Progress writes a line on long work: how far, how long, what now. On a terminal the line is written over.
type Progress struct {
	w        io.Writer
	terminal bool
	total    int
	done     int
	began    time.Time
	width    int
	now      string
}

// NewProgress makes a line on w about total steps; a nil w, or 0 steps of a total not known, is fine.
func NewProgress(w io.Writer, terminal bool, total int) *Progress {
	return &Progress{w: w, terminal: terminal, total: total, began: time.Now()}
}

// Begin says how many steps come now and how long all of them should take, as a line that stays: "about 12 minutes: " and what they are.
// Steps before it do not count.
func (p *Progress) Begin(steps int, expected time.Duration, what string) {
	if p == nil {
		return
	}
	p.total, p.done = steps, 0
	if p.w != nil {
		p.Done()
		p.width = 0
		fmt.Fprintf(p.w, "%s: %s\n", About(expected), what)
	}
}

// Leave says that a number of steps will not come, since what they measure cannot be had here.
func (p *Progress) Leave(steps int) {
	if p != nil && p.total > 0 {
		p.total = max(p.total-steps, p.done, 1)
	}
}

// About is how long something should take, in words, no finer than an estimate is.
func About(d time.Duration) string {
	number := func(n int, unit string) string {
		if n != 1 {
			unit += "s"
		}
		return fmt.Sprintf("%d %s", n, unit)
	}
	minutes := int(math.Round(d.Minutes()))
	switch seconds := int(math.Ceil(d.Seconds())); {
	case seconds <= 10:
		return "about " + number(max(1, seconds), "second")
	case seconds <= 90:
		return fmt.Sprintf("about %d seconds", (seconds+4)/5*5)
	case minutes < 60:
		return "about " + number(minutes, "minute")
	}
	text := "about " + number(minutes/60, "hour")
	if rest := minutes % 60 / 5 * 5; rest > 0 {
		text += " " + number(rest, "minute")
	}
	return text
}

// Step says what begins now; what the last Step named is done.
func (p *Progress) Step(format string, args ...any) {
	if p == nil {
		return
	}
	p.now = fmt.Sprintf(format, args...)
	if p.w == nil {
		return
	}
	line := fmt.Sprintf("%4.0fs ", time.Since(p.began).Seconds())
	if p.total > 0 {
		line += fmt.Sprintf("[%d/%d] ", min(p.done+1, p.total), p.total)
	}
	line += p.now
	p.done++
	p.show(line)
}

// Now is the present step.
func (p *Progress) Now() string {
	if p == nil || p.now == "" {
		return "the start"
	}
	return p.now
}

// Note says how far the present step is.
func (p *Progress) Note(format string, args ...any) {
	if p != nil && p.w != nil {
		p.show(fmt.Sprintf("%4.0fs ", time.Since(p.began).Seconds()) + fmt.Sprintf(format, args...))
	}
}

func (p *Progress) show(line string) {
	if !p.terminal {
		fmt.Fprintln(p.w, line)
		return
	}
	fmt.Fprintf(p.w, "\r%-*s", p.width, line)
	p.width = len(line)
}

// Done ends the line.
func (p *Progress) Done() {
	if p != nil && p.w != nil && p.terminal && p.width > 0 {
		fmt.Fprintf(p.w, "\r%-*s\r", p.width, "")
	}
}
