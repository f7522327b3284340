package rings

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// AttachMode is where the XDP program runs.
type AttachMode uint8

const (
	AttachAuto    AttachMode = iota // native, or generic where the driver refuses
	AttachNative                    // in the driver
	AttachGeneric                   // in the stack, on an skb
)

func (m AttachMode) String() string {
	switch m {
	case AttachNative:
		return "native"
	case AttachGeneric:
		return "generic"
	}
	return "auto"
}

// ProgramConfig is all that the program must know before its first packet: a program that is attached with its
// rules missing passes connections in flight to the kernel, which resets them.
type ProgramConfig struct {
	Interface string // name or Ifindex, or both
	Ifindex   int
	Mode      AttachMode
	Queues    int // receive queues of the interface, each may get a socket
	Rules     Rules
	Sockets   map[int]int // AF_XDP sockets that exist already, by queue; others come by SetSocket

	// HoldTime is how long after the last Beat packets without a socket are held back (dropped). After it the
	// kernel gets them (AfterHoldPass) or nobody. The default is DefaultHoldTime, the least MinHoldTime.
	HoldTime      time.Duration
	AfterHoldPass bool

	// MultiBuffer accepts frames of several buffers, which a driver may demand for a jumbo MTU (Linux 5.18).
	// The sockets must then have XDP_USE_SG.
	MultiBuffer bool

	counters *ebpf.Map // of a predecessor, to go on with
}

// DefaultHoldTime and MinHoldTime bound ProgramConfig.HoldTime. The program's clock ticks every few milliseconds,
// so much less than the minimum would be past before it is noticed.
const (
	DefaultHoldTime = 10 * time.Second
	MinHoldTime     = 100 * time.Millisecond
)

// ProgramCounters count every frame that the program has seen as one of these, since it was loaded.
type ProgramCounters struct {
	Passed           uint64 // not ours: to the kernel
	Redirected       uint64 // ours: to the socket of the queue
	Held             uint64 // ours, but the queue has no socket: dropped
	WildcardPassed   uint64 // ours by a wildcard only, and no socket: to the kernel
	AfterHoldPassed  uint64 // ours, but the hold time is over: to the kernel
	AfterHoldDropped uint64 // ours, but the hold time is over: dropped
	MalformedPassed  uint64 // headers up to IP do not fit: to the kernel, which counts them too
}

// Add adds the counters of another program.
func (c *ProgramCounters) Add(o *ProgramCounters) {
	c.Passed += o.Passed
	c.Redirected += o.Redirected
	c.Held += o.Held
	c.WildcardPassed += o.WildcardPassed
	c.AfterHoldPassed += o.AfterHoldPassed
	c.AfterHoldDropped += o.AfterHoldDropped
	c.MalformedPassed += o.MalformedPassed
}

// Program is the XDP program of one port with its maps.
//
// It needs Linux 5.11, for the coarse clock and because maps do not count against RLIMIT_MEMLOCK from there on.
// The control goroutine owns it; its methods other than Close may nonetheless be called concurrently, and
// Beat at any time. It holds four map descriptors, one of the program and one of the link, until Close.
type Program struct {
	ifindex int
	name    string
	mode    AttachMode
	adopted bool
	notes   []string
	store   pinStore
	inode   uint64
	pinned  string // folder of the pin, or empty

	mu       sync.Mutex // for rules, closed and detached
	closed   bool
	detached bool
	inner    *ebpf.MapSpec // of a rule table
	queues   int
	id       ebpf.ProgramID
	objs     classifyObjects
	link     link.Link
	config   programConfig
}

// AttachProgram loads the program with its rules and attaches it to the interface, or puts it in the place of the
// one that an earlier engine left pinned there, without a packet in between that sees neither.
func AttachProgram(cfg ProgramConfig) (*Program, error) { return attachProgram(cfg, systemPins) }

