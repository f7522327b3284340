package ctl

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"sluice/engine"
	"sluice/flow"
	"sluice/rings"
)

// assembly is what an engine is built from, in the order in which it is opened; close takes it apart in reverse.
type assembly struct {
	file     *File
	ifaces   []iface // by port; the host port, if any, is last
	vlans    []iface // of VLANs, whose numbers come after these
	plan     *plan
	region   *rings.Region
	programs []*rings.Program // by port of the file
	queues   [][]openQueue    // by port
	memory   []tableMemory    // of the connection tables, by worker
	tables   *tableStore      // nil: the tables end with the process
	secret   flow.Secret
	engine   *engine.Engine
	log      *slog.Logger
}

type openQueue struct {
	rings.Queue
	fd   int
	mode string
	note string
}

// tableMemory is the memory of a worker's connection table.
type tableMemory struct {
	rings.Mapping
	flows []byte // what of it the table gets
	path  string // of its file in the store; "" for one that ends with the process
}

// publish makes the file of a fresh table one that a successor reads.
func (m *tableMemory) publish() error {
	dir, name := filepath.Split(m.path)
	path := dir + workerTable + strings.TrimPrefix(name, freshTable)
	if err := os.Rename(m.path, path); err != nil {
		return fmt.Errorf("publish a connection table: %w", err)
	}
	m.path = path
	return nil
}

func (m *tableMemory) free() error {
	err := m.Unmap()
	if m.path != "" {
		err = errors.Join(err, os.Remove(m.path))
	}
	return err
}

// open makes the memory, attaches the XDP programs and opens a socket for every queue. When it fails it has undone
// what it did.
func (a *assembly) open(rules []rings.Rules) (err error) {
	e := &a.file.Engine
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close(false))
		}
	}()
	if a.region, err = rings.NewRegion(a.plan.frames, e.FrameSize, e.HugePages == HugePagesAuto, preparedTmpfs()...); err != nil {
		return err
	}
	a.makeChains()
	a.log.Info("frames", "count", a.plan.frames, "bytes", e.FrameSize, "memory", a.region.Pages())
	a.secret = newSecret()
	if a.memory, err = a.newTables(a.file, a.plan.workers, workerTable); err != nil {
		return err
	}
	for i := range a.file.Ports {
		if err := a.openPort(i, rules[i]); err != nil {
			return err
		}
	}
	if e.HostPort {
		return a.openQueues(len(a.file.Ports), rings.BindCopy, true)
	}
	return nil
}

// newTables takes the memory of the connection tables that f wants for so many workers, from files of that kind if tables are kept.
func (a *assembly) newTables(f *File, workers int, kind string) (out []tableMemory, err error) {
	capacity, size := f.tableCapacity(workers), f.tableSize(workers)
	defer func() {
		if err == nil {
			return
		}
		for i := range out {
			err = errors.Join(err, out[i].free())
		}
		out = nil
	}()
	for w := range workers {
		var m tableMemory
		if a.tables != nil {
			m, err = a.tables.create(kind, capacity, size, a.secret)
		} else {
			m.Mapping, err = rings.MapShared(fmt.Sprintf("sluice-flows-%d", w), size, f.Engine.HugePages == HugePagesAuto, preparedTmpfs()...)
			m.flows = m.Bytes
		}
		if err != nil {
			return out, fmt.Errorf("connection table of worker %d (engine.connections: %d): %w", w, f.Engine.Connections, err)
		}
		out = append(out, m)
	}
	return out, nil
}

func (a *assembly) openPort(i int, rules rings.Rules) error {
	p, bind, err := a.attach(i, rules)
	if err != nil {
		return err
	}
	a.programs = append(a.programs, p)
	return a.openQueues(i, bind, false)
}

// attach attaches the program of a port and says how its sockets are to be bound.
func (a *assembly) attach(i int, rules rings.Rules) (*rings.Program, rings.BindMode, error) {
	cfg, bind := a.programConfig(i, rules)
	p, err := rings.AttachProgram(cfg)
	if err != nil {
		return nil, 0, fmt.Errorf("port %s: %w", a.file.Ports[i].Name, err)
	}
	if p.Mode() == rings.AttachGeneric && bind == rings.BindAuto {
		bind = rings.BindCopy
	}
	for _, note := range p.Notes() {
		a.log.Info("XDP program", "port", a.file.Ports[i].Name, "note", note)
	}
	return p, bind, nil
}

// programConfig describes the program of a port, and how its sockets are to be bound.
func (a *assembly) programConfig(i int, rules rings.Rules) (rings.ProgramConfig, rings.BindMode) {
	f := &a.ifaces[i]
	cfg := rings.ProgramConfig{
		Interface: f.name, Ifindex: f.index, Queues: f.queues, Rules: rules,
		HoldTime: a.file.Engine.HoldTime, AfterHoldPass: a.file.Engine.AfterHold == AfterHoldPass, MultiBuffer: f.jumbo,
	}
	bind := rings.BindAuto
	switch a.file.Engine.Mode {
	case BindZeroCopy:
		cfg.Mode, bind = rings.AttachNative, rings.BindZeroCopy
	case BindCopy:
		bind = rings.BindCopy
	case BindGeneric:
		cfg.Mode, bind = rings.AttachGeneric, rings.BindCopy
	}
	return cfg, bind
}

