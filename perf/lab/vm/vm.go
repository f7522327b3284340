// Package vm proves sluice on real Linux NIC drivers, in a machine that QEMU emulates: no KVM, no NIC and no network of
// the host are needed. A machine has four NICs, joined in pairs by QEMU's own hubs, or by bridges in a network namespace of
// their own (taps.go), and by nothing else:
//
//	                     one emulated machine
//	┌──────────────────────────────────────────────────────────────┐
//	│ namespace client     namespace lb            namespace server │
//	│ ┌──────────┐       ┌──────────────────┐       ┌──────────┐    │
//	│ │  peer-a  │       │ outside   inside │       │  peer-b  │    │
//	│ └────┬─────┘       └───┬──────────┬───┘       └────┬─────┘    │
//	└──────┼─────────────────┼──────────┼────────────────┼──────────┘
//	       └───── hub 1 ─────┘          └───── hub 2 ────┘
//
// outside and inside have the driver under test, the peers are plain virtio NICs. The namespaces are those of perf/lab.
//
// The host's side (Run) fetches a kernel of Debian through apt into a cache directory, packs an initramfs of three
// things: kernel modules, the static sluice binary, and the running program itself as /init. The guest's side (Init)
// does what its Plan says and reports facts, one JSON Record a line, over a serial port. It judges nothing: Judge does,
// on the host, where the expected digests are computed again.
//
// The order of a run: packages.go, kernel.go, initramfs.go, taps.go, machine.go | guest.go, guestnet.go, guestrun.go,
// guesttraffic.go | judge.go.
package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Release is a release of Debian whose kernel is run.
type Release struct {
	Name  string // for people and for the cache
	Suite string // of the archive
}

// The releases. Testing has the newest kernel that Debian releases.
var (
	Testing  = Release{"testing", "testing"}
	Bookworm = Release{"12", "bookworm"}
)

// Scenario is a driver on a kernel and what must be seen there.
type Scenario struct {
	Name     string
	Release  Release
	Driver   string // module of the NICs under test: virtio_net or igb
	Queues   int    // that the driver must show
	ZeroCopy bool   // must be seen; otherwise copy mode with a reason must
	Plan     Plan
}

// Scenarios are all that there are, in the order in which they run.
func Scenarios() []Scenario {
	return []Scenario{
		{Name: "igb", Release: Testing, Driver: "igb", Queues: cpus, ZeroCopy: true, Plan: Plan{FrameSize: 4096, Full: true, VLAN: true, Small: true, Channels: 8}},
		{Name: "virtio", Release: Testing, Driver: "virtio_net", Queues: cpus, ZeroCopy: true, Plan: Plan{FrameSize: 2048, Full: true}},
		{Name: "igb-6.1", Release: Bookworm, Driver: "igb", Queues: cpus, Plan: Plan{FrameSize: 4096, TakeoverRefused: true}},
		{Name: "virtio-6.1", Release: Bookworm, Driver: "virtio_net", Queues: cpus, Plan: Plan{FrameSize: 2048, TakeoverRefused: true}},
	}
}

// Options are what a run needs of its surroundings.
type Options struct {
	Cache  string // directory for packages; made if it is not there
	Sluice string // the static binary under test
	Init   string // the static binary whose process 1 calls Init
	Log    func(format string, args ...any)
}

// ErrUnavailable is wrapped by errors that say that this machine cannot run the tests, not that they failed.
var ErrUnavailable = errors.New("not available here")

func unavailable(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrUnavailable, fmt.Errorf(format, args...))
}

// machineTime bounds one machine, from power on to power off. On two idle cores it takes one to two minutes.
const machineTime = 8 * time.Minute

// Run runs one scenario and returns what the guest reported. An error is one of the machine: a guest that reports bad
// facts is for Judge. The console's output is in the cache, under console-NAME.log.
func Run(ctx context.Context, s Scenario, o Options) ([]Record, error) {
	if err := os.MkdirAll(o.Cache, 0o755); err != nil {
		return nil, err
	}
	qemu, err := findQEMU(ctx, o)
	if err != nil {
		return nil, err
	}
	debs, err := fetchKernel(ctx, s.Release, o)
	if err != nil {
		return nil, err
	}
	k, err := unpackKernel(ctx, debs, filepath.Join(o.Cache, s.Release.Name, "root"), modulesFor(s.Driver))
	if err != nil {
		return nil, err
	}
	initrd := filepath.Join(o.Cache, "initramfs-"+s.Name)
	if err := writeInitramfs(initrd, s, k, o); err != nil {
		return nil, fmt.Errorf("write %s: %w", initrd, err)
	}
	defer os.Remove(initrd)
	o.Log("%s: %s under %s", s.Name, k.release, filepath.Base(qemu))
	ctx, cancel := context.WithTimeout(ctx, machineTime)
	defer cancel()
	m := machine{qemu: qemu, kernel: k.image, initrd: initrd, driver: s.Driver, console: filepath.Join(o.Cache, "console-"+s.Name+".log")}
	if s.Taps() {
		if m.taps, err = newNetwork(ctx, s.Queues); err != nil {
			return nil, err
		}
		m.queues = s.Queues
	}
	records, err := m.run(ctx, o.Log)
	// QEMU 10.0 was seen to fail an assertion of its own (iotlb_to_section) while a kernel started its processors.
	if aborted(err) && len(records) == 0 {
		o.Log("%s: QEMU has aborted before the guest said anything; once more: %v", s.Name, err)
		records, err = m.run(ctx, o.Log)
	}
	if m.taps != nil {
		err = errors.Join(err, m.taps.Close())
	}
	return records, err
}

// aborted reports whether a program ended itself by SIGABRT, as a failed assertion does.
func aborted(err error) bool {
	var e *exec.ExitError
	if !errors.As(err, &e) {
		return false
	}
	status, ok := e.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGABRT
}
