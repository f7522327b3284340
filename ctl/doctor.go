package ctl

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// The doctor looks at a host before an engine does. Facts are gathered first (doctorfacts*.go); what they mean is decided
// here and in doctorports.go by pure functions, so that every judgement can be tested without the hardware for it.
//
//	kernel, files, netlink ─▶ GatherFacts ─▶ Facts ─▶ Examine ─▶ Findings ─▶ table or JSON, exit code

// Level is how much a finding matters.
type Level string

// The levels, from harmless to fatal.
const (
	LevelOK   Level = "ok"
	LevelNote Level = "note" // costs something, or could be better
	LevelWarn Level = "warn" // traffic suffers in some cases
	LevelFail Level = "fail" // sluice does not start, or traffic breaks
)

// Finding is one thing that the doctor looked at.
type Finding struct {
	Level   Level  `json:"level"`
	Subject string `json:"subject"`           // host, or the port with its interface
	Check   string `json:"check"`             // a fixed word for scripts, such as rp-filter
	Text    string `json:"text"`              // what was found
	Meaning string `json:"meaning,omitempty"` // why it matters
	Mend    string `json:"mend,omitempty"`    // the command or setting that mends it
}

// DoctorReport is all that the doctor found, in the order in which it looked.
type DoctorReport struct {
	Findings []Finding `json:"findings"`
	OK       int       `json:"ok"`
	Notes    int       `json:"notes"`
	Warnings int       `json:"warnings"`
	Failures int       `json:"failures"`
}

// Facts are what the doctor knows of a host, and what the configuration asks of it. Sizes are bytes.
type Facts struct {
	Release       string // of the kernel, as uname says it
	AFXDP         string // why there are no AF_XDP sockets, or ""
	NoMultiBuffer string // why they have no packets of several frames, or ""
	Capabilities  uint64 // the effective set of this process
	MemlockLimit  uint64 // unix.RLIM_INFINITY for none
	HugePageSize  uint64
	HugePages     uint64 // those that are free
	RPFilterAll   int
	Forward4      bool
	Forward6      bool
	ClockSource   string
	BPFFS         bool   // mounted where the system has it
	Unkept        string // why this process cannot keep connection tables or pin programs, or ""

	Cores    []int // that this process may use
	Isolated []int
	Siblings map[int][]int // hardware threads of the same core, by thread

	Ports []PortFacts
	Own   []OwnVirtual // addresses of the host that virtual servers of the file take
	Wants Wants
}

// Wants is what a configuration asks of the host; without one it has the defaults.
type Wants struct {
	File      bool // there is a configuration
	Mode      BindMode
	FrameSize int
	HostPort  bool
	HugePages bool
	Busy      bool // polling never sleeps

	// Of a start on this host; zero if it could not be planned.
	Workers     int
	WorkerCores []int
	Memlock     uint64 // what all registrations of frames count
	Huge        uint64 // frames and connection tables
	Problem     string // why it could not be planned
}

// Examine judges facts.
func Examine(f *Facts) *DoctorReport {
	e := &examination{facts: f, subject: "host"}
	e.kernel()
	e.privileges()
	e.memory()
	e.forwarding()
	e.addresses()
	e.processors()
	for i := range f.Ports {
		p := &f.Ports[i]
		e.subject = p.Interface
		if p.Name != "" && p.Name != p.Interface {
			e.subject = p.Name + " (" + p.Interface + ")"
		}
		e.port(p)
	}
	r := &e.report
	for _, x := range r.Findings {
		switch x.Level {
		case LevelOK:
			r.OK++
		case LevelNote:
			r.Notes++
		case LevelWarn:
			r.Warnings++
		case LevelFail:
			r.Failures++
		}
	}
	return r
}

type examination struct {
	facts   *Facts
	subject string
	report  DoctorReport
}

func (e *examination) find(l Level, check, text, meaning, mend string) {
	e.report.Findings = append(e.report.Findings, Finding{l, e.subject, check, text, meaning, mend})
}

func (e *examination) ok(check, format string, args ...any) {
	e.find(LevelOK, check, fmt.Sprintf(format, args...), "", "")
}

// release is a version of Linux.
type release struct{ major, minor int }

func parseRelease(s string) (r release, ok bool) {
	n, _ := fmt.Sscanf(s, "%d.%d", &r.major, &r.minor)
	return r, n == 2
}

func (r release) before(o release) bool {
	return cmp.Or(cmp.Compare(r.major, o.major), cmp.Compare(r.minor, o.minor)) < 0
}

func (r release) String() string { return fmt.Sprintf("%d.%d", r.major, r.minor) }

// oldest is the kernel that sluice needs: pinned XDP links (5.9) and capabilities of BPF's own (5.8) are older.
var oldest = release{5, 11}

