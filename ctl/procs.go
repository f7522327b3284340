package ctl

import (
	"os"
	"runtime"
)

// setProcs lets Go run as many threads at once as there are workers, and two for everything else, unless the environment
// says otherwise. Fewer would let workers that spin keep all else waiting; more, as many as the machine has cores, would
// have the collector take more cores at once (docs/design/005-runtime.md).
func setProcs(workers int) {
	if want := workers + 2; os.Getenv("GOMAXPROCS") == "" && runtime.GOMAXPROCS(0) != want {
		runtime.GOMAXPROCS(want)
	}
}
