package ctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A worker has a core to itself if there is one: what shares it, a second worker on its SMT sibling or the system's other
// work, takes turns with it, and memory of another NUMA node is farther away. machine describes what there is, choose
// decides, and says why.

// machine is what the choice of cores looks at.
type machine struct {
	cores []core // that workers may be pinned to, by number
	nics  []int  // NUMA node of each port's interface; unknownNode if the system does not say
}

// core is one logical processor.
type core struct {
	id       int
	physical int // the lowest number among its SMT siblings, itself included
	node     int // NUMA node
	isolated bool
}

const unknownNode = -1

// nicNode is the NUMA node that most ports are on, the lower of two with as many.
func (m *machine) nicNode() int {
	count := map[int]int{}
	best := unknownNode
	for _, n := range m.nics {
		if n == unknownNode {
			continue
		}
		count[n]++
		if best == unknownNode || count[n] > count[best] || count[n] == count[best] && n < best {
			best = n
		}
	}
	return best
}

// choose picks a core for each worker, in ascending order, and says why these. It takes the best of what is left one by one:
// a physical core without a worker before an SMT sibling of one that has; then an isolated core before another; then any
// before the first, which has most of the system's work and the control goroutines; then those of the ports' NUMA node.
// With fewer cores than workers none is pinned: cores is nil.
func (m *machine) choose(workers int) (cores []int, why string) {
	if workers > len(m.cores) {
		return nil, fmt.Sprintf("none pinned: there are %d workers and %d cores", workers, len(m.cores))
	}
	node, first := m.nicNode(), m.cores[0].physical
	used := map[int]bool{} // physical cores
	left := slices.Clone(m.cores)
	var chosen []core
	for range workers {
		best := slices.MinFunc(left, func(a, b core) int {
			return slices.Compare(demerits(a, used, first, node), demerits(b, used, first, node))
		})
		used[best.physical] = true
		chosen = append(chosen, best)
		left = slices.DeleteFunc(left, func(c core) bool { return c.id == best.id })
	}
	slices.SortFunc(chosen, func(a, b core) int { return a.id - b.id })
	for _, c := range chosen {
		cores = append(cores, c.id)
	}
	return cores, m.explain(chosen, first, node)
}

// demerits compare element by element, the worst first.
func demerits(c core, used map[int]bool, first, node int) []int {
	bad := func(is bool) int {
		if is {
			return 1
		}
		return 0
	}
	return []int{bad(used[c.physical]), bad(!c.isolated), bad(c.physical == first), bad(node != unknownNode && c.node != node), c.id}
}

// explain says what the chosen cores have and what they lack.
func (m *machine) explain(chosen []core, first, node int) string {
	count := func(list []core, is func(core) bool) (n int) {
		for _, c := range list {
			if is(c) {
				n++
			}
		}
		return n
	}
	var parts []string
	say := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	isolated := func(c core) bool { return c.isolated }
	if n := count(chosen, isolated); n > 0 {
		say("%d of %d isolated", n, len(chosen))
	}
	local := count(chosen, func(c core) bool { return c.node == node })
	switch {
	case node == unknownNode:
		say("NUMA node of the ports unknown")
	case local == len(chosen):
		say("on NUMA node %d as the ports", node)
	default:
		say("%d of %d on NUMA node %d as the ports", local, len(chosen), node)
	}
	if count(chosen, func(c core) bool { return c.physical == first }) == 0 {
		say("the first core is spared")
	} else {
		say("the first core is used too, no other is left")
	}
	physical := map[int]int{}
	for _, c := range chosen {
		physical[c.physical]++
	}
	if shared := len(chosen) - len(physical); shared > 0 {
		say("%d workers are on SMT siblings of others", shared)
	}
	return strings.Join(parts, ", ")
}

// ids are the numbers of the cores.
func (m *machine) ids() (out []int) {
	for _, c := range m.cores {
		out = append(out, c.id)
	}
	return out
}

// thisMachine is the one that we run on.
func thisMachine(ifaces []iface) (*machine, error) {
	sys := os.DirFS("/sys")
	allowed, err := allowedCores(sys)
	if err != nil {
		return nil, err
	}
	var names []string
	for i := range ifaces {
		names = append(names, ifaces[i].name)
	}
	m := readMachine(sys, allowed, names)
	return &m, nil
}