// kernelFeatures are those that sluice uses where they are.
var kernelFeatures = []struct {
	check string
	since release
	have  string // said of a kernel that has it
	lack  string
}{
	{"need-wakeup", release{5, 4}, "the kernel is woken only when it asks for it", "every burst costs a system call"},
	{"managed-neighbours", release{5, 16}, "the kernel keeps next hops resolved", "next hops are resolved again when they are used; a member that is quiet for long can be without one for a moment"},
	{"takeover", release{6, 4}, "run --takeover can map the rings of bound sockets", "run --takeover is refused; an upgrade restarts the engine, and connections go on when the new one serves"},
	{"tx-budget", release{6, 17}, "in copy mode a wake-up sends engine.tx-budget packets", "in copy mode a wake-up sends at most 32 packets, whatever engine.tx-budget says"},
}

func (e *examination) kernel() {
	f := e.facts
	r, ok := parseRelease(f.Release)
	switch {
	case !ok:
		e.find(LevelWarn, "kernel", fmt.Sprintf("the kernel calls itself %q", f.Release), "its version cannot be told, so its features were not judged", "")
	case r.before(oldest):
		e.find(LevelFail, "kernel", "Linux "+f.Release, "sluice needs Linux "+oldest.String()+" or newer", "install a newer kernel, then reboot")
	default:
		e.ok("kernel", "Linux %s", f.Release)
	}
	if f.AFXDP != "" {
		e.find(LevelFail, "af-xdp", "no AF_XDP sockets: "+f.AFXDP, "all packets go through them",
			"use a kernel with CONFIG_XDP_SOCKETS=y; in a container, allow socket family 44 (AF_XDP)")
	} else {
		e.ok("af-xdp", "AF_XDP sockets can be opened")
	}
	for _, k := range kernelFeatures {
		switch {
		case !ok:
		case r.before(k.since):
			e.find(LevelNote, k.check, "Linux "+k.since.String()+" has it, this is "+r.String(), k.lack, "install Linux "+k.since.String()+" or newer")
		default:
			e.ok(k.check, "%s", k.have)
		}
	}
	if f.BPFFS {
		e.ok("bpffs", "/sys/fs/bpf is mounted")
	} else {
		e.find(LevelNote, "bpffs", "no bpf file system at /sys/fs/bpf", "sluice run as root mounts one of its own under /run/sluice for the pins of its programs; for another user sluice prepare does",
			"mount -t bpf bpf /sys/fs/bpf")
	}
	switch {
	case f.ClockSource == "":
		e.find(LevelNote, "clock-source", "unknown", "whether reading the clock costs a system call cannot be told", "")
	case slices.Contains([]string{"tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page"}, f.ClockSource):
		e.ok("clock-source", "%s, which is read without a system call", f.ClockSource)
	default:
		e.find(LevelWarn, "clock-source", f.ClockSource, "each burst reads the clock, and this one costs a system call or slow I/O",
			"echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource (if available_clocksource there lists it)")
	}
}

func (e *examination) privileges() {
	// Locked memory is judged by itself.
	missing := missingCapabilities(e.facts.Capabilities, false)
	if len(missing) == 0 {
		e.ok("capabilities", "this process has those that sluice run needs")
	} else {
		names, uses := describeCapabilities(missing)
		e.find(LevelFail, "capabilities", "without "+names+" sluice run does not start", uses+". Looked at is this process, with its limits: a service that runs as another user may have what this one lacks", capabilityAdvice)
	}
	if e.facts.Unkept == "" {
		e.ok("keep-connections", "connections can outlive a restart")
	} else {
		e.find(LevelNote, "keep-connections", e.facts.Unkept, "connections end with the engine, and the kernel answers for its ports until the next one has started",
			"as root: sluice prepare --user NAME, as the unit in deploy/systemd does")
	}
}

// worse is the graver of two levels.
func worse(a, b Level) Level {
	order := []Level{LevelOK, LevelNote, LevelWarn, LevelFail}
	return order[max(slices.Index(order, a), slices.Index(order, b))]
}

func (e *examination) memory() {
	f, w := e.facts, &e.facts.Wants
	exempt := f.Capabilities&(1<<unix.CAP_IPC_LOCK) != 0
	switch {
	case exempt:
		e.ok("memlock", "CAP_IPC_LOCK lifts the limit of locked memory")
	case f.MemlockLimit == unix.RLIM_INFINITY:
		e.ok("memlock", "locked memory is not limited")
	case w.Memlock == 0:
		e.find(LevelNote, "memlock", fmt.Sprintf("the limit of locked memory is %s", mebibytes(int(f.MemlockLimit))),
			"the frames count against it once for each socket; with -c FILE the doctor computes how much", "ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit")
	case f.MemlockLimit < w.Memlock:
		e.find(LevelFail, "memlock", fmt.Sprintf("the limit of locked memory is %s, and the frames count %s", mebibytes(int(f.MemlockLimit)), mebibytes(int(w.Memlock))),
			"the kernel refuses to register the frames with the sockets", "ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit, or give CAP_IPC_LOCK")
	default:
		e.ok("memlock", "the limit of %s holds the %s that the frames count", mebibytes(int(f.MemlockLimit)), mebibytes(int(w.Memlock)))
	}
	have := f.HugePages * f.HugePageSize
	switch {
	case !w.HugePages:
		e.ok("huge-pages", "not asked for (engine.huge-pages: off)")
	case have == 0 || have < w.Huge:
		pages := uint64(64)
		if f.HugePageSize > 0 && w.Huge > 0 {
			pages = (w.Huge + f.HugePageSize - 1) / f.HugePageSize
		}
		e.find(LevelNote, "huge-pages", fmt.Sprintf("%d huge pages are free, %s", f.HugePages, mebibytes(int(have))),
			"frames and connection tables take ordinary pages where huge ones do not reach, and each look-up in a large table may cost a TLB miss",
			fmt.Sprintf("sysctl vm.nr_hugepages=%d", pages))
	default:
		e.ok("huge-pages", "%d are free, %s", f.HugePages, mebibytes(int(have)))
	}
}

