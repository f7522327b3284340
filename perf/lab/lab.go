// Package lab builds test networks out of Linux network namespaces and veth pairs, and always takes them down.
//
// A Lab owns everything that it makes: namespaces (Host), wires, servers, captures and child processes. Nothing in
// it needs ip(8) or ethtool(8), and nothing in it touches the namespace of the caller: an interface is created
// inside a new namespace and dies with it.
//
//	                 Lab sluice-4711-9f3c
//	┌────────────────────────────────────────────────────┐
//	│ Host client                 Host lb                │     /run/netns/sluice-4711-9f3c-client   (ip netns exec)
//	│  ┌──────────────┐  Wire    ┌──────────────┐        │     /run/netns/sluice-4711-9f3c-lb
//	│  │ eth0 ────────┼──────────┼─ outside     │        │     /run/sluice-lab/sluice-4711-9f3c.json (who made it)
//	│  │ thread       │   veth   │ thread       │        │
//	│  └──────▲───────┘          └──────▲───────┘        │
//	└─────────┼─────────────────────────┼────────────────┘
//	          │ closures: socket(2), netlink, sysctl, fork
//	     Dial, Listen, Route, Start ... from any goroutine
//
// A socket, a netlink request and a child process belong to the namespace of the thread that makes the system
// call. So every Host has one operating-system thread that entered the namespace when it was created and stays
// there; short closures are sent to it. A socket keeps its namespace, so what Dial and Listen return is used from
// any goroutine. The thread also outlives its children, because a parent-death signal fires when the thread that
// forked goes away, not when the process does.
//
// Close ends processes (SIGTERM, a bounded wait, SIGKILL, always reaped), then links, then threads and namespaces.
// A creator that was killed cannot close: its children die by the parent-death signal, and the next New sweeps
// the rest, because process id and start time of the creator are on record. Leftovers shows what remains.
//
// Checksums: veth hands frames over with the checksum unfinished as long as an end offers tx offload, and that is
// what an AF_XDP socket would see. Wire turns the offloads off on both ends, so what is on the wire is what would
// be on a cable. With gro off an end of a veth has no NAPI, unless it has an XDP program itself. That is enough
// for AF_XDP transmit, which enters the peer as an ordinary skb; only XDP_TX and XDP_REDIRECT into a veth need NAPI
// at its peer (drivers/net/veth.c, veth_xdp_xmit).
package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"sync"
	"time"
)

// ErrClosed is the error of every use of a Lab or Host after Close.
var ErrClosed = errors.New("lab is closed")

// stopGrace is how long Close waits after SIGTERM before it sends SIGKILL.
const stopGrace = 2 * time.Second

var nameRule = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// Lab owns hosts, wires, servers, captures and processes from New to Close. Its methods may be called from any
// goroutine.
type Lab struct {
	id    string
	label string

	mu        sync.Mutex  // guards all below; held during Close
	stopWatch func() bool // detaches from the context given to New
	closed    bool
	kept      bool
	hosts     []*Host
	closers   []io.Closer // servers and captures, closed in reverse order
	procs     []*Process
}

// New opens an empty lab; name is a label for people. Labs whose creator is gone are swept first. When ctx ends the
// lab closes itself; Close is still worth calling, because it waits and returns the errors.
func New(ctx context.Context, name string) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("a lab needs root: it creates network namespaces")
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if _, err := Sweep(false); err != nil {
		return nil, fmt.Errorf("sweep stale labs: %w", err)
	}
	var b [4]byte
	rand.Read(b[:])
	l := &Lab{id: fmt.Sprintf("%s%d-%s", idPrefix, os.Getpid(), hex.EncodeToString(b[:])), label: name}
	// The record comes before the first namespace, so there is no moment at which a sweep could not know the owner.
	if err := l.writeState(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopWatch = context.AfterFunc(ctx, func() { l.Close() })
	return l, nil
}

// ID is the unique name of the lab; the names of its namespaces start with it.
func (l *Lab) ID() string { return l.id }

// Host adds a host: a new network namespace with loopback up, IPv6 without duplicate address detection and without
// router advertisements, and no forwarding. The name is lower case letters, digits and '-'.
func (l *Lab) Host(name string) (*Host, error) {
	if !nameRule.MatchString(name) {
		return nil, fmt.Errorf("host name %q: want lower case letters, digits and '-', at most 32", name)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, ErrClosed
	}
	for _, h := range l.hosts {
		if h.name == name {
			return nil, fmt.Errorf("host %s exists already", name)
		}
	}
	h, err := newHost(l, name)
	if err != nil {
		return nil, fmt.Errorf("create host %s: %w", name, err)
	}
	l.hosts = append(l.hosts, h)
	return h, nil
}

// Keep makes Close leave the namespaces and links where they are, for a look around with `ip netns exec`. Processes,
// servers and captures end all the same. A kept lab stays until Sweep(true) or a restart of the machine.
func (l *Lab) Keep() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	l.kept = true
	return l.writeState()
}

// own registers something that Close has to close.
func (l *Lab) own(c io.Closer) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errors.Join(ErrClosed, c.Close())
	}
	l.closers = append(l.closers, c)
	return nil
}

// forget drops a process that was reaped.
func (l *Lab) forget(p *Process) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.procs = slices.DeleteFunc(l.procs, func(q *Process) bool { return p == q })
}

// Close takes everything down and returns all that went wrong. It may be called again: what is gone stays gone, and
// what failed is tried once more.
func (l *Lab) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopWatch()
	l.closed = true

	var errs []error
	for i := len(l.closers) - 1; i >= 0; i-- {
		errs = append(errs, l.closers[i].Close())
	}
	l.closers = nil

	var wg sync.WaitGroup
	for _, p := range l.procs {
		wg.Go(func() { p.Stop(stopGrace) })
	}
	wg.Wait()
	l.procs = nil
	// Children of children that left their process group still carry the name of the lab in their environment.
	errs = append(errs, killMarked(l.id))

	for _, h := range l.hosts {
		if !l.kept {
			errs = append(errs, h.deleteLinks())
		}
		errs = append(errs, h.leave())
	}
	if l.kept {
		return errors.Join(errs...)
	}
	left := l.hosts[:0]
	for _, h := range l.hosts {
		if err := removeNamespace(h.netns); err != nil {
			errs, left = append(errs, err), append(left, h)
		}
	}
	l.hosts = left
	if len(left) == 0 {
		errs = append(errs, removeState(l.id))
	}
	return errors.Join(errs...)
}
