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

// Why a socket is not in zero-copy mode stands in its note, with what the kernel lacks.
func TestModeIsExplained(t *testing.T) {
	for _, c := range []struct {
		refused error
		q       XSK
		want    []string
	}{
		{nil, XSK{zeroCopy: true, budgetNote: "budget"}, nil},
		{nil, XSK{}, nil},
		{nil, XSK{budgetNote: "budget"}, []string{"budget"}},
		{unix.EOPNOTSUPP, XSK{}, []string{"zero-copy refused: ", "driver has none"}},
		{unix.EINVAL, XSK{budgetNote: "budget"}, []string{"zero-copy refused: ", "iommu_platform=on", "; budget"}},
		{roomRefusal("igb", 2048, 1500), XSK{}, []string{"zero-copy refused: driver igb would receive", "engine.frame-size"}},
	} {
		note := c.q.explainMode(c.refused)
		if c.want == nil && note != "" {
			t.Errorf("%v: %q, want nothing", c.refused, note)
		}
		for _, w := range c.want {
			if !strings.Contains(note, w) {
				t.Errorf("%v: %q does not say %q", c.refused, note, w)
			}
		}
	}
}
