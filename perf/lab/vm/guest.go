package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// recordPort is the serial port that the host reads records from; the kernel's messages go to the first one.
const recordPort = "/dev/ttyS1"

// guestTime bounds what a guest does, so that a hang is reported by the guest itself.
const guestTime = machineTime - 30*time.Second

// Init is the whole life of a guest, as its process 1: mount, load modules, do the plan, power off. It returns only if it
// cannot power off; when process 1 ends the kernel panics, and with panic=-1 and -no-reboot that also ends the machine.
func Init() error {
	r, err := prepareGuest()
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), guestTime)
		g := &guest{reporter: r}
		err = g.life(ctx)
		cancel()
		if err != nil {
			r.report(Record{Failed: err.Error()})
		}
		r.report(Record{End: true})
		r.drain()
	}
	unix.Sync()
	return errors.Join(err, unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
}

func prepareGuest() (*reporter, error) {
	for _, m := range [][3]string{
		{"proc", "/proc", "proc"}, {"sysfs", "/sys", "sysfs"}, {"devtmpfs", "/dev", "devtmpfs"},
		{"tmpfs", "/run", "tmpfs"}, {"tmpfs", "/tmp", "tmpfs"}, {"bpf", "/sys/fs/bpf", "bpf"},
	} {
		err := unix.Mount(m[0], m[1], m[2], 0, "")
		if err != nil && !errors.Is(err, unix.EBUSY) { // the kernel may have mounted /dev
			return nil, fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	port, err := os.OpenFile(recordPort, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	fd := int(port.Fd())
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", recordPort, err)
	}
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
		return nil, fmt.Errorf("%s: %w", recordPort, err)
	}
	return &reporter{w: port, fd: fd, step: StepBoot, began: time.Now()}, nil
}

// reporter sends records to the host.
type reporter struct {
	mu    sync.Mutex
	w     io.Writer
	fd    int
	step  string
	began time.Time
}

func (r *reporter) report(rec Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !rec.End {
		rec.Step = r.step
	}
	var up unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &up)
	rec.UptimeMS = up.Nano() / 1e6
	line, err := json.Marshal(rec)
	if err != nil {
		line = fmt.Appendf(nil, `{"failed":%q}`, err)
	}
	_, _ = r.w.Write(append(line, '\n')) // the host misses the record of the end if this fails
}

// drain waits until the port has sent everything: power off does not.
func (r *reporter) drain() { _ = unix.IoctlSetInt(r.fd, unix.TCSBRK, 1) }

// life is the guest's program.
func (g *guest) life(ctx context.Context) error {
	text, err := os.ReadFile(guestPlan)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &g.plan); err != nil {
		return err
	}
	if err := loadModules(); err != nil {
		return err
	}
	if err := g.build(ctx); err != nil {
		return err
	}
	defer g.lab.Close()
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return err
	}
	nics, err := g.nics()
	if err != nil {
		return err
	}
	g.report(Record{Boot: &Boot{Kernel: string(bytes.TrimSpace(kernel)), CPUs: runtime.NumCPU(), NICs: nics}})
	return g.steps(ctx)
}

func loadModules() error {
	files, err := filepath.Glob(guestModules + "/*.ko")
	if err != nil {
		return err
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := unix.InitModule(data, ""); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load %s: %w", path, err)
		}
	}
	return nil
}
