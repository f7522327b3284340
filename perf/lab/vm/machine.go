package vm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	cpus   = 4
	memory = "1536M"
)

// NICs of the guest, by the last byte of their MAC address.
var macs = map[string]string{
	"outside": "52:54:00:00:00:01", "inside": "52:54:00:00:00:02",
	"peer-a": "52:54:00:00:00:0a", "peer-b": "52:54:00:00:00:0b",
}

// machine is one run of QEMU.
type machine struct {
	qemu, kernel, initrd string
	driver               string
	taps                 *network // what the NICs end in; nil for QEMU's hubs
	queues               int      // of a NIC under test that ends in a TAP device
	console              string   // path of the file for the kernel's messages
}

func (m *machine) args() []string {
	args := []string{
		// nodefaults also means: no network but what follows, and that ends in QEMU's hubs or in our namespace.
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-sandbox", "on",
		"-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,la57=off", "-smp", fmt.Sprint(cpus), "-m", memory,
		"-kernel", m.kernel, "-initrd", m.initrd,
		"-append", "console=ttyS0 panic=-1 loglevel=5 mitigations=off nokaslr tsc=nowatchdog rcupdate.rcu_expedited=1",
		"-chardev", "file,id=console,path=" + m.console, "-serial", "chardev:console",
		"-chardev", "stdio,id=records,signal=off", "-serial", "chardev:records",
	}
	device := map[string]string{
		// Without iommu_platform virtio keeps its rings out of the DMA API, and zero-copy is refused with EINVAL.
		"virtio_net": "virtio-net-pci,iommu_platform=on,disable-legacy=on,romfile=",
		"igb":        "igb,romfile=",
	}[m.driver]
	for i, nic := range []struct {
		name, device string
		hub          int
	}{
		{"outside", device, 1}, {"inside", device, 2},
		{"peer-a", "virtio-net-pci,romfile=", 1}, {"peer-b", "virtio-net-pci,romfile=", 2},
	} {
		backend := fmt.Sprintf("hubport,id=%s,hubid=%d", nic.name, nic.hub)
		if m.taps != nil {
			n := tapQueues(nic.name, m.queues)
			backend = fmt.Sprintf("tap,id=%s,ifname=%s,queues=%d,vhost=off,script=no,downscript=no", nic.name, nic.name, n)
			if n > 1 { // an interrupt for each half of a pair, one for the configuration and one for control
				nic.device += fmt.Sprintf(",mq=on,vectors=%d", 2*n+2)
			}
		}
		args = append(args,
			"-netdev", backend,
			"-device", fmt.Sprintf("pcie-root-port,id=slot%d,chassis=%d", i, i),
			"-device", fmt.Sprintf("%s,netdev=%s,mac=%s,bus=slot%d", nic.device, nic.name, macs[nic.name], i))
	}
	return args
}

// usualCPU is the processor time that a machine takes, to tell a slow host from a hang.
const usualCPU = 90 * time.Second

// lastWords is how much of the console an error shows.
const lastWords = 4000

// run powers the machine on and reads records until it is off. It fails unless the last one says that the guest came to
// its end.
func (m *machine) run(ctx context.Context, log func(string, ...any)) ([]Record, error) {
	cmd := exec.CommandContext(ctx, m.qemu, m.args()...)
	cmd.WaitDelay = 5 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, in, err := os.Pipe() // not cmd.StdoutPipe: that is closed at the end of QEMU, with records in it
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout = in
	began := time.Now()
	wait, err := m.start(cmd)
	if err = errors.Join(err, in.Close()); err != nil {
		return nil, err
	}
	records, err := readRecords(out, log)
	err = errors.Join(err, wait())
	wall, cpu := time.Since(began).Round(time.Second), (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Round(time.Second)
	log("        the machine ran for %s and had %s of a processor", wall, cpu)
	if ctx.Err() != nil {
		err = fmt.Errorf("the machine did not end in time (%w): it had %s of a processor in %s; a whole run needs about %s", ctx.Err(), cpu, wall, usualCPU)
	}
	if err == nil && (len(records) == 0 || !records[len(records)-1].End) {
		err = errors.New("the machine went off before the guest had come to its end")
	}
	if err != nil {
		text, _ := os.ReadFile(m.console)
		if len(text) > lastWords {
			text = text[len(text)-lastWords:]
		}
		return records, fmt.Errorf("%w\n%s\nlast on the console:\n%s", err, stderr.String(), strings.ReplaceAll(string(text), "\r", ""))
	}
	return records, nil
}

// start starts QEMU, which dies with us, in the namespace of its TAP devices if it has such, and returns what waits for its
// end.
func (m *machine) start(cmd *exec.Cmd) (wait func() error, err error) {
	if m.taps != nil {
		p, err := m.taps.host.Start(cmd)
		if err != nil {
			return nil, err
		}
		return p.Wait, nil
	}
	// The signal fires when the thread that started it ends, so this one is kept.
	runtime.LockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	return func() error {
		defer runtime.UnlockOSThread()
		return cmd.Wait()
	}, nil
}

// readRecords reads a record a line and logs its short form as it comes; of sessions that went well, only their number.
func readRecords(r io.Reader, log func(string, ...any)) (all []Record, err error) {
	lines := bufio.NewReader(r)
	good, slowest := 0, int64(0)
	for {
		line, readErr := lines.ReadBytes('\n')
		if line = bytes.TrimSpace(line); len(line) > 0 {
			var rec Record
			if e := json.Unmarshal(line, &rec); e != nil {
				err = errors.Join(err, fmt.Errorf("the guest wrote %.200q: %w", line, e))
			} else {
				all = append(all, rec)
				if rec.Move != nil && rec.Move.Error == "" {
					good++
					slowest = max(slowest, rec.Move.MS)
					continue
				}
				if good > 0 {
					log("        %d sessions went well, the slowest in %d ms", good, slowest)
					good, slowest = 0, 0
				}
				log("%s", rec)
			}
		}
		if readErr != nil {
			if readErr == io.EOF {
				readErr = nil
			}
			return all, errors.Join(err, readErr)
		}
	}
}
