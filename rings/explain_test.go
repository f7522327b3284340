package rings

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What the kernel refuses is explained with what to do; the kernel's own error stays inside.
func TestRefusalsAreExplained(t *testing.T) {
	zeroCopy := XSKConfig{Interface: "eth1", Queue: 3, Mode: BindZeroCopy}
	for _, c := range []struct {
		err   error
		errno unix.Errno
		says  string
	}{
		{explainSocket(unix.EAFNOSUPPORT), unix.EAFNOSUPPORT, "no AF_XDP"},
		{explainSocket(unix.EPERM), unix.EPERM, "CAP_NET_RAW"},
		{explainUMEM(unix.ENOBUFS, 1<<20), unix.ENOBUFS, "CAP_IPC_LOCK"},
		{explainUMEM(unix.EINVAL, 1<<20), unix.EINVAL, "1048576 bytes"},
		{explainBind(unix.EBUSY, zeroCopy), unix.EBUSY, "another AF_XDP socket"},
		{explainBind(unix.EOPNOTSUPP, zeroCopy), unix.EOPNOTSUPP, "no zero-copy"},
		{explainBind(unix.ENETDOWN, zeroCopy), unix.ENETDOWN, "ip link set eth1 up"},
		{explainBind(unix.EINVAL, zeroCopy), unix.EINVAL, "queue 3"},
	} {
		if !errors.Is(c.err, c.errno) || !strings.Contains(c.err.Error(), c.says) || strings.Contains(c.err.Error(), "\n") {
			t.Errorf("%v: %q does not say %q in one line", c.errno, c.err, c.says)
		}
	}
}
