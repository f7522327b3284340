package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Delay is a slow line between a bridge and one of its ports, for kernels without netem: the port leaves the bridge, a veth takes
// its place, and this process carries frames between the two. Those from the port are held.
//
//	bridge ── NAME-b ═ veth ═ NAME-a ── relay ── port ── wire
//
// Undo puts the port back, so that what comes after has nothing in its way.
type Delay struct {
	host         *Host
	bridge, port string
	near, far    string // the veth: at the relay, at the bridge
	files        []*os.File
	relays       sync.WaitGroup
	once         sync.Once
	err          error
}

// heldFrames bounds the frames that are under way in one direction; more are lost, as on a line whose buffer is full.
const heldFrames = 4096

// Delay holds the frames that come in by a port of a bridge of the host for a time, in their order; what goes out by it is not
// held. The port's name has at most 13 bytes. The end of the lab undoes it.
func (h *Host) Delay(bridge, port string, by time.Duration) (*Delay, error) {
	d := &Delay{host: h, bridge: bridge, port: port, near: port + "-a", far: port + "-b"}
	if err := d.build(by); err != nil {
		return nil, errors.Join(fmt.Errorf("delay %s in %s: %w", port, h.name, err), d.Undo())
	}
	if err := h.lab.own(d); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *Delay) build(by time.Duration) error {
	if err := d.host.lab.Wire(d.host, d.near, d.host, d.far, WireOptions{}); err != nil {
		return err
	}
	// The relay listens before the port changes hands: no frame falls in between but those of a moment.
	from, err := d.packets(d.port)
	if err != nil {
		return err
	}
	to, err := d.packets(d.near)
	if err != nil {
		return err
	}
	if err := d.host.swapPort(d.bridge, d.far, d.port); err != nil {
		return err
	}
	d.relays.Go(func() { carry(from, to, by) })
	d.relays.Go(func() { carry(to, from, 0) })
	return nil
}

// packets opens a packet socket that receives what comes in by an interface, and sends by it.
func (d *Delay) packets(ifname string) (*os.File, error) {
	index := 0
	err := d.host.withLink(ifname, func(link netlink.Link) error {
		index = link.Attrs().Index
		return nil
	})
	if err != nil {
		return nil, err
	}
	fd, err := d.host.rawSocket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "delay "+ifname)
	d.files = append(d.files, f)
	all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	return f, errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}))
}

// carry passes frames on until the file is closed.
func carry(from, to *os.File, by time.Duration) {
	type held struct {
		frame []byte
		due   time.Time
	}
	line := make(chan held, heldFrames)
	var sender sync.WaitGroup
	sender.Go(func() {
		for h := range line {
			time.Sleep(time.Until(h.due))
			_, _ = to.Write(h.frame) // on a line that is down frames are lost
		}
	})
	buf := make([]byte, 65536)
	for {
		n, err := from.Read(buf)
		if err != nil {
			// ENETDOWN is reported once when an interface goes down; it may come back.
			if errors.Is(err, unix.ENETDOWN) {
				continue
			}
			break
		}
		select {
		case line <- held{append([]byte(nil), buf[:n]...), time.Now().Add(by)}:
		default:
		}
	}
	close(line)
	sender.Wait()
}

// swapPort makes one interface a port of a bridge in the place of another.
func (h *Host) swapPort(bridge, in, out string) error {
	return h.thread.run(func() error {
		master, err := netlink.LinkByName(bridge)
		if err != nil {
			return err
		}
		leaves, err := netlink.LinkByName(out)
		if err != nil {
			return err
		}
		enters, err := netlink.LinkByName(in)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetNoMaster(leaves), netlink.LinkSetMaster(enters, master))
	})
}

// Undo takes the slow line away; frames that it still holds are passed on first or lost. It may be called again.
func (d *Delay) Undo() error {
	d.once.Do(func() {
		for _, f := range d.files {
			d.err = errors.Join(d.err, f.Close())
		}
		d.relays.Wait()
		err := d.host.swapPort(d.bridge, d.port, d.far)
		if err == nil {
			err = d.host.withLink(d.near, netlink.LinkDel)
		}
		if err != nil && !errors.Is(err, ErrClosed) {
			d.err = errors.Join(d.err, fmt.Errorf("take the delay of %s in %s away: %w", d.port, d.host.name, err))
		}
	})
	return d.err
}

// Close is Undo, for the end of the lab.
func (d *Delay) Close() error { return d.Undo() }
