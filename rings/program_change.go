package rings

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Attached reports whether the program is still on its interface, which may be gone, or another under the same index.
func (p *Program) Attached() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.closed && !p.detached && linkIfindex(p.link) == p.ifindex
}

// Detach takes the program off its interface, or off what is left of it, with its pin. Rules, counters and the heartbeat can
// be used until Close.
func (p *Program) Detach() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.detached {
		return nil
	}
	p.detached = true
	return p.detach()
}

// Resize makes a program with another number of queues, with its own rules and sockets (cfg.Sockets), that goes on with the
// counters and the link of this one. It is in force when Resize returns: a packet sees either this program or that. This one
// is then to be closed.
func (p *Program) Resize(cfg ProgramConfig) (*Program, error) {
	h, err := p.Handover()
	if err != nil {
		return nil, err
	}
	if h.Link, err = unix.FcntlInt(uintptr(h.Link), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("resize the XDP program of %s: %w", p.name, err)
	}
	if h.Counters, err = unix.FcntlInt(uintptr(h.Counters), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		_ = unix.Close(h.Link)
		return nil, fmt.Errorf("resize the XDP program of %s: %w", p.name, err)
	}
	next, err := succeedProgram(cfg, h, p.store)
	if err != nil {
		return nil, err
	}
	if err := next.Replace(); err != nil {
		_ = next.Close(false)
		return nil, err
	}
	return next, nil
}
