package rings

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// CapturedPacket is one packet of a capture file.
type CapturedPacket struct {
	Number    int       // from 1, in the order of the file
	Data      []byte    // as much of it as was captured; valid until the next packet is read
	Length    int       // of the packet on the wire, in bytes
	Time      time.Time // zero: the capture has none
	Section   int       // of a pcapng file, from 0; interfaces are numbered anew in each
	Interface int       // index in the section
	Name      string    // of the interface; may be empty
}

// Truncated reports whether the capture has only the start of the packet.
func (p *CapturedPacket) Truncated() bool { return len(p.Data) < p.Length }

// Where names the interface to people.
func (p *CapturedPacket) Where() string {
	if p.Name == "" {
		return fmt.Sprintf("interface %d", p.Interface)
	}
	return fmt.Sprintf("interface %d (%s)", p.Interface, p.Name)
}

// Capture reads the packets of a pcap or pcapng file of Ethernet interfaces, compressed by gzip or not.
type Capture struct {
	ng      *pcapgo.NgReader
	pcap    *pcapgo.Reader
	section int
	number  int
}

// The first four bytes of capture files, as they are in the file. A pcapng file starts with the same ones in both
// byte orders.
const (
	magicPcapng = 0x0a0d0d0a
	magicMicro  = 0xa1b2c3d4
	magicNano   = 0xa1b23c4d
)

// NewCapture reads the head of a file.
func NewCapture(r io.Reader) (*Capture, error) {
	b := bufio.NewReader(r)
	if head, err := b.Peek(2); err == nil && head[0] == 0x1f && head[1] == 0x8b {
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, fmt.Errorf("read the capture's gzip header: %w", err)
		}
		b = bufio.NewReader(z)
	}
	head, err := b.Peek(4)
	if err != nil {
		if len(head) == 0 && errors.Is(err, io.EOF) {
			return nil, errors.New("the capture is empty, without even a header")
		}
		return nil, fmt.Errorf("read the capture's header: %w", cut(err))
	}
	c := &Capture{}
	switch little, big := binary.LittleEndian.Uint32(head), binary.BigEndian.Uint32(head); {
	case big == magicPcapng:
		c.ng, err = pcapgo.NewNgReader(b, pcapgo.NgReaderOptions{
			WantMixedLinkType:  true, // and refuse those that are not Ethernet, instead of leaving them out silently
			SectionEndCallback: func([]pcapgo.NgInterface, pcapgo.NgSectionInfo) { c.section++ },
		})
	case little == magicMicro || big == magicMicro || little == magicNano || big == magicNano:
		if c.pcap, err = pcapgo.NewReader(b); err == nil {
			err = checkLink(c.pcap.LinkType())
		}
	default:
		return nil, fmt.Errorf("not a pcap or pcapng file: it begins with % x", head)
	}
	if err != nil {
		return nil, fmt.Errorf("read the capture's header: %w", cut(err))
	}
	return c, nil
}

// cut says what an end inside a header or packet means.
func cut(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return errors.New("the file ends in the middle of it; was it cut, or is it still being written?")
	}
	return err
}

func checkLink(t layers.LinkType) error {
	if t == layers.LinkTypeEthernet {
		return nil
	}
	return fmt.Errorf("the link type is %d (%s), not Ethernet; capture on a port's interface itself, not on \"any\"", t, t)
}

// The times that fit 64 bits of nanoseconds since 1970, in which captures are written.
var (
	minTime = time.Unix(0, 0)
	maxTime = time.Unix(1<<63/1_000_000_000-1, 0)
)

// Read fills p with the next packet. It returns io.EOF at the end of the file.
func (c *Capture) Read(p *CapturedPacket) error {
	var data []byte
	var ci gopacket.CaptureInfo
	var err error
	if c.ng != nil {
		data, ci, err = c.ng.ZeroCopyReadPacketData()
	} else {
		data, ci, err = c.pcap.ZeroCopyReadPacketData()
	}
	if err == io.EOF && len(data) == 0 && ci.CaptureLength == 0 {
		return io.EOF
	}
	c.number++
	if err != nil {
		return fmt.Errorf("read packet %d of the capture: %w", c.number, cut(err))
	}
	*p = CapturedPacket{
		Number: c.number, Data: data, Length: max(ci.Length, len(data)), Time: ci.Timestamp,
		Section: c.section, Interface: ci.InterfaceIndex,
	}
	if c.ng != nil {
		i, err := c.ng.Interface(ci.InterfaceIndex)
		if err == nil {
			p.Name, err = i.Name, checkLink(i.LinkType)
		}
		if err != nil {
			return fmt.Errorf("packet %d of the capture, on %s: %w", p.Number, p.Where(), err)
		}
	}
	if !p.Time.IsZero() && (p.Time.Before(minTime) || p.Time.After(maxTime)) {
		return fmt.Errorf("packet %d of the capture has an impossible time: year %d", p.Number, p.Time.Year())
	}
	return nil
}

// CaptureWriter writes a pcapng file with an Ethernet interface for each port. Times are written in nanoseconds,
// which hold those of captures in micro- and in nanoseconds as they were. The same packets make the same bytes, on
// any machine.
type CaptureWriter struct {
	w *pcapgo.NgWriter
}

// NewCaptureWriter writes the head of a file; ports are the names of its interfaces, at least one.
func NewCaptureWriter(w io.Writer, ports []string) (*CaptureWriter, error) {
	if len(ports) == 0 {
		return nil, errors.New("a capture needs at least one port")
	}
	described := func(name string) pcapgo.NgInterface {
		return pcapgo.NgInterface{Name: name, LinkType: layers.LinkTypeEthernet}
	}
	options := pcapgo.NgWriterOptions{SectionInfo: pcapgo.NgSectionInfo{Application: "sluice"}}
	ng, err := pcapgo.NewNgWriterInterface(w, described(ports[0]), options)
	for _, name := range ports[1:] {
		if err == nil {
			_, err = ng.AddInterface(described(name))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("write the capture: %w", err)
	}
	return &CaptureWriter{ng}, nil
}

// Write adds a packet to the interface of a port. length is that on the wire; data may be only its start.
func (w *CaptureWriter) Write(port int, at time.Time, data []byte, length int) error {
	ci := gopacket.CaptureInfo{Timestamp: at, CaptureLength: len(data), Length: length, InterfaceIndex: port}
	if err := w.w.WritePacket(ci, data); err != nil {
		return fmt.Errorf("write the capture: %w", err)
	}
	return nil
}

// Flush writes out what is buffered. The file is complete then.
func (w *CaptureWriter) Flush() error {
	if err := w.w.Flush(); err != nil {
		return fmt.Errorf("write the capture: %w", err)
	}
	return nil
}
