package ctl

import (
	"os"
	"runtime"
	"strconv"
)

// setProcs lets Go run as many threads at once as there are workers, and two for everything else, unless the environment
// says otherwise. Fewer would let workers that spin keep all else waiting; more, as many as the machine has cores, would
// have the collector take more cores at once (docs/design/005-runtime.md). It is set even if it is so already: a number that nobody has set
// Go looks after by itself, and would lower when threads are confined to fewer cores (confine.go).
func setProcs(workers int) {
	if n, err := strconv.ParseInt(os.Getenv("GOMAXPROCS"), 10, 32); err == nil && n > 0 { // anything else Go passes over
		return
	}
	runtime.GOMAXPROCS(workers + 2)
}
