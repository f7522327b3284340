package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// markVar names the lab in the environment of every child, and so of the children's children.
const markVar = "SLUICE_LAB_NAME"

// Process is a child process in the namespace of a host. It leads its own process group: the group ends with it, and
// a Ctrl-C at the terminal reaches the creator of the lab alone.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed after err is set
	err  error

	mu     sync.Mutex
	reaped bool // from here on the process id may belong to someone else
}

// Start runs cmd, which must not have been started, inside the namespace. Close stops it, and the kernel kills it if
// the creator dies. cmd.SysProcAttr and cmd.Env may be set; a nil Env is that of the caller.
func (h *Host) Start(cmd *exec.Cmd) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	cmd.Env = append(cmd.Environ(), markVar+"="+h.lab.id)
	if cmd.WaitDelay == 0 {
		cmd.WaitDelay = stopGrace // else a grandchild with our pipe open would hold up Wait for ever
	}
	h.lab.mu.Lock() // so that Close either sees the process or refuses it
	defer h.lab.mu.Unlock()
	if h.lab.closed {
		return nil, ErrClosed
	}
	if err := h.thread.run(cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s in %s: %w", cmd.Path, h.name, err)
	}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	h.lab.procs = append(h.lab.procs, p)
	go func() {
		p.reap()
		h.lab.forget(p)
	}()
	return p, nil
}

// Run starts a program inside the namespace, waits for it and returns what it wrote to standard output and error.
func (h *Host) Run(ctx context.Context, name string, args ...string) ([]byte, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := h.Start(cmd)
	if err != nil {
		return nil, err
	}
	if err := p.Wait(); err != nil {
		return out.Bytes(), fmt.Errorf("%s in %s: %w", name, h.name, err)
	}
	return out.Bytes(), nil
}

// reap waits for the end of the process without reaping it, kills what is left of its group while the number of the
// group cannot have been reused, and then reaps.
func (p *Process) reap() {
	for {
		err := unix.Waitid(unix.P_PID, p.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	p.mu.Lock()
	unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL)
	p.reaped = true
	p.mu.Unlock()
	p.err = p.cmd.Wait()
	close(p.done)
}

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended and was reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end and returns the error of exec.Cmd.Wait. It may be called any number of times.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Signal sends a signal to the process group; os.ErrProcessDone if it has ended.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return os.ErrProcessDone
	}
	return unix.Kill(-p.cmd.Process.Pid, sig)
}

// Stop sends SIGTERM, after grace SIGKILL, waits until the process is reaped and returns what Wait returns.
func (p *Process) Stop(grace time.Duration) error {
	p.Signal(unix.SIGTERM)
	p.Signal(unix.SIGCONT) // a stopped process would not see it
	select {
	case <-p.done:
	case <-time.After(grace):
		p.Signal(unix.SIGKILL)
		<-p.done
	}
	return p.err
}

// killMarked kills every process that carries the name of the lab, until there is none. It asks a process descriptor,
// so that a number reused between the look and the signal hits nobody.
func killMarked(id string) error {
	var left []string
	for range 40 {
		left = left[:0]
		for _, pid := range processes() {
			if pid == os.Getpid() {
				continue // the creator may itself be the child of a lab
			}
			fd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				continue
			}
			if marked(pid, id) {
				left = append(left, fmt.Sprintf("%d %s", pid, processName(pid)))
				unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
			}
			unix.Close(fd)
		}
		if len(left) == 0 {
			return nil
		}
		time.Sleep(25 * time.Millisecond)
	}
	return fmt.Errorf("processes do not end: %s", strings.Join(left, ", "))
}

// marked reports whether the process was started, at any depth, by the lab. A zombie has no environment any more.
func marked(pid int, id string) bool {
	env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	want := []byte(markVar + "=" + id)
	for v := range bytes.SplitSeq(env, []byte{0}) {
		if bytes.Equal(v, want) {
			return true
		}
	}
	return false
}

func processes() []int {
	entries, _ := os.ReadDir("/proc")
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// processStart is when the process was started, in clock ticks after boot; os.ErrNotExist if there is none.
func processStart(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		if errors.Is(err, unix.ESRCH) { // it ended between open and read
			err = os.ErrNotExist
		}
		return 0, fmt.Errorf("process %d: %w", pid, err)
	}
	// The name of the program, in parentheses, may hold spaces and parentheses itself: count from the last one.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 20 {
		return 0, fmt.Errorf("process %d: /proc stat has %d fields", pid, len(fields))
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

func processName(pid int) string {
	name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return strings.TrimSpace(string(name))
}
