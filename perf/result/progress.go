package result

import (
	"fmt"
	"io"
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
