package ctl

import "golang.org/x/sys/unix"

// niceWorker is the priority of workers that have a core for themselves and leave another to everything else: nine tenths of its
// core at the least (engine/priority.go says when). Requests, the collector and the machine's other work then give way, while the
// kernel's own threads, which receive packets, still have their tenth. Threads of ours are not bound to the other cores: a worker that
// the runtime has preempted comes back through another thread, which has to get a core at once, be it the worker's own
// (docs/design/013-control-api.md).
const niceWorker = -10

// nice is the priority of workers on these cores: 0, that of everything else, if they are not pinned or leave no core of the
// process, because control must not starve.
func nice(cores []int) int {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return 0
	}
	for _, c := range cores {
		all.Clear(c)
	}
	if len(cores) == 0 || all.Count() == 0 {
		return 0
	}
	return niceWorker
}