func (e *examination) forwarding() {
	f := e.facts
	switch {
	case f.Forward4 || f.Forward6:
		e.find(LevelNote, "ip-forward", "the kernel forwards packets",
			"sluice does not need it: what the XDP programs do not take, or pass after engine.hold-time, the kernel routes past the virtual servers",
			"sysctl net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0 (unless this host is a router too)")
	default:
		e.ok("ip-forward", "off: nothing passes this host but by sluice")
	}
	switch {
	case f.RPFilterAll == 1 && f.Wants.HostPort:
		e.find(LevelWarn, "rp-filter", "net.ipv4.conf.all.rp_filter is 1 (strict)",
			"it holds for the host port too, where the kernel then drops members' packets for the host: their sources are routed through other interfaces",
			"sysctl net.ipv4.conf.all.rp_filter=0 (interfaces keep their own setting)")
	case f.RPFilterAll == 1:
		e.find(LevelNote, "rp-filter", "net.ipv4.conf.all.rp_filter is 1 (strict)",
			"the kernel drops what comes by another interface than it would answer by; virtual servers are not concerned", "sysctl net.ipv4.conf.all.rp_filter=2")
	default:
		e.ok("rp-filter", "net.ipv4.conf.all.rp_filter is %d", f.RPFilterAll)
	}
}

func (e *examination) addresses() {
	for i := range e.facts.Own {
		o := &e.facts.Own[i]
		e.find(LevelWarn, "host-address", fmt.Sprintf("virtual server %s: %s", o.Virtual, o.text()), "whoever administers this host over that address is cut off when sluice starts", o.mend())
	}
	if e.facts.Wants.File && len(e.facts.Own) == 0 {
		e.ok("host-address", "no virtual server takes an address of this host from it")
	}
}

func (e *examination) processors() {
	f, w := e.facts, &e.facts.Wants
	if w.Problem != "" {
		e.find(LevelFail, "plan", w.Problem, "sluice run would refuse to start", "correct the configuration; sluice check -c FILE tells the same")
	}
	if w.Workers == 0 {
		e.ok("cores", "%d cores may be used", len(f.Cores))
		return
	}
	if w.Workers > len(f.Cores) {
		e.find(LevelNote, "cores", fmt.Sprintf("%d workers on %d cores", w.Workers, len(f.Cores)), "workers take turns and are not pinned", fmt.Sprintf("set engine.workers to at most %d", len(f.Cores)))
	} else {
		e.ok("cores", "%d workers on cores %v of %v", w.Workers, w.WorkerCores, f.Cores)
	}
	shared := false
	for i, a := range w.WorkerCores {
		for _, b := range w.WorkerCores[i+1:] {
			if a != b && slices.Contains(f.Siblings[a], b) {
				shared = true
				e.find(LevelWarn, "smt", fmt.Sprintf("cores %d and %d are two threads of one core", a, b), "two workers there are little faster than one", "name threads of different cores in engine.cores (lscpu -e shows them)")
			}
		}
	}
	if !shared && len(w.WorkerCores) > 0 {
		e.ok("smt", "no two workers share a core")
	}
	var open []int
	for _, c := range w.WorkerCores {
		if !slices.Contains(f.Isolated, c) && !slices.Contains(open, c) {
			open = append(open, c)
		}
	}
	switch {
	case len(w.WorkerCores) == 0:
	case len(open) == 0:
		e.ok("cpu-isolation", "the cores of all workers are isolated")
	default:
		level := LevelNote
		if w.Busy {
			level = LevelWarn
		}
		list := strings.Trim(strings.ReplaceAll(fmt.Sprint(open), " ", ","), "[]")
		e.find(level, "cpu-isolation", fmt.Sprintf("cores %v of workers are not isolated", open), "other processes may run there, which shows as latency and full receive rings under load",
			fmt.Sprintf("boot with isolcpus=managed_irq,domain,%s nohz_full=%s", list, list))
	}
}
