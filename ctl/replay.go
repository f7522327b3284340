package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"sluice/engine"
	"sluice/flow"
	"sluice/rewrite"
	"sluice/rings"
)

// Replay answers what would happen to a capture under a configuration: the packets go through the engine that runs
// on AF_XDP, stepped over queues whose far ends are capture files. For each packet, in the order of the capture:
//
//  1. the engine's clock becomes the packet's time, and what has expired by then ends     tick
//  2. the port is found for the interface it was captured on                              replayports.go
//  3. the rules of the XDP program say whether it is the engine's or the kernel's         classify
//  4. the engine receives it and is stepped until it has nothing more to do               deliver
//  5. what came out is written, at the packet's time, to the egress port                  drain

// ReplayOptions is how a capture is replayed.
type ReplayOptions struct {
	// Connections is how many of the connections that are left at the end are listed.
	Connections int
}

// ErrUnaccounted is a defect of ours: a packet or frame has got lost, so the report may be wrong.
var ErrUnaccounted = errors.New("sluice has lost count; please report this with the capture")

// The engine of a replay has one packet in hand at a time: small rings do.
const replayRing = 64

// longestGap is how far the clock goes in one step: every connection has ended by then, and a capture with a broken
// time must not make the timers work through centuries.
const longestGap = maxDuration + time.Hour

type replay struct {
	file       *File
	engine     *engine.Engine
	region     *rings.Region
	table      []byte
	queues     []*rings.Pcap // by port; the last may be the host port
	rules      []*rings.Classifier
	dict       *engine.Dictionary
	near       []netip.Addr // neighbours that packets were forwarded to
	generation uint64       // of the configuration
	mapping    portMapping
	out        *rings.CaptureWriter
	report     *ReplayReport
	clock      uint64    // milliseconds since the first packet; never goes back
	latest     time.Time // of the packets so far
	ticked     bool      // the engine was stepped at clock
	parsed     rewrite.Packet
	parseKey   flow.Key
}

// Replay runs the capture in through the engine under the file's configuration, with no kernel and no privileges. What
// the engine sends goes to out, a pcapng file with one interface for each port; out may be nil. With an error that
// comes in the middle of the capture there is a report, and an output, of the packets before it.
func (f *File) Replay(ctx context.Context, in io.Reader, out io.Writer, opt ReplayOptions) (*ReplayReport, error) {
	capture, err := rings.NewCapture(in)
	if err != nil {
		return nil, err
	}
	r, err := f.newReplay(out)
	if err != nil {
		return nil, err
	}
	err = r.run(ctx, capture)
	// The report is about what has been done, also when ctx ended it.
	return r.report, errors.Join(err, r.finish(context.WithoutCancel(ctx), opt))
}

// Replay is File.Replay.
func Replay(ctx context.Context, f *File, in io.Reader, out io.Writer, opt ReplayOptions) (*ReplayReport, error) {
	return f.Replay(ctx, in, out, opt)
}

func (f *File) newReplay(out io.Writer) (*replay, error) {
	t, err := f.offline()
	if err != nil {
		return nil, err
	}
	r := &replay{file: f, mapping: newPortMapping(f), report: newReplayReport(f, t)}
	for i := range f.Ports {
		c, err := rings.NewClassifier(f.rules(t, i, f.ownAddresses()))
		if err != nil {
			return nil, fmt.Errorf("%s: port %s: %w", f.Name, f.Ports[i].Name, err)
		}
		r.rules = append(r.rules, c)
	}
	cfg, dict, err := f.Offline()
	if err != nil {
		return nil, err
	}
	if err := r.makeEngine(cfg, dict); err != nil {
		return nil, errors.Join(err, r.unmap())
	}
	if out != nil {
		if r.out, err = rings.NewCaptureWriter(out, r.report.portNames()); err != nil {
			return nil, errors.Join(err, r.engine.Close(), r.unmap())
		}
	}
	return r, nil
}

func (r *replay) makeEngine(cfg *engine.Config, dict *engine.Dictionary) (err error) {
	capacity := r.file.tableCapacity(1)
	// Only the pages that connections touch are ever taken.
	r.table, err = unix.Mmap(-1, 0, r.file.tableSize(1), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return fmt.Errorf("map a table of %d connections (engine.connections): %w", capacity, err)
	}
	r.dict, r.generation = dict, cfg.Generation
	r.region = rings.NewHeapRegion(replayRing*(len(cfg.Ports)+1), r.file.Engine.FrameSize)
	if r.file.replaysJumbo() {
		r.region.MakeChains()
	}
	var queues []engine.PortQueue
	for port := range r.file.firstVLAN() { // VLANs have the queues of their ports
		q := r.file.replayQueue(port, r.region)
		r.queues = append(r.queues, q)
		queues = append(queues, engine.PortQueue{Port: port, Queue: q, TxOnly: port == len(r.file.Ports)})
	}
	r.engine, err = engine.New(engine.Options{
		Region: r.region, Workers: [][]engine.PortQueue{queues}, Tables: [][]byte{r.table}, Capacity: capacity,
		Persistence: r.file.persistenceCapacity(1),
		Secret:      flow.Secret{0x736c, 0x7569, 0x6365, 0x21}, // not a secret: the same packets give the same run
		Clock:       func() uint64 { return r.clock },
	}, cfg, dict)
	return err
}

