package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"sluice/flow"
)

// CaptureFilter says which packets are wanted: those that everything set here agrees with.
type CaptureFilter struct {
	Proto   uint8            // 0: any; ICMP is that of both families
	Ends    []netip.AddrPort // up to two ends, each the source or the destination, before or after rewriting; port 0 is any
	Virtual string           // name of a virtual server
	Member  string           // name of a member, or POOL/NAME
	Drops   bool             // only what was dropped
	Reason  string           // only what was dropped, or answered, for this reason
	Worker  int              // negative: any
	Port    string           // name of a port that the packet arrives on or leaves by
}

// CaptureOptions are the settings of a capture.
type CaptureOptions struct {
	Filter CaptureFilter
	Snap   int // bytes of each packet that are kept; 0: all
	Sample int // one in so many of the packets that a worker receives is looked at; 0: all
	// RingBytes is how much a worker may be ahead of the reader; 0: 4 MiB.
	RingBytes int
}

const defaultCaptureRing = 4 << 20

// Captured is a packet that was captured. Before and After are valid until the next one is read.
type Captured struct {
	Micros                uint64 // of the engine's clock, when it arrived at the worker
	Worker                int
	Verdict               CaptureVerdict
	Reason                string // of a drop, or an answer; may be empty for that
	FromServer            bool
	Arrived, Left         string // ports
	Virtual, Pool, Member string
	To                    int    // worker, of one that was handed over
	Before, After         []byte // After is nil for what did not get so far
	BeforeLen, AfterLen   int    // on the wire
}

// CaptureStats are what became of the packets that workers have received during a capture. Seen is the sum of the others.
type CaptureStats struct {
	Seen      uint64 `json:"seen"`
	Skipped   uint64 `json:"skipped"`   // not of the sample
	Unmatched uint64 `json:"unmatched"` // not what the filter wants
	Captured  uint64 `json:"captured"`
	Lost      uint64 `json:"lost"` // found no room, because the reader was slow
	Held      uint64 `json:"held"` // still with a worker at the end
}

// Capture is a capture that goes on until Close. It belongs to one goroutine.
type Capture struct {
	e       *Engine
	match   captureMatch
	opt     CaptureOptions
	taps    []*captureTap
	checked time.Time
}

// captureTap is a worker that captures.
type captureTap struct {
	worker  *worker
	number  int
	capture *capture
}

// ErrCapturing is returned while another capture goes on.
var ErrCapturing = errors.New("another capture goes on; end it first")

