package lab

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// CapturedFrame is a frame seen on an interface, from its Ethernet header on.
type CapturedFrame struct {
	Time     time.Time
	Data     []byte
	Outgoing bool // sent by this interface, else received
	// Unfinished says that the kernel has not computed the checksum in Data (TP_STATUS_CSUMNOTREADY). With offloads
	// off it never does that.
	Unfinished bool
}

// Capture collects the frames of one interface, both directions, until Close. It sees what the kernel's stack sees:
// frames that an XDP program takes are not in it.
type Capture struct {
	f    *os.File
	done chan struct{}

	mu      sync.Mutex
	limit   int
	frames  []CapturedFrame
	dropped int
}

// Capture starts a capture that keeps up to limit frames and counts the rest.
func (h *Host) Capture(ifname string, limit int) (*Capture, error) {
	fail := func(err error) (*Capture, error) {
		return nil, fmt.Errorf("capture %s in %s: %w", ifname, h.name, err)
	}
	index := 0
	err := h.withLink(ifname, func(link netlink.Link) error {
		index = link.Attrs().Index
		return nil
	})
	if err != nil {
		return fail(err)
	}
	// Protocol 0 receives nothing; frames come with bind, which names both protocol and interface.
	fd, err := h.rawSocket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return fail(err)
	}
	f := os.NewFile(uintptr(fd), "capture "+ifname)
	all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	for _, step := range []func() error{
		func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20) },
		func() error { return unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1) },
		func() error { return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}) },
	} {
		if err := step(); err != nil {
			f.Close()
			return fail(err)
		}
	}
	c := &Capture{f: f, done: make(chan struct{}), limit: limit}
	go c.loop()
	if err := h.lab.own(c); err != nil {
		return fail(err)
	}
	return c, nil
}

// Frames returns what was captured so far, oldest first.
func (c *Capture) Frames() []CapturedFrame {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.frames)
}

// Dropped counts the frames above the limit.
func (c *Capture) Dropped() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dropped
}

// Close ends the capture; Frames then has all that passed before. It may be called again.
func (c *Capture) Close() error {
	c.f.SetReadDeadline(time.Unix(1, 0)) // fails if this is the second Close
	<-c.done
	c.f.Close()
	return nil
}

func (c *Capture) loop() {
	defer close(c.done)
	raw, err := c.f.SyscallConn()
	if err != nil {
		return
	}
	buf, oob := make([]byte, 65536), make([]byte, 256)
	drain := func(fd uintptr) {
		for c.receive(int(fd), buf, oob) {
		}
	}
	// Read comes back with an error only: the deadline that Close sets. What is queued at that moment still counts.
	raw.Read(func(fd uintptr) bool {
		drain(fd)
		return false
	})
	raw.Control(drain)
}

// receive takes one frame from the socket, if there is one.
func (c *Capture) receive(fd int, buf, oob []byte) bool {
	n, oobn, _, from, err := unix.Recvmsg(fd, buf, oob, 0)
	if err != nil {
		// ENETDOWN is reported once when the interface goes down; it may come back.
		return err == unix.EINTR || err == unix.ENETDOWN
	}
	frame := CapturedFrame{Time: time.Now(), Data: slices.Clone(buf[:n]), Unfinished: unfinished(oob[:oobn])}
	if ll, ok := from.(*unix.SockaddrLinklayer); ok {
		frame.Outgoing = ll.Pkttype == unix.PACKET_OUTGOING
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.frames) < c.limit {
		c.frames = append(c.frames, frame)
	} else {
		c.dropped++
	}
	return true
}

// unfinished reads the status word, the first of struct tpacket_auxdata.
func unfinished(oob []byte) bool {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return false
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 4 {
			return binary.NativeEndian.Uint32(m.Data)&unix.TP_STATUS_CSUMNOTREADY != 0
		}
	}
	return false
}
