package result

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/klauspost/cpuid/v2"
	"golang.org/x/sys/unix"
)

// Host is the machine and the surroundings of a measurement.
type Host struct {
	CPU            string   `json:"cpu"`
	Cores          int      `json:"cores"` // that this process may use
	L2Bytes        int      `json:"l2_bytes,omitempty"`
	MemoryBytes    uint64   `json:"memory_bytes"`
	Kernel         string   `json:"kernel"`
	Go             string   `json:"go"`
	HugePages      string   `json:"huge_pages"`
	Governor       string   `json:"governor"`
	Virtualisation string   `json:"virtualisation"`
	Load           string   `json:"load"` // of the last minute when the run began, and runnable threads
	Sluice         string   `json:"sluice"`
	Date           string   `json:"date"` // RFC 3339, UTC
	Driver         string   `json:"driver,omitempty"`
	Mode           string   `json:"mode,omitempty"`
	Commands       []string `json:"commands"`
	// Taken is how often the carriers' core was taken away, of the scenarios that have one.
	Taken *Taken `json:"core_taken,omitempty"`
}

// ThisHost describes the machine. version is that of sluice, commands are what was called. What the system does not tell is
// "unknown", so that nobody takes it for something else.
func ThisHost(version string, commands ...string) Host {
	h := Host{
		CPU: cpuid.CPU.BrandName, Cores: runtime.NumCPU(), L2Bytes: max(cpuid.CPU.Cache.L2, 0), Go: runtime.Version() + " " + runtime.GOARCH,
		HugePages: hugePages(), Governor: governor(), Virtualisation: virtualisation(),
		Sluice: version + revision(), Date: time.Now().UTC().Format(time.RFC3339), Commands: commands,
		Kernel: "unknown", Load: "unknown",
	}
	if h.CPU == "" {
		h.CPU = "unknown"
	}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		h.Kernel = unix.ByteSliceToString(uts.Sysname[:]) + " " + unix.ByteSliceToString(uts.Release[:])
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		h.MemoryBytes = info.Totalram * uint64(info.Unit)
	}
	if f := strings.Fields(readLine("/proc/loadavg")); len(f) > 3 {
		h.Load = f[0] + ", " + f[3] + " threads"
	}
	return h
}

// readLine is the first line of a file, or nothing.
func readLine(name string) string {
	b, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(line)
}

// hugePages says how many there are and how transparent ones are set.
func hugePages() string {
	total, free := "0", "0"
	if f, err := os.Open("/proc/meminfo"); err == nil {
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			if v, ok := strings.CutPrefix(s.Text(), "HugePages_Total:"); ok {
				total = strings.TrimSpace(v)
			} else if v, ok := strings.CutPrefix(s.Text(), "HugePages_Free:"); ok {
				free = strings.TrimSpace(v)
			}
		}
	}
	const dir = "/sys/kernel/mm/transparent_hugepage/"
	return fmt.Sprintf("%s of 2 MiB reserved, %s free; transparent %s, shared memory %s", total, free, selected(readLine(dir+"enabled")), selected(readLine(dir+"shmem_enabled")))
}

// selected is the word in brackets of a kernel setting.
func selected(s string) string {
	if _, rest, ok := strings.Cut(s, "["); ok {
		word, _, _ := strings.Cut(rest, "]")
		return word
	}
	return "unknown"
}

func governor() string {
	if g := readLine("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"); g != "" {
		return g
	}
	return "unknown (no frequency scaling shown to this system)"
}

// virtualisation is what the processor says of a hypervisor, and the firmware of the machine where it tells.
func virtualisation() string {
	v := "none seen"
	if cpuid.CPU.Supports(cpuid.HYPERVISOR) {
		v = "hypervisor"
		if cpuid.CPU.HypervisorVendorID != cpuid.VendorUnknown {
			v = cpuid.CPU.HypervisorVendorID.String()
		}
	}
	if dmi := strings.TrimSpace(readLine("/sys/class/dmi/id/sys_vendor") + " " + readLine("/sys/class/dmi/id/product_name")); dmi != "" {
		v += ", " + dmi
	}
	return v
}

// revision is the commit that the program was built from, when it is known.
func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	rev, changed := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			rev = " " + s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = " with changes"
		}
	}
	return rev + changed
}

// Differences says in what two hosts differ that matters for a comparison.
func Differences(a, b *Host) (d []string) {
	for _, f := range []struct{ what, a, b string }{
		{"CPU", a.CPU, b.CPU}, {"cores", fmt.Sprint(a.Cores), fmt.Sprint(b.Cores)}, {"kernel", a.Kernel, b.Kernel}, {"Go", a.Go, b.Go},
		{"huge pages", a.HugePages, b.HugePages}, {"governor", a.Governor, b.Governor}, {"virtualisation", a.Virtualisation, b.Virtualisation},
		{"driver", a.Driver, b.Driver}, {"mode", a.Mode, b.Mode},
	} {
		if f.a != f.b {
			d = append(d, fmt.Sprintf("%s: %s then, %s now", f.what, f.a, f.b))
		}
	}
	return d
}