// Capture begins a capture on all workers. There is one at a time.
func (e *Engine) Capture(ctx context.Context, opt CaptureOptions) (*Capture, error) {
	c := &Capture{e: e, opt: opt}
	if c.opt.RingBytes == 0 {
		c.opt.RingBytes = defaultCaptureRing
	}
	if size := e.longest(); c.opt.Snap <= 0 || c.opt.Snap > size {
		c.opt.Snap = size
	}
	var err error
	if c.match, err = e.Config().captureMatch(&opt.Filter); err != nil {
		return nil, err
	}
	if !e.capturing.CompareAndSwap(false, true) {
		return nil, ErrCapturing
	}
	if err := c.follow(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// captureMatch resolves the names of a filter.
func (c *Config) captureMatch(f *CaptureFilter) (m captureMatch, err error) {
	m = captureMatch{proto: f.Proto, drops: f.Drops, reason: -1, port: -1, n: len(f.Ends)}
	if len(f.Ends) > len(m.ends) {
		return m, fmt.Errorf("a packet has two ends, not %d", len(f.Ends))
	}
	for i, e := range f.Ends {
		m.ends[i] = captureEnd{flow.AddrFrom(e.Addr()), e.Port()}
	}
	if f.Reason != "" {
		if m.reason = slices.IndexFunc(Reasons(), func(r ReasonInfo) bool { return r.Name == f.Reason }); m.reason < 0 {
			return m, fmt.Errorf("no drop reason %q; `sluice drop` lists them", f.Reason)
		}
	}
	if f.Port != "" {
		if m.port = slices.IndexFunc(c.Ports, func(p PortSpec) bool { return p.Name == f.Port }); m.port < 0 {
			return m, fmt.Errorf("no port %q; `sluice port` lists them", f.Port)
		}
	}
	if f.Virtual != "" {
		for id := range c.virtuals {
			if c.virtuals[id].Name == f.Virtual && (c.virtuals[id].exists || m.virtual == 0) {
				m.virtual = uint32(id)
			}
		}
		if m.virtual == 0 {
			return m, fmt.Errorf("no virtual server %q; `sluice virtual` lists them", f.Virtual)
		}
	}
	if f.Member != "" {
		for id, n := range c.names {
			if n.Name == f.Member || n.pool+"/"+n.Name == f.Member {
				m.nodes = append(m.nodes, id)
			}
		}
		if len(m.nodes) == 0 {
			return m, fmt.Errorf("no member %q; `sluice member` lists them, and POOL/NAME says which of two", f.Member)
		}
	}
	return m, nil
}

// follow gives the workers that have come since a capture of their own.
func (c *Capture) follow(ctx context.Context) error {
	c.checked = time.Now()
	for _, w := range c.e.seated() {
		if c.opt.Filter.Worker >= 0 && w.id != c.opt.Filter.Worker || slices.ContainsFunc(c.taps, func(t *captureTap) bool { return t.worker == w }) {
			continue
		}
		tap := &captureTap{w, w.id, newCapture(w, c.match, c.opt.Snap, uint32(max(c.opt.Sample, 1)), c.opt.RingBytes)}
		if err := c.e.wait(ctx, w, func(w *worker) { w.capture = tap.capture }); err != nil {
			return err
		}
		c.taps = append(c.taps, tap)
	}
	if len(c.taps) == 0 {
		return fmt.Errorf("no worker %d; `sluice worker` lists them", c.opt.Filter.Worker)
	}
	return nil
}

// followEvery is how often workers that have come are looked for.
const followEvery = 200 * time.Millisecond

// Read calls f with what has come since, at most burst packets of each worker, until it wants no more. It returns how many
// there were and does not wait.
func (c *Capture) Read(ctx context.Context, f func(*Captured) (more bool)) (n int, err error) {
	const burst = 256
	if time.Since(c.checked) > followEvery {
		if err := c.follow(ctx); err != nil {
			return 0, err
		}
	}
	cfg := c.e.Config()
	for _, t := range c.taps {
		for range burst {
			b := t.capture.ring.next()
			if b == nil {
				break
			}
			p := cfg.captured(b)
			p.Worker = t.number
			more := f(&p)
			t.capture.ring.release(b)
			n++
			if !more {
				return n, nil
			}
		}
	}
	return n, nil
}

// captured reads a record.
func (c *Config) captured(b []byte) (p Captured) {
	le := binary.LittleEndian
	before, after := int(le.Uint32(b[32:])), int(le.Uint32(b[40:]))
	p = Captured{
		Micros: le.Uint64(b), Verdict: CaptureVerdict(b[8]), FromServer: flow.Side(b[11]) == flow.FromServer, Arrived: c.portName(int(le.Uint16(b[12:]))),
		To: int(le.Uint32(b[24:])), BeforeLen: int(le.Uint32(b[28:])), AfterLen: int(le.Uint32(b[36:])), Before: b[captureHeader : captureHeader+before],
	}
	if why := Reason(b[9]); why < numReasons {
		p.Reason = why.String()
	}
	if b[10] != 0 {
		p.Left, p.After = c.portName(int(le.Uint16(b[14:]))), b[captureHeader+before:captureHeader+before+after]
	}
	if n := c.names[le.Uint32(b[16:])]; n != nil {
		p.Pool, p.Member = n.pool, n.Name
	}
	if id := le.Uint32(b[20:]); int(id) < len(c.virtuals) {
		p.Virtual = c.virtuals[id].Name
	}
	return p
}

func (c *Config) portName(i int) string {
	if i < len(c.Ports) {
		return c.Ports[i].Name
	}
	return ""
}

// Stats are the counts so far.
func (c *Capture) Stats() (s CaptureStats) {
	for _, t := range c.taps {
		n := &t.capture.counts
		s.Skipped += n.skipped.Load()
		s.Unmatched += n.unmatched.Load()
		s.Captured += n.captured.Load()
		s.Lost += n.lost.Load()
		s.Held += n.held.Load()
		s.Seen += n.seen.Load()
	}
	return s
}

// closeTime bounds how long Close waits for a worker; one that does not answer sees the capture end later.
const closeTime = 2 * time.Second

// Stop ends the capturing; what is in the rings can still be read. The counts are final then.
func (c *Capture) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	var errs []error
	for _, t := range c.taps {
		err := c.e.wait(ctx, t.worker, func(w *worker) {
			if w.capture == t.capture {
				w.capture = nil
				t.capture.counts.held.Store(uint64(captureSlots - len(t.capture.free)))
			}
		})
		if !errors.Is(err, ErrStopped) {
			errs = append(errs, err)
			continue
		}
		select {
		case <-t.worker.runtime.gone: // it looks at nothing any more
			t.capture.counts.held.Store(uint64(captureSlots - len(t.capture.free)))
		case <-ctx.Done():
		}
	}
	return errors.Join(errs...)
}

// Close ends the capture, so that another one may begin.
func (c *Capture) Close() error {
	err := c.Stop()
	c.e.capturing.Store(false)
	return err
}

// Text says in a line what has become of a packet.
func (p *Captured) Text() string {
	var s strings.Builder
	switch p.Verdict {
	case CaptureForwarded:
		switch {
		case p.FromServer:
			s.WriteString("forwarded to the client")
		case p.Member != "":
			fmt.Fprintf(&s, "forwarded to member %s/%s", p.Pool, p.Member)
		default:
			s.WriteString("forwarded")
		}
		fmt.Fprintf(&s, " via port %s", p.Left)
	case CaptureDropped:
		fmt.Fprintf(&s, "dropped: %s", p.Reason)
	case CaptureHost:
		s.WriteString("handed to the kernel")
	case CaptureHanded:
		fmt.Fprintf(&s, "handed over to worker %d", p.To)
	case CaptureAnswered:
		s.WriteString("answered out of port " + p.Left)
		if p.Reason != "" {
			s.WriteString(": " + p.Reason)
		}
	}
	fmt.Fprintf(&s, "; arrived on port %s at worker %d", p.Arrived, p.Worker)
	if p.Virtual != "" {
		s.WriteString("; virtual server " + p.Virtual)
	}
	if p.Member != "" && (p.FromServer || p.Verdict != CaptureForwarded) {
		fmt.Fprintf(&s, "; member %s/%s", p.Pool, p.Member)
	}
	return s.String()
}
