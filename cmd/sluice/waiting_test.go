package main

import (
	"encoding/binary"
	"encoding/json"
	"regexp"
	"testing"

	"golang.org/x/sys/unix"

	"sluice/ctl"
	"sluice/perf/lab"
)

// Parts of datagrams whose first does not come are shown while they wait: by the API, in the list of workers, as metrics.
func TestWaitingParts(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 1}, settings{})
	d := b.start()
	later := func(id, offset uint16) {
		t.Helper()
		h := make([]byte, 20+16) // the kernel fills in the source, the length and the checksum (raw(7))
		h[0], h[8], h[9] = 0x45, 64, unix.IPPROTO_UDP
		binary.BigEndian.PutUint16(h[4:], id)
		binary.BigEndian.PutUint16(h[6:], 0x2000|offset/8)
		to := b.VIP4.As4()
		copy(h[16:], to[:])
		ok(t, b.Client.Do(func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Sendto(fd, h, 0, &unix.SockaddrInet4{Addr: to})
		}))
	}
	for _, part := range [][2]uint16{{77, 16}, {77, 32}, {78, 16}} {
		later(part[0], part[1])
	}
	var w []ctl.WorkerView
	eventually(t, "three parts of two datagrams wait", func() bool {
		r := b.sluice(nil, "worker", "--socket", b.socket, "-o", "json")
		return json.Unmarshal([]byte(r.stdout), &w) == nil && len(w) == 1 && w[0].Waiting == 3 && w[0].Datagrams == 2
	})
	later(79, 16)
	later(80, 16)
	if r := b.sluice(nil, "worker", "--socket", b.socket, "-o", "wide"); !regexp.MustCompile(`(?s)DATAGRAMS +WAITING.*\n.* 4 +5 *\n`).MatchString(r.stdout) {
		t.Errorf("%s%s", r.stdout, r.stderr)
	}
	d.stop()
}
