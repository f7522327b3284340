package ctl

// niceWorker is the priority of workers that have a core for themselves and leave another to everything else: nine tenths of its
// core at the least (engine/priority.go says when). The machine's other work then gives way, while the
// kernel's own threads, which receive packets, still have their tenth.
const niceWorker = -10

// nice is the priority of workers on these cores: 0, that of everything else, if they are not pinned or leave no core of the
// process, because control must not starve.
func nice(cores []int) int {
	all, err := processCores()
	if err != nil || len(cores) == 0 {
		return 0
	}
	if _, left := besides(all, cores); !left {
		return 0
	}
	return niceWorker
}
