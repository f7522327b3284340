package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// interval is the value of --watch, which may be left out.
type interval struct{ every time.Duration }

const defaultInterval = 2 * time.Second

// Set takes a duration, or a number of seconds; true is what a flag without a value gets.
func (v *interval) Set(s string) error {
	switch d, err := time.ParseDuration(s); {
	case s == "true":
		v.every = defaultInterval
		return nil
	case err == nil:
		v.every = d
	default:
		if v.every, err = time.ParseDuration(s + "s"); err != nil {
			return fmt.Errorf("%q is neither a time such as 500ms nor a number of seconds", s)
		}
	}
	if v.every < 100*time.Millisecond || v.every > 24*time.Hour {
		return fmt.Errorf("%s is not between 100ms and 24h", v.every)
	}
	return nil
}

func (v *interval) String() string {
	if v == nil || v.every == 0 {
		return ""
	}
	return v.every.String()
}

// IsBoolFlag tells the flag package that the value may be left out.
func (v *interval) IsBoolFlag() bool { return true }

func watchFlag() cli.Flag {
	return &cli.GenericFlag{Name: "watch", Usage: "show it again every `INTERVAL`, 2s if that is left out, until Ctrl-C", Value: &interval{}}
}

func isInterval(f cli.Flag) bool {
	g, ok := f.(*cli.GenericFlag)
	if !ok {
		return false
	}
	_, ok = g.Value.(*interval)
	return ok
}

// watching runs show once, or with --watch again and again until c's context ends, which is no error: on a terminal in
// place, elsewhere one block after the other.
func watching(c *cli.Context, show func(*cli.Context) error) error {
	v, _ := c.Generic("watch").(*interval)
	if v == nil || v.every == 0 {
		return show(c)
	}
	w := c.App.Writer
	defer func() { c.App.Writer = w }()
	screen := terminalOf(w)
	ticker := time.NewTicker(v.every)
	defer ticker.Stop()
	for first := true; ; first = false {
		var block bytes.Buffer
		c.App.Writer = &block
		err := show(c)
		if c.Context.Err() != nil {
			return endOfWatch(w, screen)
		}
		if err != nil {
			var usage usageError
			if first || errors.As(err, &usage) {
				return err
			}
			// An engine that is started again comes back.
			block.Reset()
			fmt.Fprintln(&block, "sluice:", err)
		}
		if err := writeBlock(w, screen, block.String(), first, c.String("output") == "json"); err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-c.Context.Done():
			return endOfWatch(w, screen)
		}
	}
}

// endOfWatch leaves the shell's prompt on a line of its own, behind what Ctrl-C has drawn.
func endOfWatch(w io.Writer, screen *os.File) error {
	if screen == nil {
		return nil
	}
	_, err := io.WriteString(w, "\r\x1b[K")
	return err
}

// writeBlock draws over the last block on a terminal; elsewhere an empty line parts tables, and nothing parts JSON.
func writeBlock(w io.Writer, screen *os.File, block string, first, isJSON bool) error {
	if screen == nil {
		if !first && !isJSON {
			block = "\n" + block
		}
		_, err := io.WriteString(w, block)
		return err
	}
	rows, columns := 24, 80
	if size, err := unix.IoctlGetWinsize(int(screen.Fd()), unix.TIOCGWINSZ); err == nil && size.Row > 1 && size.Col > 0 {
		rows, columns = int(size.Row), int(size.Col)
	}
	_, err := io.WriteString(w, redraw(block, rows, columns))
	return err
}

// redraw is what draws a block from the upper left corner: each line is cut at the edge and clears what was behind it, and
// the rest of the screen is cleared.
func redraw(block string, rows, columns int) string {
	var b strings.Builder
	b.WriteString("\x1b[H")
	lines := strings.Split(strings.TrimSuffix(block, "\n"), "\n")
	if len(lines) > rows-1 {
		more := len(lines) - (rows - 2)
		lines = append(lines[:rows-2:rows-2], fmt.Sprintf("(%d lines more)", more))
	}
	for _, line := range lines {
		if utf8.RuneCountInString(line) > columns {
			line = string([]rune(line)[:columns])
		}
		b.WriteString(line + "\x1b[K\r\n")
	}
	return b.String() + "\x1b[J"
}

// terminalOf is the terminal that w writes to, or nil.
func terminalOf(w io.Writer) *os.File {
	f, ok := w.(*os.File)
	if !ok {
		return nil
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return nil
	}
	return f
}
