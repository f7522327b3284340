package main

import (
	"os"
	"runtime/debug"
)

// The collector's settings of `sluice run`, measured in docs/design/004-runtime.md. Packets cause no garbage; reloads,
// lists and scrapes do, and a collection takes cores from the workers for a moment. So it waits until there is enough to
// make it worth while, and no longer than until this much memory is in use.
const (
	gcPercent   = 400
	memoryLimit = 512 << 20
)

// tuneRuntime sets them, unless the environment does.
func tuneRuntime() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
}
