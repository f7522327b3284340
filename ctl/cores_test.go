package ctl

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
)

// shape makes the cores of a machine: node and lowest SMT sibling of each, by functions of its number.
func shape(n int, node, physical func(int) int, isolated ...int) (cores []core) {
	for id := range n {
		c := core{id: id, physical: physical(id), node: node(id)}
		for _, i := range isolated {
			c.isolated = c.isolated || i == id
		}
		cores = append(cores, c)
	}
	return cores
}

func TestChooseCores(t *testing.T) {
	itself := func(c int) int { return c }
	always := func(n int) func(int) int { return func(int) int { return n } }
	eight := shape(16, always(0), func(c int) int { return c % 8 })                          // 8c16t: c and c+8
	pairs := shape(8, always(0), func(c int) int { return c &^ 1 })                          // 4c8t: neighbours are siblings
	two := shape(16, func(c int) int { return c / 4 % 2 }, func(c int) int { return c % 8 }) // 2 nodes of 4 cores, 2 threads each
	isolated := shape(8, func(c int) int { return c / 4 }, itself, 2, 3, 6)                  // 2 nodes of 4, some isolated
	isolatedSMT := shape(16, always(0), func(c int) int { return c % 8 }, 6, 7, 14, 15)      // both siblings of two
	cases := []struct {
		name    string
		cores   []core
		nics    []int
		workers int
		want    []int
		why     string // part of it
	}{
		{"one core", shape(1, always(0), itself), nil, 1, []int{0}, "first core is used too"},
		{"one core, two workers", shape(1, always(0), itself), nil, 2, nil, "none pinned"},
		{"two cores, one worker", shape(2, always(0), itself), []int{0}, 1, []int{1}, "first core is spared"},
		{"two cores, two workers", shape(2, always(0), itself), []int{0}, 2, []int{0, 1}, "first core is used too"},
		{"two threads of one core", shape(2, always(0), always(0)), nil, 2, []int{0, 1}, "1 workers are on SMT siblings"},
		{"8c16t, one", eight, []int{0}, 1, []int{1}, "first core is spared"},
		{"8c16t, all but the first", eight, []int{0}, 7, []int{1, 2, 3, 4, 5, 6, 7}, "first core is spared"},
		{"8c16t, whole cores before siblings", eight, []int{0}, 8, []int{0, 1, 2, 3, 4, 5, 6, 7}, "first core is used too"},
		{"8c16t, then siblings", eight, []int{0}, 9, []int{0, 1, 2, 3, 4, 5, 6, 7, 9}, "1 workers are on SMT siblings"},
		{"neighbours are siblings", pairs, nil, 3, []int{2, 4, 6}, "unknown, the first core is spared"},
		{"NIC on the second node", two, []int{1, 1}, 4, []int{4, 5, 6, 7}, "on NUMA node 1 as the ports, the first core is spared"},
		{"NIC on the first node", two, []int{0, 0}, 3, []int{1, 2, 3}, "on NUMA node 0"},
		{"other node before siblings and first core", two, []int{0}, 4, []int{1, 2, 3, 4}, "3 of 4 on NUMA node 0"},
		{"majority of ports", two, []int{1, 0, 1, unknownNode}, 2, []int{4, 5}, "on NUMA node 1"},
		{"as many ports on either node", two, []int{1, 0}, 2, []int{1, 2}, "on NUMA node 0"},
		{"ports say nothing", two, []int{unknownNode}, 5, []int{1, 2, 3, 4, 5}, "unknown"},
		{"isolated first", isolated, []int{1}, 1, []int{6}, "1 of 1 isolated, on NUMA node 1"},
		{"isolated of the other node, then others", isolated, []int{1}, 4, []int{2, 3, 4, 6}, "3 of 4 isolated"},
		{"isolated siblings after whole cores", isolatedSMT, nil, 3, []int{1, 6, 7}, "2 of 3 isolated"},
		{"VM without topology", shape(4, always(unknownNode), itself), []int{unknownNode}, 2, []int{1, 2}, "unknown"},
		{"restricted affinity", eight[4:7], []int{0}, 2, []int{5, 6}, "first core is spared"},
		{"restricted to siblings", []core{eight[3], eight[11]}, nil, 1, []int{3}, "first core is used too"},
	}
	for _, c := range cases {
		m := machine{cores: c.cores, nics: c.nics}
		got, why := m.choose(c.workers)
		if !reflect.DeepEqual(got, c.want) || !strings.Contains(why, c.why) {
			t.Errorf("%s: %v (%s), want %v (… %s …)", c.name, got, why, c.want, c.why)
		}
	}
}