// queueConfig describes a socket.
func (a *assembly) queueConfig(port, queue int, bind rings.BindMode, txOnly bool) rings.XSKConfig {
	f, e := &a.ifaces[port], &a.file.Engine
	return rings.XSKConfig{
		Interface: f.name, Ifindex: f.index, Queue: queue, Mode: bind, RingSize: e.RingSize, TxBudget: e.TxBudget, TxOnly: txOnly, MultiBuffer: f.jumbo,
		BusyPoll: rings.BusyPoll{Enabled: e.BusyPoll.Enabled && !txOnly, Timeout: e.BusyPoll.Timeout, Budget: e.BusyPoll.Budget},
	}
}

func (a *assembly) openQueues(port int, bind rings.BindMode, txOnly bool) error {
	a.queues = append(a.queues, nil)
	for q := range a.ifaces[port].queues {
		o, err := a.openQueue(a.queueConfig(port, q, bind, txOnly))
		if err != nil {
			return err
		}
		a.queues[port] = append(a.queues[port], o)
	}
	return nil
}

// openQueue opens one socket.
func (a *assembly) openQueue(cfg rings.XSKConfig) (openQueue, error) {
	if a.file.Engine.Driver == DriverAsavie && !cfg.TxOnly {
		s, err := rings.OpenAsavie(a.region, cfg)
		if err != nil {
			return openQueue{}, err
		}
		return openQueue{Queue: s, fd: s.FD(), mode: modeName(s.ZeroCopy())}, nil
	}
	s, err := rings.OpenXSK(a.region, cfg)
	if err != nil {
		return openQueue{}, err
	}
	return openQueue{Queue: s, fd: s.FD(), mode: modeName(s.ZeroCopy()), note: s.Note()}, nil
}

func modeName(zeroCopy bool) string {
	if zeroCopy {
		return "zero-copy"
	}
	return "copy"
}

// start makes the engine over the open queues, lets adopt fill its tables, and runs it; then the programs get the sockets.
func (a *assembly) start(cfg *engine.Config, dict *engine.Dictionary, adopt func() error) error {
	opt := a.seats(a.plan, a.memory)
	opt.Region, opt.Secret = a.region, a.secret
	var err error
	if a.engine, err = engine.New(opt, cfg, dict); err != nil {
		return err
	}
	if err := adopt(); err != nil {
		return err
	}
	if err := a.engine.Start(); err != nil {
		return err
	}
	for port, p := range a.programs {
		for q := range a.queues[port] {
			if err := p.SetSocket(q, a.queues[port][q].fd); err != nil {
				return fmt.Errorf("port %s: %w", a.file.Ports[port].Name, err)
			}
		}
	}
	return nil
}

// seats describes the workers of a plan to the engine: queue q of every port is that of worker q mod workers.
func (a *assembly) seats(p *plan, tables []tableMemory) engine.Options {
	opt := engine.Options{
		Capacity: a.file.tableCapacity(p.workers), Persistence: p.persistence, Cores: p.cores, Nice: nice(p.cores), Polling: p.polling, Workers: make([][]engine.PortQueue, p.workers),
		// What comes in one go from the rings of both sides.
		Handoff: max(1024, 2*a.file.Engine.RingSize),
	}
	for i := range tables {
		opt.Tables = append(opt.Tables, tables[i].flows)
	}
	for port := range a.queues {
		for q := range a.queues[port] {
			w := q % p.workers
			opt.Workers[w] = append(opt.Workers[w], engine.PortQueue{Port: port, Number: q, Queue: a.queues[port][q].Queue, TxOnly: port == len(a.file.Ports)})
		}
	}
	return opt
}

// close takes everything apart; the engine must have been stopped. keep leaves the XDP programs attached and pinned,
// so that they hold what is ours for a successor.
func (a *assembly) close(keep bool) error {
	var errs []error
	for _, p := range a.programs {
		errs = append(errs, p.Close(!keep))
	}
	if a.engine != nil {
		errs = append(errs, a.engine.Close())
	} else if a.region != nil {
		scratch := rings.NewPool(2 * a.region.Frames())
		for _, qs := range a.queues {
			for _, q := range qs {
				errs = append(errs, q.Close(scratch))
			}
		}
	}
	for _, m := range a.memory {
		errs = append(errs, m.Unmap())
	}
	if a.region != nil {
		errs = append(errs, a.region.Close())
	}
	a.programs, a.engine, a.memory, a.region, a.queues = nil, nil, nil, nil, nil
	return errors.Join(errs...)
}
