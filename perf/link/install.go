package link

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"time"
)

// packages are Debian's, with the program that shows whether each is there.
var packages = []struct{ name, program string }{
	{"nftables", "nft"}, {"haproxy", "haproxy"}, {"wrk", "wrk"}, {"nginx-light", "nginx"},
}

// installTime bounds an attempt; the network may not be there.
const installTime = 2 * time.Minute

// install brings in what is missing, with Debian's tool as root. What it cannot is skipped later, with the reason that the
// program is not there.
func install(ctx context.Context, o *Options) {
	var missing []string
	for _, p := range packages {
		if _, err := exec.LookPath(p.program); err != nil {
			missing = append(missing, p.name)
		}
	}
	if _, err := exec.LookPath("apt-get"); len(missing) == 0 || err != nil || os.Geteuid() != 0 {
		return
	}
	o.step("install %s", strings.Join(missing, ", "))
	ctx, cancel := context.WithTimeout(ctx, installTime)
	defer cancel()
	// One by one: what one lacks shall not keep out another.
	for _, name := range missing {
		cmd := exec.CommandContext(ctx, "apt-get", "install", "-y", "-q", "--no-install-recommends", name)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		_ = cmd.Run()
	}
}
