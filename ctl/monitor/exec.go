package monitor

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

// maxOutput is how much of a program's output is kept; the rest is read and thrown away.
const maxOutput = 4096

// outputDelay is how long a pipe is waited for that a process outside the group holds open.
const outputDelay = 200 * time.Millisecond

// execMethod runs a program on a confined thread:
//
//  1. a new thread gives up its capabilities (confine.go)
//  2. fork and exec in a new process group; the program dies if the thread does
//  3. wait for the program's end without reaping, so that its id, and that of its group, cannot be another's
//  4. kill the group: at the end of the time, or to remove what the program left behind
//  5. reap, read the exit code
type execMethod struct {
	ExecOptions
	env []string // what is the same for every member
}

func newExecMethod(m *Monitor) (*execMethod, error) {
	info, err := os.Stat(m.Exec.Argv[0])
	if err != nil {
		return nil, &Problem{[]string{"exec.command"}, fmt.Errorf("program: %w", err)}
	}
	if info.IsDir() || info.Mode()&0o111 == 0 {
		return nil, &Problem{[]string{"exec.command"}, fmt.Errorf("program %s is not executable", m.Exec.Argv[0])}
	}
	e := &execMethod{ExecOptions: m.Exec, env: []string{ProgramPath}}
	e.env = append(e.env, m.Exec.Env...)
	e.env = append(e.env, "SLUICE_MONITOR="+m.Name, "SLUICE_TIMEOUT="+strconv.FormatFloat(m.Timeout.Seconds(), 'f', -1, 64))
	if m.Path.Interface != "" {
		e.env = append(e.env, "SLUICE_INTERFACE="+m.Path.Interface)
	}
	if m.Path.Mark != 0 {
		e.env = append(e.env, fmt.Sprintf("SLUICE_MARK=%d", m.Path.Mark))
	}
	return e, nil
}

func (e *execMethod) run(ctx context.Context, a *attempt) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	cmd, out, started, err := runConfined(ctx, e.Argv, e.environment(a))
	if cmd == nil {
		return "", localError{err}
	}
	first := out.firstLine()
	switch exit := (*exec.ExitError)(nil); {
	case !started:
		return "", localError{fmt.Errorf("start program: %w", err)}
	case ctx.Err() != nil && (err != nil || !cmd.ProcessState.Success()):
		a.stage = "killed " + e.Argv[0]
		if first != "" {
			a.stage = first
		}
		return "", ctx.Err()
	case errors.As(err, &exit):
		return "", mismatch(withLine(exitCause(exit.ProcessState), first))
	// A process outside the group held the pipe; the program itself has ended well.
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return "", localError{fmt.Errorf("wait for program: %w", err)}
	}
	return withLine("exit code 0", first), nil
}

// runConfined runs a program on a confined thread. Without such a thread there is no command.
func runConfined(ctx context.Context, argv, env []string) (cmd *exec.Cmd, out *boundedOutput, started bool, err error) {
	cmd = exec.Command(argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	cmd.WaitDelay = outputDelay
	out = &boundedOutput{}
	cmd.Stdout, cmd.Stderr = out, out
	if cerr := onConfinedThread(func() {
		if err = cmd.Start(); err != nil {
			return
		}
		started = true
		err = reap(ctx, cmd)
	}); cerr != nil {
		return nil, nil, false, cerr
	}
	return cmd, out, started, err
}

// ProgramPath is the PATH of programs that are run.
const ProgramPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// RunProgram runs a program as exec monitors are: without a shell and without capabilities, with env and nothing else for its
// environment, killed with its group when ctx ends. It returns the first line that the program wrote, and an error unless its
// exit code is 0.
func RunProgram(ctx context.Context, argv, env []string) (line string, err error) {
	cmd, out, started, err := runConfined(ctx, argv, env)
	if cmd == nil {
		return "", err
	}
	line = out.firstLine()
	switch exit := (*exec.ExitError)(nil); {
	case !started:
		return "", fmt.Errorf("start program: %w", err)
	case ctx.Err() != nil && (err != nil || !cmd.ProcessState.Success()):
		return line, fmt.Errorf("killed: %w", ctx.Err())
	case errors.As(err, &exit):
		return line, errors.New(exitCause(exit.ProcessState))
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return line, fmt.Errorf("wait for program: %w", err)
	}
	return line, nil
}

func (e *execMethod) environment(a *attempt) []string {
	env := append([]string(nil), e.env...)
	port := ""
	if a.addr.Port() != 0 {
		port = strconv.Itoa(int(a.addr.Port()))
	}
	addr := a.addr.Addr()
	env = append(env, "SLUICE_MEMBER="+a.target.Member, "SLUICE_ADDRESS="+addr.String(), "SLUICE_PORT="+port)
	if source := a.monitor.Path.source(addr); source.IsValid() {
		env = append(env, "SLUICE_SOURCE="+source.String())
	}
	return env
}

// reap waits for the end of a program that leads its process group, or makes it end with ctx.
func reap(ctx context.Context, cmd *exec.Cmd) error {
	group := -cmd.Process.Pid
	var mu sync.Mutex // held while the group is killed, and to say that it is reaped
	reaped := false
	kill := func() {
		mu.Lock()
		defer mu.Unlock()
		if !reaped {
			unix.Kill(group, unix.SIGKILL)
		}
	}
	defer context.AfterFunc(ctx, kill)()
	for {
		// The program stays a zombie until Wait, so its id is not given to another.
		err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break // on any other error Wait will know
		}
	}
	kill()
	mu.Lock()
	reaped = true
	mu.Unlock()
	return cmd.Wait()
}

func exitCause(state *os.ProcessState) string {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return "killed by signal: " + status.Signal().String()
	}
	return fmt.Sprintf("exit code %d", state.ExitCode())
}

func withLine(cause, line string) string {
	if line == "" {
		return cause
	}
	return cause + ": " + line
}

// boundedOutput keeps the beginning of what is written to it. It has a lock of its own because a writer may outlive
// Wait by a moment where outputDelay cut it off.
type boundedOutput struct {
	mu   sync.Mutex
	kept []byte
}

func (o *boundedOutput) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.kept = append(o.kept, b[:min(len(b), maxOutput-len(o.kept))]...)
	return len(b), nil
}

// firstLine is the first line that is not empty.
func (o *boundedOutput) firstLine() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	line, _, _ := bytes.Cut(bytes.TrimSpace(o.kept), []byte("\n"))
	return strings.TrimSpace(string(line))
}
