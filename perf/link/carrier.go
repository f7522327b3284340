package link

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A carrier takes packets from the outside wire to the inside wire and back.
type carrier struct {
	name string // result.Words says what each is
	up   func(ctx context.Context, b *bed, s setup) (running, error)
	// direct: packets keep the address that they were sent to.
	direct bool
	// reflects: packets come back out of where they went in, to the clients' end.
	reflects bool
	// proxy: connections end here and begin anew; packets of a generator are nothing to it.
	proxy bool
}

// setup is what a carrier is brought up with.
type setup struct {
	core        int
	connections int    // it must be able to hold at once
	mode        string // of AF_XDP: auto, copy, generic, zero-copy
	polling     string // of the product: busy, adaptive, interrupt
	ringSize    int    // of AF_XDP; 0 is the product's default
	stacks      bool   // packets come from network stacks alone, not from a generator
	shared      bool   // others that matter have the same core: the carrier does not go before them
	confined    bool   // all threads of the product keep to its core, as those of the other carriers do: the client's is the client's
}

// running is a carrier that is up.
type running interface {
	// mode is how it really runs, for people.
	mode() string
	// tasks are the threads that do its work: /proc/PID/task/TID, or none if it works in the context of others.
	tasks() []string
	down() error
}

// carriers are all, in the order of a repetition.
func carriers() []carrier {
	return []carrier{
		{name: "forward", up: kernelUp(false, false), direct: true},
		{name: "forward-inline", up: kernelUp(false, true), direct: true},
		{name: "nftables", up: kernelUp(true, false)},
		{name: "nftables-inline", up: kernelUp(true, true)},
		{name: "asavie", up: forwarderUp("asavie-one-port"), reflects: true, direct: true},
		{name: "asavie-ports", up: forwarderUp("asavie"), direct: true},
		{name: "rings", up: forwarderUp("xsk"), direct: true},
		{name: "sluice", up: productUp("xsk")},
		{name: "sluice-asavie", up: productUp("asavie")},
		{name: "haproxy", up: haproxyUp("tcp"), proxy: true},
		{name: "haproxy-http", up: haproxyUp("http"), proxy: true},
	}
}

// CarrierNames are the names of all carriers.
func CarrierNames() (names []string) {
	for _, c := range carriers() {
		names = append(names, c.name)
	}
	return names
}

// LatencyCarriers and ConnectionCarriers are the names of those that these scenarios have, in the same order.
func LatencyCarriers() []string {
	return namesOf(func(name string) bool { return slices.Contains(latencyCarriers, name) })
}

// ConnectionCarriers: see LatencyCarriers.
func ConnectionCarriers() []string {
	return namesOf(func(name string) bool { return slices.Contains(connectionCarriers, name) })
}

func namesOf(has func(name string) bool) []string {
	return slices.DeleteFunc(CarrierNames(), func(name string) bool { return !has(name) })
}

func find(name string) carrier {
	c, ok := carrierNamed(name)
	if !ok {
		panic("no carrier " + name)
	}
	return c
}

// errAbsent is the reason of a carrier that cannot be had here; the case is skipped with it.
type errAbsent struct{ error }

func absent(err error) bool {
	var a errAbsent
	return errors.As(err, &a)
}

// tasksOf are the threads of a process whose name begins with prefix.
func tasksOf(pid int, prefix string) []string {
	all, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	var list []string
	for _, t := range all {
		if name, err := os.ReadFile(t + "/comm"); err == nil && strings.HasPrefix(string(name), prefix) {
			list = append(list, t)
		}
	}
	return list
}

func tidOf(task string) int {
	n, _ := strconv.Atoi(filepath.Base(task))
	return n
}

// cpuTime is what threads have run so far (Documentation/scheduler/sched-stats.rst).
func cpuTime(tasks []string) (sum time.Duration) {
	for _, t := range tasks {
		b, err := os.ReadFile(t + "/schedstat")
		if err != nil {
			continue
		}
		if f := strings.Fields(string(b)); len(f) > 0 {
			n, _ := strconv.ParseInt(f[0], 10, 64)
			sum += time.Duration(n)
		}
	}
	return sum
}