func attachProgram(cfg ProgramConfig, store pinStore) (_ *Program, err error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	p, err := loadProgram(cfg)
	if err != nil {
		return nil, explainLoad(cfg.Interface, err)
	}
	p.store = store
	defer func() {
		if err != nil {
			p.release()
		}
	}()
	if p.inode, err = netnsInode(); err != nil {
		return nil, err
	}
	unlock, lockErr := store.acquire()
	if lockErr == nil {
		defer unlock()
	}
	p.Beat(monotonicNow())
	if lockErr == nil {
		if err := p.adopt(cfg); err != nil {
			return nil, err
		}
	}
	if p.adopted {
		return p, nil
	}
	if err := p.attach(cfg.Mode); err != nil {
		return nil, err
	}
	if lockErr == nil {
		p.pinned, lockErr = store.pin(p.link, p.inode, p.ifindex)
	}
	switch {
	case lockErr != nil:
		p.note("not pinned, so it ends with this process: %v", lockErr)
	case privateMounts() && p.pinned != "":
		p.note("pinned in a private mount namespace (ip netns exec makes one): the pin ends with it")
	}
	return p, nil
}

// complete checks the configuration and fills in what has a default.
func (cfg *ProgramConfig) complete() error {
	var i *net.Interface
	var err error
	if cfg.Interface != "" {
		i, err = net.InterfaceByName(cfg.Interface)
	} else {
		i, err = net.InterfaceByIndex(cfg.Ifindex)
	}
	if err != nil {
		return fmt.Errorf("XDP program: interface %q (index %d): %w", cfg.Interface, cfg.Ifindex, err)
	}
	if cfg.Ifindex != 0 && cfg.Ifindex != i.Index {
		return fmt.Errorf("XDP program: interface %s has index %d, not %d: it was replaced", i.Name, i.Index, cfg.Ifindex)
	}
	cfg.Interface, cfg.Ifindex = i.Name, i.Index
	if cfg.Queues < 1 {
		return fmt.Errorf("XDP program of %s: %d queues, needs at least one", i.Name, cfg.Queues)
	}
	if cfg.HoldTime == 0 {
		cfg.HoldTime = DefaultHoldTime
	}
	if cfg.HoldTime < MinHoldTime {
		return fmt.Errorf("XDP program of %s: hold time %v, the least is %v", i.Name, cfg.HoldTime, MinHoldTime)
	}
	return nil
}

// loadProgram makes a program that is complete but for being attached.
func loadProgram(cfg ProgramConfig) (_ *Program, err error) {
	spec, err := loadClassify()
	if err != nil {
		return nil, err
	}
	spec.Maps[classifyMapXsks].MaxEntries = uint32(cfg.Queues)
	if cfg.MultiBuffer {
		spec.Programs[classifyProgSluiceClassify].Flags |= unix.BPF_F_XDP_HAS_FRAGS
	}
	p := &Program{ifindex: cfg.Ifindex, name: cfg.Interface, queues: cfg.Queues, inner: spec.Maps[classifyMapRules].InnerMap}
	if p.inner.KeySize != ruleKeySize || p.inner.ValueSize != ruleValueSize {
		return nil, errors.New("the committed object does not fit this program: run go generate")
	}
	var opts ebpf.CollectionOptions
	if cfg.counters != nil {
		opts.MapReplacements = map[string]*ebpf.Map{classifyMapCounters: cfg.counters}
	}
	if err := spec.LoadAndAssign(&p.objs, &opts); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			p.release()
		}
	}()
	info, err := p.objs.SluiceClassify.Info()
	if err != nil {
		return nil, err
	}
	p.id, _ = info.ID()
	memory, err := mapProgramConfig(p.objs.Config)
	if err != nil {
		return nil, err
	}
	// Unmapped only when nobody can call Beat any more: a page is kept a little longer, and no order of Close
	// and a last Beat is wrong.
	runtime.AddCleanup(p, func(b []byte) { _ = unix.Munmap(b) }, memory)
	p.config = programConfigOver(memory)
	p.config.setHold(uint64(cfg.HoldTime))
	p.config.setAfterHoldPass(cfg.AfterHoldPass)
	if err := p.SetRules(cfg.Rules); err != nil {
		return nil, err
	}
	for queue, fd := range cfg.Sockets {
		if err := p.SetSocket(queue, fd); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Mode is where the program runs: native or generic.
func (p *Program) Mode() AttachMode { return p.mode }

// Adopted reports whether the program took the place of one that was pinned.
func (p *Program) Adopted() bool { return p.adopted }

// Pinned is the folder of the pin, empty when the program ends with this process.
func (p *Program) Pinned() string { return p.pinned }

// Notes are what the user may want to know about the way the program was attached.
func (p *Program) Notes() []string { return p.notes }

func (p *Program) note(format string, args ...any) {
	p.notes = append(p.notes, fmt.Sprintf("XDP program of "+p.name+": "+format, args...))
}

// SetSocket sends what is ours of a receive queue to an AF_XDP socket, which must have its rings and memory and
// be bound to that queue, or be so before packets come.
func (p *Program) SetSocket(queue int, fd int) error {
	if queue < 0 || queue >= p.queues {
		return fmt.Errorf("XDP socket of %s queue %d: the program was attached for %d queues", p.name, queue, p.queues)
	}
	if err := p.objs.Xsks.Put(uint32(queue), uint32(fd)); err != nil {
		return fmt.Errorf("XDP socket of %s queue %d: %w", p.name, queue, err)
	}
	return nil
}

// ClearSocket takes the socket of a queue away, if there is one. Closing the socket does the same.
func (p *Program) ClearSocket(queue int) error {
	err := p.objs.Xsks.Delete(uint32(queue))
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("clear XDP socket of %s queue %d: %w", p.name, queue, err)
	}
	return nil
}