// Whatever the machine: no core twice, none that is not allowed, and no two on siblings while a whole core is free.
func TestChooseCoresHolds(t *testing.T) {
	for n := 1; n <= 12; n++ {
		for threads := 1; threads <= 3; threads++ {
			for nodes := 1; nodes <= 3; nodes++ {
				m := machine{nics: []int{nodes - 1}, cores: shape(n, func(c int) int { return c * nodes / n }, func(c int) int { return c - c%threads }, n/2)}
				wholes := (n + threads - 1) / threads
				for w := 1; w <= n; w++ {
					cores, _ := m.choose(w)
					seen, physical := map[int]bool{}, map[int]bool{}
					for _, c := range cores {
						seen[c], physical[c-c%threads] = true, true
					}
					if len(seen) != w || len(physical) != min(w, wholes) {
						t.Fatalf("%d cores, %d threads, %d nodes, %d workers: %v", n, threads, nodes, w, cores)
					}
				}
			}
		}
	}
}

// tree is a /sys of so many cores, as a function of their number.
func tree(n int, siblings func(int) string, nodes []string, nics map[string]string) fstest.MapFS {
	fs := fstest.MapFS{}
	put := func(name, content string) { fs[name] = &fstest.MapFile{Data: []byte(content + "\n")} }
	for c := range n {
		if s := siblings(c); s != "" {
			put(fmt.Sprintf("devices/system/cpu/cpu%d/topology/thread_siblings_list", c), s)
		}
	}
	for i, list := range nodes {
		put(fmt.Sprintf("devices/system/node/node%d/cpulist", i), list)
	}
	for name, node := range nics {
		put(filepath.Join("class/net", name, "device/numa_node"), node)
	}
	return fs
}

func TestReadMachine(t *testing.T) {
	smt := tree(8, func(c int) string { return fmt.Sprintf("%d,%d", c%4, c%4+4) }, []string{"0-1,4-5", "2-3,6-7"}, map[string]string{"eth1": "1", "eth2": "-1"})
	smt[isolatedPath] = &fstest.MapFile{Data: []byte("2-3\n")}
	want := machine{nics: []int{1, unknownNode, unknownNode}, cores: []core{
		{1, 1, 0, false}, {2, 2, 1, true}, {5, 1, 0, false}, {6, 2, 1, false},
	}}
	if got := readMachine(smt, []int{6, 1, 2, 5}, []string{"eth1", "eth2", "veth0"}); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	bare := readMachine(fstest.MapFS{}, []int{0, 1}, []string{"eth0"})
	if want := (machine{nics: []int{unknownNode}, cores: []core{{0, 0, unknownNode, false}, {1, 1, unknownNode, false}}}); !reflect.DeepEqual(bare, want) {
		t.Errorf("without topology: %+v", bare)
	}
	broken := tree(2, func(int) string { return "zero" }, []string{"0-x"}, map[string]string{"eth1": "?"})
	if got := readMachine(broken, []int{0, 1}, []string{"eth1"}); !reflect.DeepEqual(got.cores, bare.cores) || got.nics[0] != unknownNode {
		t.Errorf("unreadable files: %+v", got)
	}
}

func TestParseCPUList(t *testing.T) {
	for in, want := range map[string][]int{"": {}, "\n": {}, "0\n": {0}, "0-2,5": {0, 1, 2, 5}, "3,1": {1, 3}} {
		got, err := parseCPUList(in)
		if err != nil || len(got) != len(want) {
			t.Errorf("%q: %v, %v", in, got, err)
		}
		for _, c := range want {
			if !got[c] {
				t.Errorf("%q: %v", in, got)
			}
		}
	}
	for _, in := range []string{"x", "1-", "3-1", "-1", "0-5000", "1;2"} {
		if got, err := parseCPUList(in); err == nil {
			t.Errorf("%q: %v", in, got)
		}
	}
}

func TestIsolatedCoresAreAllowed(t *testing.T) {
	set := func(cores ...int) map[int]bool {
		m := map[int]bool{}
		for _, c := range cores {
			m[c] = true
		}
		return m
	}
	refuse3 := func(c int) error {
		if c == 3 {
			return errors.New("a cpuset forbids it")
		}
		return nil
	}
	for _, c := range []struct {
		name             string
		allowed          []int
		online, isolated map[int]bool
		want             []int
	}{
		{"nothing isolated", []int{0, 1}, set(0, 1), nil, []int{0, 1}},
		{"left out by the kernel", []int{0, 1}, set(0, 1, 2), set(2), []int{0, 1, 2}},
		{"forbidden", []int{0, 1}, set(0, 1, 2, 3), set(2, 3), []int{0, 1, 2}},
		{"narrowed by somebody", []int{1}, set(0, 1, 2), set(2), []int{1}},
		{"already there", []int{0, 2}, set(0, 2), set(2), []int{0, 2}},
	} {
		if got := withIsolated(c.allowed, c.online, c.isolated, refuse3); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// On the machine of the test: every core that is said to be allowed can be pinned to, one that does not exist cannot.
func TestAllowedCores(t *testing.T) {
	allowed, err := allowedCores(os.DirFS("/sys"))
	if err != nil || len(allowed) == 0 {
		t.Fatal(allowed, err)
	}
	for _, c := range allowed {
		if err := pinnable(c); err != nil {
			t.Errorf("core %d: %v", c, err)
		}
	}
	if allowed[len(allowed)-1] != maxCores-1 && pinnable(maxCores-1) == nil {
		t.Error("a core that does not exist can be pinned to")
	}
}
