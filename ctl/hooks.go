package ctl

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"sluice/ctl/monitor"
)

// The events of hooks.
const (
	HookAnnounce = "announce" // an address is there for clients
	HookWithdraw = "withdraw" // it is not any more
)

// hookTime is how long a hook may take; then it is killed, with its process group.
const hookTime = 10 * time.Second

// hooksAtOnce bounds the programs that run at a time.
const hooksAtOnce = 16

// hook is a program that is to know of what happens to an address.
type hook struct {
	virtual, address, port, ifname string
	command                        string // of its arguments, joined by zero bytes: a hook is a key of maps
}

func (h hook) argv() []string { return strings.Split(h.command, "\x00") }

// hookRunner runs hooks: those of one address one after the other, in the order in which they were told first, and where several
// events of one wait only the last. It never makes who tells it wait.
type hookRunner struct {
	log   *slog.Logger
	slots chan struct{}

	mu      sync.Mutex
	done    *sync.Cond
	waiting map[hook]string   // the event that is to be told next
	queues  map[string][]hook // by address: those with an event that waits
	running map[string]bool   // by address
	told    map[hook]string   // the event that was told last, or is about to be; of hooks that are wanted
}

func newHookRunner(log *slog.Logger) *hookRunner {
	r := &hookRunner{log: log, slots: make(chan struct{}, hooksAtOnce), waiting: map[hook]string{}, queues: map[string][]hook{}, running: map[string]bool{}, told: map[hook]string{}}
	r.done = sync.NewCond(&r.mu)
	return r
}

// tell has an event told to a hook, unless it was the last that was.
func (r *hookRunner) tell(h hook, event string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue(h, event)
}

// queue is tell for who has the lock.
func (r *hookRunner) queue(h hook, event string) {
	if r.told[h] == event {
		return
	}
	if _, ok := r.waiting[h]; !ok {
		r.queues[h.address] = append(r.queues[h.address], h)
	}
	r.told[h], r.waiting[h] = event, event
	if !r.running[h.address] {
		r.running[h.address] = true
		go r.run(h.address)
	}
}

// keep tells hooks that are not wanted any more that their address is withdrawn, and forgets them.
func (r *hookRunner) keep(wanted map[hook]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for h := range r.told {
		if _, ok := wanted[h]; !ok {
			r.queue(h, HookWithdraw)
			delete(r.told, h)
		}
	}
}

// run tells the hooks of an address until nothing waits for them.
func (r *hookRunner) run(address string) {
	for {
		r.mu.Lock()
		if len(r.queues[address]) == 0 {
			delete(r.queues, address)
			delete(r.running, address)
			r.done.Broadcast()
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		r.slots <- struct{}{}
		r.mu.Lock() // what has come while it waited for the slot counts
		h := r.queues[address][0]
		event := r.waiting[h]
		r.queues[address] = r.queues[address][1:]
		delete(r.waiting, h)
		r.mu.Unlock()
		r.once(h, event)
		<-r.slots
	}
}

func (r *hookRunner) once(h hook, event string) {
	ctx, cancel := context.WithTimeout(context.Background(), hookTime)
	defer cancel()
	start, argv := time.Now(), h.argv()
	line, err := monitor.RunProgram(ctx, argv, []string{
		monitor.ProgramPath, "SLUICE_EVENT=" + event, "SLUICE_VIRTUAL=" + h.virtual, "SLUICE_ADDRESS=" + h.address, "SLUICE_PORT=" + h.port, "SLUICE_INTERFACE=" + h.ifname,
	})
	args := []any{"command", argv[0], "event", event, "virtual_server", h.virtual, "address", h.address, "took", time.Since(start), "output", line}
	if err != nil {
		r.log.Error("hook failed", append(args, "error", err)...)
		return
	}
	r.log.Info("hook", args...)
}

// wait waits until no hook runs, at most for a time, and reports whether none does.
func (r *hookRunner) wait(limit time.Duration) bool {
	deadline := time.Now().Add(limit) // before the timer, which else might find it not over and wake nobody again
	timer := time.AfterFunc(limit, func() {
		r.mu.Lock()
		r.done.Broadcast()
		r.mu.Unlock()
	})
	defer timer.Stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.running) > 0 && time.Now().Before(deadline) {
		r.done.Wait()
	}
	return len(r.running) == 0
}
