package monitor

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// maxCause bounds a cause, in bytes.
const maxCause = 200

// mismatch is an answer that is not the expected one; it is its own cause.
type mismatch string

func (m mismatch) Error() string { return string(m) }

func mismatched(format string, args ...any) error { return mismatch(fmt.Sprintf(format, args...)) }

// localError is an error of this host, not of the member.
type localError struct{ error }

func (e localError) Unwrap() error { return e.error }

// judge names an error. timedOut says that the time for the probe is over.
func (a *attempt) judge(err error, timedOut bool) (Outcome, string) {
	if cause, ok := a.local(err); ok {
		return Inconclusive, oneLine(cause)
	}
	return Failure, oneLine(a.cause(err, timedOut))
}

// local recognises what is the fault of this host.
func (a *attempt) local(err error) (cause string, ok bool) {
	if e := (localError{}); errors.As(err, &e) {
		return e.Error(), true
	}
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return "", false
	}
	switch errno {
	case unix.EADDRNOTAVAIL:
		if source := a.monitor.Path.source(a.addr.Addr()); source.IsValid() {
			return fmt.Sprintf("source %v is not an address of this host, or has no port left", source), true
		}
		return "no local port left", true
	case unix.EMFILE, unix.ENFILE:
		return "too many open files on this host", true
	case unix.ENOMEM, unix.ENOBUFS:
		return "out of memory for sockets on this host", true
	case unix.EPERM: // what a firewall's drop in the output path gives, too
		return "this host does not permit the probe: " + err.Error(), true
	case unix.EINVAL, unix.EAFNOSUPPORT, unix.ENODEV, unix.EMSGSIZE:
		return "the probe cannot be sent from this host: " + err.Error(), true
	}
	return "", false
}

func (a *attempt) cause(err error, timedOut bool) string {
	if m := mismatch(""); errors.As(err, &m) {
		return string(m)
	}
	// The order matters: net.Error.Timeout is also true for the kernel's ETIMEDOUT.
	var errno unix.Errno
	if errors.As(err, &errno) {
		if cause := a.errnoCause(errno); cause != "" {
			return cause
		}
	}
	var timeout net.Error
	if timedOut || errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		cause := fmt.Sprintf("timeout after %v", a.monitor.Timeout)
		if a.stage != "" {
			cause += " (" + a.stage + ")"
		}
		return cause
	}
	if cause := tlsCause(err); cause != "" {
		return cause
	}
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed early (" + a.stage + ")"
	}
	return err.Error()
}

func (a *attempt) errnoCause(errno unix.Errno) string {
	switch errno {
	case unix.ECONNREFUSED:
		if a.monitor.Type == UDP || a.monitor.Type == DNS && !a.monitor.DNS.TCP {
			return "port unreachable"
		}
		return "connection refused"
	case unix.ECONNRESET, unix.EPIPE:
		return "connection reset (" + a.stage + ")"
	case unix.EHOSTUNREACH:
		return "host unreachable"
	case unix.ENETUNREACH:
		return "network unreachable"
	case unix.EACCES:
		return "administratively prohibited"
	case unix.ENOPROTOOPT:
		return "protocol unreachable"
	}
	return ""
}

// oneLine makes text fit for a list and a log: one line, printable, bounded.
func oneLine(text string) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\r' || r == '\t':
			return ' '
		case !unicode.IsPrint(r): // U+FFFD, for what is no UTF-8, is printable
			return '.'
		}
		return r
	}, strings.ToValidUTF8(strings.TrimSpace(text), "\uFFFD"))
	return cut(text, maxCause)
}

// shorten makes user's text fit for a message.
func shorten(text string) string { return cut(text, 60) }

// cut shortens text to at most n bytes, between characters.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	const mark = "..."
	n -= len(mark)
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n] + mark
}

// sample shows the beginning of an answer in a cause.
func sample(answer []byte) string {
	if len(answer) == 0 {
		return "nothing"
	}
	return fmt.Sprintf("%.80q", answer)
}

// pathless removes the operation and path that the os package puts before an error of a socket.
func pathless(err error) error {
	if e := (*fs.PathError)(nil); errors.As(err, &e) {
		return e.Err
	}
	return err
}
