package ctl

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Error is one problem of a configuration file.
type Error struct {
	File    string
	Line    int    // from 1; 0 if the problem is not at one place
	Column  int    // from 1, in characters
	Key     string // path of the key, such as virtual-servers[0].pool; empty if there is none
	Message string
	Hint    string // what to do about it, may be empty
	Source  string // the line of the file, may be empty
}

// Error is one line: file:line:column: key: message (hint).
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	b.WriteString(": ")
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	b.WriteString(e.Message)
	if e.Hint != "" {
		b.WriteString(" (" + e.Hint + ")")
	}
	return b.String()
}

// Excerpt shows the line of the file with a mark under the column, in two lines, or nothing where the line is
// not known or does not print.
func (e *Error) Excerpt() string {
	if e.Source == "" || e.Column < 1 || e.Column > utf8.RuneCountInString(e.Source)+1 {
		return ""
	}
	number := fmt.Sprint(e.Line)
	// Tabs are kept in the padding, so that the mark stands under its character whatever a tab's width is.
	pad := strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, string([]rune(e.Source)[:e.Column-1]))
	return fmt.Sprintf("  %s | %s\n  %s | %s^", number, e.Source, strings.Repeat(" ", len(number)), pad)
}

// Errors are all problems of a file, in the order of its lines. errors.As finds the first *Error.
type Errors []*Error

// Error is one line per problem.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the problems to errors.Is and errors.As.
func (es Errors) Unwrap() []error {
	list := make([]error, len(es))
	for i, e := range es {
		list[i] = e
	}
	return list
}

// position is a place in the text, from 1. Zero is nowhere.
type position struct{ line, column int }

// locate finds the place of a key path, or of the nearest key around it.
func locate(where map[string]position, key string) position {
	for {
		if p, ok := where[key]; ok {
			return p
		}
		if key == "" {
			return position{}
		}
		key = key[:max(0, strings.LastIndexAny(key, ".["))]
	}
}

// problem is what is wrong with one value, before it is known where the value stands.
type problem struct {
	message, hint string
	skip          int // characters of the value before what is wrong
}

func (p *problem) Error() string { return p.message }

func wrong(format string, args ...any) *problem {
	return &problem{message: fmt.Sprintf(format, args...)}
}

func (p *problem) orUse(format string, args ...any) *problem {
	p.hint = fmt.Sprintf(format, args...)
	return p
}

// Limits on what is collected: a file that is wrong from end to end would otherwise take far more memory for
// its errors than for itself.
const (
	maxProblems    = 1000
	maxSuggestions = 100 // looking for a near name reads all names
)

// collector gathers problems and warnings of one file.
type collector struct {
	name     string
	lines    []string
	where    map[string]position
	errs     Errors
	unlisted int
	warnings []*Error
}

// add notes a problem at p, or if p is zero at the place of key.
func (c *collector) add(p position, key string, err error) {
	if len(c.errs) >= maxProblems {
		c.unlisted++
		return
	}
	c.errs = append(c.errs, c.at(p, key, err))
}

func (c *collector) warn(key, format string, args ...any) {
	if len(c.warnings) < maxProblems {
		c.warnings = append(c.warnings, c.at(position{}, key, wrong(format, args...)))
	}
}

func (c *collector) at(p position, key string, err error) *Error {
	if p == (position{}) {
		p = locate(c.where, key)
	}
	e := &Error{File: c.name, Line: p.line, Column: p.column, Key: key, Message: err.Error()}
	var w *problem
	if errors.As(err, &w) {
		e.Hint = w.hint
	}
	if p.line >= 1 && p.line <= len(c.lines) {
		e.Source = strings.TrimSuffix(c.lines[p.line-1], "\r")
	}
	return e
}

// suggest adds "did you mean" to p if one of the names is near to what was written.
func (c *collector) suggest(p *problem, written string, names []string) *problem {
	if len(c.errs) < maxSuggestions {
		if near := nearest(written, names); near != "" {
			return p.orUse("did you mean %q?", near)
		}
	}
	return p
}

// result is everything in the order of the file's lines, or nil.
func (c *collector) result() error {
	if len(c.errs) == 0 {
		return nil
	}
	byPlace(c.errs)
	if c.unlisted > 0 {
		c.errs = append(c.errs, &Error{File: c.name, Message: fmt.Sprintf("%d more problems are not listed", c.unlisted)})
	}
	return c.errs
}

func byPlace(errs []*Error) {
	slices.SortStableFunc(errs, func(a, b *Error) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
}

// nearest returns the name that differs from the written one by the fewest edits, at most a third of its
// length; case and the choice of separator do not count.
func nearest(written string, names []string) string {
	w := plainName(written)
	best, bestAt := "", len(w)/3+1
	if len(w) > 64 {
		return ""
	}
	for _, name := range names {
		n := plainName(name)
		if name == written || max(len(n)-len(w), len(w)-len(n)) >= bestAt {
			continue
		}
		if at := edits(w, n); at < bestAt {
			best, bestAt = name, at
		}
	}
	return best
}

func plainName(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r == ' ' {
			return '-'
		}
		return r
	}, strings.ToLower(s))
}

// edits is the number of insertions, deletions, replacements and swaps of neighbours between a and b.
func edits(a, b string) int {
	older, old, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range old {
		old[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(old[j]+1, row[j-1]+1, old[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], older[j-2]+1)
			}
		}
		older, old, row = old, row, older
	}
	return old[len(b)]
}
