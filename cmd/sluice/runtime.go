package main

import (
	"os"
	"runtime/debug"
)

// gcPercent is the collector's setting of `sluice run`, measured in docs/design/005-runtime.md. Packets cause no garbage;
// reloads, lists and scrapes do, and a collection stops the workers for a moment and takes cores from them. So it waits
// until there is eight times as much garbage as there is data, some tens of MiB: tables and frames are not the collector's.
const gcPercent = 800

// tuneRuntime sets it, unless the environment does.
func tuneRuntime() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}
