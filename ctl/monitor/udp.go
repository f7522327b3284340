package monitor

import (
	"context"
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// udpMethod sends a datagram on a connected socket. The kernel gives us only what comes from the member, and ICMP
// errors about what we sent as errors of reading.
type udpMethod struct{ expectation }

func (m udpMethod) run(ctx context.Context, a *attempt) (string, error) {
	conn, release, err := a.dial(ctx, "udp")
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer release()
	a.stage = "send"
	if _, err := io.WriteString(conn, m.Send); err != nil {
		return "", err
	}
	a.stage = "no answer"
	// At least a byte, so that an answer is told from none; a datagram longer than the buffer is cut by the kernel.
	answer := make([]byte, max(m.Limit, 1))
	n, err := conn.Read(answer)
	var errno unix.Errno
	switch {
	case err == nil && m.none():
		return "answered", nil
	case err == nil && m.met(answer[:n]):
		return "answer matches", nil
	case err == nil:
		return "", mismatched("answer does not match: %s", sample(answer[:n]))
	case m.none() && errors.Is(ctx.Err(), context.DeadlineExceeded) && !errors.As(err, &errno):
		return "no answer and no refusal", nil
	}
	return "", err
}
