package ctl

import (
	"errors"
	"fmt"
	"log/slog"

	"sluice/engine"
	"sluice/flow"
	"sluice/rings"
)

// assembly is what an engine is built from, in the order in which it is opened; close takes it apart in reverse.
type assembly struct {
	file     *File
	ifaces   []iface // by port; the host port, if any, is last
	plan     *plan
	region   *rings.Region
	programs []*rings.Program // by port of the file
	queues   [][]openQueue    // by port
	memory   []rings.Mapping  // of the connection tables, unless they are files of tables
	tables   *tableStore      // nil: the tables end with the process
	secret   flow.Secret
	flows    [][]byte // the tables' memory, by worker
	engine   *engine.Engine
	log      *slog.Logger
}

type openQueue struct {
	rings.Queue
	fd   int
	mode string
	note string
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
	if a.region, err = rings.NewRegion(a.plan.frames, e.FrameSize, e.HugePages == HugePagesAuto); err != nil {
		return err
	}
	a.log.Info("frames", "count", a.plan.frames, "bytes", e.FrameSize, "memory", a.region.Pages())
	a.secret = newSecret()
	for w := range a.plan.workers {
		if err := a.openTable(w); err != nil {
			return fmt.Errorf("connection table of worker %d (engine.connections: %d): %w", w, e.Connections, err)
		}
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

// openTable takes the memory of a worker's connection table, from a file if tables are kept.
func (a *assembly) openTable(w int) error {
	if a.tables != nil {
		b, err := a.tables.create(w, a.file.tableCapacity(a.plan.workers), a.secret)
		a.flows = append(a.flows, b)
		return err
	}
	m, err := rings.MapShared(fmt.Sprintf("sluice-flows-%d", w), a.file.tableSize(a.plan.workers), a.file.Engine.HugePages == HugePagesAuto)
	if err != nil {
		return err
	}
	a.memory, a.flows = append(a.memory, m), append(a.flows, m.Bytes)
	return nil
}

func (a *assembly) openPort(i int, rules rings.Rules) error {
	f := &a.ifaces[i]
	cfg := rings.ProgramConfig{
		Interface: f.name, Ifindex: f.index, Queues: f.queues, Rules: rules,
		HoldTime: a.file.Engine.HoldTime, AfterHoldPass: a.file.Engine.AfterHold == AfterHoldPass,
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
	p, err := rings.AttachProgram(cfg)
	if err != nil {
		return fmt.Errorf("port %s: %w", a.file.Ports[i].Name, err)
	}
	a.programs = append(a.programs, p)
	if p.Mode() == rings.AttachGeneric && bind == rings.BindAuto {
		bind = rings.BindCopy
	}
	for _, note := range p.Notes() {
		a.log.Info("XDP program", "port", a.file.Ports[i].Name, "note", note)
	}
	return a.openQueues(i, bind, false)
}

func (a *assembly) openQueues(port int, bind rings.BindMode, txOnly bool) error {
	f, e := &a.ifaces[port], &a.file.Engine
	a.queues = append(a.queues, nil)
	for q := range f.queues {
		cfg := rings.XSKConfig{
			Interface: f.name, Ifindex: f.index, Queue: q, Mode: bind, RingSize: e.RingSize, TxBudget: e.TxBudget, TxOnly: txOnly,
			BusyPoll: rings.BusyPoll{Enabled: e.BusyPoll.Enabled && !txOnly, Timeout: e.BusyPoll.Timeout, Budget: e.BusyPoll.Budget},
		}
		if e.Driver == DriverAsavie && !txOnly {
			s, err := rings.OpenAsavie(a.region, cfg)
			if err != nil {
				return err
			}
			a.queues[port] = append(a.queues[port], openQueue{Queue: s, fd: s.FD(), mode: modeName(s.ZeroCopy())})
			continue
		}
		s, err := rings.OpenXSK(a.region, cfg)
		if err != nil {
			return err
		}
		a.queues[port] = append(a.queues[port], openQueue{Queue: s, fd: s.FD(), mode: modeName(s.ZeroCopy()), note: s.Note()})
	}
	return nil
}

func modeName(zeroCopy bool) string {
	if zeroCopy {
		return "zero-copy"
	}
	return "copy"
}

// start makes the engine over the open queues, lets adopt fill its tables, and runs it; then the programs get the sockets.
func (a *assembly) start(cfg *engine.Config, dict *engine.Dictionary, adopt func() error) error {
	opt := engine.Options{
		Region: a.region, Capacity: a.file.tableCapacity(a.plan.workers), Secret: a.secret,
		Cores: a.plan.cores, Polling: a.plan.polling, Workers: make([][]engine.PortQueue, a.plan.workers),
	}
	opt.Tables = a.flows
	for port := range a.queues {
		for q := range a.queues[port] {
			w := q % a.plan.workers
			opt.Workers[w] = append(opt.Workers[w], engine.PortQueue{Port: port, Queue: a.queues[port][q].Queue, TxOnly: port == len(a.file.Ports)})
		}
	}
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
	a.programs, a.engine, a.memory, a.flows, a.region, a.queues = nil, nil, nil, nil, nil, nil
	return errors.Join(errs...)
}
