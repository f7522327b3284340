package ctl

import (
	"runtime"
	"testing"
)

// The environment counts as far as Go takes it: what is no number of processors is as if it were not there.
func TestProcsOfEnvironment(t *testing.T) {
	was := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(was)
	const workers, mine = 5, 3
	for _, c := range []struct {
		env  string
		want int
	}{{"", workers + 2}, {"3", mine}, {"0", workers + 2}, {"-1", workers + 2}, {"many", workers + 2}} {
		t.Setenv("GOMAXPROCS", c.env)
		runtime.GOMAXPROCS(mine)
		if setProcs(workers); runtime.GOMAXPROCS(0) != c.want {
			t.Errorf("GOMAXPROCS=%q: %d, not %d", c.env, runtime.GOMAXPROCS(0), c.want)
		}
	}
}