// SetRules puts a new set of rules in the place of the present one. No packet sees a mixture: the new table is
// built aside and takes effect by one update, after which no packet is under the old one. On error nothing has
// changed.
func (p *Program) SetRules(r Rules) error {
	entries, wildcard, err := r.compile()
	if err != nil {
		return fmt.Errorf("rules of %s: %w", p.name, err)
	}
	spec := p.inner.Copy()
	spec.MaxEntries = uint32(max(len(entries), 1))
	table, err := ebpf.NewMap(spec)
	if err != nil {
		return fmt.Errorf("rules of %s: table of %d entries: %w", p.name, len(entries), err)
	}
	defer table.Close() // the map of maps keeps it
	keys, values := make([]ruleKey, 0, len(entries)), make([]ruleValue, 0, len(entries))
	for k, v := range entries {
		keys, values = append(keys, k), append(values, v)
	}
	if len(keys) > 0 {
		if _, err := table.BatchUpdate(keys, values, nil); err != nil {
			return fmt.Errorf("rules of %s: fill table: %w", p.name, err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	// A wildcard takes what no rule of the table excepts. So one that goes, goes before the table with its
	// exceptions does, and one that comes, comes after.
	before := p.config.wildcard()
	p.config.setWildcard(before & wildcard)
	if err := p.objs.Rules.Put(uint32(0), table); err != nil {
		p.config.setWildcard(before)
		return fmt.Errorf("rules of %s: %w", p.name, err)
	}
	p.config.setWildcard(wildcard)
	return nil
}

// Beat says that workers advance as of now, in nanoseconds of CLOCK_MONOTONIC. It is a store, for any goroutine.
func (p *Program) Beat(now uint64) { p.config.setHeartbeat(now) }

// Counters sums the counters of all CPUs.
func (p *Program) Counters() (ProgramCounters, error) {
	var c ProgramCounters
	var perCPU []uint64
	for i, sum := range []*uint64{
		&c.Passed, &c.Redirected, &c.Held, &c.WildcardPassed, &c.AfterHoldPassed, &c.AfterHoldDropped, &c.MalformedPassed,
	} {
		if err := p.objs.Counters.Lookup(uint32(i), &perCPU); err != nil {
			return c, fmt.Errorf("counters of the XDP program of %s: %w", p.name, err)
		}
		for _, n := range perCPU {
			*sum += n
		}
	}
	return c, nil
}

// Close lets go of the program. With detach it is removed from the interface, with its pin, unless a successor
// has adopted it. Without, what is pinned stays attached and holds or passes packets as the hold time says.
func (p *Program) Close(detach bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	var err error
	if detach && !p.detached {
		err = p.detach()
	}
	return errors.Join(err, p.release())
}

// release closes the descriptors.
func (p *Program) release() error {
	err := p.objs.Close()
	if p.link != nil {
		err = errors.Join(err, p.link.Close())
	}
	return err
}

func monotonicNow() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // impossible: the clock is always there
	}
	return uint64(ts.Nano())
}
