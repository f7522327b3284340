package rings

import (
	"errors"
	"time"
)

// Pcap is a queue whose far end is capture files: Deliver puts a packet of a Capture on its receive ring, Drain
// writes what was transmitted to a CaptureWriter. The rings are those of Mem, so the engine cannot tell it from a
// network port. The queue and its far end belong to one goroutine.
type Pcap struct {
	*Mem
	wire    *Wire
	scratch []byte
}

// NewPcap makes a queue. ringSize is a power of two.
func NewPcap(region *Region, ringSize int) *Pcap {
	m, w := NewMem(region, ringSize)
	return &Pcap{Mem: m, wire: w, scratch: make([]byte, region.FrameSize()-Headroom)}
}

// NewPcapChains is NewPcap for a queue that takes and sends packets of several frames. The region must have room for chains.
func NewPcapChains(region *Region, ringSize int) *Pcap {
	m, w := NewMemChains(region, ringSize)
	room := min(MaxBuffers*(region.FrameSize()-Headroom), 1<<16-1)
	return &Pcap{Mem: m, wire: w, scratch: make([]byte, room)}
}

// The reasons why Deliver refuses a packet.
var (
	ErrTooLarge = errors.New("the packet is larger than a frame, or than the frames of a chain")
	ErrNoFrame  = errors.New("the queue has no frame to receive into")
)

// Room is the largest packet that the queue takes.
func (p *Pcap) Room() int { return len(p.scratch) }

// Whole is the packet in its length on the wire: what the capture has of it, and zeros in place of what it cut off.
// ok is false if the queue does not take it. The bytes are valid until the next call.
func (p *Pcap) Whole(c *CapturedPacket) (frame []byte, ok bool) {
	if c.Length > p.Room() {
		return nil, false
	}
	if !c.Truncated() {
		return c.Data, true
	}
	n := copy(p.scratch, c.Data)
	clear(p.scratch[n:c.Length])
	return p.scratch[:c.Length], true
}

// Deliver receives the packet, whole.
func (p *Pcap) Deliver(c *CapturedPacket) error {
	frame, ok := p.Whole(c)
	if !ok {
		return ErrTooLarge
	}
	if !p.wire.Send(frame) {
		return ErrNoFrame
	}
	return nil
}

// Drain writes what the queue has transmitted, at the time of the packet that caused it and cut as that one was. out
// may be nil. It returns how many packets and bytes, as long as they are on the wire, that was.
func (p *Pcap) Drain(out *CaptureWriter, port int, at time.Time, cause *CapturedPacket) (packets, bytes int, err error) {
	p.wire.Recv(func(frame []byte) {
		packets++
		bytes += len(frame)
		if out == nil || err != nil {
			return
		}
		captured := frame
		if cause.Truncated() {
			captured = frame[:min(len(cause.Data), len(frame))]
		}
		err = out.Write(port, at, captured, len(frame))
	})
	return packets, bytes, err
}
