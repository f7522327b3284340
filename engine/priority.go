package engine

import "golang.org/x/sys/unix"

// priority is how a worker shares its core with whatever else runs there. While the core is as good as its own, it goes before
// others (nice(2)): requests, the collector and the machine's other work then take what it leaves. A worker that sleeps
// now and then has no need of that, and would do harm to a server on the same core: it would break in on it for every
// packet, where otherwise several come together. A third of the requests is what a server and a worker on one core carried so.
type priority struct {
	raised, base int // nice values; equal if there is nothing to change
	high         bool
	began, used  uint64 // of the window: its start, since boot, and the thread's time then; nanoseconds
	asleep       uint64 // of the window; nanoseconds
}

// weighTime is how often it is looked at, in nanoseconds.
const weighTime = 100e6

// start notes the priority that a worker begins with, and what it may be raised to; 0: to nothing else.
func (p *priority) start(raised int) {
	b, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		return
	}
	p.base = 20 - b // as the call itself has it
	p.raised = p.base
	if raised != 0 {
		p.raised = min(p.base, raised)
	}
}

// set changes the thread's priority. Without CAP_SYS_NICE it goes on at that of everything else.
func (p *priority) set(high bool) {
	v := p.base
	if high {
		v = p.raised
	}
	p.high = high
	if !setNice(v) {
		p.raised = p.base
	}
}

// weigh looks back on a window that has ended. A worker that had 95% of its core goes first from now on, until it has
// slept for more than 5% of a window: what it has of the core says nothing once it goes first. One that polls without a pause was
// given its core.
func (p *priority) weigh(now uint64, polling Polling) {
	used := threadTime()
	if long := now - p.began; p.raised != p.base && p.began != 0 {
		switch {
		case !p.high && (polling == PollBusy || (used-p.used)*20 >= long*19):
			p.set(true)
		case p.high && p.asleep*20 > long:
			p.set(false)
		}
	}
	p.began, p.used, p.asleep = now, used, 0
}
