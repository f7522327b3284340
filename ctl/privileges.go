package ctl

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// neededCapability is one that an engine holds for its life.
type neededCapability struct {
	name string
	bits []int // any of them will do
	use  string
}

// neededCapabilities are all of them; capabilities(7). Tables, pins and frames need none of root's as long as `sluice prepare`
// has made the places for them, a thread may pin itself, and settings of the namespace below /proc/sys/net are open to
// CAP_NET_ADMIN (net/sysctl_net.c, net_ctl_permissions).
var neededCapabilities = []neededCapability{
	{"CAP_NET_ADMIN", []int{unix.CAP_NET_ADMIN}, "to attach XDP programs, and for virtual addresses, neighbours and the host port"},
	{"CAP_NET_RAW", []int{unix.CAP_NET_RAW}, "to open AF_XDP sockets, and to announce virtual addresses"},
	{"CAP_BPF", []int{unix.CAP_BPF, unix.CAP_SYS_ADMIN}, "to load XDP programs and their maps"},
	// Without it the verifier refuses pointers into packets at variable offsets, such as past a VLAN tag (kernel/bpf/verifier.c,
	// sanitize_ptr_alu).
	{"CAP_PERFMON", []int{unix.CAP_PERFMON, unix.CAP_SYS_ADMIN}, "to load XDP programs that look past options and VLAN tags"},
}

// lockCapability is needed where the limit of locked memory is lower than what the frames count.
var lockCapability = neededCapability{"CAP_IPC_LOCK", []int{unix.CAP_IPC_LOCK}, "to register frames beyond the limit of locked memory"}

// missingCapabilities are those that are needed and not in set; needLock says whether frames exceed the limit of locked memory.
func missingCapabilities(set uint64, needLock bool) (missing []neededCapability) {
	needed := neededCapabilities
	if needLock {
		needed = append(slices.Clip(needed), lockCapability)
	}
	for _, c := range needed {
		if !slices.ContainsFunc(c.bits, func(b int) bool { return set&(1<<b) != 0 }) {
			missing = append(missing, c)
		}
	}
	return missing
}

// describeCapabilities gives their names, and what each is for.
func describeCapabilities(list []neededCapability) (names, uses string) {
	var n, u []string
	for _, c := range list {
		n, u = append(n, c.name), append(u, c.name+" is needed "+c.use)
	}
	return strings.Join(n, ", "), strings.Join(u, "; ")
}

// capabilityAdvice is what to do about missing ones.
const capabilityAdvice = "run as root, or by the unit in deploy/systemd, which gives them to a user of its own"

// privileges is an error about what this process may not do and a start would need. It comes before anything is changed.
func (f *File) privileges(ifaces []iface, p *plan) error {
	limit, need := f.lockedFrames(ifaces, p)
	missing := missingCapabilities(effectiveCapabilities(), limit < need)
	if len(missing) == 0 {
		return nil
	}
	names, uses := describeCapabilities(missing)
	advice := capabilityAdvice
	if missing[len(missing)-1].name == lockCapability.name {
		advice += fmt.Sprintf("; or raise the limit of locked memory, %s, above the %s that the frames count (ulimit -l unlimited, LimitMEMLOCK=infinity), or lower engine.frames", mebibytes(int(limit)), mebibytes(int(need)))
	}
	return fmt.Errorf("this process lacks %s: %s; %s", names, uses, advice)
}

// lockedFrames is the limit of locked memory, and what the frames count against it: every registration in full, unless the
// process may exceed it.
func (f *File) lockedFrames(ifaces []iface, p *plan) (limit, need uint64) {
	_, frames := f.memory(p)
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &r) != nil {
		return unix.RLIM_INFINITY, 0
	}
	return r.Cur, uint64(frames * f.sockets(ifaces, p))
}
