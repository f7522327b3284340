package rings

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"
)

// ProgramCost is the time the XDP program takes for a packet under the given rules: the kernel runs it on each frame repeat
// times (BPF_PROG_TEST_RUN), on no interface and with no socket, and tells how long that took. It needs the right to load
// programs; errors.ErrUnsupported in the chain says that this is what is missing.
func ProgramCost(rules Rules, frames [][]byte, repeat int) (perPacket time.Duration, err error) {
	p, err := loadProgram(ProgramConfig{Interface: "none", Queues: 1, HoldTime: MinHoldTime, Rules: rules})
	if errors.Is(err, os.ErrPermission) || errors.Is(err, ebpf.ErrNotSupported) {
		return 0, fmt.Errorf("%w: load the XDP program: %w", errors.ErrUnsupported, err)
	}
	if err != nil {
		return 0, fmt.Errorf("load the XDP program: %w", err)
	}
	defer func() { err = errors.Join(err, p.release()) }()
	p.Beat(monotonicNow()) // as if an engine lived
	sum := time.Duration(0)
	for _, f := range frames {
		_, took, err := p.objs.SluiceClassify.Benchmark(f, repeat, nil)
		if errors.Is(err, ebpf.ErrNotSupported) {
			return 0, fmt.Errorf("%w: run the XDP program: %w", errors.ErrUnsupported, err)
		}
		if err != nil {
			return 0, fmt.Errorf("run the XDP program: %w", err)
		}
		sum += took
	}
	return sum / time.Duration(len(frames)), nil
}
