package engine

import (
	"fmt"
	"go/token"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/go/callgraph"
	"golang.org/x/tools/go/callgraph/cha"
	"golang.org/x/tools/go/callgraph/vta"
	"golang.org/x/tools/go/packages"
	"golang.org/x/tools/go/ssa"
	"golang.org/x/tools/go/ssa/ssautil"
)

// letGo are the functions that a worker calls only while it does not hold on to its core, or that let go themselves.
var letGo = []string{
	"(*sluice/engine.worker).pin",
	"(*sluice/engine.worker).applyFrom", // run ends the stay before
	"(*sluice/engine.stay).allow",       // right after it
	"(*sluice/engine.stay).renew",
	"(*sluice/engine.stay).slept",
	"runtime.LockOSThread",
	"golang.org/x/sys/unix.Ppoll", // in sleep, between end and again
}

// harmless are the functions of others that neither wait nor make calls that the runtime is told of, or the packages that have no
// others. Every other one is taken for one that may.
var harmless = []string{
	"encoding/binary", "hash/crc32", "math", "math/bits", "net/netip", "slices", "sync/atomic",
	"time.Since", "golang.org/x/sys/unix.NsecToTimespec", "(*golang.org/x/sys/unix.Timespec).Nano",
	"golang.org/x/sys/unix.RawSyscall", "golang.org/x/sys/unix.RawSyscall6",
	"sluice/engine.procPin", "sluice/engine.procUnpin",
}

// Nothing that a worker calls while it holds on to its core can block, or makes a system call that the runtime is told of: it would end
// the process ("schedule: holding locks"), and only when it has to wait. Followed are all calls from worker.run, through
// interfaces and function values to whatever can be in them in this package, through queues to our own driver.
func TestHeldCallsNeverBlock(t *testing.T) {
	if testing.Short() {
		t.Skip("it reads the code and runs none of it: the race detector has nothing to find, and takes its time")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("needs the go command: ", err)
	}
	calls := loadCalls(t) // not kept: it is large
	w := calls.walk(t, "(*sluice/engine.worker).run")
	for _, f := range w.found {
		t.Error(f)
	}
	// What is known to be called is found: else the walk has lost its way.
	for _, name := range []string{"(*sluice/rings.XSK).Flush", "sluice/rings.wakeTx", "(*sluice/engine.worker).leave", "(*sluice/engine.worker).schedule",
		"(*sluice/engine.capture).arrive", "(*sluice/engine.priority).weigh", "(*sluice/engine.PostedMembers).apply", "(*sluice/engine.worker).active", "sluice/engine.writeEvent", "(*sluice/sched.fastest).Pick"} {
		if !w.reached[name] && !w.reached[strings.Replace(name, "*", "", 1)] {
			t.Errorf("%s is not found among %d functions", name, len(w.reached))
		}
	}
	// And what blocks is found, where it does: these do so in messages.
	for _, name := range []string{"(*sluice/engine.Pause).park", "(*sluice/engine.Engine).Scale"} {
		if found := calls.walk(t, name).found; len(found) == 0 {
			t.Errorf("nothing that blocks is found in %s", name)
		}
	}
}

// callWalk is the way from a function through all that it can call.
type callWalk struct {
	graph   *callgraph.Graph
	queue   map[string]*ssa.Function // methods of our driver
	fset    *token.FileSet
	reached map[string]bool
	found   []string
}

// walk follows the calls of a function.
func (c callWalk) walk(t *testing.T, root string) *callWalk {
	t.Helper()
	w := &c
	w.reached, w.found = map[string]bool{}, nil
	for f, n := range w.graph.Nodes {
		if f != nil && f.String() == root {
			w.follow(n, "")
			return w
		}
	}
	t.Fatalf("there is no %s", root)
	return nil
}

func loadCalls(t *testing.T) *callWalk {
	t.Helper()
	pkgs, err := packages.Load(&packages.Config{Mode: packages.LoadAllSyntax, Dir: "..", BuildFlags: []string{"-pgo=off"}}, "./engine", "./rings")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pkgs {
		for _, e := range p.Errors {
			t.Fatal(e)
		}
	}
	prog, _ := ssautil.AllPackages(pkgs, ssa.InstantiateGenerics)
	prog.Build()
	w := &callWalk{fset: prog.Fset, queue: map[string]*ssa.Function{}}
	w.graph = vta.CallGraph(ssautil.AllFunctions(prog), cha.CallGraph(prog))
	for f := range w.graph.Nodes {
		if f != nil && f.Signature.Recv() != nil && strings.HasPrefix(f.String(), "(*sluice/rings.XSK).") {
			w.queue[f.Name()] = f
		}
	}
	return w
}

// follow looks at a function and goes on to those that it calls. by is how it was reached.
func (w *callWalk) follow(n *callgraph.Node, by string) {
	name := n.Func.String()
	if w.reached[name] {
		return
	}
	w.reached[name] = true
	ours := strings.Contains(name, "sluice/")
	if known := isHarmless(n.Func); known || !ours {
		if !known {
			w.found = append(w.found, fmt.Sprintf("%s is called:%s", name, by))
		}
		return
	}
	by = "\n\tby " + name + by
	for _, b := range n.Func.Blocks {
		for _, in := range b.Instrs {
			if what := waits(in); what != "" && !(n.Func.Name() == "run" && what == "a send") { // of the outcome of pinning, at its beginning
				w.found = append(w.found, fmt.Sprintf("%s: %s%s", w.fset.Position(in.Pos()), what, by))
			}
		}
	}
	for _, e := range n.Out {
		callee := e.Callee
		if e.Site != nil && e.Site.Common().IsInvoke() && e.Site.Common().Value.Type().String() == "sluice/rings.Queue" {
			continue // below
		}
		if !slices.Contains(letGo, callee.Func.String()) {
			w.follow(callee, by)
		}
	}
	for _, b := range n.Func.Blocks {
		for _, in := range b.Instrs {
			call, ok := in.(ssa.CallInstruction)
			if ok && call.Common().IsInvoke() && call.Common().Value.Type().String() == "sluice/rings.Queue" {
				w.follow(w.graph.Nodes[w.queue[call.Common().Method.Name()]], by)
			}
		}
	}
}

func isHarmless(f *ssa.Function) bool {
	if o := f.Origin(); o != nil {
		f = o
	}
	return slices.Contains(harmless, f.String()) || f.Pkg != nil && slices.Contains(harmless, f.Pkg.Pkg.Path()) ||
		f.Object() != nil && f.Object().Pkg() != nil && slices.Contains(harmless, f.Object().Pkg().Path())
}

// waits says what an instruction waits for, if it can.
func waits(in ssa.Instruction) string {
	switch in := in.(type) {
	case *ssa.Send:
		return "a send"
	case *ssa.Select:
		if in.Blocking {
			return "a select without default"
		}
	case *ssa.UnOp:
		if in.Op == token.ARROW {
			return "a receive"
		}
	}
	return ""
}
