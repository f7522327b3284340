package monitor

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"regexp"
)

// expectation is an Exchange made ready.
type expectation struct {
	Exchange
	pattern *regexp.Regexp
}

func newExpectation(e Exchange) expectation {
	x := expectation{Exchange: e}
	if e.Pattern != "" {
		x.pattern = regexp.MustCompile(e.Pattern) // Validate has tried it
	}
	return x
}

// none says that any answer is right.
func (x *expectation) none() bool { return x.Expect == "" && x.pattern == nil }

func (x *expectation) met(answer []byte) bool {
	if x.pattern != nil {
		return x.pattern.Match(answer)
	}
	return bytes.Contains(answer, []byte(x.Expect))
}

// tcpMethod connects, sends, and reads until the answer matches.
type tcpMethod struct{ expectation }

func (m tcpMethod) run(ctx context.Context, a *attempt) (string, error) {
	conn, release, err := a.dial(ctx, "tcp")
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer release()
	if c, ok := conn.(*net.TCPConn); ok && m.Reset {
		c.SetLinger(0)
	}
	if m.Send != "" {
		a.stage = "send"
		if _, err := io.WriteString(conn, m.Send); err != nil {
			return "", err
		}
	}
	if m.none() {
		return "connected", nil
	}
	a.stage = "waiting for the expected answer"
	answer := make([]byte, 0, min(m.Limit, 4096))
	for {
		if len(answer) == cap(answer) {
			answer = append(make([]byte, 0, min(m.Limit, 2*cap(answer))), answer...)
		}
		n, err := conn.Read(answer[len(answer):cap(answer)])
		answer = answer[:len(answer)+n]
		switch {
		case n > 0 && m.met(answer):
			return "answer matches", nil
		case errors.Is(err, io.EOF):
			return "", mismatched("answer does not match: connection closed after %s", sample(answer))
		case err != nil && ctx.Err() != nil && len(answer) > 0:
			a.stage = "answer does not match so far: " + sample(answer)
			return "", err
		case err != nil:
			return "", err
		case len(answer) >= m.Limit:
			return "", mismatched("answer does not match in its first %d bytes: %s", m.Limit, sample(answer))
		}
	}
}