// isolatedPath lists the cores that isolcpus took from the scheduler.
const isolatedPath = "devices/system/cpu/isolated"

// readMachine reads the topology from sys (/sys): the cores of allowed, and the node of each interface. What the system
// does not say, as in many virtual machines, is left unknown: every core is then a whole one.
func readMachine(sys fs.FS, allowed []int, interfaces []string) machine {
	var m machine
	isolated := cpuSet(sys, isolatedPath)
	node := map[int]int{}
	dirs, _ := fs.Glob(sys, "devices/system/node/node[0-9]*")
	for _, d := range dirs {
		if n, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(d), "node")); err == nil {
			for c := range cpuSet(sys, d+"/cpulist") {
				node[c] = n
			}
		}
	}
	for _, id := range allowed {
		c := core{id: id, physical: id, node: unknownNode, isolated: isolated[id]}
		if n, ok := node[id]; ok {
			c.node = n
		}
		for s := range cpuSet(sys, fmt.Sprintf("devices/system/cpu/cpu%d/topology/thread_siblings_list", id)) {
			c.physical = min(c.physical, s)
		}
		m.cores = append(m.cores, c)
	}
	slices.SortFunc(m.cores, func(a, b core) int { return a.id - b.id })
	for _, name := range interfaces {
		n := unknownNode // what the kernel says itself of a device without one
		if b, err := fs.ReadFile(sys, "class/net/"+name+"/device/numa_node"); err == nil {
			if v, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && v >= 0 {
				n = v
			}
		}
		m.nics = append(m.nics, n)
	}
	return m
}

// cpuSet reads a list such as "0-3,8"; a file that is not there or not readable is an empty one.
func cpuSet(sys fs.FS, name string) map[int]bool {
	b, err := fs.ReadFile(sys, name)
	if err != nil {
		return nil
	}
	set, err := parseCPUList(string(b))
	if err != nil {
		return nil
	}
	return set
}

// parseCPUList reads the kernel's notation of sets of processors (Documentation/admin-guide/cputopology.rst).
func parseCPUList(s string) (map[int]bool, error) {
	set := map[int]bool{}
	for part := range strings.SplitSeq(strings.TrimSpace(s), ",") {
		if part == "" {
			continue
		}
		low, high, ranged := strings.Cut(part, "-")
		a, err := strconv.Atoi(low)
		b := a
		if err == nil && ranged {
			b, err = strconv.Atoi(high)
		}
		if err != nil || a < 0 || b < a || b >= maxCores {
			return nil, fmt.Errorf("%q is not a list of processors", s)
		}
		for c := a; c <= b; c++ {
			set[c] = true
		}
	}
	return set, nil
}

// maxCores is the size of unix.CPUSet.
const maxCores = 1024

// allowedCores are those that workers may be pinned to: the process's affinity, and isolated cores, which the kernel leaves
// out of everybody's, as far as it lets us have them. An affinity that somebody has narrowed is taken as it is.
func allowedCores(sys fs.FS) ([]int, error) {
	set, err := processCores()
	if err != nil {
		return nil, err
	}
	var out []int
	for c := range maxCores {
		if set.IsSet(c) {
			out = append(out, c)
		}
	}
	return withIsolated(out, cpuSet(sys, "devices/system/cpu/online"), cpuSet(sys, isolatedPath), pinnable), nil
}

// withIsolated adds the isolated cores that may be pinned to, if allowed has all the others that are online.
func withIsolated(allowed []int, online, isolated map[int]bool, try func(core int) error) []int {
	for c := range online {
		if !isolated[c] && !slices.Contains(allowed, c) {
			return allowed
		}
	}
	out := slices.Clone(allowed)
	for c := range isolated {
		if online[c] && !slices.Contains(out, c) && try(c) == nil {
			out = append(out, c)
		}
	}
	slices.Sort(out)
	return out
}

// pinnable tries whether a thread may be pinned to a core: a cpuset may forbid it.
func pinnable(core int) error {
	outcome := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		var set unix.CPUSet
		set.Set(core)
		err := unix.SchedSetaffinity(0, &set)
		if err == nil {
			var got unix.CPUSet
			if err = unix.SchedGetaffinity(0, &got); err == nil && got != set {
				err = errors.New("the kernel chose other cores")
			}
		}
		outcome <- err
	}()
	return <-outcome
}