func (r *replay) run(ctx context.Context, capture *rings.Capture) error {
	var p rings.CapturedPacket
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("replay ended after %d packets: %w", r.report.Packets, err)
		}
		err := capture.Read(&p)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		r.tick(&p)
		port, err := r.mapping.port(&p)
		if err != nil {
			return err
		}
		r.report.count(port, &p)
		if err := r.packet(port, &p); err != nil {
			return err
		}
	}
}

// tick moves the clock to the packet's time. A packet without one has that of the packet before it; one from the
// past keeps its time in the output, but the engine's clock stands.
func (r *replay) tick(p *rings.CapturedPacket) {
	switch {
	case p.Time.IsZero():
		p.Time = r.latest
		if p.Time.IsZero() {
			p.Time = time.Unix(0, 0)
		}
	case r.latest.IsZero():
		r.report.First = p.Time
		r.latest = p.Time
	case p.Time.Before(r.latest):
		r.report.Backwards++
	default:
		// Both are counted from the first packet, so that parts of milliseconds add up.
		before, now := r.latest.Sub(r.report.First), p.Time.Sub(r.report.First)
		if gap := now.Milliseconds() - before.Milliseconds(); gap > 0 {
			r.clock += uint64(min(gap, longestGap.Milliseconds()))
			r.ticked = false
		}
		r.latest = p.Time
	}
	r.report.Last = r.latest
	if !r.ticked {
		r.settle()
		r.ticked = true
	}
}

// settle steps the engine until it has nothing more to do.
func (r *replay) settle() {
	for r.engine.Step(r.clock) {
	}
}

// packet does with one packet what its port would.
func (r *replay) packet(port int, p *rings.CapturedPacket) error {
	count := &r.report.Ports[port]
	frame, fits := r.queues[port].Whole(p)
	if p.Truncated() {
		r.report.Truncated++
		if fits && !r.hasHeaders(frame, len(p.Data)) {
			count.HeadersCut++
			return nil
		}
	}
	if !fits {
		frame = p.Data // enough to tell whose it is
	}
	switch r.rules[port].Classify(frame) {
	case rings.ActionPass:
		count.Passed++
		return nil
	case rings.ActionMalformed:
		count.Malformed++
		return nil
	}
	if !fits {
		count.TooLarge++
		return nil
	}
	if err := r.resolve(frame); err != nil {
		return err
	}
	if err := r.queues[port].Deliver(p); err != nil {
		return fmt.Errorf("packet %d of the capture: %w", p.Number, err)
	}
	count.Engine++
	r.settle()
	return r.drain(p)
}

// resolve makes the destination of a frame a neighbour, as the kernel would when a packet is to be forwarded to it.
func (r *replay) resolve(frame []byte) error {
	if !r.file.isByRoute() {
		return nil
	}
	switch rewrite.Parse(frame, &r.parsed, &r.parseKey) {
	case rewrite.OK, rewrite.NoPorts, rewrite.Fragment:
	default:
		return nil
	}
	a := r.parseKey.Dst.Netip()
	if _, ok := r.file.onLink(a); !ok || slices.Contains(r.near, a) {
		return nil
	}
	r.near = append(r.near, a)
	t, err := r.file.offline(r.near...)
	if err != nil {
		return err
	}
	r.generation++
	cfg, err := engine.NewConfig(r.file.spec(t, 1, r.generation), r.dict)
	if err != nil {
		return err
	}
	_, err = r.engine.Apply(context.Background(), cfg)
	return err
}

// hasHeaders reports whether a truncated packet, filled up with zeros, was captured as far as its headers reach: the
// engine looks at no more.
func (r *replay) hasHeaders(frame []byte, captured int) bool {
	const etherAndTags, icmp = 14 + 2*4, 8
	switch rewrite.Parse(frame, &r.parsed, &r.parseKey) {
	case rewrite.NotIP:
		return captured >= min(etherAndTags, len(frame))
	case rewrite.OK, rewrite.Fragment:
		if r.parsed.Proto == flow.SCTP {
			return captured >= int(r.parsed.End) // its chunks are read
		}
		return captured >= int(max(r.parsed.Payload, r.parsed.L4))
	case rewrite.NoPorts:
		return captured >= min(int(r.parsed.L4)+icmp, len(frame))
	}
	return false
}

// drain writes what the engine has sent because of p.
func (r *replay) drain(p *rings.CapturedPacket) error {
	for port, q := range r.queues {
		n, bytes, err := q.Drain(r.out, port, p.Time, p)
		r.report.Ports[port].Out += uint64(n)
		r.report.Ports[port].OutBytes += uint64(bytes)
		if err != nil {
			return err
		}
	}
	return nil
}

// finish completes the output and the report, and holds the engine to account for every frame and packet.
func (r *replay) finish(ctx context.Context, opt ReplayOptions) error {
	r.settle()
	var errs []error
	if err := errors.Join(r.engine.Audit(), r.complete(ctx, opt), r.engine.Close()); err != nil {
		errs = append(errs, fmt.Errorf("%w: %w", ErrUnaccounted, err))
	}
	if r.out != nil {
		errs = append(errs, r.out.Flush())
	}
	return errors.Join(append(errs, r.unmap())...)
}

func (r *replay) unmap() error {
	if r.table == nil {
		return nil
	}
	err := unix.Munmap(r.table)
	r.table = nil
	return err
}
