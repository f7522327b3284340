package rings

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// programName is what the kernel shows for the program (ip link, bpftool).
const programName = classifyProgSluiceClassify

// adopt puts the program in the place of the one that is pinned for this interface. A pin that cannot be used is
// removed, with a note; the caller then attaches anew. The lock of the pins is held.
func (p *Program) adopt(cfg ProgramConfig) error {
	l, folder, err := p.store.find(p.inode, p.ifindex)
	if err != nil {
		return fmt.Errorf("adopt the pinned XDP program of %s: %w%s", p.name, err, privilegeHint(err))
	}
	if l == nil {
		return nil
	}
	mode, refusal := p.adoptable(l, cfg.Mode)
	if refusal == "" {
		if err := l.Update(p.objs.SluiceClassify); err != nil {
			refusal = err.Error()
		}
	}
	if refusal != "" {
		p.note("replaced the pinned one instead of adopting it: %s", refusal)
		return errors.Join(l.Detach(), l.Close(), p.store.remove(folder))
	}
	p.link, p.mode, p.pinned, p.adopted = l, mode, folder, true
	if cfg.Mode == AttachAuto && mode == AttachGeneric {
		p.note("adopted in generic mode; to try native mode, stop the engine and release the port")
	}
	return nil
}

// adoptable returns the mode that a pinned link runs in, or why it is of no use.
func (p *Program) adoptable(l link.Link, want AttachMode) (mode AttachMode, refusal string) {
	info, err := l.Info()
	if err != nil {
		return 0, err.Error()
	}
	if info.XDP() == nil || info.XDP().Ifindex == 0 {
		return 0, "its interface is gone"
	}
	// An inode is used again once its namespace is gone, so the interface must name the program as well.
	mode, id, err := attachedProgram(p.ifindex)
	switch {
	case err != nil:
		return 0, err.Error()
	case int(info.XDP().Ifindex) != p.ifindex || id != info.Program:
		return 0, "it is attached elsewhere"
	case want != AttachAuto && want != mode:
		return 0, fmt.Sprintf("it runs in %s mode, %s is asked for", mode, want)
	}
	return mode, ""
}

// attach makes a new link, in native mode first if the mode is open.
func (p *Program) attach(mode AttachMode) error {
	if mode == AttachAuto {
		err := p.attachIn(AttachNative)
		if err == nil {
			return nil
		}
		if !refusedByDriver(err) {
			return p.explainAttach(AttachNative, err)
		}
		p.note("generic mode, as native was refused: %v%s", err, refusalHint(err))
		mode = AttachGeneric
	}
	if err := p.attachIn(mode); err != nil {
		return p.explainAttach(mode, err)
	}
	return nil
}

func (p *Program) attachIn(mode AttachMode) error {
	flags := link.XDPDriverMode
	if mode == AttachGeneric {
		flags = link.XDPGenericMode
	}
	l, err := link.AttachXDP(link.XDPOptions{Program: p.objs.SluiceClassify, Interface: p.ifindex, Flags: flags})
	if err != nil {
		return err
	}
	p.link, p.mode = l, mode
	return nil
}

// refusedByDriver tells the errors that another mode may avoid from those that it meets as well.
func refusedByDriver(err error) bool {
	for _, same := range []error{unix.EPERM, unix.EACCES, unix.EBUSY, unix.EEXIST, unix.ENODEV} {
		if errors.Is(err, same) {
			return false
		}
	}
	return true
}

// refusalHint says what a driver mostly means; its own words reach only the kernel's tracepoints.
func refusalHint(err error) string {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return " (the driver has no native XDP)"
	case errors.Is(err, unix.ERANGE):
		return " (the MTU is too large for the driver's XDP: lower it, or allow frames of several buffers)"
	case errors.Is(err, unix.ENOSPC):
		return " (too few queues: a veth needs as many receive queues as its peer has transmit queues)"
	case errors.Is(err, unix.EINVAL):
		return " (often the MTU, LRO or the number of queues: see the driver's documentation)"
	}
	return ""
}

func (p *Program) explainAttach(mode AttachMode, err error) error {
	what := fmt.Sprintf("attach the XDP program to %s in %s mode: %v", p.name, mode, err)
	switch {
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		return &attachError{what + ": " + p.occupant(), err}
	case refusedByDriver(err):
		return &attachError{what + refusalHint(err), err}
	}
	return &attachError{what + privilegeHint(err), err}
}

func explainLoad(name string, err error) error {
	what := "load the XDP program of " + name
	if errors.Is(err, unix.EPERM) {
		// The library adds advice about RLIMIT_MEMLOCK, which these kernels do not apply to maps.
		return &attachError{fmt.Sprintf("%s: %v%s", what, unix.EPERM, privilegeHint(err)), err}
	}
	return fmt.Errorf("%s: %w", what, err)
}

// attachError carries an explanation that already contains its cause.
type attachError struct {
	text  string
	cause error
}

func (e *attachError) Error() string { return e.text }
func (e *attachError) Unwrap() error { return e.cause }

// occupant names the program that has the interface, and the way to be rid of it.
func (p *Program) occupant() string {
	mode, id, err := attachedProgram(p.ifindex)
	if err != nil || id == 0 {
		return "another XDP program is in the way"
	}
	name := programNameOf(id)
	if name == programName {
		return fmt.Sprintf("another sluice (program id %d, %s mode) has the port: stop that engine, or release the port", id, mode)
	}
	return fmt.Sprintf("XDP program %q (id %d, %s mode) is attached: remove it with \"ip link set dev %s %s off\", or end its owner if that is refused",
		name, id, mode, p.name, map[AttachMode]string{AttachNative: "xdpdrv", AttachGeneric: "xdpgeneric"}[mode])
}

func programNameOf(id ebpf.ProgramID) string {
	prog, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return "?"
	}
	defer prog.Close()
	info, err := prog.Info()
	if err != nil {
		return "?"
	}
	return info.Name
}

// attachedProgram asks the kernel for the program on an interface; id is 0 when there is none.
func attachedProgram(ifindex int) (AttachMode, ebpf.ProgramID, error) {
	l, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return 0, 0, fmt.Errorf("look at the XDP program of interface %d: %w", ifindex, err)
	}
	xdp := l.Attrs().Xdp
	if xdp == nil || !xdp.Attached {
		return 0, 0, nil
	}
	mode := AttachNative
	if xdp.AttachMode == nl.XDP_ATTACHED_SKB {
		mode = AttachGeneric
	}
	return mode, ebpf.ProgramID(xdp.ProgId), nil
}

// detach removes the link and its pin, if they still are this program's.
func (p *Program) detach() error {
	unlock, err := p.store.acquire()
	if err == nil {
		defer unlock()
	}
	info, err := p.link.Info()
	if err != nil {
		return fmt.Errorf("detach the XDP program of %s: %w", p.name, err)
	}
	if info.Program != p.id {
		return nil
	}
	if err := p.link.Detach(); err != nil {
		return fmt.Errorf("detach the XDP program of %s: %w", p.name, err)
	}
	if p.pinned == "" {
		return nil
	}
	// After a release of the port, another engine may have pinned its own link there.
	l, err := loadLink(p.pinned)
	if l == nil || err != nil {
		return err
	}
	defer l.Close()
	if there, err := l.Info(); err != nil || there.ID != info.ID {
		return err
	}
	return p.store.remove(p.pinned)
}
