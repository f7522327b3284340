package ctl

import (
	"os"
	"runtime"
)

// setProcs lets Go run as many threads at once as there are workers, and two for everything else, unless the environment
// says otherwise. Fewer would let workers that spin keep all else waiting; more, as many as the machine has cores, would
// have the collector take more cores at once (docs/design/005-runtime.md). It is set even if it is so already: a number that nobody has set
// Go looks after by itself, and would lower when threads are confined to fewer cores (confine.go).
func setProcs(workers int) {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(workers + 2)
	}
}
