package rings

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// ProgramHandover is what a successor needs of an attached program. It brings its own program, with its own maps, and puts
// it into the link in one step; of the maps only the counters go on, where both count the same.
type ProgramHandover struct {
	Mode   AttachMode
	Pinned string
	Queues int
	// Descriptors. Of a program that gives them they stay its own; a program that takes them takes them over.
	Link, Counters int
}

// Handover describes the program to a successor.
func (p *Program) Handover() (ProgramHandover, error) {
	l, ok := p.link.(interface{ FD() int })
	if !ok {
		return ProgramHandover{}, fmt.Errorf("the XDP link of %s has no descriptor", p.name)
	}
	return ProgramHandover{Mode: p.mode, Pinned: p.pinned, Queues: p.queues, Link: l.FD(), Counters: p.objs.Counters.FD()}, nil
}

// SucceedProgram loads a program with its rules and sockets for an interface that has a predecessor's. The interface is not
// touched: that is for Replace. cfg.Mode must allow the mode that the link has.
func SucceedProgram(cfg ProgramConfig, h ProgramHandover) (*Program, error) {
	return succeedProgram(cfg, h, systemPins)
}

func succeedProgram(cfg ProgramConfig, h ProgramHandover, store pinStore) (_ *Program, err error) {
	l, lerr := link.NewFromFD(h.Link)
	if lerr != nil {
		lerr = errors.Join(fmt.Errorf("take over the XDP link of %s: %w", cfg.Interface, lerr), unix.Close(h.Link))
	}
	counters, cerr := ebpf.NewMapFromFD(h.Counters)
	if cerr != nil {
		cerr = errors.Join(fmt.Errorf("take over the counters of %s: %w", cfg.Interface, cerr), unix.Close(h.Counters))
	} else {
		defer counters.Close()
	}
	var p *Program
	defer func() {
		if err == nil {
			return
		}
		if p != nil {
			err = errors.Join(err, p.objs.Close())
		}
		if l != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	if err := errors.Join(lerr, cerr, cfg.complete()); err != nil {
		return nil, err
	}
	if cfg.Mode != AttachAuto && cfg.Mode != h.Mode {
		return nil, fmt.Errorf("the XDP program of %s runs in %s mode, %s is asked for", cfg.Interface, h.Mode, cfg.Mode)
	}
	cfg.counters = counters
	if p, err = loadProgram(cfg); errors.Is(err, ebpf.ErrMapIncompatible) { // another version counts other things
		cfg.counters = nil
		p, err = loadProgram(cfg)
	}
	if err != nil {
		return nil, explainLoad(cfg.Interface, err)
	}
	p.store, p.mode, p.pinned, p.adopted = store, h.Mode, h.Pinned, true
	if p.inode, err = netnsInode(); err != nil {
		return nil, err
	}
	info, err := l.Info()
	if err != nil {
		return nil, fmt.Errorf("take over the XDP link of %s: %w", p.name, err)
	}
	if info.XDP() == nil || int(info.XDP().Ifindex) != p.ifindex {
		return nil, fmt.Errorf("take over the XDP link of %s: it is not attached there (any more)", p.name)
	}
	p.link = l
	p.Beat(monotonicNow())
	return p, nil
}

// Replace makes this program the one that the link runs, if it is not; a packet sees either this one or the one before.
func (p *Program) Replace() error {
	info, err := p.link.Info()
	if err == nil && info.Program != p.id {
		err = p.link.Update(p.objs.SluiceClassify)
	}
	if err != nil {
		return fmt.Errorf("put the XDP program of %s in force: %w", p.name, err)
	}
	return nil
}
