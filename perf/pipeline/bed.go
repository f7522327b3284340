package pipeline

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"sluice/engine"
	"sluice/flow"
	"sluice/rings"
)

// The two ports. Clients are outside.
const (
	outside = iota
	inside
	ports
)

var (
	clientMAC  = [6]byte{2, 0, 0, 0, 0x10, 1}
	serverMAC  = [6]byte{2, 0, 0, 0, 0x20, 1}
	outsideMAC = [6]byte{2, 0, 0, 0, 0, 1}
	insideMAC  = [6]byte{2, 0, 0, 0, 0, 2}
)

// Addresses: clients 10.0.1.0 and on, 64 ports each; virtual 198.18.0.1 and on (RFC 2544), members 172.16.0.1 and on.
const (
	clientBase  = 10<<24 + 1<<8
	clientPorts = 64
	virtualBase = 198<<24 + 18<<16 + 1
	memberBase  = 172<<24 + 16<<16 + 1

	tcpService, udpService = 80, 53
	tcpMember, udpMember   = 8080, 5353
)

// framesPerWorker is what the rings of two ports hold, and two bursts in hand.
const framesPerWorker = 1024

// shape is what a bed is made of.
type shape struct {
	mode        mode
	connections int
	capacity    int // of all tables together; 0: what keeps connections below the high-water mark
	members     int
	virtuals    int // addresses, each with a TCP and a UDP virtual server
	workers     int
	family      string // of Families; "" is 4
}

// bed is an engine with connections in it, on memory rings, that runs on orders.
type bed struct {
	shape
	engine  *engine.Engine
	region  *rings.Region
	tables  []rings.Mapping
	feeds   [][ports]*feed // by worker
	lanes   []*lane
	clock   *clock
	owned   [][]uint32 // connections by worker
	answers []tuple    // of each connection: what the server sends
	running bool
	stats   engine.Stats // when the engine was stopped
}

func addr4(a uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)})
}

// spec is the configuration.
func (s shape) spec() engine.Spec {
	spec := engine.Spec{
		Workers: s.workers,
		Ports:   []engine.PortSpec{{Name: "outside", MAC: outsideMAC}, {Name: "inside", MAC: insideMAC}},
	}
	for _, version := range s.versions() {
		s.services(&spec, version)
	}
	s.mode.apply(&spec)
	return spec
}

// tuple is what the client of connection i sends; every other one is UDP.
func (s shape) tuple(i uint32) (t tuple, proto uint8) {
	t = tuple{
		src: clientBase + i/clientPorts, sport: uint16(1024 + i%clientPorts),
		dst: virtualBase + i/2%uint32(s.virtuals), dport: tcpService,
	}
	if i&1 == 1 {
		t.dport = udpService
		return t, flow.UDP
	}
	return t, flow.TCP
}

// newBed makes the engine, without connections.
func newBed(s shape) (_ *bed, err error) {
	b := &bed{shape: s, clock: &clock{}, owned: make([][]uint32, s.workers)}
	b.clock.base.Store(1000)
	defer func() {
		if err != nil {
			err = errors.Join(err, b.unmap())
		}
	}()
	if b.region, err = rings.NewRegion(framesPerWorker*s.workers, 2048, true); err != nil {
		return nil, err
	}
	capacity := s.capacity
	if capacity == 0 {
		capacity = s.connections + s.connections/4 + 1024
	}
	capacity = capacity/s.workers + capacity/s.workers/16*min(s.workers-1, 1) + 64 // shares are not quite equal
	random := rand.New(rand.NewPCG(uint64(s.connections), 3))
	opt := engine.Options{Region: b.region, Capacity: capacity, Polling: engine.PollAdaptive, Clock: b.clock.now,
		Secret: flow.Secret{random.Uint64(), random.Uint64(), random.Uint64(), random.Uint64()}}
	for range s.workers {
		l := newLane()
		var feeds [ports]*feed
		var queues []engine.PortQueue
		for p := range ports {
			m, w := rings.NewMem(b.region, ringSize)
			feeds[p] = &feed{Mem: m, wire: w, lane: l, lead: p == 0}
			queues = append(queues, engine.PortQueue{Port: p, Queue: feeds[p]})
		}
		l.free.Store(true) // until start
		b.feeds, b.lanes = append(b.feeds, feeds), append(b.lanes, l)
		table, err := rings.MapShared("sluice-perf-table", flow.Size(capacity), true)
		if err != nil {
			return nil, err
		}
		b.tables = append(b.tables, table)
		opt.Workers, opt.Tables = append(opt.Workers, queues), append(opt.Tables, table.Bytes)
	}
	dict := engine.NewDictionary()
	cfg, err := engine.NewConfig(s.spec(), dict)
	if err != nil {
		return nil, err
	}
	if b.engine, err = engine.New(opt, cfg, dict); err != nil {
		return nil, err
	}
	b.engine.Step(b.clock.now()) // fill rings
	return b, nil
}

// start lets the workers run; they wait for orders.
func (b *bed) start() error {
	for _, l := range b.lanes {
		l.free.Store(false)
	}
	b.running = true
	if err := b.engine.Start(); err != nil {
		b.running = false
		return err
	}
	return nil
}

// run has every worker make a number of steps with packets, all at the same time.
func (b *bed) run(steps int) []outcome {
	b.clock.start()
	for _, l := range b.lanes {
		l.orders <- steps
	}
	out := make([]outcome, len(b.lanes))
	for i, l := range b.lanes {
		out[i] = <-l.outcomes
	}
	b.clock.stop()
	return out
}

// close stops the workers and checks that every packet that went in came out and every frame is back.
func (b *bed) close() error {
	var err error
	if b.running {
		for _, l := range b.lanes {
			close(l.orders)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		snaps, e := b.engine.Snapshots(ctx)
		for i := range snaps {
			b.stats.Add(&snaps[i].Stats)
		}
		if err = errors.Join(e, b.engine.Stop(ctx)); err != nil {
			return err // the workers may still use the memory
		}
		b.running = false
		err = b.check()
	}
	if b.engine != nil {
		err = errors.Join(err, b.engine.Close())
	}
	return errors.Join(err, b.unmap())
}

// check compares what was sent with what was forwarded.
func (b *bed) check() error {
	sent, received := 0, 0
	for _, l := range b.lanes {
		sent, received = sent+l.sent, received+l.received
	}
	if sent != received || b.stats.Dropped() != 0 || b.stats.ToHost != 0 || b.stats.HandedOut != 0 {
		return fmt.Errorf("%d packets were sent and %d came out; %d dropped, %d to the host, %d handed to another worker: the figures are not of what they say",
			sent, received, b.stats.Dropped(), b.stats.ToHost, b.stats.HandedOut)
	}
	opened, evicted := uint64(b.connections), b.stats.Evicted
	if b.connections == Each {
		opened = uint64(sent)
	}
	if b.stats.Opened != opened || evicted != 0 {
		return fmt.Errorf("%d connections were opened, not %d, and %d evicted: the figures are not of what they say", b.stats.Opened, opened, evicted)
	}
	return nil
}

func (b *bed) unmap() (err error) {
	for _, t := range b.tables {
		err = errors.Join(err, t.Unmap())
	}
	b.tables = nil
	if b.region != nil {
		err = errors.Join(err, b.region.Close())
		b.region = nil
	}
	return err
}
