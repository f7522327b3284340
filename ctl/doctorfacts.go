package ctl

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"sluice/rings"
)

// GatherFacts reads what the doctor judges, and changes nothing. f may be nil: then every Ethernet interface that is up is
// looked at, with the defaults of a configuration. It works without privilege; what it may not read is noted as unknown.
func GatherFacts(f *File) (*Facts, error) {
	facts := &Facts{Siblings: map[int][]int{}, Capabilities: effectiveCapabilities()}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return nil, fmt.Errorf("ask for the kernel's version: %w", err)
	}
	facts.Release = unix.ByteSliceToString(uts.Release[:])
	facts.AFXDP = tryAFXDP()
	if err := rings.ProbeMultiBuffer(); errors.Is(err, rings.ErrNoMultiBuffer) {
		facts.NoMultiBuffer = err.Error()
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return nil, fmt.Errorf("ask for the limit of locked memory: %w", err)
	}
	facts.MemlockLimit = limit.Cur
	facts.HugePages, facts.HugePageSize = meminfo("HugePages_Free"), meminfo("Hugepagesize")<<10
	var fs unix.Statfs_t
	facts.BPFFS = unix.Statfs("/sys/fs/bpf", &fs) == nil && fs.Type == unix.BPF_FS_MAGIC
	facts.Unkept = unkept(facts.Capabilities)
	facts.ClockSource = readWord("/sys/devices/system/clocksource/clocksource0/current_clocksource")
	facts.RPFilterAll = netSetting("ipv4/conf/all/rp_filter")
	facts.Forward4, facts.Forward6 = netSetting("ipv4/ip_forward") == 1, netSetting("ipv6/conf/all/forwarding") == 1
	var err error
	if facts.Cores, err = allowedCores(os.DirFS("/sys")); err != nil {
		return nil, err
	}
	facts.Isolated = coreList(readWord("/sys/devices/system/cpu/isolated"))
	for _, c := range facts.Cores {
		facts.Siblings[c] = coreList(readWord(fmt.Sprintf("/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", c)))
	}
	if facts.Ports, err = gatherPorts(f); err != nil {
		return nil, err
	}
	if f != nil {
		if facts.Own, err = f.ownVirtuals(); err != nil {
			return nil, err
		}
	}
	facts.Wants = wants(f)
	return facts, nil
}

// wants is what f asks of this host, or what its defaults do.
func wants(f *File) Wants {
	if f == nil {
		return Wants{Mode: BindAuto, FrameSize: 2048, HostPort: true, HugePages: true}
	}
	e := &f.Engine
	w := Wants{File: true, Mode: e.Mode, FrameSize: e.FrameSize, HostPort: e.HostPort, HugePages: e.HugePages == HugePagesAuto, Busy: e.Polling == PollingBusy}
	ifaces, err := f.interfaces()
	if err != nil {
		return w // said of the port
	}
	p, err := f.plan(ifaces)
	if err != nil {
		w.Problem = err.Error()
		return w
	}
	tables, frames := f.memory(p)
	w.Workers, w.WorkerCores = p.workers, p.cores
	w.Memlock, w.Huge = uint64(frames*f.sockets(ifaces, p)), uint64(frames+tables)
	return w
}

// tryAFXDP is why there are no AF_XDP sockets here, or nothing. That this process may not open one is said of its capabilities.
func tryAFXDP() string {
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	if err == nil || errors.Is(err, unix.EPERM) {
		return ""
	}
	return err.Error()
}

// effectiveCapabilities is the effective set of the calling thread (capabilities(7)).
func effectiveCapabilities() (set uint64) {
	b, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "CapEff:"); ok {
			set, _ = strconv.ParseUint(strings.TrimSpace(rest), 16, 64)
		}
	}
	return set
}

// meminfo is a number of /proc/meminfo, in its own unit, 0 if it is not there.
func meminfo(key string) (n uint64) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			n, _ = strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
		}
	}
	return n
}

func readWord(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// netSetting is a number below /proc/sys/net of the network namespace, -1 if it cannot be read.
func netSetting(path string) int {
	n, err := strconv.Atoi(readWord("/proc/sys/net/" + path))
	if err != nil {
		return -1
	}
	return n
}

// coreList reads a list of the kernel's, such as 0-3,8. What is no list is empty.
func coreList(s string) (out []int) {
	for _, part := range strings.Split(s, ",") {
		first, last, ranged := strings.Cut(part, "-")
		if !ranged {
			last = first
		}
		a, errA := strconv.Atoi(first)
		b, errB := strconv.Atoi(last)
		if errA != nil || errB != nil || b-a > 1<<16 {
			continue
		}
		for ; a <= b; a++ {
			out = append(out, a)
		}
	}
	return out
}

// inNamespace runs f in the network namespace behind fd, on a thread of its own that ends with it.
func inNamespace(fd int, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends here, in the other namespace
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}
